"""`gateway sales` and `gateway plans` where nothing of it needs Stripe's answer."""

import pytest

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
    assert "--overage-max must cost 0.01 USD to 999999.99 USD, not 0.001" in seller.refused(*monthly, "--overage-max", "0.001")
    assert "--overage-price must be 0.000001 to" in seller.refused(
        *monthly, "--overage-max", "5", "--overage-price", "0", "--overage-per", "1"
    )
    assert "--overage-per" in seller.refused(*monthly, "--overage-max", "5", "--overage-price", "1")
    assert "`max_micro`" in seller.refused(*monthly, "--overage-price", "1")
    assert "has no `overage`" in seller.refused(*wish, "--overage-max", "5")


def test_promo_codes_are_made_listed_and_ended(seller: Cli, app: str, plan: str) -> None:
    terms = ("--percent-off", "25", "--duration", "repeating", "--months", "3", "--max-redemptions", "9", "--first-purchase-only")
    made = seller.json("sales", "codes", "create", "spring-25", "--app", app, "--plan", plan, *terms)
    assert (made["code"], made["percent_off"], made["duration_months"], made["plan_ids"]) == ("SPRING-25", "25", 3, [plan])
    assert (made["first_purchase_only"], made["max_redemptions"]) == (True, 9)
    (listed,) = seller.json("sales", "codes", "list", "--app", app)["data"]
    assert listed == {**made, "redemptions": 0}
    assert seller.json("sales", "codes", "redemptions", made["id"])["data"] == []
    assert seller.json("sales", "codes", "end", made["id"])["ended_at"]
    assert seller.json("sales", "codes", "list", "--app", app)["data"] == []
    platforms = seller.json("sales", "codes", "create", "ten", "--amount-off", "10", "--currency", "USD")
    assert platforms["amount_off_micro"] == 10_000_000
