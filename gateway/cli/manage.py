"""Management commands of creators, apps, keys and tokens: each is one call of the REST API, with its fields as options."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, limit_options, page_options, taken_limits
from gateway.cli.output import show
from gateway.cli.values import (
    AMOUNT,
    AMOUNT_OR_NONE,
    COUNT,
    MOMENT,
    MOMENT_HELP,
    MOMENT_OR_NONE,
    NONE,
    SPAN,
    SPAN_OR_NONE,
)

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def creators() -> None:
    """Creators: the platform's customers."""


@creators.command("create")
@click.argument("user_id")
@click.option("--name", help="Display name; default: the id.")
@json_option
def create_creator(user_id: str, name: str | None, as_json: bool) -> None:
    """Make a creator."""
    show(request("POST", "/api/v1/creators", {"user_id": user_id, "name": name or user_id}), as_json=as_json)


@creators.command("show")
@click.argument("user_id")
@json_option
def show_creator(user_id: str, as_json: bool) -> None:
    """Show one creator."""
    show(request("GET", f"/api/v1/creators/{user_id}"), as_json=as_json)


@creators.command("update")
@click.argument("user_id")
@click.option("--name")
@click.option("--status", type=click.Choice(["active", "suspended"]), help="A suspended creator's apps stop.")
@json_option
def update_creator(user_id: str, as_json: bool, **options: Any) -> None:
    """Rename or suspend a creator."""
    show(request("PATCH", f"/api/v1/creators/{user_id}", options), as_json=as_json)


@creators.command("list")
@page_options
@json_option
def list_creators(limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List creators."""
    show(request("GET", "/api/v1/creators", query={"limit": limit, "cursor": cursor}), as_json=as_json)


def app_options(command: F) -> F:
    """What can be said of an app at its making and later."""
    command = click.option("--default-end-user", help="Whose wallet pays when a request names no end user.")(command)
    command = click.option(
        "--end-user-source", "end_user_sources", multiple=True, help="A source that may name the end user; repeat; default: all."
    )(command)
    command = click.option(
        "--cors-origin", "cors_origins", multiple=True, help="A web origin whose pages may use end-user tokens; repeat; * is any."
    )(command)
    command = click.option(
        "--trial", type=AMOUNT_OR_NONE, help="Amount that each end user is granted on first sight; none: nothing."
    )(command)
    command = click.option(
        "--answer-cache", type=SPAN_OR_NONE, help="How long answers are kept for the same request; 0: where it asks; none: never."
    )(command)
    command = click.option(
        "--answer-cache-price", type=COUNT, help="Percent of its price that a kept answer costs; default: 0."
    )(command)
    command = click.option(
        "--answer-cache-per-end-user/--answer-cache-for-all",
        default=None,
        help="Whether end users get only answers to requests of their own; default: they get each other's.",
    )(command)
    return click.option("--trial-days", type=COUNT, help="Days until --trial expires; default: 30.")(command)


def _app_fields(options: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What to send; `now` is the app as it is. Of what has parts, those that are not named stay."""
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    fields = {name: value for name, value in fields.items() if value != []}
    limits = taken_limits(fields, "end-user-")
    for field, (first, parts) in _IN_PARTS.items():
        given = {name: fields.pop(option) for name, option in parts.items()}
        if given[first] is NONE:
            fields[field] = NONE
        elif named := {name: value for name, value in given.items() if value is not None}:
            whole = (now.get(field) or {}) | named
            if first not in whole:
                option = parts[first].replace("_", "-")
                raise click.UsageError(f"There is none yet: name --{option} too.")
            fields[field] = _DEFAULTS.get(field, {}) | whole
    return {**fields, "end_user_limits": limits}


# Fields of an app by the part without which there are none, and each part by its option.
_IN_PARTS: Final = {
    "trial": ("amount_micro", {"amount_micro": "trial", "days": "trial_days"}),
    "answer_cache": (
        "ttl_s",
        {
            "ttl_s": "answer_cache",
            "price_percent": "answer_cache_price",
            "per_end_user": "answer_cache_per_end_user",
        },
    ),
}
_DEFAULTS: Final = {"trial": {"days": 30}}


@click.group()
def apps() -> None:
    """Apps: the unit of keys, prices and data isolation."""


@apps.command("create")
@click.argument("enterprise_id")
@click.option("--user-id", required=True, help="The creator whose app it is.")
@click.option("--name", help="Display name; default: the id.")
@click.option("--asset", default="USD", show_default=True, help="What its end users' wallets hold: USD, TOK, another currency.")
@click.option("--enforcement", type=click.Choice(["prepaid", "analytics_only"]), default="prepaid", show_default=True)
@click.option(
    "--cost-policy",
    type=click.Choice(["platform_pays", "creator_pays", "own_keys"]),
    default="platform_pays",
    show_default=True,
    help="Who pays the providers: the platform, the creator's wallet or the creator's own keys. It is chosen for good, and "
    "decides what may be sold: a creator's own plans, trials and overage are only where the creator pays.",
)
@click.option("--hold-policy", type=click.Choice(["strict", "clamp"]), default="strict", show_default=True)
@click.option("--disconnect-policy", type=click.Choice(["drain", "cancel"]), default="drain", show_default=True)
@click.option("--markup-percent", help="What the app adds to the provider's price.")
@app_options
@limit_options(of="end-user-", end=" of each end user")
@json_option
def create_app(enterprise_id: str, as_json: bool, **options: Any) -> None:
    """Make an app of a creator."""
    body = {"enterprise_id": enterprise_id, **_app_fields(options, {}), "name": options["name"] or enterprise_id}
    show(request("POST", "/api/v1/apps", body), as_json=as_json)


@apps.command("list")
@page_options
@json_option
def list_apps(limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List apps."""
    show(request("GET", "/api/v1/apps", query={"limit": limit, "cursor": cursor}), as_json=as_json)


@apps.command("show")
@click.argument("enterprise_id")
@json_option
def show_app(enterprise_id: str, as_json: bool) -> None:
    """Show one app."""
    show(request("GET", f"/api/v1/apps/{enterprise_id}"), as_json=as_json)


@apps.command("update")
@click.argument("enterprise_id")
@click.option("--name")
@click.option("--status", type=click.Choice(["active", "suspended"]))
@click.option("--hold-policy", type=click.Choice(["strict", "clamp"]))
@click.option("--disconnect-policy", type=click.Choice(["drain", "cancel"]))
@click.option("--markup-percent", help="What the app adds to the provider's price from now on, as `prices set` does.")
@app_options
@limit_options(of="end-user-", end=" of each end user", change=True)
@json_option
def update_app(enterprise_id: str, as_json: bool, **options: Any) -> None:
    """Change an app: what is named is set, everything else stays."""
    path = f"/api/v1/apps/{enterprise_id}"
    in_parts = any(options[option] is not None for _, parts in _IN_PARTS.values() for option in parts.values())
    now = request("GET", path) if in_parts else {}
    show(request("PATCH", path, _app_fields(options, now)), as_json=as_json)


@apps.command("forget-answers")
@click.argument("enterprise_id")
@json_option
def forget_answers(enterprise_id: str, as_json: bool) -> None:
    """Forget every answer that is kept for an app."""
    show(request("DELETE", f"/api/v1/apps/{enterprise_id}/answers"), as_json=as_json)


@click.group()
def keys() -> None:
    """API keys of an app. A secret is shown once, when it is made."""


@keys.command("create")
@click.option("--app", "enterprise_id", required=True)
@click.option("--level", type=click.Choice(["platform", "app_usage"]), required=True)
@click.option("--name", default="key", show_default=True)
@click.option("--model", "models", multiple=True, help="A model or pattern the key may use; repeat; default: every model.")
@click.option("--expires-at", type=MOMENT, help=f"{MOMENT_HELP}; default: never.")
@limit_options()
@json_option
def create_key(
    enterprise_id: str, level: str, name: str, models: tuple[str, ...], expires_at: str | None, as_json: bool, **options: Any
) -> None:
    """Make a key and print its secret, once."""
    limits = taken_limits(options)
    body = {"name": name, "level": level, "models": list(models) or None, "limits": limits, "expires_at": expires_at}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/keys", body), as_json=as_json)


@keys.command("list")
@click.option("--app", "enterprise_id", required=True)
@page_options
@json_option
def list_keys(enterprise_id: str, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List the keys of an app."""
    show(request("GET", f"/api/v1/apps/{enterprise_id}/keys", query={"limit": limit, "cursor": cursor}), as_json=as_json)


@keys.command("show")
@click.argument("key_id")
@click.option("--app", "enterprise_id", required=True)
@json_option
def show_key(key_id: str, enterprise_id: str, as_json: bool) -> None:
    """Show one key (not its secret, which nobody has)."""
    show(request("GET", f"/api/v1/apps/{enterprise_id}/keys/{key_id}"), as_json=as_json)


@keys.command("update")
@click.argument("key_id")
@click.option("--app", "enterprise_id", required=True)
@click.option("--name")
@click.option("--model", "models", multiple=True, help="A model or pattern instead of those it had; repeat; * is every model.")
@click.option("--expires-at", type=MOMENT_OR_NONE, help=f"{MOMENT_HELP}; none: never.")
@limit_options(change=True)
@json_option
def update_key(key_id: str, enterprise_id: str, models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Change a key's name, models, expiry or limits: what is named is set, everything else stays."""
    limits = taken_limits(options)
    body = {**options, "models": list(models) or None, "limits": limits}
    show(request("PATCH", f"/api/v1/apps/{enterprise_id}/keys/{key_id}", body), as_json=as_json)


@keys.command("rotate")
@click.argument("key_id")
@click.option("--app", "enterprise_id", required=True)
@click.option("--overlap", "overlap_seconds", type=SPAN, default="0", show_default=True, help="How long the old secret is good.")
@json_option
def rotate_key(key_id: str, enterprise_id: str, overlap_seconds: int, as_json: bool) -> None:
    """Make a new key like this one; the old one ends after the overlap."""
    body = {"overlap_seconds": overlap_seconds}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/keys/{key_id}/rotate", body), as_json=as_json)


@keys.command("revoke")
@click.argument("key_id")
@click.option("--app", "enterprise_id", required=True)
@json_option
def revoke_key(key_id: str, enterprise_id: str, as_json: bool) -> None:
    """End a key now."""
    show(request("DELETE", f"/api/v1/apps/{enterprise_id}/keys/{key_id}"), as_json=as_json)


@click.group("management-keys")
def management_keys() -> None:
    """Keys with which a creator manages its own apps over REST."""


@management_keys.command("create")
@click.argument("user_id")
@click.option("--name", default="management key", show_default=True)
@click.option("--expires-at", type=MOMENT, help=f"{MOMENT_HELP}; default: never.")
@json_option
def create_management_key(user_id: str, as_json: bool, **options: Any) -> None:
    """Make a management key and print its secret, once."""
    show(request("POST", "/api/v1/management-keys", {"user_id": user_id, **options}), as_json=as_json)


@management_keys.command("list")
@page_options
@json_option
def list_management_keys(limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List management keys."""
    show(request("GET", "/api/v1/management-keys", query={"limit": limit, "cursor": cursor}), as_json=as_json)


@management_keys.command("revoke")
@click.argument("key_id")
@json_option
def revoke_management_key(key_id: str, as_json: bool) -> None:
    """End a management key now."""
    show(request("DELETE", f"/api/v1/management-keys/{key_id}"), as_json=as_json)


@click.group()
def tokens() -> None:
    """End-user tokens: short-lived credentials that are safe in a browser."""


@tokens.command("create")
@click.option("--app", "enterprise_id", required=True)
@click.option("--end-user", "platform_user_id", required=True)
@click.option(
    "--key",
    "key_id",
    help="The app_usage key that the token hangs on: it ends with it and counts on its limits. "
    "Default: the newest in force that allows the models and lasts as long; the answer names it.",
)
@click.option("--expires-in", "expires_in_seconds", type=SPAN, default="1h", show_default=True, help="How long it is good.")
@click.option("--spend-max", "spend_micro_max", type=AMOUNT, help="What the token may spend in all, in the app's asset.")
@click.option("--rpm", type=COUNT, help="Requests a minute.")
@click.option("--model", "models", multiple=True, help="A model or pattern the token may use; repeat.")
@json_option
def create_token(enterprise_id: str, as_json: bool, models: tuple[str, ...], **options: Any) -> None:
    """Mint a token for one end user."""
    body = {**options, "models": list(models) or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/end-user-tokens", body), as_json=as_json)
