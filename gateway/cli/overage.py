"""`gateway sales overage`: what buyers agreed to use beyond their allowances, and its bills. Each is one call of the REST API."""

from typing import Any

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.sales import buyer_options, seller_option
from gateway.cli.values import AMOUNT

_PATH = "/api/v1/overage"


@click.group("overage")
def overage() -> None:
    """Overage: what subscribers use beyond their allowances, and are billed after the period."""


@overage.command("agree")
@click.argument("user_id")
@click.option("--limit", "limit_micro", type=AMOUNT, required=True, help="What may be used so and be unpaid at any time.")
@json_option
def agree(as_json: bool, **body: Any) -> None:
    """Agree with a creator that it uses more than its allowance and pays later, also where a bill was not paid.

    An app's buyers agree through the REST API: each for itself, or whoever sells to it.
    """
    show(request("PUT", _PATH, body), as_json=as_json)


@overage.command("end")
@seller_option
@buyer_options
@json_option
def end(as_json: bool, **query: Any) -> None:
    """Lend a buyer nothing more; what was used is billed."""
    show(request("DELETE", _PATH, query=query), as_json=as_json)


@overage.command("list")
@seller_option
@buyer_options
@page_options
@json_option
def list_agreements(as_json: bool, **query: Any) -> None:
    """List who agreed to it, and where each stands."""
    show(request("GET", _PATH, query=query), as_json=as_json)


@overage.command("bills")
@seller_option
@buyer_options
@page_options
@json_option
def bills(as_json: bool, **query: Any) -> None:
    """List bills, newest first."""
    show(request("GET", "/api/v1/overage-bills", query=query), as_json=as_json)
