"""`gateway trail`: who did what, and the proof that nobody changed the record of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from gateway.cli.local import CouldNotLook, looking, request, run, stores
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.trail.service import Trail, Verdict, not_found

_PLATFORM = "platform"
_COLUMNS = ("at", "chain", "seq", "role", "actor", "act", "subject", "reason", "transaction_id", "before", "after")


class Pin(msgspec.Struct, frozen=True):
    """A head that was written down: `chain` is "platform", "app <enterprise_id>", or "" where only the hash is known."""

    hash: str
    chain: str = ""


class Report(msgspec.Struct, frozen=True):
    """What `trail verify` found."""

    ok: bool
    chains: tuple[Verdict, ...]
    violations: tuple[str, ...]


@click.group()
def trail() -> None:
    """The audit trail: every change of rights, prices and balances, chained by hash."""


@trail.command("show")
@click.option("--app", "enterprise_id", help="What concerns one app; without it, the platform's whole chain.")
@page_options
@json_option
def show_trail(enterprise_id: str | None, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """Show who did what, newest first."""
    query = {"enterprise_id": enterprise_id, "limit": limit, "cursor": cursor}
    show(request("GET", "/api/v1/audit-log", query=query), as_json=as_json, columns=_COLUMNS)


@trail.command("head")
@click.option("--app", "enterprise_ids", multiple=True, help="Only this app's chain; repeat.")
@json_option
def head(enterprise_ids: tuple[str, ...], as_json: bool) -> None:
    """Print where every chain stands: hash, last line's number, chain. Keep it where the database's owner cannot write."""

    async def work() -> list[dict[str, Any]]:
        async with stores() as services:
            chains = Trail(services.databases)
            books: Sequence[str | None] = enterprise_ids or (None, *await services.enterprise_ids())
            heads = [(book, await chains.head(book)) for book in books]
        return [{"hash": at.hash, "seq": at.seq, "chain": _chain(book)} for book, at in heads]

    heads = run(work())
    if as_json:
        show(heads, as_json=True)
    else:
        for at in heads:
            click.echo(f"{at['hash']} {at['seq']} {at['chain']}")


@trail.command("verify")
@click.option("--app", "enterprise_ids", multiple=True, help="Only this app's chain; repeat; default: every chain.")
@click.option("--head", "heads", multiple=True, metavar="HASH", help="A head from earlier, which must be in a chain; repeat.")
@click.option("--heads", "file", type=click.Path(dir_okay=False, path_type=Path), help="A file that `trail head` wrote.")
@json_option
def verify(enterprise_ids: tuple[str, ...], heads: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Prove that no line was changed, taken out, put in or moved; with heads from earlier, that none was cut off.

    Exit status 0: every chain is whole. 1: one is broken, and its first broken link is named. 2: could not look.
    """
    with looking():
        pins = [*map(_pin, heads), *([] if file is None else _pinned(file))]
        report = run(_verified(enterprise_ids, pins))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        for verdict in report.chains:
            state = f"BROKEN    {_chain(verdict.enterprise_id)}: {verdict.broken}"
            if verdict.broken is None:
                state = f"ok        {_chain(verdict.enterprise_id)}: {verdict.lines} lines, head {verdict.head.hash}"
            click.echo(state)
        for violation in report.violations:
            click.echo(f"BROKEN    {violation}")
    sys.exit(0 if report.ok else 1)


async def _verified(enterprise_ids: Sequence[str], pins: Sequence[Pin]) -> Report:
    async with stores() as services:
        chains = Trail(services.databases)
        every = (None, *await services.enterprise_ids())
        books = tuple(enterprise_ids) or every
        unknown = [book for book in books if book not in every]
        if unknown:
            raise CouldNotLook(f"There is no app {unknown[0]}.")
        verdicts = tuple([await chains.verify(book, [pin.hash for pin in pins]) for book in books])
    lost = []
    for pin in pins:
        of = [verdict for verdict in verdicts if pin.chain in ("", _chain(verdict.enterprise_id))]
        if not_found([pin.hash], of) and (of or not enterprise_ids):
            where = pin.chain or "every chain that was looked at"
            lost.append(f"the head {pin.hash} is not in {where} any more: lines were cut off, or written anew")
    return Report(not lost and all(verdict.broken is None for verdict in verdicts), verdicts, tuple(lost))


def _chain(enterprise_id: str | None) -> str:
    return _PLATFORM if enterprise_id is None else f"app {enterprise_id}"


def _pin(text: str, chain: str = "") -> Pin:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise CouldNotLook(f"{text!r} is no head: it has 64 hexadecimal digits.")
    return Pin(text, chain)


def _pinned(file: Path) -> list[Pin]:
    lines = [line.split(" ", 2) for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not lines or any(len(line) != 3 for line in lines):
        raise CouldNotLook(f"{file} is not what `gateway trail head` prints.")
    return [_pin(line[0], line[2]) for line in lines]
