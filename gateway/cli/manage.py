"""Management commands: each is one call of the REST API, with its fields as options."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import msgspec

from gateway.cli.local import request
from gateway.cli.output import show
from gateway.core.money import decimal_from_micro, micro_from_decimal

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`: the API's own answer."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(command)


def page_options(command: F) -> F:
    """`--limit` and `--cursor` of a list."""
    command = click.option("--limit", type=int, help="Rows at most.")(command)
    return click.option("--cursor", help="Go on after this row of an earlier list.")(command)


def limit_options(command: F) -> F:
    """The limits of a key."""
    for name, what in (
        ("rpm", "Requests a minute."),
        ("tpm", "Tokens a minute."),
        ("concurrency", "Requests in flight."),
        ("spend-micro-per-day", "Spend a day (UTC), in micro-units."),
        ("spend-micro-per-month", "Spend a month (UTC), in micro-units."),
        ("spend-micro-total", "Spend over the key's life, in micro-units."),
    ):
        command = click.option(f"--{name}", type=int, help=what)(command)
    return command


def _limits(options: dict[str, Any]) -> dict[str, int] | None:
    names = ("rpm", "tpm", "concurrency", "spend_micro_per_day", "spend_micro_per_month", "spend_micro_total")
    return {name: options[name] for name in names if options[name] is not None} or None


def _micro(amount: str, name: str) -> int:
    try:
        return micro_from_decimal(amount)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint=f"--{name}") from wrong


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
    command = click.option("--trial", help="Amount that each end user is granted on first sight; none: nothing.")(command)
    command = click.option("--trial-days", type=int, default=30, show_default=True, help="Days until --trial expires.")(command)
    for name, what in (("rpm", "Requests a minute"), ("tpm", "Tokens a minute"), ("spend-micro-per-day", "Micro-units a day")):
        command = click.option(f"--end-user-{name}", type=int, help=f"{what} of each end user.")(command)
    return command


_NULL: Final = msgspec.Raw(b"null")  # said, where None is left out


def _app_fields(options: dict[str, Any]) -> dict[str, Any]:
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    limits = {name: fields.pop(f"end_user_{name}") for name in ("rpm", "tpm", "spend_micro_per_day")}
    given = {name: value for name, value in limits.items() if value is not None}
    fields = {name: value for name, value in fields.items() if value != []}
    trial, days = fields.pop("trial"), fields.pop("trial_days")
    if trial == "none":
        fields["trial"] = _NULL
    elif trial is not None:
        fields["trial"] = {"amount_micro": _micro(str(trial), "trial"), "days": days}
    return fields | ({"end_user_limits": given} if given else {})


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
    "--cost-policy", type=click.Choice(["platform_pays", "creator_pays", "own_keys"]), default="platform_pays", show_default=True
)
@click.option("--hold-policy", type=click.Choice(["strict", "clamp"]), default="strict", show_default=True)
@click.option("--disconnect-policy", type=click.Choice(["drain", "cancel"]), default="drain", show_default=True)
@click.option("--markup-percent", help="What the app adds to the provider's price.")
@app_options
@json_option
def create_app(enterprise_id: str, as_json: bool, **options: Any) -> None:
    """Make an app of a creator."""
    body = {"enterprise_id": enterprise_id, **_app_fields(options), "name": options["name"] or enterprise_id}
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
@app_options
@json_option
def update_app(enterprise_id: str, as_json: bool, **options: Any) -> None:
    """Change an app."""
    show(request("PATCH", f"/api/v1/apps/{enterprise_id}", _app_fields(options)), as_json=as_json)


@click.group()
def keys() -> None:
    """API keys of an app. A secret is shown once, when it is made."""


@keys.command("create")
@click.option("--app", "enterprise_id", required=True)
@click.option("--level", type=click.Choice(["platform", "app_usage"]), required=True)
@click.option("--name", default="key", show_default=True)
@click.option("--model", "models", multiple=True, help="A model or pattern the key may use; repeat; default: every model.")
@click.option("--expires-at", help="RFC 3339 time.")
@limit_options
@json_option
def create_key(
    enterprise_id: str, level: str, name: str, models: tuple[str, ...], expires_at: str | None, as_json: bool, **options: Any
) -> None:
    """Make a key and print its secret, once."""
    body = {"name": name, "level": level, "models": list(models) or None, "limits": _limits(options), "expires_at": expires_at}
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
@click.option("--expires-at", help="RFC 3339 time.")
@limit_options
@json_option
def update_key(key_id: str, enterprise_id: str, name: str | None, expires_at: str | None, as_json: bool, **options: Any) -> None:
    """Change a key's name, expiry or limits (limits given replace all of its limits)."""
    body = {"name": name, "expires_at": expires_at, "limits": _limits(options)}
    show(request("PATCH", f"/api/v1/apps/{enterprise_id}/keys/{key_id}", body), as_json=as_json)


@keys.command("rotate")
@click.argument("key_id")
@click.option("--app", "enterprise_id", required=True)
@click.option("--overlap-seconds", type=int, default=0, show_default=True, help="How long the old secret stays good.")
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
@json_option
def create_management_key(user_id: str, name: str, as_json: bool) -> None:
    """Make a management key and print its secret, once."""
    show(request("POST", "/api/v1/management-keys", {"user_id": user_id, "name": name}), as_json=as_json)


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


def wallet_options(command: F) -> F:
    """Which wallet: a creator's, or an end user's in an app."""
    command = click.option("--end-user", "platform_user_id", help="The end user whose wallet in --app it is.")(command)
    command = click.option("--app", "enterprise_id", help="The app of --end-user.")(command)
    return click.option("--user-id", help="The creator whose wallet towards the platform it is.")(command)


def _wallet(user_id: str | None, enterprise_id: str | None, platform_user_id: str | None) -> dict[str, str]:
    if user_id and not (enterprise_id or platform_user_id):
        return {"user_id": user_id}
    if enterprise_id and platform_user_id and not user_id:
        return {"enterprise_id": enterprise_id, "platform_user_id": platform_user_id}
    raise click.UsageError("Name a wallet: --user-id, or --app and --end-user.")


@click.group()
def grants() -> None:
    """Grants: money (or tokens) put into a wallet."""


@grants.command("create")
@wallet_options
@click.option("--amount", required=True, help="Decimal amount in the wallet's asset, such as 5 or 0.25.")
@click.option("--source", type=click.Choice(["paid", "promo", "trial", "rollover"]), default="promo", show_default=True)
@click.option("--reason", required=True, help="Why; it stands in the ledger.")
@click.option("--priority", type=int, help="Lots with a lower number are spent first.")
@click.option("--expires-at", help="RFC 3339 time at which what is left of it expires.")
@click.option("--idempotency-key", help="The same key never grants twice; default: a fresh one.")
@json_option
def create_grant(
    user_id: str | None,
    enterprise_id: str | None,
    platform_user_id: str | None,
    amount: str,
    as_json: bool,
    idempotency_key: str | None,
    **options: Any,
) -> None:
    """Put an amount into a wallet."""
    body = {"wallet": _wallet(user_id, enterprise_id, platform_user_id), "amount_micro": _micro(amount, "amount"), **options}
    show(request("POST", "/api/v1/grants", body, idempotency_key=idempotency_key), as_json=as_json)


@click.group()
def wallets() -> None:
    """Wallets: what may be spent."""


@wallets.command("show")
@wallet_options
@json_option
def show_wallet(user_id: str | None, enterprise_id: str | None, platform_user_id: str | None, as_json: bool) -> None:
    """Show a wallet's balance, holds, debt and lots."""
    wallet = _wallet(user_id, enterprise_id, platform_user_id)
    path = f"/api/v1/wallets/{user_id}" if "user_id" in wallet else f"/api/v1/apps/{enterprise_id}/wallets/{platform_user_id}"
    answer = request("GET", path)
    if not as_json:
        answer = {"available": decimal_from_micro(answer["available_micro"]), **answer}
    show(answer, as_json=as_json)


@click.command()
@click.option("--app", "enterprise_id", help="One app's own records; without it, every app's roll-up.")
@click.option("--end-user", "platform_user_id", help="Only this end user (with --app).")
@click.option("--from", "from_", help="RFC 3339 time.")
@click.option("--to", help="RFC 3339 time.")
@click.option("--group-by", help="day, hour, model, level, workflow_type, ...; default: model (with --app), app (without).")
@click.option("--events", is_flag=True, help="The requests themselves, newest first (with --app).")
@page_options
@json_option
def usage(enterprise_id: str | None, events: bool, as_json: bool, from_: str | None, **options: Any) -> None:
    """Show what was used: totals, or the requests themselves."""
    query = {**options, "from": from_}
    if events:
        if enterprise_id is None:
            raise click.UsageError("--events needs --app.")
        query.pop("group_by")
        answer = request("GET", f"/api/v1/apps/{enterprise_id}/usage-events", query=query)
        show(answer, as_json=as_json, columns=_EVENT_COLUMNS)
        return
    for paging in ("limit", "cursor"):
        if query.pop(paging) is not None:
            raise click.UsageError(f"--{paging} goes with --events.")
    answer = request("GET", "/api/v1/usage", query={**query, "enterprise_id": enterprise_id})
    if not as_json:
        answer["data"] = [{**row["group"], **_totals(row)} for row in answer["data"]]
    show(answer, as_json=as_json)


_EVENT_COLUMNS = (
    "at",
    "request_id",
    "level",
    "platform_user_id",
    "model",
    "tokens_used",
    "cost",
    "asset",
    "status",
    "latency_ms",
)


def _totals(row: dict[str, Any]) -> dict[str, Any]:
    micro = {name: row[name] for name in row if name.endswith("_micro")}
    counts = {name: row[name] for name in row if name not in micro and name != "group"}
    return counts | {name.removesuffix("_micro"): decimal_from_micro(value) for name, value in micro.items()}


@click.group()
def ledger() -> None:
    """The books."""


@ledger.command("transactions")
@click.option("--app", "enterprise_id", help="An app's own book; without it, the platform's.")
@page_options
@json_option
def transactions(enterprise_id: str | None, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List transactions with their entries, newest first."""
    query = {"enterprise_id": enterprise_id, "limit": limit, "cursor": cursor}
    answer = request("GET", "/api/v1/ledger/transactions", query=query)
    if not as_json:
        answer["data"] = [_line(txn, entry) for txn in answer["data"] for entry in txn["entries"]]
    show(answer, as_json=as_json)


def _line(txn: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """One entry of a transaction: credits are positive, debits negative."""
    shown = {"at": txn["at"], "transaction": txn["id"], "kind": txn["kind"], "account": entry["account"], "owner": entry["owner"]}
    return {**shown, "amount": decimal_from_micro(entry["amount_micro"]), "asset": entry["asset"], "reason": txn["reason"]}


@ledger.command("accounts")
@click.option("--app", "enterprise_id", help="An app's own book; without it, the platform's.")
@page_options
@json_option
def accounts(enterprise_id: str | None, limit: int | None, cursor: str | None, as_json: bool) -> None:
    """List accounts with their balances."""
    query = {"enterprise_id": enterprise_id, "limit": limit, "cursor": cursor}
    show(request("GET", "/api/v1/ledger/accounts", query=query), as_json=as_json)


@click.group()
def tokens() -> None:
    """End-user tokens: short-lived credentials that are safe in a browser."""


@tokens.command("create")
@click.option("--app", "enterprise_id", required=True)
@click.option("--end-user", "platform_user_id", required=True)
@click.option("--expires-in-seconds", type=int, default=3600, show_default=True)
@click.option("--spend-micro-max", type=int, help="What the token may spend in all, in micro-units of the app's asset.")
@click.option("--model", "models", multiple=True, help="A model or pattern the token may use; repeat.")
@json_option
def create_token(enterprise_id: str, as_json: bool, models: tuple[str, ...], **options: Any) -> None:
    """Mint a token for one end user."""
    body = {**options, "models": list(models) or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/end-user-tokens", body), as_json=as_json)


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
@click.option("--effective-at", help="RFC 3339 time; default: now.")
@json_option
def set_price(enterprise_id: str, prices: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Add a price of an app; what was used before it keeps its price."""
    given = dict(price.partition("=")[::2] for price in prices)
    body = {**options, "prices": given or None}
    show(request("POST", f"/api/v1/apps/{enterprise_id}/price-books", body), as_json=as_json)
