"""Commands of an app's own provider keys: each is one call of the REST API."""

import sys

import click

from gateway.cli.local import request
from gateway.cli.options import json_option
from gateway.cli.output import show


@click.group("provider-keys")
def provider_keys() -> None:
    """An app's own keys at providers, for the cost policy own_keys."""


@provider_keys.command("set")
@click.option("--app", "enterprise_id", required=True)
@click.option("--provider", required=True, help="As the configuration names it, such as openai.")
@json_option
def set_key(enterprise_id: str, provider: str, as_json: bool) -> None:
    """Set or replace a key, which is asked for, or read from standard input: never an argument, which others could see."""
    key = click.prompt("Key", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    show(request("PUT", f"/api/v1/apps/{enterprise_id}/provider-keys/{provider}", {"key": key}), as_json=as_json)


@provider_keys.command("list")
@click.option("--app", "enterprise_id", required=True)
@json_option
def list_keys(enterprise_id: str, as_json: bool) -> None:
    """List an app's keys, without what they are."""
    show(request("GET", f"/api/v1/apps/{enterprise_id}/provider-keys"), as_json=as_json)


@provider_keys.command("delete")
@click.option("--app", "enterprise_id", required=True)
@click.option("--provider", required=True)
@json_option
def delete_key(enterprise_id: str, provider: str, as_json: bool) -> None:
    """Forget a key."""
    show(request("DELETE", f"/api/v1/apps/{enterprise_id}/provider-keys/{provider}"), as_json=as_json)
