"""Prices on the command line: what a request costs whom, and where each price comes from."""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.pricing.shipped import PriceList

from .conftest import Cli

Rows = dict[str, dict[str, Any]]


def listed(cli: Cli, *args: str) -> Rows:
    return {line["model"]: line for line in cli.json("prices", "list", *args)["data"]}


def test_every_served_model_is_listed_with_what_it_costs_and_where_that_is_from(cli: Cli) -> None:
    found = listed(cli)
    own = found["own"]
    assert {kind: own["prices"][kind] for kind in ("input", "output")} == {"input": "1", "output": "4"}
    assert (own["source"], own["charge"]["output"], own["charge_source"]) == ("configuration", "4.4", "markup 10 %")
    mini = found["gpt-4o-mini"]
    assert (mini["source"], mini["prices"]["input"]) == (f"shipped list (litellm {version('litellm')})", "0.15")
    assert (mini["charge_source"], mini["charge"]["input"]) == ("configuration", "3")
    assert (found["gpt-4o"]["deployment"], found["gpt-4o"]["source"]) == ("gpt-*/openai/0=gpt-4o", mini["source"])
    assert (found["flat-*"]["source"], found["flat-*"]["prices"]["input"]) == ("configuration", "2")
    assert "input 2, output 2, request 250" in cli.text("prices", "list", "flat-*")
    assert "gpt-*" not in found, "nobody can ask for the pattern itself"
    assert not any("app_prices" in line for line in found.values())


def test_a_name_or_a_pattern_narrows_the_list(cli: Cli) -> None:
    assert set(listed(cli, "own")) == {"own"}
    assert set(listed(cli, "flat-7")) == {"flat-7"}
    assert listed(cli, "nobody-serves-this") == {}
    some = listed(cli, "gpt-4o-m*")
    assert "gpt-4o-mini" in some
    assert all(name.startswith("gpt-4o-m") for name in some)


def test_beside_them_stands_what_the_apps_end_users_pay_now(cli: Cli, app: str) -> None:
    assert listed(cli, "own", "--app", app)["own"]["app_source"] == "provider's price"
    cli.text("prices", "set", "--app", app, "--markup-percent", "20")
    cli.text("prices", "set", "--app", app, "--model", "flat-1", "--price", "input=7", "--price", "output=8")
    later = ("--effective-at", "30d")
    cli.text("prices", "set", "--app", app, "--model", "own", "--price", "input=9", "--price", "output=9", *later)
    found = listed(cli, "--app", app)
    own, flat = found["own"], found["flat-1"]
    assert (own["prices"]["output"], own["app_prices"]["output"], own["app_asset"]) == ("4", "4.8", "USD")
    assert own["app_source"] == "app's markup 20 %"
    assert (flat["prices"]["input"], flat["app_prices"]["input"], flat["app_source"]) == ("2", "7", "app's price")
    assert flat["app_since"] is not None
    assert {line["model"] for line in cli.json("prices", "book", "--app", app)["data"]} == {"*", "flat-1", "own"}
    (shown,) = [line for line in cli.text("prices", "list", "--app", app).splitlines() if line.startswith("own ")]
    told = "input 1, output 4 configuration input 1.1, output 4.4 markup 10 % input 1.2, output 4.8 USD app's markup 20 %"
    assert told in " ".join(shown.split())


def test_an_app_in_another_asset_shows_that_it_has_no_price(cli: Cli) -> None:
    cli.text("apps", "create", "euros", "--user-id", "acme", "--asset", "EUR")
    cli.text("apps", "create", "tokens", "--user-id", "acme", "--asset", "TOK")
    euros, tokens = (listed(cli, "own", "--app", app)["own"] for app in ("euros", "tokens"))
    assert (euros["app_prices"], euros["app_source"], euros["app_asset"]) == (None, "none", "EUR")
    assert (tokens["app_prices"]["input"], tokens["app_source"]) == ("1000000", "1 TOK a token")


def test_what_is_free_costs_0_and_what_has_no_price_says_so(cli: Cli) -> None:
    assert listed(cli, "free")["free"]["prices"] == {"input": "0"}
    (free,) = [line.split() for line in cli.text("prices", "list", "free").splitlines() if line.startswith("free ")]
    assert free[2:4] == ["0", "configuration"]
    assert "no price" in cli.text("prices", "list", "unlisted")


def test_a_slip_of_the_pen_in_a_kind_is_refused_with_the_kinds_there_are(cli: Cli, app: str) -> None:
    given = ("prices", "set", "--app", app, "--model", "own")
    refused = cli.refused(*given, "--price", "inptu=1", "--price", "output=2")
    assert "`inptu` is no kind of price; known are input, cached_input, cache_write" in refused
    assert "request" in refused
    assert "'input' is there twice" in cli.refused(*given, "--price", "input=1", "--price", "input=2")
    assert "'input' has no price" in cli.refused(*given, "--price", "input")
    assert "1_5" in cli.refused(*given, "--price", "input=1_5", "--price", "output=2")
    assert cli.json("prices", "book", "--app", app)["data"] == []


def test_a_model_that_is_not_served_is_taken_with_a_warning(cli: Cli, app: str) -> None:
    price = ("--price", "input=1", "--price", "output=2")
    for model, warned in [
        ("own", ""),
        ("*", ""),
        ("gpt-4o", ""),
        ("flat-anything", ""),
        ("onw", "`onw` is not served here: is the name right?"),
        ("gpt-4o-mnii", "`gpt-4o-mnii` falls under a pattern that is served, but is in no price list: is the name right?"),
    ]:
        made = cli.json("prices", "set", "--app", app, "--model", model, *price)
        assert made.get("warnings", []) == ([warned] if warned else []), model
        assert cli.warnings == (f"Warning: {warned}\n" if warned else "")
    assert not any("warnings" in line for line in cli.json("prices", "book", "--app", app)["data"])


def test_a_key_for_models_that_are_not_served_is_made_with_a_warning(cli: Cli, app: str) -> None:
    served = ("own", "o*", "*wn", "gpt-4*", "*-1", "g*-mini", "*")
    of = [word for model in served for word in ("--model", model)]
    assert "warnings" not in cli.json("keys", "create", "--app", app, "--level", "app_usage", *of)
    key = cli.json("keys", "create", "--app", app, "--level", "app_usage", "--model", "claude-*", "--model", "own")
    assert key["warnings"] == ["No model that is served here falls under `claude-*`."]
    shown = cli.text("keys", "update", key["id"], "--app", app, "--model", "own", "--model", "onw")
    assert "warnings" not in shown
    assert cli.warnings == "Warning: `onw` is not served here: is the name right?\n"
    assert "warnings" not in cli.json("keys", "update", key["id"], "--app", app, "--name", "other")
    assert "warnings" not in cli.json("keys", "show", key["id"], "--app", app)
    assert cli.json("tokens", "create", "--app", app, "--end-user", "u1", "--model", "onw")["warnings"]


def test_an_app_shows_its_markup_and_takes_another(cli: Cli, app: str) -> None:
    assert cli.json("apps", "show", app)["markup_percent"] is None
    assert cli.json("apps", "update", app, "--markup-percent", "20")["markup_percent"] == "20"
    assert listed(cli, "own", "--app", app)["own"]["app_source"] == "app's markup 20 %"


def test_an_app_prices_long_prompts_service_tiers_and_images(cli: Cli, app: str) -> None:
    plain = [word for price in ("input=1", "output=2", "images=0.04") for word in ("--price", price)]
    given = ("prices", "set", "--app", app, "--model", "own", *plain)
    tier = ("--variant", "priority:input=5", "--variant", "priority:output=9")
    made = cli.json(*given, "--above", "1000", "--long", "input=3", *tier)
    prices = {
        "input": "1", "output": "2", "images": "0.04", "above": 1000, "long": {"input": "3"},
        "variants": {"priority": {"input": "5", "output": "9"}},
    }  # fmt: skip
    assert made["prices"] == prices
    assert cli.json("prices", "book", "--app", app)["data"][0]["prices"] == prices
    shown = " ".join(cli.text("prices", "list", "own", "--app", app).split())
    assert "input 1, output 2, images 0.04; above 1000: input 3" in shown
    assert "priority: input 5" in shown
    assert "input 1, output 2, images 0.04 (also long prompts, priority)" in cli.text("prices", "list", "--app", app)
    assert "prices.long.inptu" in cli.refused(*given, "--above", "5", "--long", "inptu=3")
    assert "named together" in cli.refused(*given, "--above", "5")
    assert "names no variant" in cli.refused(*given, "--variant", "input=3")


def test_a_models_longer_prompts_and_tiers_are_shown_where_it_is_named(cli: Cli) -> None:
    assert "(also priority, batch, tools)" in cli.text("prices", "list", "gpt-4o*")
    found = listed(cli, "gpt-4o")["gpt-4o"]
    assert found["prices"]["variants"]["priority"]["input"] == "4.25"
    assert found["charge"]["variants"]["priority"]["input"] == "4.675"


def test_where_the_configuration_is_not_the_list_is_shown(cli: Cli) -> None:
    (row,) = cli.json("prices", "diff")["data"]
    assert (row["model"], row["configured"]["input"], row["listed"]["input"]) == ("dated", "0.5", "0.4")
    assert "offered" not in row
    shown = [" ".join(line.split()) for line in cli.text("prices", "diff", "d*").splitlines()]
    assert shown[1] == "dated dated/openai/0 configuration input 0.5, output 1.6"
    assert "(litellm" in shown[2]
    assert cli.text("prices", "diff", "own") == "(none)\n"


def test_a_newer_list_is_shown_then_taken_and_the_shipped_one_stays_behind_it(cli: Cli, tmp_path: Path) -> None:
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 7e-06, "output_cost_per_token": 9e-06}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"gpt-4o-mini": entry, "gpt-new": entry}))
    before = listed(cli, "gpt-4o-mini")["gpt-4o-mini"]
    for command in (("diff", "gpt-4o-mini", "--list", str(file)), ("update", str(file), "--dry-run")):
        rows = {row["model"]: row for row in cli.json("prices", *command)["data"]}
        row = rows["gpt-4o-mini"]
        assert (row["configured"], row["listed"], row["offered"]["input"]) == (None, before["prices"], "7")
        assert set(rows) == {"gpt-4o-mini"}, "what it does not have is as it was"
    dear = tmp_path / "dear.json"
    dear.write_text(json.dumps({"gpt-4.1-mini": entry, "gpt-4o-mini": entry}))
    assert {row["model"] for row in cli.json("prices", "diff", "--list", str(dear))["data"]} >= {"dated", "gpt-4o-mini"}
    changed = {row["model"] for row in cli.json("prices", "update", str(dear), "--dry-run")["data"]}
    assert "dated" not in changed, "the configuration has its price, which stays"
    assert "gpt-4o-mini" in changed
    told = cli.text("prices", "diff", "gpt-4o-mini", "--list", str(file))
    assert "the new list" in told
    assert "input 7, output 9" in told
    assert listed(cli, "gpt-4o-mini")["gpt-4o-mini"] == before, "nothing was kept"
    (shipped,) = cli.json("prices", "lists")["data"]
    assert (shipped["id"], shipped["in_force"]) == ("shipped", True)
    package = find_spec("litellm")
    assert package is not None
    assert package.origin is not None
    same = Path(package.origin).with_name("model_prices_and_context_window_backup.json").read_bytes()
    assert shipped["models"] == PriceList(same).check(), "the very file would be counted otherwise as an update"

    later = cli.json("prices", "update", str(file), "--effective-at", "30d")
    assert (later["models"], later["in_force"]) == (2, False)
    assert listed(cli, "gpt-4o-mini")["gpt-4o-mini"] == before, "it does not hold yet"
    made = cli.json("prices", "update", str(file))
    assert made["in_force"]
    mini = listed(cli, "gpt-4o-mini")["gpt-4o-mini"]
    assert (mini["source"], mini["prices"]["input"], mini["charge"]["input"]) == (made["source"], "7", "3")
    assert made["source"].startswith("updated list (20")
    found = listed(cli)
    assert found["gpt-new"]["prices"]["output"] == "9", "a pattern serves it"
    assert found["gpt-4o"]["source"] == before["source"]
    assert found["own"]["source"] == "configuration"
    assert [row["in_force"] for row in cli.json("prices", "lists")["data"]] == [False, True, False]
    acts = [act["act"] for act in cli.json("trail", "show")["data"]]
    assert acts.count("price_list.create") == 2

    file.write_text(json.dumps({"gpt-4o-mini": {**entry, "mode": 7}}))
    assert "Its entry gpt-4o-mini cannot be read" in cli.refused("prices", "update", str(file))
    file.write_text("[]")
    assert "no JSON object of models" in cli.refused("prices", "update", str(file))
