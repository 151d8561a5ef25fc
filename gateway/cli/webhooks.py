"""`gateway webhooks`: what Stripe told, what failed of it and why, and once more. Each is one call of the REST API."""

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show

_COLUMNS = ("id", "event_id", "created_at", "type", "object_id", "account_id", "state", "attempts", "reason")


@click.group()
def webhooks() -> None:
    """Webhooks that Stripe sent, and what became of each."""


@webhooks.command("list")
@click.option("--state", type=click.Choice(["waiting", "done", "ignored", "failed"]), help="Only those; default: all.")
@page_options
@json_option
def list_webhooks(state: str | None, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List webhooks, newest first, with the reasons of those that failed."""
    query = {"state": state, "limit": limit, "cursor": cursor}
    show(request("GET", "/api/v1/webhooks", query=query), as_json=as_json, columns=_COLUMNS)


@webhooks.command("replay")
@click.argument("webhook_id")
@json_option
def replay(webhook_id: str, as_json: bool) -> None:
    """Act upon a webhook once more, by our id or Stripe's (evt_...), whatever became of it.

    What it did already is not done again.
    """
    show(request("POST", f"/api/v1/webhooks/{webhook_id}/replay"), as_json=as_json, columns=_COLUMNS)


@webhooks.command("ignore")
@click.argument("webhook_id")
@json_option
def ignore(webhook_id: str, as_json: bool) -> None:
    """Count a webhook that failed as failed no more, by our id or Stripe's (evt_...): what it told of was seen to otherwise."""
    show(request("POST", f"/api/v1/webhooks/{webhook_id}/ignore"), as_json=as_json, columns=_COLUMNS)
