"""`gateway sales codes`: promo codes, and what they took off. Each is one call of the REST API."""

from typing import Any

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.sales import seller_option
from gateway.cli.values import AMOUNT, COUNT, MOMENT, MOMENT_HELP

_PATH = "/api/v1/promo-codes"


@click.group("codes")
def codes() -> None:
    """Promo codes: what an app takes off its prices for end users, and the platform for creators."""


@codes.command("create")
@click.argument("code")
@seller_option
@click.option("--percent-off", help="Above 0 and up to 100, with at most two decimals.")
@click.option("--amount-off", "amount_off_micro", type=AMOUNT, help="Instead: so much of --currency.")
@click.option("--currency", help="Three letters; of --amount-off.")
@click.option("--duration", type=click.Choice(["once", "forever", "repeating"]), help="Of which invoices; default: once.")
@click.option("--months", "duration_months", type=COUNT, help="How long it is repeating.")
@click.option("--max-redemptions", type=COUNT, help="How often it is redeemed at most.")
@click.option("--first-purchase-only", is_flag=True, default=None, help="Only by who has bought nothing here.")
@click.option("--plan", "plan_ids", multiple=True, help="Only of this plan; may be said again. Default: of all.")
@click.option("--expires-at", type=MOMENT, help=f"Until when; default: no end. {MOMENT_HELP}.")
@json_option
def create_code(as_json: bool, plan_ids: tuple[str, ...], **body: Any) -> None:
    """Make a promo code, such as SPRING-25."""
    show(request("POST", _PATH, {**body, "plan_ids": list(plan_ids)}), as_json=as_json)


@codes.command("list")
@seller_option
@click.option("--ended", is_flag=True, help="Also those that have ended.")
@page_options
@json_option
def list_codes(as_json: bool, ended: bool, **query: Any) -> None:
    """List promo codes, newest first, each with how often it was redeemed."""
    show(request("GET", _PATH, query={**query, "ended": "true" if ended else None}), as_json=as_json)


@codes.command("end")
@click.argument("promo_code_id", metavar="CODE")
@json_option
def end_code(promo_code_id: str, as_json: bool) -> None:
    """End a promo code, by its letters or its id; subscriptions that redeemed it keep what it takes off."""
    show(request("DELETE", f"{_PATH}/{promo_code_id}"), as_json=as_json)


@codes.command("redemptions")
@click.argument("promo_code_id", metavar="CODE")
@page_options
@json_option
def redemptions(promo_code_id: str, as_json: bool, **query: Any) -> None:
    """List what a promo code took off, by its letters or its id, the latest first."""
    show(request("GET", f"{_PATH}/{promo_code_id}/redemptions", query=query), as_json=as_json)
