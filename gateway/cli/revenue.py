"""Commands of `gateway sales` about what became of the money. Each is one call of the REST API."""

from typing import Any, Final

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import rows, show
from gateway.cli.sales import buyer_options, seller_option

_MONTH_HELP: Final = "Such as 2026-10 (UTC); default: this month."
_LINE: Final = ("at", "kind", "enterprise_id", "amount_micro", "source_id")


@click.command("fee-income")
@click.option("--from", "from_", help="First month, such as 2026-09 (UTC); default: the last one.")
@click.option("--to", help="Last month. " + _MONTH_HELP)
@click.option("--user-id", help="Of this creator's apps alone.")
@click.option("--app", "enterprise_id", help="Of this app alone.")
@click.option("--stripe", is_flag=True, help="Hold it against the fees that Stripe has.")
@json_option
def fee_income(from_: str | None, stripe: bool, as_json: bool, **query: Any) -> None:
    """Add up the platform's shares by month, creator, app and currency."""
    answer = request("GET", "/api/v1/fee-income", query={"from": from_, **query, "stripe": "true" if stripe else None})
    if as_json:
        show(answer, as_json=True)
        return
    rows(answer["data"])
    if answer["ties"] is not None:
        click.echo("Held against Stripe:")
        rows(answer["ties"])


@click.command("payouts")
@click.argument("user_id", required=False)
@click.option("--status", help="pending, in_transit, paid, failed or canceled; default: all.")
@page_options
@json_option
def payouts(as_json: bool, **query: Any) -> None:
    """List payouts from a creator's account at Stripe to its bank, newest first; without USER_ID, the platform's own."""
    show(request("GET", "/api/v1/payouts", query=query), as_json=as_json)


@click.command("statements")
@click.argument("user_id")
@click.option("--month", help=_MONTH_HELP)
@click.option("--lines", is_flag=True, help="Each movement, besides the totals.")
@click.option("--csv", "as_csv", is_flag=True, help="All lines as CSV.")
@json_option
def statements(user_id: str, month: str | None, lines: bool, as_csv: bool, as_json: bool) -> None:
    """Show what a creator's account at Stripe did in a month, currency by currency."""
    path = f"/api/v1/statements/{user_id}"
    if as_csv:
        click.echo(request("GET", f"{path}/csv", query={"month": month}), nl=False)
        return
    answer = request("GET", path, query={"month": month, "lines": "true" if lines else None})
    if as_json:
        show(answer, as_json=True)
        return
    until = "" if answer["complete"] else ", to now"
    click.echo(f"{answer['user_id']}, {answer['account_id']}, {answer['month']}{until}")
    for part in answer["currencies"] or ():
        click.echo(f"\n{part['currency']}")
        if lines:
            rows([{name: line[name] for name in _LINE} for line in part["lines"]])
        names = ("opening_micro", "closing_micro", "net_micro", "difference_micro")
        rows([{"kind": each["kind"], "app": each["enterprise_id"], **_counted(each)} for each in part["totals"]])
        show({name: part[name] for name in names}, as_json=False)
        if part["unexplained"]:
            click.echo("In no book as Stripe has it:")
            rows(part["unexplained"])


def _counted(total: dict[str, Any]) -> dict[str, Any]:
    return {name: total[name] for name in ("count", "amount_micro")}


@click.command("invoices")
@seller_option
@buyer_options
@page_options
@json_option
def invoices(as_json: bool, **query: Any) -> None:
    """List invoices of subscriptions, newest first, with the addresses of Stripe's pages of them."""
    show(request("GET", "/api/v1/invoices", query=query), as_json=as_json)


@click.command("receipts")
@seller_option
@buyer_options
@page_options
@json_option
def receipts(as_json: bool, **query: Any) -> None:
    """List payments, newest first, with the addresses of Stripe's receipts."""
    show(request("GET", "/api/v1/receipts", query=query), as_json=as_json)


COMMANDS: Final = (fee_income, payouts, statements, invoices, receipts)
