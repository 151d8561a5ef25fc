"""Billing is off until Stripe's key is given, and is then found by the settings, the processes and the commands."""

import re
from pathlib import Path

import pytest
import yaml

from gateway.settings import SettingsError, load
from tests.balance.server import running_server
from tests.cli.conftest import Cli
from tests.fake_stripe.control import Control

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"STRIPE_SECRET_KEY": "pk_live_x"}, "STRIPE_SECRET_KEY"),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_x"}, "STRIPE_WEBHOOK_SECRET"),
        ({"STRIPE_CONNECT_WEBHOOK_SECRET": "whsec_x"}, "STRIPE_CONNECT_WEBHOOK_SECRET"),
        ({"STRIPE_SECRET_KEY": "sk_test_x", "STRIPE_API_BASE": "here"}, "STRIPE_API_BASE"),
    ],
)
def test_a_setting_of_billing_that_cannot_be_meant_is_named(tmp_path: Path, fields: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=f"MOZAIKS_{named}"):
        load({"MOZAIKS_DATA_DIR": str(tmp_path), **{f"MOZAIKS_{name}": value for name, value in fields.items()}})


def test_nothing_imports_the_adapter_until_it_is_wanted() -> None:
    """The SDK takes 14 MB: only a process that sells has it."""
    for path in (ROOT / "gateway").rglob("*.py"):
        found = re.findall(r"^\s*(?:from|import)\s.*\bstripe\b.*", path.read_text(), re.MULTILINE)
        assert not found or path.parent == ROOT / "gateway" / "billing" / "stripe", (path, found)


def test_the_commands_sell_and_say_so_where_nothing_is_sold(tmp_path: Path, control: Control) -> None:
    config, data = tmp_path / "gateway.yaml", tmp_path / "data"
    config.write_text(yaml.safe_dump({"models": []}))
    data.mkdir()
    with running_server() as url:
        env = {"MOZAIKS_CONFIG": str(config), "MOZAIKS_DATA_DIR": str(data), "MOZAIKS_REDIS_URL": url}
        off = Cli({**env, "MOZAIKS_STRIPE_SECRET_KEY": "", "MOZAIKS_STRIPE_API_BASE": ""})
        off.text("creators", "create", "acme")
        off.text("apps", "create", "desk", "--user-id", "acme")
        assert "Nothing is sold here" in off.refused("plans", "list")
        on = Cli({**env, "MOZAIKS_STRIPE_SECRET_KEY": "sk_test_fake", "MOZAIKS_STRIPE_API_BASE": control.base})
        account = on.json("sales", "connect", "acme", "--email", "acme@example.com")
        assert account["status"] == "onboarding"
        assert "https://" in on.text("sales", "onboard", "acme", "--return-url", "https://app.invalid")
        control.onboard(account["account_id"])
        assert on.json("sales", "account", "acme")["status"] == "active"
        on.text("sales", "set-fee", "acme", "12.5", "--app", "desk")
        assert "12.5" in on.text("sales", "fees", "--user-id", "acme")
        plan = ("plans", "create", "--app", "desk", "--name", "Ten", "--price", "9.99", "--currency", "USD", "--grant", "10")
        made = on.json(*plan)
        assert (made["price_micro"], made["grant_micro"]) == (9_990_000, 10_000_000)
        assert "--price must be above 0" in on.refused(*plan[:7], "0", *plan[8:])
        assert "9.99" in on.text("plans", "list", "--app", "desk")
        buy = ("sales", "checkout", made["id"], "--end-user", "u1", "--success-url", "https://app.invalid")
        assert on.json(*buy, "--idempotency-key", "k") == on.json(*buy, "--idempotency-key", "k")
        [row] = on.json("sales", "purchases", "--app", "desk", "--end-user", "u1")["data"]
        assert (row["status"], row["fee_micro"]) == ("open", 1_250_000)
        assert "there is nothing to refund" in on.refused("sales", "refund", row["id"], "--app", "desk")
        assert "https://" in on.text(
            "sales", "portal", "--app", "desk", "--end-user", "u1", "--return-url", "https://app.invalid"
        )
        assert on.json("sales", "subscriptions", "--app", "desk")["data"] == []
        assert "no such subscription" in on.refused("sales", "change", "sub_1", "--app", "desk", "--cancel")
        assert [on.json("sales", name, "--app", "desk")["data"] for name in ("invoices", "receipts")] == [[], []]
        control.pay(account["account_id"], on.json(*buy, "--idempotency-key", "k")["id"])
        told = on.text("sales", "statements", "acme", "--lines")
        assert "no book has its payment" in told  # nobody heard of it
        assert [line for line in told.splitlines() if line.startswith("difference")] == ["difference  8.15"]
        assert on.text("sales", "statements", "acme", "--csv").splitlines()[-1].split(",")[3:7] == ["difference", "", "", "8.15"]
        assert on.json("sales", "statements", "acme")["currencies"][0]["net_micro"] == 0
        assert "8.15" not in on.text("sales", "payouts", "acme")
        assert "1.25" in on.text("sales", "fee-income", "--stripe")
        assert on.json("sales", "fee-income")["ties"] is None
        assert on.json("sales", "save-card", "--app", "desk", "--end-user", "u1")["status"] == "open"
        assert on.json("sales", "top-ups", "--app", "desk")["data"] == []
        assert "no automatic top-up" in on.refused("sales", "top-up-off", "--app", "desk", "--end-user", "u1")
        assert "/pay/" in on.text("sales", "link", "desk", "u1", made["id"], "--expires-in", "10m")
        assert on.json("sales", "branding", "desk", "--accent", "#1A73E8")["accent_color"] == "#1a73e8"
        assert on.json("sales", "branding", "desk")["accent_color"] == "#1a73e8"
        assert on.json("sales", "branding", "desk", "--reset")["accent_color"] is None
        [payment] = control.client().v1.payment_intents.list(None, {"stripe_account": account["account_id"]}).data
        back = ("sales", "refund", "--payment", payment.id, "--app", "desk", "--amount")
        assert "The wallet's part follows when Stripe tells of it." in on.text(*back, "1")
        assert "8.99 USD are left to refund. (--amount)" in on.refused(*back, "9.99")
        assert on.json("plans", "archive", made["id"])["archived_at"]
        told = on.run("doctor").output
        assert "Stripe answers, in test mode." in told
        assert "MOZAIKS_STRIPE_CONNECT_WEBHOOK_SECRET is not set" in told
        wrong = Cli({**env, "MOZAIKS_STRIPE_SECRET_KEY": "sk_test_invalid", "MOZAIKS_STRIPE_API_BASE": control.base})
        assert "Nothing can be bought: Stripe does not accept this gateway's key" in wrong.run("doctor").output
        assert "payments" not in off.run("doctor").output
        away = Cli({**env, "MOZAIKS_STRIPE_SECRET_KEY": "sk_test_fake", "MOZAIKS_STRIPE_API_BASE": "http://127.0.0.1:9"})
        nowhere = away.run("reconcile", "--billing")
        assert (nowhere.exit_code, nowhere.output) == (2, "Error: Stripe cannot be reached at http://127.0.0.1:9.\n")
        unset = off.run("reconcile", "--billing")
        assert (unset.exit_code, "MOZAIKS_STRIPE_SECRET_KEY is not set" in unset.output) == (2, True)
        assert "MOZAIKS_STRIPE_SECRET_KEY" in off.refused("plans", "list")
