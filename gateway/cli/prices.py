"""Commands about prices. Each is one call of the REST API."""

from typing import Any, Final

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.values import MOMENT, MOMENT_HELP


@click.group()
def prices() -> None:
    """Prices: what models cost here, and what an app takes for them."""


@prices.command("list")
@click.argument("pattern", default="*")
@click.option("--app", "enterprise_id", help="Beside them, what this app's end users pay now.")
@json_option
def list_prices(pattern: str, enterprise_id: str | None, as_json: bool) -> None:
    """List what each served model costs now, per million units, and where each price comes from.

    PATTERN is a model's name, or has `*` in it. `provider` is what the provider takes, `creator` what a creator pays (in
    USD), `end user` what the app's end users pay. A kind that is not shown costs what its like costs: cached input as input,
    reasoning as output.
    """
    answer = request("GET", "/api/v1/prices", query={"model": pattern, "enterprise_id": enterprise_id})
    if not as_json:
        answer["data"] = [_row(line) for line in answer["data"]]
    show(answer, as_json=as_json)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    row = {
        "model": line["model"],
        "deployment": line["deployment"].partition("=")[0],
        "provider": _short(line["prices"] or None),
        "from": line["source"],
        "creator": _short(line["charge"]),
        "of": line["charge_source"],
    }
    if "app_prices" in line:
        row["end user"] = _short(line["app_prices"])
        row["asset"] = line["app_asset"]
        row["by"] = line["app_source"]
        row["since"] = line["app_since"]
    return row


_LIKE: Final = {
    **dict.fromkeys(("cached_input", "cache_write", "audio_input", "image_input"), "input"),
    **dict.fromkeys(("reasoning", "audio_output", "image_output"), "output"),
    "cache_write_1h": "cache_write",
}


def _short(prices: dict[str, str] | None) -> str:
    """Prices in one cell, without those that are as their like."""
    if prices is None:
        return "-"
    return ", ".join(f"{kind} {price}" for kind, price in prices.items() if price != prices.get(_LIKE.get(kind, "")))


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
@click.option("--price", "prices", multiple=True, metavar="KIND=DECIMAL", help="Per million units, in the app's asset; repeat.")
@click.option("--markup-percent", help="Instead of prices: what is added to the provider's price.")
@click.option("--effective-at", type=MOMENT, help=f"{MOMENT_HELP}; default: now.")
@json_option
def set_price(enterprise_id: str, prices: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Add a price of an app; what was used before it keeps its price."""
    given: dict[str, str] = {}
    for price in prices:
        kind, equals, amount = price.partition("=")
        if not equals or kind in given:
            what = "is there twice" if equals else "has no price"
            raise click.BadParameter(
                f"{kind!r} {what}: write a kind and its price once, such as input=0.20.", param_hint="--price"
            )
        given[kind] = amount
    body = {**options, "prices": given or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/price-books", body), as_json=as_json)
