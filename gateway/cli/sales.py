"""Commands about what is sold: plans, and `sales` with all that comes of them. Each is one call of the REST API."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from gateway.cli.local import request
from gateway.cli.options import json_option, page_options
from gateway.cli.output import show
from gateway.cli.values import AMOUNT, COUNT, MOMENT, MOMENT_HELP
from gateway.core.money import decimal_from_micro

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def plans() -> None:
    """Plans: what apps sell to end users, and the platform to creators."""


def seller_option(command: F) -> F:
    """Whose sales."""
    return click.option("--app", "enterprise_id", help="The app that sells; without it, the platform.")(command)


def buyer_options(command: F) -> F:
    """Of whom."""
    command = click.option("--user-id", help="The creator who buys (of the platform).")(command)
    return click.option("--end-user", "platform_user_id", help="The end user who buys (of an app).")(command)


def key_option(command: F) -> F:
    """So that a repetition is no second one."""
    return click.option("--idempotency-key", help="The same key never does it twice; default: a fresh one.")(command)


@plans.command("create")
@seller_option
@click.option("--kind", type=click.Choice(["package", "subscription"]), default="package", show_default=True)
@click.option("--name", required=True, help="What buyers read.")
@click.option("--price", "price_micro", type=AMOUNT, required=True, help="In --currency, such as 9.99.")
@click.option("--currency", required=True, help="Three letters; the wallet's asset where that is money.")
@click.option("--grant", "grant_micro", type=AMOUNT, required=True, help="What it puts into the wallet, in the wallet's asset.")
@click.option("--interval", type=click.Choice(["day", "week", "month", "year"]), help="A subscription's period.")
@click.option("--interval-count", type=COUNT, help="How many of them make a period; default: 1.")
@click.option("--trial-days", type=COUNT, help="Days before a subscription is paid for.")
@click.option("--rollover-max", "rollover_max_micro", type=AMOUNT, help="What of a grant goes on into the next period at most.")
@click.option("--overage-max", "overage_max_micro", type=AMOUNT, help="What may be used beyond a grant and be unpaid.")
@click.option("--overage-price", "overage_price_micro", type=AMOUNT, help="What --overage-per costs, in --currency.")
@click.option("--overage-per", "overage_per_micro", type=AMOUNT, help="So much of the wallet's asset; both: default 1 for 1.")
@click.option("--lot-days", type=COUNT, help="Days after which what a package put there expires; default: never.")
@json_option
def create_plan(as_json: bool, **body: Any) -> None:
    """Offer a plan."""
    overage = {part: body.pop(f"overage_{part}") for part in ("max_micro", "price_micro", "per_micro")}
    for part, flag in (("price_micro", "--overage-price"), ("per_micro", "--overage-per")):
        if overage[part] is not None and overage["max_micro"] is None:
            raise click.UsageError(f"--overage-max is wanted with {flag}: what may be used beyond a grant and be unpaid.")
    body["overage"] = {part: value for part, value in overage.items() if value is not None} or None
    show(request("POST", "/api/v1/plans", body), as_json=as_json)


@plans.command("list")
@seller_option
@click.option("--archived", is_flag=True, help="Also those that are not offered any more.")
@page_options
@json_option
def list_plans(as_json: bool, archived: bool, **query: Any) -> None:
    """List plans, newest first."""
    asked = {**query, "archived": "true" if archived else None}
    show(request("GET", "/api/v1/plans", query=asked), as_json=as_json)


@plans.command("archive")
@click.argument("plan_id")
@json_option
def archive_plan(plan_id: str, as_json: bool) -> None:
    """Offer a plan no more; subscriptions to it go on."""
    show(request("DELETE", f"/api/v1/plans/{plan_id}"), as_json=as_json)


@click.group()
def sales() -> None:
    """Sales: pages to pay on, subscriptions, purchases, refunds, creators' accounts at Stripe, the platform's share."""


@sales.command("checkout")
@click.argument("plan_id")
@buyer_options
@click.option("--success-url", help="Where the browser goes when it is paid; default: a page of the gateway's.")
@click.option("--cancel-url", help="Where it goes when it is not; default: the same.")
@click.option("--email", help="The buyer's address, where Stripe is to know it.")
@click.option("--save-card", "save_payment_method", is_flag=True, help="What pays may be charged again by automatic top-up.")
@click.option("--promo-code", help="What takes something off the price.")
@key_option
@json_option
def checkout(as_json: bool, idempotency_key: str | None, **body: Any) -> None:
    """Open a page on which to pay for a plan."""
    show(request("POST", "/api/v1/checkout-sessions", body, idempotency_key=idempotency_key), as_json=as_json)


@sales.command("portal")
@seller_option
@buyer_options
@click.option("--return-url", required=True, help="Where the browser goes from there.")
@json_option
def portal(as_json: bool, **body: Any) -> None:
    """Open a page with a buyer's invoices, payment method and subscription."""
    show(request("POST", "/api/v1/portal-sessions", body), as_json=as_json)


@sales.command("subscriptions")
@seller_option
@buyer_options
@page_options
@json_option
def subscriptions(as_json: bool, **query: Any) -> None:
    """List subscriptions, newest first."""
    show(request("GET", "/api/v1/subscriptions", query=query), as_json=as_json)


@sales.command("change")
@click.argument("subscription_id")
@seller_option
@click.option("--plan", "plan_id", help="The next plan: a dearer one at once, for the difference; another with the next period.")
@click.option("--cancel/--go-on", "cancel_at_period_end", default=None, help="End with the period, or do not.")
@key_option
@json_option
def change(subscription_id: str, enterprise_id: str | None, as_json: bool, idempotency_key: str | None, **body: Any) -> None:
    """Change a subscription's plan, or end it with its period."""
    path, query = f"/api/v1/subscriptions/{subscription_id}", {"enterprise_id": enterprise_id}
    show(request("PATCH", path, body, query, idempotency_key), as_json=as_json)


@sales.command("purchases")
@seller_option
@buyer_options
@page_options
@json_option
def purchases(as_json: bool, **query: Any) -> None:
    """List purchases of packages, newest first."""
    show(request("GET", "/api/v1/purchases", query=query), as_json=as_json)


@sales.command("refund")
@click.argument("purchase_id", required=False)
@click.option("--payment", "payment_id", help="Instead of a purchase: any payment by Stripe's id, such as a subscription's.")
@seller_option
@click.option("--amount", "amount_micro", type=AMOUNT, help="In the currency that was paid; default: all that is left of it.")
@click.option("--reason", help="Why; it stands in the trail.")
@key_option
@json_option
def refund(as_json: bool, idempotency_key: str | None, **body: Any) -> None:
    """Give back what was paid for a package, or a period of a subscription.

    What the buyer has left of it is taken; what was spent of it becomes a debt, which stops service until it is paid.
    """
    made = request("POST", "/api/v1/refunds", body, idempotency_key=idempotency_key)
    show(made, as_json=as_json)
    if not as_json:
        click.echo(told_of_refund(made))


def told_of_refund(refund: Mapping[str, Any]) -> str:
    """What a refund does to the wallet, in a sentence."""
    if refund["taken_micro"] is None:
        return "The wallet's part follows when Stripe tells of it."
    taken, debt = (f"{decimal_from_micro(refund[name])} {refund['asset']}" for name in ("taken_micro", "debt_micro"))
    if refund["applied"]:
        return f"{taken} were taken of what the wallet had, and {debt} of it became a debt."
    return f"Once Stripe tells of it, {taken} are taken of what the wallet has, and {debt} that were spent become a debt."


@sales.command("account")
@click.argument("user_id")
@json_option
def account(user_id: str, as_json: bool) -> None:
    """Show a creator's account at Stripe, as it is now."""
    show(request("GET", f"/api/v1/billing-accounts/{user_id}"), as_json=as_json)


@sales.command("connect")
@click.argument("user_id")
@click.option("--email", required=True, help="Where Stripe writes to.")
@click.option("--country", help="Two letters: where the creator's business is; default: Stripe asks.")
@json_option
def connect(as_json: bool, **body: Any) -> None:
    """Make a creator's account at Stripe, where there is none."""
    show(request("POST", "/api/v1/billing-accounts", body), as_json=as_json)


@sales.command("onboard")
@click.argument("user_id")
@click.option("--return-url", required=True, help="Where the browser goes from Stripe's questions.")
@click.option("--refresh-url", help="Where it goes when the page has run out; default: the same.")
@json_option
def onboard(user_id: str, as_json: bool, **body: Any) -> None:
    """Open a page with what Stripe wants of a creator."""
    show(request("POST", f"/api/v1/billing-accounts/{user_id}/onboarding-links", body), as_json=as_json)


@sales.command("set-fee")
@click.argument("user_id")
@click.argument("fee_percent", metavar="PERCENT")
@click.option("--app", "enterprise_id", help="Of this app's sales; default: of all of the creator's apps.")
@click.option("--effective-at", type=MOMENT, help=f"From when; default: now. {MOMENT_HELP}.")
@json_option
def set_fee(as_json: bool, **body: Any) -> None:
    """Set the platform's share of what a creator's apps sell: PERCENT, with at most two decimals."""
    show(request("POST", "/api/v1/fee-terms", body), as_json=as_json)


@sales.command("fees")
@click.option("--user-id", help="Of this creator's apps alone.")
@json_option
def fees(user_id: str | None, as_json: bool) -> None:
    """List the platform's shares, the latest first."""
    show(request("GET", "/api/v1/fee-terms", query={"user_id": user_id}), as_json=as_json)
