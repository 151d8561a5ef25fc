"""Apps and keys on the command line: what is named changes, what is not stays."""

from .conftest import Cli


def test_a_key_keeps_the_limits_that_an_update_does_not_name(cli: Cli, app: str) -> None:
    made = cli.json(
        "keys", "create", "--app", app, "--level", "app_usage", "--rpm", "600", "--tpm", "9000", "--spend-per-day", "5"
    )
    assert made["limits"] == {"rpm": 600, "tpm": 9000, "spend_micro_per_day": 5_000_000}
    changed = cli.json("keys", "update", made["id"], "--app", app, "--rpm", "none", "--spend-total", "0.25")
    assert changed["limits"] == {"tpm": 9000, "spend_micro_per_day": 5_000_000, "spend_micro_total": 250_000}
    assert changed == cli.json("keys", "show", made["id"], "--app", app)
    renamed = cli.json("keys", "update", made["id"], "--app", app, "--name", "other")
    assert renamed == {**changed, "name": "other"}


def test_a_keys_models_and_expiry_can_be_changed_and_the_expiry_taken_away(cli: Cli, app: str) -> None:
    made = cli.json("keys", "create", "--app", app, "--level", "app_usage", "--model", "own", "--expires-at", "2098-12-31")
    assert (made["models"], made["expires_at"]) == (["own"], "2098-12-31T00:00:00.000Z")
    changed = cli.json("keys", "update", made["id"], "--app", app, "--model", "gpt-4o-mini", "--model", "flat-*")
    assert (changed["models"], changed["expires_at"]) == (["gpt-4o-mini", "flat-*"], made["expires_at"])
    changed = cli.json("keys", "update", made["id"], "--app", app, "--expires-at", "none")
    assert (changed["models"], changed["expires_at"]) == (["gpt-4o-mini", "flat-*"], None)


def test_an_app_keeps_the_end_user_limits_that_an_update_does_not_name(cli: Cli, app: str) -> None:
    cli.text("apps", "update", app, "--end-user-rpm", "5", "--end-user-spend-per-month", "2.5")
    changed = cli.json("apps", "update", app, "--end-user-rpm", "none", "--end-user-concurrency", "2")
    assert changed["end_user_limits"] == {"concurrency": 2, "spend_micro_per_month": 2_500_000}
    assert cli.json("apps", "update", app, "--name", "n")["end_user_limits"] == changed["end_user_limits"]
    assert "--answer-cache too" in cli.refused("apps", "update", app, "--answer-cache-price", "40")
    cli.text("apps", "update", app, "--answer-cache", "10m", "--answer-cache-price", "40", "--answer-cache-per-end-user")
    kept = cli.json("apps", "update", app, "--answer-cache", "20m")["answer_cache"]
    assert kept == {"ttl_s": 1200, "price_percent": 40, "per_end_user": True}
    assert cli.json("apps", "update", app, "--answer-cache-for-all")["answer_cache"] == {**kept, "per_end_user": False}
    assert cli.json("apps", "update", app, "--trial", "0.5")["trial"] == {"amount_micro": 500_000, "days": 30}
    assert cli.json("apps", "update", app, "--trial-days", "5")["trial"] == {"amount_micro": 500_000, "days": 5}
    assert cli.json("apps", "update", app, "--trial", "none", "--answer-cache", "none")["trial"] is None


def test_a_wrong_value_is_refused_with_a_sentence_that_names_the_option(cli: Cli, app: str) -> None:
    for option, value, told in [
        ("--rpm", "many", "'many' is not a whole number."),
        ("--spend-per-day", "1_000", "'1_000' is not a decimal number."),
        ("--expires-at", "tomorrow", "'tomorrow' is not a time: write 2026-12-31T23:59:59Z"),
        ("--expires-at", "none", "'none' is not a time"),
    ]:
        refused = cli.refused("keys", "create", "--app", app, "--level", "app_usage", option, value)
        assert option in refused
        assert told in refused


def test_a_grant_ends_after_a_span_and_usage_is_asked_for_by_spans(cli: Cli, app: str) -> None:
    grant = ("grants", "create", "--app", app, "--end-user", "u1", "--reason", "r")
    lot = cli.json(*grant, "--amount", "1.5", "--expires-at", "2099-01-01")["lot"]
    assert (lot["left_micro"], lot["expires_at"]) == (1_500_000, "2099-01-01T00:00:00.000Z")
    assert "must be in the future" in cli.refused(*grant, "--amount", "1", "--expires-at", "2001-01-01")
    assert cli.json("usage", "--app", app, "--from", "7d", "--to", "0m")["data"] == []
    assert "'7w' is not a time" in cli.refused("usage", "--from", "7w")


def test_a_token_says_on_which_key_it_hangs_and_takes_the_one_that_is_named(cli: Cli, app: str) -> None:
    mint = ("tokens", "create", "--app", app, "--end-user", "u1")
    assert "make one of level app_usage." in cli.refused(*mint)
    first, second = (cli.json("keys", "create", "--app", app, "--level", "app_usage")["id"] for _ in range(2))
    assert f" {second}\n" in cli.text(*mint)
    assert cli.json(*mint, "--key", first)["key_id"] == first
    cli.text("keys", "revoke", second, "--app", app)
    assert cli.json(*mint)["key_id"] == first
    assert "neither revoked nor expired" in cli.refused(*mint, "--key", second)


def test_spans_are_said_as_everywhere_and_a_refusal_names_the_option(cli: Cli, app: str) -> None:
    key = cli.json("keys", "create", "--app", app, "--level", "app_usage")["id"]
    mint = ("tokens", "create", "--app", app, "--end-user", "u1")
    minted = [cli.json(*mint, *span)["expires_at"] for span in ((), ("--expires-in", "90m"), ("--expires-in", "1d"))]
    assert minted == sorted(set(minted))
    assert "'600' is not a span" in cli.refused(*mint, "--expires-in", "600")
    rotated = cli.json("keys", "rotate", key, "--app", app, "--overlap", "10m")
    assert rotated["id"] != key
    assert cli.json("keys", "show", key, "--app", app)["expires_at"] is not None
    grant = ("grants", "create", "--app", app, "--end-user", "u1", "--reason", "r", "--amount", "-4")
    refused = cli.refused(*grant)
    assert "--amount must be" in refused
    assert "amount_micro" not in refused


def test_a_token_is_capped_by_decimals(cli: Cli, app: str) -> None:
    key = cli.json("keys", "create", "--app", app, "--level", "app_usage")
    minted = cli.json("tokens", "create", "--app", app, "--end-user", "u1", "--spend-max", "0.5", "--rpm", "3")
    assert minted["key_id"] == key["id"]
    (line,) = [each for each in cli.json("trail", "show", "--app", app)["data"] if each["act"] == "end_user_token.create"]
    assert (line["after"]["spend_micro_max"], line["after"]["rpm"]) == (500_000, 3)


def test_people_read_amounts_as_decimals_and_programs_micro_units(cli: Cli, app: str) -> None:
    made = cli.text("keys", "create", "--app", app, "--level", "app_usage", "--rpm", "7", "--spend-per-day", "0.25")
    assert '{"rpm":7,"spend_per_day":"0.25"}' in made
    cli.text("grants", "create", "--app", app, "--end-user", "u1", "--amount", "1.5", "--reason", "r")
    of = ("--app", app, "--end-user", "u1")
    shown = cli.text("wallets", "show", *of).splitlines()
    assert "available  1.5" in shown
    assert shown[-2].split()[:5] == ["id", "source", "priority", "granted", "spent"]
    assert shown[-1].split()[1:5] == ["promo", "0", "1.5", "0"]
    assert cli.json("wallets", "show", *of)["lots"][0]["granted_micro"] == 1_500_000
    assert cli.text("ledger", "accounts", "--app", app).splitlines()[-1].split()[-1] in ("1.5", "-1.5")
    unknown = ("wallets", "show", "--app", app, "--end-user", "nobody")
    assert cli.text(*unknown).startswith("There is no such wallet yet")
    assert cli.json(*unknown)["available_micro"] == 0
