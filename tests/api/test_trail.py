"""The audit trail over REST: every act has its line, nobody reads another's, nothing secret is in it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.api.table import TABLE
from gateway.core.words import Level
from gateway.identity.model import NewKey, Role
from gateway.trail.service import Trail

from .conftest import OPERATOR, Api

Lines = list[dict[str, Any]]

_LIST = {"new": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}}

# A body for every route that changes something, with the act that must follow, and in whose chain; "" where nothing does.
_ACTS: dict[tuple[str, str], tuple[Any, str, str]] = {
    ("POST", "/api/v1/creators"): ({"user_id": "eve", "name": "Eve"}, "creator.create", "platform"),
    ("PATCH", "/api/v1/creators/{user_id}"): ({"name": "Alicia"}, "creator.update", "platform"),
    ("POST", "/api/v1/apps"): ({"enterprise_id": "fresh", "user_id": "alice", "name": "F"}, "app.create", "platform"),
    ("PATCH", "/api/v1/apps/{enterprise_id}"): ({"status": "active", "name": "Shop 2"}, "app.update", "platform"),
    ("DELETE", "/api/v1/apps/{enterprise_id}/answers"): (None, "app.forget_answers", "platform"),
    ("POST", "/api/v1/apps/{enterprise_id}/keys"): ({"name": "k", "level": "app_usage"}, "key.create", "platform"),
    ("PATCH", "/api/v1/apps/{enterprise_id}/keys/{key_id}"): ({"limits": {"rpm": 7}}, "key.update", "platform"),
    ("DELETE", "/api/v1/apps/{enterprise_id}/keys/{key_id}"): (None, "key.revoke", "platform"),
    ("POST", "/api/v1/apps/{enterprise_id}/keys/{key_id}/rotate"): ({"overlap_seconds": 60}, "key.rotate", "platform"),
    ("POST", "/api/v1/apps/{enterprise_id}/end-user-tokens"): ({"platform_user_id": "u1"}, "end_user_token.create", "app"),
    ("POST", "/api/v1/management-keys"): ({"user_id": "alice", "name": "m"}, "management_key.create", "platform"),
    ("DELETE", "/api/v1/management-keys/{key_id}"): (None, "management_key.revoke", "platform"),
    ("POST", "/api/v1/grants"): (
        {"wallet": {"enterprise_id": "shop", "platform_user_id": "u1"}, "amount_micro": 9, "reason": "sorry"},
        "grant.create",
        "app",
    ),
    ("PUT", "/api/v1/apps/{enterprise_id}/provider-keys/{provider}"): (
        {"key": "sk-made-up-own"},
        "provider_key.set",
        "platform",
    ),
    ("DELETE", "/api/v1/apps/{enterprise_id}/provider-keys/{provider}"): (None, "provider_key.delete", "platform"),
    ("POST", "/api/v1/apps/{enterprise_id}/price-books"): ({"markup_percent": 5}, "price.create", "platform"),
    ("POST", "/api/v1/price-lists"): ({"prices": _LIST}, "price_list.create", "platform"),
    ("POST", "/api/v1/price-lists/compare"): ({"prices": _LIST}, "", "platform"),
}


# What sells needs Stripe: tests/billing.
KEEPING = [endpoint for endpoint in TABLE if not endpoint.sells]


async def heads(api: Api) -> dict[str, int]:
    trail = Trail(api.databases)
    return {"platform": (await trail.head(None)).seq, "app": (await trail.head("shop")).seq}


async def acts(api: Api, enterprise_id: str | None = "shop", **more: Any) -> Lines:
    query = {"enterprise_id": enterprise_id} if enterprise_id else {}
    data: Lines = (await api.ok("GET", "/audit-log", query=query, **more))["data"]
    return data


async def test_every_route_that_changes_something_leaves_one_line_and_every_other_none(api: Api) -> None:
    for endpoint in KEEPING:
        at = await heads(api)
        values = {"enterprise_id": "shop", "user_id": "alice", "platform_user_id": "u1", "key_id": api.key_id}
        values["provider"] = "openai"
        if endpoint.path.startswith("/api/v1/management-keys/"):
            values["key_id"] = (await api.ok("POST", "/management-keys", {"user_id": "alice", "name": "m"}, 201))["id"]
        elif endpoint.method == "DELETE" or endpoint.path.endswith("/rotate"):
            values["key_id"] = (await api.registry.create_key(OPERATOR, "shop", NewKey("k", Level.APP_USAGE)))[0].id
        path = endpoint.path.format(**values)
        at = await heads(api)
        if endpoint.method == "GET":
            query = {"enterprise_id": "shop"} if endpoint.query.__name__ in ("UsageQuery", "BookQuery") else None
            assert (await api.call("GET", path, query=query)).status_code == 200, path
            assert await heads(api) == at, path
            continue
        body, act, chain = _ACTS[endpoint.method, endpoint.path]  # a new route needs its act here
        answer = await api.call(endpoint.method, path, body, headers={"idempotency-key": "once"})
        assert answer.status_code == endpoint.status, (path, answer.text)
        assert await heads(api) == {**at, chain: at[chain] + (1 if act else 0)}, path
        if not act:
            continue
        newest = (await acts(api, "shop" if chain == "app" else None))[0]
        assert (newest["act"], newest["chain"], newest["role"], newest["actor"]) == (act, chain, "operator", "operator")
        assert newest["seq"] == at[chain] + 1
    assert {(endpoint.method, endpoint.path) for endpoint in KEEPING if endpoint.method != "GET"} == set(_ACTS)


async def test_what_is_refused_leaves_no_line(api: Api) -> None:
    at = await heads(api)
    wallet = {"enterprise_id": "shop", "platform_user_id": "u1"}
    for method, path, body, role in [
        ("POST", "/creators", {"user_id": "alice", "name": "again"}, Role.OPERATOR),
        ("POST", "/apps", {"enterprise_id": "shop", "user_id": "alice", "name": "again"}, Role.OPERATOR),
        ("PATCH", "/apps/bobs", {"name": "mine"}, Role.CREATOR),
        ("PATCH", "/apps/shop", {"status": "active"}, Role.CREATOR),
        ("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u1", "key_id": "key_none"}, Role.OPERATOR),
        ("POST", "/apps/shop/price-books", {"markup_percent": 5, "prices": {"input": "1"}}, Role.OPERATOR),
        ("POST", "/grants", {"wallet": wallet, "amount_micro": 0}, Role.OPERATOR),
    ]:
        answer = await api.call(method, path, body, role=role, headers={"idempotency-key": "k"})
        assert 400 <= answer.status_code < 500, (path, answer.text)
    assert await heads(api) == at


async def test_a_repeat_that_changes_nothing_leaves_no_second_line(api: Api) -> None:
    wallet = {"enterprise_id": "shop", "platform_user_id": "u1"}
    await api.grant(wallet, 5, "same")
    await api.ok("DELETE", f"/apps/shop/keys/{api.key_id}")
    at = await heads(api)
    await api.grant(wallet, 5, "same")
    await api.ok("DELETE", f"/apps/shop/keys/{api.key_id}")
    assert await heads(api) == at


async def test_a_line_tells_what_was_and_what_is(api: Api) -> None:
    await api.ok("PATCH", f"/apps/shop/keys/{api.key_id}", {"limits": {"rpm": 5}})
    await api.ok("PATCH", f"/apps/shop/keys/{api.key_id}", {"limits": {"rpm": 9, "spend_micro_per_day": 7}})
    line = (await acts(api))[0]
    assert (line["subject"], line["user_id"], line["enterprise_id"]) == (api.key_id, "alice", "shop")
    assert (line["before"], line["after"]) == ({"limits": {"rpm": 5}}, {"limits": {"rpm": 9, "spend_micro_per_day": 7}})
    await api.ok("PATCH", "/creators/alice", {"status": "suspended"})
    line = (await acts(api, None))[0]
    assert (line["before"], line["after"]) == ({"status": "active"}, {"status": "suspended"})
    first = await api.ok("POST", "/apps/shop/price-books", {"markup_percent": 5}, 201)
    await api.ok("POST", "/apps/shop/price-books", {"prices": {"input": "1", "output": "2"}}, 201)
    line = (await acts(api))[0]
    assert (line["before"]["markup_bp"], line["before"]["model"]) == (500, "*")
    assert line["after"]["rates"] == {"input": 1_000_000, "output": 2_000_000}
    assert (await acts(api))[1]["subject"] == first["id"]


async def test_a_grant_names_its_transaction_its_reason_and_the_balances(api: Api) -> None:
    wallet = {"enterprise_id": "shop", "platform_user_id": "u1"}
    await api.grant(wallet, 30, "one", reason="first")
    granted = (await api.grant(wallet, 12, "two", role=Role.CREATOR, reason="for the trouble")).json()
    line = (await acts(api))[0]
    assert (line["chain"], line["transaction_id"], line["reason"]) == ("app", granted["id"], "for the trouble")
    assert line["role"] == "creator"
    assert line["actor"].startswith("mgk_")
    assert line["subject"] == "a/shop/u1"
    assert line["before"] == {"available_micro": 30, "debt_micro": 0}
    assert (line["after"]["available_micro"], line["after"]["amount_micro"], line["after"]["asset"]) == (42, 12, "USD")


async def test_a_creator_reads_its_own_apps_acts_and_no_others(api: Api) -> None:
    await api.ok("PATCH", "/apps/bobs", {"name": "secret plan"}, role="bob")
    mine = await acts(api, role=Role.CREATOR)
    assert {line["enterprise_id"] for line in mine} == {"shop"}
    assert {"app.create", "key.create", "end_user_token.create"} <= {line["act"] for line in mine}
    for enterprise_id, status, role in [
        ("bobs", 404, Role.CREATOR),
        ("shop", 404, "bob"),
        (None, 400, Role.CREATOR),
        ("shop", 403, Role.APP_SERVER),
        ("shop", 403, Role.END_USER),
    ]:
        query = {"enterprise_id": enterprise_id} if enterprise_id else {}
        assert (await api.call("GET", "/audit-log", query=query, role=role)).status_code == status, (enterprise_id, role)
    assert {"creator.create", "management_key.create"} <= {line["act"] for line in await acts(api, None)}


async def test_pages_follow_one_another(api: Api) -> None:
    whole = [(line["chain"], line["seq"]) for line in await acts(api)]
    assert len(whole) > 3
    found: list[tuple[str, int]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await api.ok("GET", "/audit-log", query={"enterprise_id": "shop", "limit": "2", **cursor})
        found += [(line["chain"], line["seq"]) for line in answer["data"]]
        if not answer["has_more"]:
            break
        cursor = {"cursor": answer["next_cursor"]}
    assert found == whole


async def test_no_secret_and_no_end_user_is_in_the_platforms_trail(api: Api, tmp_path: Path) -> None:
    made = await api.ok("POST", "/apps/shop/keys", {"name": "k", "level": "app_usage"}, 201)
    rotated = await api.ok("POST", f"/apps/shop/keys/{made['id']}/rotate", {}, 201)
    management = await api.ok("POST", "/management-keys", {"user_id": "alice", "name": "m"}, 201)
    token = await api.ok("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "zoe-the-end-user"}, 201)
    await api.grant({"enterprise_id": "shop", "platform_user_id": "zoe-the-end-user"}, 5, "k", reason="zoe-the-end-user")
    await api.ok("PATCH", "/apps/shop", {"default_end_user": "zoe-the-end-user"})
    await api.ok("PATCH", "/apps/shop", {"default_end_user": None})
    dumps = {}
    for file in (tmp_path / "platform.db", tmp_path / "app-shop.db"):
        with closing(sqlite3.connect(file)) as conn:
            dumps[file.stem] = json.dumps(conn.execute("SELECT * FROM trail").fetchall())
            if file.stem == "platform":
                digests = [
                    row[0] for table in ("api_keys", "management_keys") for row in conn.execute(f"SELECT digest FROM {table}")
                ]
    secrets = [made["secret"], rotated["secret"], management["secret"], token["token"], *digests]
    for secret in secrets:
        assert len(secret) > 20
        for text in dumps.values():
            assert secret not in text
            assert secret[-20:] not in text
    assert "hint" not in "".join(dumps.values())
    assert "zoe-the-end-user" in dumps["app-shop"]
    assert "zoe-the-end-user" not in dumps["platform"]
    before, after = [json.loads(line["before"] and json.dumps(line["before"])) for line in (await acts(api))[:2]][::-1]
    assert (before, after["default_end_user"][:7]) == ({"default_end_user": None}, "sha256:")


async def test_a_token_that_cannot_be_recorded_is_not_handed_out(api: Api) -> None:
    async with (await api.databases.app("shop")).begin() as conn:
        await conn.exec_driver_sql("ALTER TABLE trail RENAME TO gone")
    answer = await api.call("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u1"})
    assert answer.status_code == 503
    assert "token" not in answer.json()


async def test_an_act_whose_line_cannot_be_written_does_not_happen(api: Api) -> None:
    async with api.databases.platform.begin() as conn:
        await conn.exec_driver_sql("ALTER TABLE trail RENAME TO gone")
    assert (await api.call("PATCH", "/creators/alice", {"status": "suspended"})).status_code == 503
    assert (await api.ok("GET", "/creators/alice"))["status"] == "active"
    assert (await api.call("POST", "/apps/shop/price-books", {"markup_percent": 5})).status_code == 503
    assert (await api.ok("GET", "/apps/shop/price-books"))["data"] == []
    assert (await api.grant({"user_id": "alice"}, 5, "k")).status_code == 503
    assert (await api.ok("GET", "/wallets/alice"))["available_micro"] == 0
    assert (await api.ok("GET", "/ledger/transactions"))["data"] == []
