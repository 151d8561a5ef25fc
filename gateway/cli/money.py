"""Commands about money: grants, wallets, usage and the books. Each is one call of the REST API."""

from typing import Any

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, named_wallet, page_options, wallet_options
from gateway.cli.output import rows, show
from gateway.cli.values import AGO, AGO_HELP, AMOUNT, MOMENT, MOMENT_HELP
from gateway.core.money import decimal_from_micro


@click.group()
def grants() -> None:
    """Grants: money (or tokens) put into a wallet."""


@grants.command("create")
@wallet_options
@click.option("--amount", "amount_micro", type=AMOUNT, required=True, help="Amount in the wallet's asset, such as 5 or 0.25.")
@click.option("--source", type=click.Choice(["paid", "promo", "trial", "rollover"]), default="promo", show_default=True)
@click.option("--reason", required=True, help="Why; it stands in the ledger.")
@click.option("--priority", type=int, help="Lots with a lower number are spent first.")
@click.option("--expires-at", type=MOMENT, help=f"When what is left of it expires: {MOMENT_HELP}.")
@click.option("--idempotency-key", help="The same key never grants twice; default: a fresh one.")
@json_option
def create_grant(
    user_id: str | None,
    enterprise_id: str | None,
    platform_user_id: str | None,
    as_json: bool,
    idempotency_key: str | None,
    **options: Any,
) -> None:
    """Put an amount into a wallet."""
    body = {"wallet": named_wallet(user_id, enterprise_id, platform_user_id), **options}
    show(request("POST", "/api/v1/grants", body, idempotency_key=idempotency_key), as_json=as_json)


@click.group()
def wallets() -> None:
    """Wallets: what may be spent."""


@wallets.command("show")
@wallet_options
@json_option
def show_wallet(user_id: str | None, enterprise_id: str | None, platform_user_id: str | None, as_json: bool) -> None:
    """Show what can be spent of a wallet, and its lots: those with something left, and those whose time ended within 30 days.

    What is left in the lots, less the debt, what requests in flight hold, and, where there is any, what is pending (granted,
    and cannot be spent yet) and undrained (used, and not in the books yet) is what is available.
    """
    wallet = named_wallet(user_id, enterprise_id, platform_user_id)
    path = f"/api/v1/wallets/{user_id}" if "user_id" in wallet else f"/api/v1/apps/{enterprise_id}/wallets/{platform_user_id}"
    answer = request("GET", path)
    if as_json:
        show(answer, as_json=True)
        return
    if not any(answer[name] for name in _WALLET_PARTS) and not _is_known(user_id or platform_user_id, enterprise_id):
        click.echo("There is no such wallet yet: nothing was ever granted to it.")
        return
    lots = answer.pop("lots")
    spendable_micro = answer["available_micro"] - answer["debt_micro"]
    left_micro, owed_micro = answer["left_micro"], answer["owed_micro"]
    parts = {"left_micro": left_micro, "debt_micro": owed_micro, "held_micro": answer["held_micro"]}
    parts |= {name: answer[name] for name in ("pending_micro", "undrained_micro") if answer[name]}
    show({"asset": answer["asset"], **parts, "available_micro": spendable_micro}, as_json=False)
    missing_micro = owed_micro + answer["pending_micro"] - left_micro
    if owed_micro and missing_micro >= 0:
        debt = f"{decimal_from_micro(missing_micro)} more than" if missing_micro else "as much as"
        click.echo(f"Nothing can be spent: the debt is {debt} what is left.")
    click.echo("\nlots" if lots else "\nno lots")
    if lots:
        rows([{**lot, "source": "overage, to be billed"} if lot["source"] == "overage" else lot for lot in lots])


_WALLET_PARTS = ("available_micro", "held_micro", "debt_micro", "pending_micro", "lots")


def _is_known(owner: str | None, enterprise_id: str | None) -> bool:
    """Whether the books have an account of this owner."""
    query = {"enterprise_id": enterprise_id, "owner": owner, "limit": 1}
    return bool(request("GET", "/api/v1/ledger/accounts", query=query)["data"])


@click.command()
@click.option("--app", "enterprise_id", help="One app's own records; without it, every app's roll-up.")
@click.option("--end-user", "platform_user_id", help="Only this end user (with --app).")
@click.option("--from", "from_", type=AGO, help=f"{AGO_HELP}.")
@click.option("--to", type=AGO, help="Likewise; what is used at that time is not counted any more.")
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
        answer["data"] = [{**row.pop("group"), **row} for row in answer["data"]]
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
