"""Commands about prices. Each is one call of the REST API."""

from typing import Any

import click

from gateway.cli.local import request
from gateway.cli.options import json_option
from gateway.cli.output import show
from gateway.cli.values import MOMENT, MOMENT_HELP


@click.group()
def prices() -> None:
    """Prices: what models cost here, and what an app takes for them."""


@prices.command("list")
@click.argument("pattern", default="*")
@click.option("--app", "enterprise_id", help="An app's own prices instead of the providers'.")
@json_option
def list_prices(pattern: str, enterprise_id: str | None, as_json: bool) -> None:
    """List prices a million units, with where each comes from."""
    if enterprise_id is not None:
        show(request("GET", f"/api/v1/apps/{enterprise_id}/price-books"), as_json=as_json)
        return
    show(request("GET", "/api/v1/prices", query={"model": pattern}), as_json=as_json)


@prices.command("set")
@click.option("--app", "enterprise_id", required=True)
@click.option("--model", default="*", show_default=True)
@click.option("--price", "prices", multiple=True, metavar="KIND=DECIMAL", help="Per million units, in the app's asset; repeat.")
@click.option("--markup-percent", help="Instead of prices: what is added to the provider's price.")
@click.option("--effective-at", type=MOMENT, help=f"{MOMENT_HELP}; default: now.")
@json_option
def set_price(enterprise_id: str, prices: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Add a price of an app; what was used before it keeps its price."""
    given = dict(price.partition("=")[::2] for price in prices)
    body = {**options, "prices": given or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/price-books", body), as_json=as_json)
