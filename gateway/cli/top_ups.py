"""Commands about automatic top-up: the rules, which their buyers set through the REST API, and how to end one."""

from typing import Any

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.sales import buyer_options, seller_option


@click.command("top-ups")
@seller_option
@buyer_options
@page_options
@json_option
def top_ups(as_json: bool, **query: Any) -> None:
    """List wallets that are filled automatically, and where each stands."""
    show(request("GET", "/api/v1/top-ups", query=query), as_json=as_json)


@click.command("top-up-off")
@seller_option
@buyer_options
@json_option
def top_up_off(as_json: bool, **query: Any) -> None:
    """Buy nothing more for a wallet by itself. Only its buyer, or who sells to it, turns it on."""
    show(request("DELETE", "/api/v1/top-ups", query=query), as_json=as_json)


@click.command("save-card")
@seller_option
@buyer_options
@click.option("--success-url", required=True, help="Where the browser goes when a card is saved.")
@click.option("--cancel-url", help="Where it goes when none is; default: the same.")
@click.option("--email", help="The buyer's address, where Stripe is to know it.")
@json_option
def save_card(as_json: bool, **body: Any) -> None:
    """Open a page on which a buyer saves a card and pays nothing."""
    show(request("POST", "/api/v1/payment-method-sessions", body), as_json=as_json)
