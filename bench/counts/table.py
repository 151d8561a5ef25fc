"""The counts as text: a table of the steps for people, and the kept values for the guard."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.counts.steps import STEPS
from bench.counts.values import HEADROOM, Case, Counts, Drained, step_room

KEPT: Final = Path(__file__).parent.parent / "results" / "counts.json"
_FUNCTIONS: Final = 30
_HEAD: Final = ("calls", "into C", "bytecodes", "budget")


def kept(path: Path = KEPT) -> dict[str, Counts]:
    """What was kept, by version of Python."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Counts]) if path.exists() else {}


def keep(now: Counts, folder: Path = KEPT.parent) -> list[str]:
    """Write `counts.json` and `counts.txt`; returns the versions that were dropped, because their counts are of other code.

    Python calls are the same on every version, so they tell whether the code was.
    """
    path = folder / KEPT.name
    before = kept(path)
    stale = [version for version, each in before.items() if version != now.python and _calls(each) != _calls(now)]
    every = {version: each for version, each in {**before, now.python: now}.items() if version not in stale}
    text = msgspec.json.format(msgspec.json.encode(dict(sorted(every.items()))), indent=1).decode()
    text = re.sub(r"(\d)\.0\b(?!\")", r"\1", text)
    row = re.compile(r"\[\s+([^\[\]]*?)\s+\]")  # a function a line
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(row.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")
    path.with_suffix(".txt").write_text(told(now) + "\n")
    return stale


def _calls(counts: Counts) -> dict[str, dict[str, float]]:
    return {
        name: {function: row[0] for function, row in case.functions.items() if function[0] != "~" and row[0]}
        for name, case in counts.cases.items()
    }


def told(counts: Counts) -> str:
    """Everything, for people."""
    parts = [
        f"What one request costs, counted on Python {counts.python}; the same on every machine. Written by `make counts`.\n"
        "Calls are Python function calls, into C those that the package makes to C functions; a budget is what a step may\n"
        f"reach before the guard fails, and all together {HEADROOM:.0%} more than they have."
    ]
    for name, case in counts.cases.items():
        parts += [f"{_title(name)}\n{_steps(case)}", _rest(case)]
    if "chat" in counts.cases:
        parts.append(f"The functions of a chat completion with the most bytecodes\n{_functions(counts.cases['chat'])}")
    if counts.requests:
        blocks = ", ".join(f"{name} {size:g}" for name, size in counts.body_blocks.items())
        whole = sum(counts.body_blocks.values())
        parts.append(
            f"A request and an answer of 32 KiB each take {whole:g} times as much memory in blocks of a size like it:\n  {blocks}"
        )
        parts.append(f"{counts.connections} connection was opened upstream for {counts.requests} requests, one after the other.")
    parts += [_drain(name, drained) for name, drained in counts.drains.items()]
    return "\n\n".join(parts)


def _title(name: str) -> str:
    return name[0].upper() + name[1:]


def _steps(case: Case) -> str:
    rows: list[Sequence[str]] = [("step", *_HEAD, "in libraries")]
    for step in STEPS:
        if step in case.steps:
            calls, into_c, bytecodes, elsewhere = case.steps[step]
            budget = f"{bytecodes + step_room(bytecodes):.0f}"
            rows.append((step, f"{calls:g}", f"{into_c:g}", f"{bytecodes:g}", budget, f"{elsewhere:g}"))
    whole = case.total(2)
    totals = [f"{case.total(column):g}" for column in range(3)]
    rows.append(("all", *totals, f"{whole * (1 + HEADROOM):.0f}", f"{case.library_calls:g}"))
    return _aligned(rows)


def _rest(case: Case) -> str:
    lines = []
    for way in ("decode", "encode"):
        if by := case.json.get(way):
            who = ", ".join(f"{name} {number:g}" for name, number in sorted(by.items()))
            lines.append(f"  JSON documents {way}d: {case.coded(way):g} ({who})")
    if case.redis is not None:
        trips, sent, got = case.redis.round_trips, case.redis.bytes_in, case.redis.bytes_out
        lines.append(f"  Redis: {trips:g} round trips, {sent:g} bytes there, {got:g} bytes back;")
        lines.append(f"    {_listed(case.redis.commands)}")
        lines.append(f"  SQL statements: {case.sql:g}")
    return "\n".join(lines) or "  no JSON, no Redis, no SQL"


def _functions(case: Case) -> str:
    rows: list[Sequence[str]] = [("function", *_HEAD[:3])]
    ranked = sorted(case.functions.items(), key=lambda item: -item[1][2])[:_FUNCTIONS]
    rows += [(name, *[f"{number:g}" for number in counts]) for name, counts in ranked]
    return _aligned(rows)


def _drain(name: str, drained: Drained) -> str:
    return (
        f"1,000 events, {name}: {sum(drained.statements.values())} SQL statements with {drained.rows} sets of parameters,"
        f" {drained.commits} commits, {drained.redis_round_trips} Redis round trips\n"
        f"  {_listed(drained.statements)}\n  {_listed(drained.redis_commands)}"
    )


def _listed(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number:g}" for name, number in sorted(counts.items()))


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
