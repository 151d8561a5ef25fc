"""`gateway sales` and `gateway plans` where nothing of it needs Stripe's answer."""

import asyncio

import msgspec
import pytest

from gateway.billing.model import Subscription
from gateway.billing.overage.model import BillState, Line, LineState, OverageBill
from gateway.billing.overage.store import OverageStore
from gateway.billing.webhooks.store import InboxStore
from gateway.cli.sales import told_of_refund
from gateway.compose import opened
from gateway.core.ids import shard_of
from gateway.core.words import LotSource
from gateway.ledger.lending import PRIORITY
from gateway.ledger.model import GrantRequest, RefundRequest, WalletKey
from gateway.settings import Part, load
from tests.api.test_money import posting

from .conftest import Cli


@pytest.fixture
def seller(cli: Cli) -> Cli:
    """With a key of Stripe, which nothing here asks."""
    return cli.but(MOZAIKS_STRIPE_SECRET_KEY="sk_test_made_up", MOZAIKS_STRIPE_API_BASE="http://127.0.0.1:9")


@pytest.fixture
def plan(seller: Cli, app: str) -> str:
    made = seller.json("plans", "create", "--app", app, "--name", "Ten", "--price", "9.99", "--currency", "USD", "--grant", "10")
    return str(made["id"])


def test_what_needs_a_creators_account_names_the_command_that_makes_one(seller: Cli, app: str, plan: str) -> None:
    make = "Make one: gateway sales connect acme --email ADDRESS"
    assert make in seller.refused("sales", "checkout", plan, "--end-user", "u1")
    assert make in seller.refused("sales", "portal", "--app", app, "--end-user", "u1", "--return-url", "https://a.invalid")
    for command in ("account", "statements", "payouts"):
        assert make in seller.refused("sales", command, "acme")
    assert make in seller.refused("sales", "onboard", "acme", "--return-url", "https://a.invalid")


def test_a_link_and_an_apps_pages_are_made_as_the_readme_says(seller: Cli, app: str, plan: str) -> None:
    link = seller.json("sales", "link", app, "customer-42", plan, "--expires-in", "7d")
    assert link["url"].startswith("http://")
    shown = seller.json("sales", "branding", app, "--name", "Acme Chat", "--accent", "#1a73e8")
    assert (shown["name"], shown["accent_color"]) == ("Acme Chat", "#1a73e8")
    assert seller.json("sales", "branding", app) == shown


def test_with_a_wrong_setting_of_stripe_nothing_is_sold_and_the_rest_goes_on(seller: Cli, app: str) -> None:
    wrong = seller.but(MOZAIKS_STRIPE_API_BASE="foo")
    says = "MOZAIKS_STRIPE_API_BASE must be an http or https URL."
    for args in (("plans", "list"), ("sales", "account", "acme"), ("sales", "overage", "list"), ("reconcile", "--billing")):
        refused = wrong.refused(*args)
        assert f"Error: Nothing is sold here: {says}" in refused or f"Error: Stripe cannot be asked: {says}" in refused
    assert app in wrong.text("apps", "list")
    assert says in wrong.warnings
    told = wrong.run("doctor").output
    assert says in told
    assert "Stripe answers" not in told
    assert "Nothing can be bought" not in told


def test_bounds_of_amounts_are_told_as_they_are_typed(seller: Cli, app: str) -> None:
    grant = ("grants", "create", "--app", app, "--end-user", "u1", "--reason", "r", "--amount")
    assert "--amount must be from 0.000001 to 9007199254.740991" in seller.refused(*grant, "0")
    refused = seller.refused("keys", "create", "--app", app, "--level", "app_usage", "--spend-per-day", "-1")
    assert "--spend-per-day must be 0 to 9007199254.740991" in refused
    assert "--trial must be 0.000001 to 9007199254.740991" in seller.refused("apps", "update", app, "--trial", "0")
    refused = seller.refused("apps", "update", app, "--end-user-rpm", "1000000001")
    assert "--end-user-rpm must be 0 to 1000000000" in refused
    wish = ("plans", "create", "--app", app, "--name", "n", "--grant", "1", "--currency")
    refused = seller.refused(*wish, "USD", "--price", "0.001")
    assert "--price is not a price in USD: 0.001 USD is not a multiple of 0.01 USD" in refused
    assert "an amount is 0.01 USD to 999999.99 USD" in seller.refused(*wish, "USD", "--price", "5000000")
    assert "an amount is 1 JPY to 99999999 JPY" in seller.refused(*wish, "JPY", "--price", "100000000")
    assert "--price is not a price in USD: Stripe charges 0.50 USD at least" in seller.refused(*wish, "USD", "--price", "0.49")
    refused = seller.refused(*wish, "ZZZ", "--price", "5")
    assert "--currency must be one that Stripe charges in" in refused
    assert "'ZZZ' is none: https://docs.stripe.com/currencies" in refused
    refused = seller.refused(*wish, "USD", "--price", "9.995")
    assert refused.endswith("--price is not a price in USD: 9.995 USD is not a multiple of 0.01 USD")
    assert "amounts in KWD are multiples of 0.010 KWD" in seller.refused(*wish, "KWD", "--price", "1.005")
    assert "--to must be a month such as 2026-10" in seller.refused("sales", "fee-income", "--to", "2026-10-01")
    assert "--from must be a month such as 2026-10" in seller.refused("sales", "fee-income", "--from", "2026-1")


def test_overage_of_a_plan_is_said_and_shown_in_decimals(seller: Cli, app: str) -> None:
    wish = ("plans", "create", "--app", app, "--name", "n", "--price", "20", "--currency", "USD", "--grant", "25")
    monthly = (*wish, "--kind", "subscription", "--interval", "month")
    made = seller.json(*monthly, "--overage-max", "50", "--overage-price", "1.1", "--overage-per", "1")
    assert made["overage"] == {"max_micro": 50_000_000, "price_micro": 1_100_000, "per_micro": 1_000_000}
    assert seller.json(*monthly)["overage"] is None
    assert '{"max":"50","price":"1.1","per":"1"}' in seller.text("plans", "list", "--app", app)
    assert "--overage-max must cost 0.50 USD to 999999.99 USD, not 0.49" in seller.refused(*monthly, "--overage-max", "0.49")
    assert "--overage-price must be 0.000001 to" in seller.refused(
        *monthly, "--overage-max", "5", "--overage-price", "0", "--overage-per", "1"
    )
    assert "--overage-per must be 0.000001 to" in seller.refused(*monthly, "--overage-max", "5", "--overage-per", "0")
    for one in ("--overage-price", "--overage-per"):
        refused = seller.refused(*monthly, "--overage-max", "5", one, "1")
        assert "Say with --overage-price how many USD overage costs, and with --overage-per for how many USD: both or" in refused
        assert f"--overage-max is wanted with {one}:" in seller.refused(*monthly, one, "1")
    assert "has no --overage-max" in seller.refused(*wish, "--overage-max", "5")


def test_what_a_cost_policy_stands_in_the_way_of_says_which_app_to_make(seller: Cli) -> None:
    seller.text("apps", "create", "at-the-platforms-cost", "--user-id", "acme")
    wish = ("plans", "create", "--app", "at-the-platforms-cost", "--name", "n", "--price", "20", "--currency", "USD")
    monthly = (*wish, "--grant", "25", "--kind", "subscription", "--interval", "month")
    out = "make one with cost_policy creator_pays or own_keys."
    for flag in ("--overage-max", "--trial-days"):
        refused = seller.refused(*monthly, flag, "7")
        assert f"{flag}: in an app with cost_policy platform_pays nothing is granted or used unpaid." in refused
        assert out in refused


def test_a_refund_says_before_and_after_what_the_wallet_loses_and_owes(seller: Cli) -> None:
    help_text = " ".join(seller.text("sales", "refund", "--help").split())
    assert "what was spent of it becomes a debt, which stops service until it is paid." in help_text
    assert "default: all that is left of it." in help_text
    refund = {"asset": "USD", "taken_micro": 3_000_000, "debt_micro": 1_990_000, "applied": True}
    assert told_of_refund(refund) == "3 USD were taken of what the wallet had, and 1.99 USD of it became a debt."
    later = "Once Stripe tells of it, 3 USD are taken of what the wallet has, and 1.99 USD that were spent become a debt."
    assert told_of_refund({**refund, "applied": False}) == later


PRICED = ("--name", "n", "--price", "5", "--currency", "USD", "--grant", "5")


def test_what_an_app_has_is_not_looked_for_at_the_platform_without_a_word(seller: Cli, app: str) -> None:
    for command in (("refund", "pur_1"), ("change", "sub_1", "--cancel")):
        what = "purchase" if command[0] == "refund" else "subscription"
        assert f"The platform has no such {what}: name --app for an app's." in seller.refused("sales", *command)
        assert f"There is no such {what}." in seller.refused("sales", *command, "--app", app)


def test_bounds_of_spans_are_told_as_they_are_typed(seller: Cli, app: str, plan: str) -> None:
    link = ("sales", "link", app, "customer-42", plan, "--expires-in")
    assert seller.refused(*link, "31d").endswith("--expires-in must be 1m to 30d")
    assert seller.refused(*link, "0").endswith("--expires-in must be 1m to 30d, and 0 is no time at all")


def test_refusals_name_what_was_typed(seller: Cli, app: str) -> None:
    assert "PERCENT must be 0 to 100" in seller.refused("sales", "set-fee", "acme", "101", "--app", app)
    assert "Name either PURCHASE_ID or --payment." in seller.refused("sales", "refund", "--app", app)
    refused = seller.refused("sales", "codes", "create", "AUTUMN", "--app", app, "--percent-off", "5", "--plan", "plan_nosuch")
    assert refused.endswith("There is no such plan. (--plan)")
    refused = seller.refused("plans", "create", "--kind", "subscription", "--interval", "day", "--lot-days", "5", *PRICED)
    assert "it has no --lot-days" in refused
    assert "and --rollover-max of it goes on" in refused
    refused = seller.refused("sales", "codes", "create", "AUTUMN", "--app", app)
    assert "Say either --percent-off or --amount-off." in refused
    refused = seller.refused("sales", "codes", "create", "AUTUMN", "--app", app, "--amount-off", "5")
    assert "Say of which --currency the amount is." in refused


async def lend_and_bill(cli: Cli, wallet: WalletKey, plan_id: str) -> None:
    """As a worker does, of a subscription that Stripe told of: 0.7 is lent, and 2 that were used before are billed."""
    async with opened(load(cli.env, needs=Part.STORES), Part.STORES) as services:
        lent = GrantRequest(
            wallet, 700_000, "USD", LotSource.OVERAGE, f"line {wallet.name}", "overage", priority=PRIORITY, expires_at_ms=2**41
        )
        await services.wallets.grant(lent, "line")
        row = Subscription("sub_1", wallet, plan_id, "acct_1", "sub_at_1", "active", 1, 2, False, 1, 1)
        assert await InboxStore(services.databases).put_subscription(None, row)
        rows, used = OverageStore(services.databases), 2_000_000
        line = Line("ovr_1", wallet, 1, "sub_at_1", "acct_1", plan_id, LineState.ENDED, used, 2, 3, 1, "lot_1", used)
        bill = OverageBill("bill_1", wallet, "sub_at_1", "acct_1", BillState.OPEN, "USD", used, 220, 22, 5, 0, "no card", 5)
        await rows.add_line(line)
        await rows.add_bill(bill, [line])


def test_overage_is_agreed_to_ended_and_listed_with_its_bills(seller: Cli, app: str) -> None:
    made = seller.json("sales", "overage", "agree", "acme", "--limit", "50")
    assert (made["wallet"]["user_id"], made["limit_micro"], made["status"]) == ("acme", 50_000_000, "idle")
    assert (made["asset"], made["reason"]) == ("USD", "no_subscription")
    assert seller.json("sales", "overage", "list")["data"] == [made]
    head, row = seller.text("sales", "overage", "list").splitlines()
    assert (head.split()[:3], row.split()[:3]) == (["wallet", "asset", "limit"], ["acme", "USD", "50"])
    assert seller.json("sales", "overage", "end", "--user-id", "acme")["status"] == "off"
    refused = seller.refused("sales", "overage", "agree", "acme", "--limit", "0")
    assert "--limit must be 0.000001 to 9007199254.740991" in refused
    assert "agreed to no overage" in seller.refused("sales", "overage", "end", "--app", app, "--end-user", "u1")
    wish = ("plans", "create", "--app", app, "--name", "n", "--price", "20", "--currency", "USD", "--grant", "25")
    plan_id = seller.json(*wish, "--kind", "subscription", "--interval", "month", "--overage-max", "50")["id"]
    asyncio.run(lend_and_bill(seller, WalletKey("u1", app), plan_id))
    (bill,) = seller.json("sales", "overage", "bills", "--app", app, "--end-user", "u1")["data"]
    assert (bill["subscription_id"], bill["amount_micro"], bill["fee_micro"]) == ("sub_1", 2_200_000, 220_000)
    head, row = seller.text("sales", "overage", "bills", "--app", app).splitlines()
    assert " ".join(head.split()) == "id wallet subscription_id state currency used amount reason created_at fee"
    assert row.split()[0::2][:2] + row.split()[3:7] == ["bill_1", "sub_1", "open", "USD", "2", "2.2"]
    shown = seller.text("wallets", "show", "--app", app, "--end-user", "u1").splitlines()
    assert "available  0.7" in shown
    assert "  overage, to be billed  1000000   0.7 " in shown[-1]


async def buy_use_and_refund(cli: Cli, wallet: WalletKey) -> None:
    """Two packages of 10 are bought, 10.45 is used, and the first is paid back."""
    async with opened(load(cli.env, needs=Part.STORES), Part.STORES) as services:
        for number in (1, 2):
            op_id = f"{wallet.name} {number}"
            bought = GrantRequest(wallet, 10_000_000, "USD", LotSource.PAID, op_id, "stripe", external_ref=f"pi {op_id}")
            await services.wallets.grant(bought, op_id)
        used = posting(1, 1, end_user=wallet.owner, app=str(wallet.enterprise_id))
        row = msgspec.structs.replace(used.row, request_id=f"req {wallet.name}", user_id="acme", amount_micro=10_450_000)
        used = msgspec.structs.replace(used, row=row)
        await services.balance.credit(f"used {wallet.name}", shard_of("acme"), wallet.name, -10_450_000)
        await services.ledger.post_app_usage(used.enterprise_id, [used])
        await services.ledger.post_platform_usage([used])
        refund = RefundRequest(wallet, f"pi {wallet.name} 1", f"re {wallet.name}", 10_000_000, "tester")
        await services.wallets.deliver(await services.ledger.payments.refund(refund))


def test_a_wallet_in_debt_adds_up_in_sight_and_says_why_nothing_can_be_spent(cli: Cli, app: str) -> None:
    asyncio.run(buy_use_and_refund(cli, WalletKey("u1", app)))
    of = ("--app", app, "--end-user", "u1")
    assert cli.text("wallets", "show", *of).splitlines()[:7] == [
        "asset      USD",
        "left       9.55",
        "debt       10",
        "held       0",
        "available  -0.45",
        "Nothing can be spent: the debt is 0.45 more than what is left.",
        "",
    ]
    cli.text("grants", "create", *of, "--amount", "0.45", "--reason", "r")  # it pays some of the debt
    shown = cli.text("wallets", "show", *of).splitlines()
    assert shown[1:6] == [
        "left       9.55",
        "debt       9.55",
        "held       0",
        "available  0",
        "Nothing can be spent: the debt is as much as what is left.",
    ]
    cli.text("grants", "create", *of, "--amount", "5", "--reason", "r")
    shown = cli.text("wallets", "show", *of).splitlines()
    assert shown[1:6] == ["left       9.55", "debt       4.55", "held       0", "available  5", ""]
    assert cli.json("audit")["ok"]


def test_promo_codes_are_made_listed_and_ended(seller: Cli, app: str, plan: str) -> None:
    terms = ("--percent-off", "25", "--duration", "repeating", "--months", "3", "--max-redemptions", "9", "--first-purchase-only")
    made = seller.json("sales", "codes", "create", "spring-25", "--app", app, "--plan", plan, *terms)
    assert (made["code"], made["percent_off"], made["duration_months"], made["plan_ids"]) == ("SPRING-25", "25", 3, [plan])
    assert (made["first_purchase_only"], made["max_redemptions"]) == (True, 9)
    (listed,) = seller.json("sales", "codes", "list", "--app", app)["data"]
    assert listed == {**made, "redemptions": 0}
    assert seller.json("sales", "codes", "redemptions", made["id"])["data"] == []
    assert seller.json("sales", "codes", "redemptions", "spring-25")["data"] == []
    assert "no promo code of this id or these letters" in seller.refused("sales", "codes", "redemptions", "SPRING-26")
    ended = seller.text("sales", "codes", "end", "SPRING-25")
    assert "amount_off_micro" not in ended
    assert "\namount_off\n" in ended
    assert seller.json("sales", "codes", "end", made["id"])["ended_at"]
    assert seller.json("sales", "codes", "list", "--app", app)["data"] == []
    platforms = seller.json("sales", "codes", "create", "ten", "--amount-off", "10", "--currency", "USD")
    assert platforms["amount_off_micro"] == 10_000_000
