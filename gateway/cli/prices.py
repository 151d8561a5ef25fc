"""Commands about prices. Each is one call of the REST API."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.values import MOMENT, MOMENT_HELP
from gateway.core.units import TOOL_KINDS
from gateway.pricing.written import told
from gateway.settings import Part

_UNITS: Final = "Per million tokens or characters, per image, second, search, gigabyte of a container or request"


@click.group()
def prices() -> None:
    """Prices: what models cost here, and what an app takes for them."""


@prices.command("list")
@click.argument("pattern", default="*")
@click.option("--app", "enterprise_id", help="Beside them, what this app's end users pay now.")
@json_option
def list_prices(pattern: str, enterprise_id: str | None, as_json: bool) -> None:
    """List what each served model costs now, and where each price comes from.

    Prices are per million tokens or characters, and per image, second, search, gigabyte of a container or request; what is
    free costs 0.

    PATTERN is a model's name, or has `*` in it. `provider` is what the provider takes, `creator` what a creator pays (in
    USD), `end user` what the app's end users pay. A kind that is not shown costs what its like costs: cached input as input,
    reasoning as output. Prices of long prompts, of variants and of the provider's own tools are shown with a model's own name.
    """
    answer = request("GET", "/api/v1/prices", query={"model": pattern, "enterprise_id": enterprise_id}, needs=Part.ALL)
    if not as_json:
        answer["data"] = [_row(line, whole="*" not in pattern) for line in answer["data"]]
    show(answer, as_json=as_json)


def _row(line: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    row = {
        "model": line["model"],
        "deployment": line["deployment"].partition("=")[0],
        "provider": _short(line["prices"] or None, whole=whole),  # of one without a price they are empty
        "from": line["source"],
        "creator": _short(line["charge"], whole=whole),
        "of": line["charge_source"],
    }
    if "app_prices" in line:
        row["end user"] = _short(line["app_prices"], whole=whole)
        row["asset"] = line["app_asset"]
        row["by"] = line["app_source"]
        row["since"] = line["app_since"]
    return row


_LIKE: Final = {
    **dict.fromkeys(("cached_input", "cache_write", "audio_input", "image_input"), "input"),
    **dict.fromkeys(("reasoning", "audio_output", "image_output"), "output"),
    "cache_write_1h": "cache_write",
}


_OTHERS: Final = frozenset(("above", "long", "variants", *TOOL_KINDS))


def _short(prices: dict[str, Any] | None, *, whole: bool) -> str:
    """Prices in one cell, without those that are as their like; without `whole`, only the names of what else there is."""
    if prices is None:
        return "no price"
    if not prices.keys() - {"input"} and prices.get("input") == "0":
        return "0"
    if whole:
        return told(prices, _LIKE)
    others = (["long prompts"] if "long" in prices else []) + list(prices.get("variants", {}))
    others += ["tools"] * any(kind in prices for kind in TOOL_KINDS)
    plain = told({kind: price for kind, price in prices.items() if kind not in _OTHERS}, _LIKE)
    return f"{plain} (also {', '.join(others)})" if others else plain


@prices.command("book")
@click.option("--app", "enterprise_id", required=True)
@page_options
@json_option
def list_book(enterprise_id: str, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List every price that an app has set, newest first: those that are over and those to come, too."""
    query = {"limit": limit, "cursor": cursor}
    show(request("GET", f"/api/v1/apps/{enterprise_id}/price-books", query=query), as_json=as_json)


@prices.command("set")
@click.option("--app", "enterprise_id", required=True)
@click.option("--model", default="*", show_default=True)
@click.option("--price", "prices", multiple=True, metavar="KIND=DECIMAL", help=f"{_UNITS}, in the app's asset; repeat.")
@click.option("--above", type=int, metavar="TOKENS", help="Prompts of more tokens cost what --long says.")
@click.option("--long", "long", multiple=True, metavar="KIND=DECIMAL", help="Of such a prompt; repeat.")
@click.option("--variant", "variants", multiple=True, metavar="NAME:KIND=DECIMAL", help="Of a service tier, say; repeat.")
@click.option("--markup-percent", help="Instead of prices: what is added to the provider's price.")
@click.option("--effective-at", type=MOMENT, help=f"{MOMENT_HELP}; default: now.")
@json_option
def set_price(
    enterprise_id: str,
    prices: tuple[str, ...],
    above: int | None,
    long: tuple[str, ...],
    variants: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Add a price of an app; what was used before it keeps its price."""
    given: dict[str, Any] = _by_kind(prices, "--price")
    if above is not None:
        given["above"] = above
    if long:
        given["long"] = _by_kind(long, "--long")
    named: dict[str, list[str]] = {}
    for each in variants:
        name, colon, price = each.partition(":")
        if not colon:
            raise click.BadParameter(f"{each!r} names no variant: write priority:input=0.40.", param_hint="--variant")
        named.setdefault(name, []).append(price)
    if named:
        given["variants"] = {name: _by_kind(each, "--variant") for name, each in named.items()}
    body = {**options, "prices": given or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/price-books", body), as_json=as_json)


def _by_kind(prices: Iterable[str], option: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for price in prices:
        kind, equals, amount = price.partition("=")
        if not equals or kind in given:
            what = "is there twice" if equals else "has no price"
            raise click.BadParameter(f"{kind!r} {what}: write a kind and its price once, such as input=0.20.", param_hint=option)
        given[kind] = amount
    return given


_LIST: Final = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@prices.command("diff")
@click.argument("pattern", default="*")
@click.option(
    "--list",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A newer list in litellm's format; nothing of it is kept.",
)
@json_option
def diff(pattern: str, file: Path | None, as_json: bool) -> None:
    """Show where prices differ: the configuration's from the price list, or a newer list's from the one in force.

    PATTERN is the name of a model that is served here, or has `*` in it.
    """
    if file is None:
        answer = request("GET", "/api/v1/price-differences", query={"model": pattern}, needs=Part.ALL)
    else:
        answer = request("POST", "/api/v1/price-lists/compare", {"prices": _content(file), "model": pattern}, needs=Part.ALL)
    _show_differences(answer, as_json=as_json)


@prices.command("update")
@_LIST
@click.option("--effective-at", type=MOMENT, help=f"{MOMENT_HELP}; default: now.")
@click.option("--dry-run", is_flag=True, help="Only show what it would change.")
@json_option
def update(file: Path, effective_at: str | None, dry_run: bool, as_json: bool) -> None:
    """Take a newer price list, in litellm's format, in the place of the one in force; what was used before keeps its price.

    Prices that the configuration gives are not touched. Running processes follow within half a minute.
    """
    content = _content(file)
    if dry_run:
        answer = request("POST", "/api/v1/price-lists/compare", {"prices": content}, needs=Part.ALL)
        answer["data"] = [line for line in answer["data"] if line["configured"] is None]  # the others cost what they did
        _show_differences(answer, as_json=as_json)
    else:
        show(request("POST", "/api/v1/price-lists", {"prices": content, "effective_at": effective_at}), as_json=as_json)


@prices.command("lists")
@json_option
def list_lists(as_json: bool) -> None:
    """List the price lists, the latest first: the shipped one, and those that took its place."""
    show(request("GET", "/api/v1/price-lists"), as_json=as_json)


def _content(file: Path) -> msgspec.Raw:
    content = file.read_bytes()
    try:
        msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as broken:
        raise click.ClickException(f"{file} is no JSON object of models: {broken}.") from broken
    return msgspec.Raw(content)


def _show_differences(answer: dict[str, Any], *, as_json: bool) -> None:
    """In a table, one line each for what is there and what would be."""
    if not as_json:
        rows = []
        for line in answer["data"]:
            names = {"model": line["model"], "deployment": line["deployment"].partition("=")[0]}
            told = [("configuration", "configured"), (line["source"], "listed"), ("the new list", "offered")]
            rows += [{**names, "by": by, "prices": _short(line[of], whole=True)} for by, of in told if of in line]
        answer["data"] = rows
    show(answer, as_json=as_json)
