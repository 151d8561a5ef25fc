"""Commands about automatic top-up (its rules are set by buyers, through the REST API), payment links and an app's pages."""

from typing import Any, Final

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.sales import buyer_options, seller_option
from gateway.cli.values import SPAN


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
@click.option("--success-url", help="Where the browser goes when a card is saved; default: a page of the gateway's.")
@click.option("--cancel-url", help="Where it goes when none is; default: the same.")
@click.option("--email", help="The buyer's address, where Stripe is to know it.")
@json_option
def save_card(as_json: bool, **body: Any) -> None:
    """Open a page on which a buyer saves a card and pays nothing."""
    show(request("POST", "/api/v1/payment-method-sessions", body), as_json=as_json)


@click.command("link")
@click.argument("enterprise_id")
@click.argument("platform_user_id")
@click.argument("plan_id")
@click.option("--expires-in", "expires_in_seconds", type=SPAN, help="How long it is good; default: 1d.")
@click.option("--success-url", help="Where the browser goes when it is paid; default: a page of the gateway's.")
@click.option("--cancel-url", help="Where it goes when it is not; default: the same.")
@click.option("--promo-code", help="What takes something off the price.")
@json_option
def link(enterprise_id: str, as_json: bool, **body: Any) -> None:
    """Sign a link by which an end user buys a plan without a token. Whoever has it can pay for them."""
    show(request("POST", f"/api/v1/apps/{enterprise_id}/payment-links", body), as_json=as_json)


@click.command("branding")
@click.argument("enterprise_id")
@click.option("--name", help="What the app is called there; default: its name.")
@click.option("--logo-url", help="The https address of an image.")
@click.option("--accent", "accent_color", help="A colour such as #1a73e8.")
@click.option("--background", "background_color", help="Likewise.")
@click.option("--reset", is_flag=True, help="As it was at first.")
@json_option
def branding(enterprise_id: str, as_json: bool, reset: bool, **body: Any) -> None:
    """Show how an app's own pages look, or set it: all of it, what is left out is as it was at first."""
    path = f"/api/v1/apps/{enterprise_id}/branding"
    is_change = reset or any(value is not None for value in body.values())
    show(request("PUT", path, body) if is_change else request("GET", path), as_json=as_json)


COMMANDS: Final = (top_ups, top_up_off, save_card, link, branding)
