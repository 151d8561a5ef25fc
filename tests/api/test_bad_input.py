"""Bad input: each is one clear JSON error with its status, code and parameter, and changes nothing."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.core.limits import MANAGEMENT_BODY_BYTES_MAX, RATE_LIMIT_MAX
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.identity.model import Role

from .conftest import Api

APP = {"enterprise_id": "new", "user_id": "alice", "name": "New"}
KEY = {"level": "app_usage", "name": "k"}
WALLET = {"enterprise_id": "shop", "platform_user_id": "u1"}
GRANT = {"wallet": WALLET, "amount_micro": 5}
INVALID = (400, "invalid_request")

Row = tuple[str, str, Any, tuple[int, str], str | None]

BAD_BODIES: list[Row] = [
    # creators
    ("POST", "/creators", {}, INVALID, "user_id"),
    ("POST", "/creators", {"user_id": "x"}, INVALID, "name"),
    ("POST", "/creators", {"user_id": 5, "name": "x"}, INVALID, "user_id"),
    ("POST", "/creators", {"user_id": "x", "name": None}, INVALID, "name"),
    ("POST", "/creators", {"user_id": "a b", "name": "x"}, INVALID, "user_id"),
    ("POST", "/creators", {"user_id": "x", "name": "x", "role": "operator"}, INVALID, "role"),
    ("POST", "/creators", {"user_id": "alice", "name": "x"}, (409, "conflict"), "user_id"),
    ("POST", "/creators", [], INVALID, "body"),
    ("POST", "/creators", "text", INVALID, "body"),
    ("PATCH", "/creators/alice", {"status": "gone"}, INVALID, "status"),
    ("PATCH", "/creators/nobody", {"name": "x"}, (404, "not_found"), "user_id"),
    # apps
    ("POST", "/apps", {**APP, "enterprise_id": "../x"}, INVALID, "enterprise_id"),
    ("POST", "/apps", {**APP, "enterprise_id": "shop"}, (409, "conflict"), "enterprise_id"),
    ("POST", "/apps", {**APP, "user_id": "nobody"}, (404, "not_found"), "user_id"),
    ("POST", "/apps", {**APP, "asset": "usd"}, INVALID, "asset"),
    ("POST", "/apps", {**APP, "enforcement": "free"}, INVALID, "enforcement"),
    ("POST", "/apps", {**APP, "cost_policy": "nobody_pays"}, INVALID, "cost_policy"),
    ("POST", "/apps", {**APP, "hold_policy": 1}, INVALID, "hold_policy"),
    ("POST", "/apps", {**APP, "end_user_sources": ["x-other"]}, INVALID, "end_user_sources[0]"),
    ("POST", "/apps", {**APP, "end_user_sources": "user"}, INVALID, "end_user_sources"),
    ("POST", "/apps", {**APP, "end_user_limits": {"rpm": "5"}}, INVALID, "end_user_limits.rpm"),
    ("POST", "/apps", {**APP, "end_user_limits": {"rpx": 5}}, INVALID, "end_user_limits.rpx"),
    ("POST", "/apps", {**APP, "markup_percent": -1}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": "1.234"}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": "much"}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": "1e999999"}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": "NaN"}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": True}, INVALID, "markup_percent"),
    ("POST", "/apps", {**APP, "markup_percent": 5, "asset": "TOK"}, INVALID, "markup_percent"),
    ("PATCH", "/apps/shop", {"asset": "EUR"}, INVALID, "asset"),
    ("PATCH", "/apps/shop", {"user_id": "bob"}, INVALID, "user_id"),
    ("PATCH", "/apps/shop", {"status": "deleted"}, INVALID, "status"),
    ("PATCH", "/apps/shop", {"default_end_user": "a b"}, INVALID, "default_end_user"),
    ("PATCH", "/apps/shop", {"cors_origins": ["javascript:x"]}, INVALID, "cors_origins[0]"),
    ("PATCH", "/apps/nowhere", {"name": "x"}, (404, "not_found"), "enterprise_id"),
    # keys
    ("POST", "/apps/shop/keys", {}, INVALID, "level"),
    ("POST", "/apps/shop/keys", {**KEY, "level": "root"}, INVALID, "level"),
    ("POST", "/apps/shop/keys", {**KEY, "name": ""}, INVALID, "name"),
    ("POST", "/apps/shop/keys", {**KEY, "models": [1]}, INVALID, "models[0]"),
    ("POST", "/apps/shop/keys", {**KEY, "models": ["a b"]}, INVALID, "models[0]"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": {"rpm": -1}}, INVALID, "limits.rpm"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": {"rpm": 1.5}}, INVALID, "limits.rpm"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": {"tpm": RATE_LIMIT_MAX + 1}}, INVALID, "limits.tpm"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": {"spend_micro_per_day": 10**30}}, INVALID, "limits.spend_micro_per_day"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": {"spend": 1}}, INVALID, "limits.spend"),
    ("POST", "/apps/shop/keys", {**KEY, "limits": 5}, INVALID, "limits"),
    ("POST", "/apps/shop/keys", {**KEY, "expires_at": "2020-01-01T00:00:00Z"}, INVALID, "expires_at"),
    ("POST", "/apps/shop/keys", {**KEY, "expires_at": "tomorrow"}, INVALID, "expires_at"),
    ("POST", "/apps/shop/keys", {**KEY, "expires_at": "2099-01-01T00:00:00"}, INVALID, "expires_at"),
    ("POST", "/apps/shop/keys", {**KEY, "expires_at": 5}, INVALID, "expires_at"),
    ("PATCH", "/apps/shop/keys/key_x", {"name": "x"}, (404, "not_found"), "key_id"),
    ("PATCH", "/apps/shop/keys/{key}", {"level": "platform"}, INVALID, "level"),
    ("PATCH", "/apps/shop/keys/{key}", {"name": None}, INVALID, "name"),
    ("POST", "/apps/shop/keys/{key}/rotate", {"overlap_seconds": -1}, INVALID, "overlap_seconds"),
    ("POST", "/apps/shop/keys/{key}/rotate", {"overlap_seconds": 10**9}, INVALID, "overlap_seconds"),
    ("POST", "/apps/bobs/keys/{key}/rotate", {}, (404, "not_found"), "key_id"),
    ("DELETE", "/apps/shop/keys/key_x", None, (404, "not_found"), "key_id"),
    # end-user tokens
    ("POST", "/apps/shop/end-user-tokens", {}, INVALID, "platform_user_id"),
    ("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "a/b"}, INVALID, "platform_user_id"),
    ("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u1", "expires_in_seconds": 0}, INVALID, "expires_in_seconds"),
    ("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u1", "spend_micro_max": -1}, INVALID, "spend_micro_max"),
    ("POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u1", "key_id": "key_x"}, (404, "not_found"), "key_id"),
    ("POST", "/apps/second/end-user-tokens", {"platform_user_id": "u1"}, (409, "conflict"), "key_id"),
    # management keys
    ("POST", "/management-keys", {}, INVALID, "user_id"),
    ("POST", "/management-keys", {"user_id": "nobody"}, (404, "not_found"), "user_id"),
    ("DELETE", "/management-keys/mgk_x", None, (404, "not_found"), "key_id"),
    # grants
    ("POST", "/grants", {"amount_micro": 5}, INVALID, "wallet"),
    ("POST", "/grants", {"wallet": WALLET}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": 0}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": -5}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": 1.5}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": "5"}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": AMOUNT_MICRO_MAX + 1}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "amount_micro": 10**400}, INVALID, "amount_micro"),
    ("POST", "/grants", {**GRANT, "source": "theft"}, INVALID, "source"),
    ("POST", "/grants", {**GRANT, "priority": 10**12}, INVALID, "priority"),
    ("POST", "/grants", {**GRANT, "reason": "x" * 501}, INVALID, "reason"),
    ("POST", "/grants", {**GRANT, "reason": "a\0b"}, INVALID, "reason"),
    ("POST", "/grants", {**GRANT, "expires_at": "2020-01-01T00:00:00Z"}, INVALID, "expires_at"),
    ("POST", "/grants", {**GRANT, "wallet": {}}, INVALID, "wallet"),
    ("POST", "/grants", {**GRANT, "wallet": {"user_id": "alice", **WALLET}}, INVALID, "wallet"),
    ("POST", "/grants", {**GRANT, "wallet": {"enterprise_id": "shop"}}, INVALID, "wallet"),
    ("POST", "/grants", {**GRANT, "wallet": {"owner": "alice"}}, INVALID, "wallet.owner"),
    ("POST", "/grants", {**GRANT, "wallet": {**WALLET, "platform_user_id": "a/b"}}, INVALID, "wallet.platform_user_id"),
    ("POST", "/grants", {**GRANT, "wallet": {**WALLET, "platform_user_id": ".."}}, INVALID, "wallet.platform_user_id"),
    ("POST", "/grants", {**GRANT, "wallet": {**WALLET, "enterprise_id": "nowhere"}}, (404, "not_found"), "enterprise_id"),
    ("POST", "/grants", {**GRANT, "wallet": {"user_id": "nobody"}}, (404, "not_found"), "user_id"),
    ("POST", "/grants", {**GRANT, "wallet": {"user_id": "a b"}}, INVALID, "wallet.user_id"),
    # prices
    ("POST", "/apps/shop/price-books", {}, INVALID, "prices"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "1"}, "markup_percent": 5}, INVALID, "prices"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": 1}}, INVALID, "prices.input"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "x"}}, INVALID, "prices.input"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "0.0000001"}}, INVALID, "prices.input"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "-1"}}, INVALID, "prices.input"),
    ("POST", "/apps/shop/price-books", {"prices": {"lunch": "1"}}, INVALID, "prices.lunch"),
    ("POST", "/apps/shop/price-books", {"prices": {}}, INVALID, "prices"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "1", "output": "1", "above": 5}}, INVALID, "prices"),
    ("POST", "/apps/shop/price-books", {"prices": {"input": "1", "variants": {"flex": 1}}}, INVALID, "prices.variants.flex"),
    ("POST", "/price-lists", {}, INVALID, "prices"),
    ("POST", "/price-lists", {"prices": []}, INVALID, "prices"),
    ("POST", "/price-lists", {"prices": {}}, INVALID, "prices"),
    ("POST", "/price-lists", {"prices": {"a": {"mode": 1}}}, INVALID, "prices"),
    ("POST", "/price-lists/compare", {"prices": {"a": 1}}, INVALID, "prices"),
    ("POST", "/apps/shop/price-books", {"markup_percent": 10**9}, INVALID, "markup_percent"),
    ("POST", "/apps/shop/price-books", {"markup_percent": 5, "model": ""}, INVALID, "model"),
    ("POST", "/apps/shop/price-books", {"markup_percent": 5, "effective_at": "2020-01-01T00:00:00Z"}, INVALID, "effective_at"),
]

BAD_QUERIES: list[tuple[str, str, tuple[int, str], str]] = [
    ("/creators", "limit=0", INVALID, "limit"),
    ("/creators", "limit=201", INVALID, "limit"),
    ("/creators", "limit=many", INVALID, "limit"),
    ("/creators", "limit=1&limit=2", INVALID, "limit"),
    ("/creators", "page=2", INVALID, "page"),
    ("/creators", "cursor=a%00b", INVALID, "cursor"),
    ("/creators/nobody", "", (404, "not_found"), "user_id"),
    ("/creators/a%00b", "", (404, "not_found"), "user_id"),
    ("/apps/a%00b", "", (404, "not_found"), "enterprise_id"),
    ("/apps/shop", "verbose=1", INVALID, "verbose"),
    ("/apps/shop/keys", "limit=-1", INVALID, "limit"),
    ("/apps/shop/keys/nothing", "", (404, "not_found"), "key_id"),
    ("/wallets/nobody", "", (404, "not_found"), "user_id"),
    ("/apps/shop/wallets/a%20b", "", (404, "not_found"), "platform_user_id"),
    ("/ledger/transactions", "enterprise_id=nowhere", (404, "not_found"), "enterprise_id"),
    ("/ledger/transactions", "limit=1000", INVALID, "limit"),
    ("/ledger/accounts", "cursor=x", INVALID, "cursor"),
    ("/usage", "group_by=shoe_size", INVALID, "group_by"),
    ("/usage", "enterprise_id=shop&group_by=shoe_size", INVALID, "group_by"),
    ("/usage", "platform_user_id=u1", INVALID, "platform_user_id"),
    ("/usage", "from=yesterday", INVALID, "from"),
    ("/usage", "enterprise_id=shop&to=2026-01-01", INVALID, "to"),
    ("/usage", "level=3", INVALID, "level"),
    ("/apps/shop/usage-events", "cursor=x", INVALID, "cursor"),
    ("/apps/shop/usage-events", "level=x", INVALID, "level"),
    ("/apps/shop/price-books", "cursor=%20", INVALID, "cursor"),
]


async def rows_of(api: Api) -> list[int]:
    platform = ("creators", "apps", "api_keys", "management_keys", "app_prices", "txns", "accounts")
    counts: list[int] = []
    for engine, tables in ((api.databases.platform, platform), (await api.databases.app("shop"), ("txns", "accounts", "lots"))):
        async with engine.connect() as connection:
            counts += [(await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() for table in tables]
    return counts


def flaw(answer: httpx.Response, expected: tuple[int, str], param: str | None) -> str | None:
    """What is wrong with an error answer, or None."""
    body = answer.json()
    if list(body) != ["error"] or not answer.headers.get("x-request-id", "").startswith("req_"):
        return f"no error: {answer.status_code} {answer.text}"
    error = body["error"]
    got = (answer.status_code, error["code"], error["param"], error["type"], bool(error["message"]))
    wanted = (*expected, param, "invalid_request_error", True)
    return None if got == wanted else f"wanted {wanted}, got {got}: {error['message']}"


async def test_each_bad_body_is_one_clear_error_and_changes_nothing(api: Api) -> None:
    """One world for all rows: a row that changed something would show in the count."""
    before = await rows_of(api)
    flaws = []
    for number, (method, path, body, expected, param) in enumerate(BAD_BODIES):
        headers = {"idempotency-key": f"k{number}"}
        answer = await api.call(method, path.format(key=api.key_id), body, headers=headers)
        if found := flaw(answer, expected, param):
            flaws.append(f"{method} {path} {str(body)[:100]}: {found}")
    assert not flaws
    assert await rows_of(api) == before


async def test_each_bad_query_is_one_clear_error(api: Api) -> None:
    flaws = []
    for path, query, expected, param in BAD_QUERIES:
        answer = await api.call("GET", f"{path}?{query}" if query else path)
        if found := flaw(answer, expected, param):
            flaws.append(f"{path}?{query}: {found}")
    assert not flaws


RAW: list[tuple[bytes, dict[str, str], tuple[int, str], str | None]] = [
    (b"", {}, INVALID, "body"),
    (b"{", {}, INVALID, "body"),
    (b"\xff\xfe", {}, INVALID, "body"),
    (b'{"user_id": "x", "name": "\xff"}', {}, INVALID, "body"),
    (b'{"user_id": "x", "name": "y"} trailing', {}, INVALID, "body"),
    (b"[" * 100_000, {}, INVALID, "body"),
    (b'{"user_id":' + b"[" * 100_000, {}, INVALID, "user_id"),
    (b'{"user_id": NaN, "name": "y"}', {}, INVALID, "body"),
    (b"user_id=x&name=y", {"content-type": "application/x-www-form-urlencoded"}, (415, "unsupported_media_type"), "content-type"),
    (b"{}", {"content-type": "text/plain"}, (415, "unsupported_media_type"), "content-type"),
    (b" " * (MANAGEMENT_BODY_BYTES_MAX + 1), {}, (413, "body_too_large"), None),
]


async def test_bytes_that_are_no_such_body_are_one_clear_error(api: Api) -> None:
    flaws = []
    for raw, headers, expected, param in RAW:
        sent = {"authorization": f"Bearer {api.credentials[Role.OPERATOR]}", "content-type": "application/json", **headers}
        answer = await api.http.post("/api/v1/creators", content=raw, headers=sent)
        if found := flaw(answer, expected, param):
            flaws.append(f"{raw[:50]!r}: {found}")
    assert not flaws


@pytest.mark.parametrize("key", [None, "", "a b", "x" * 256, "t\tab"])
async def test_a_grant_without_a_good_idempotency_key_is_refused(api: Api, key: str | None) -> None:
    headers = {} if key is None else {"idempotency-key": key}
    assert flaw(await api.call("POST", "/grants", GRANT, headers=headers), INVALID, "Idempotency-Key") is None


async def test_all_the_fields_that_a_body_lacks_are_named_at_once(api: Api) -> None:
    sent = {"authorization": f"Bearer {api.credentials[Role.OPERATOR]}", "content-type": "application/json"}
    for body, lacking in ((b"{}", ["enterprise_id", "user_id", "name"]), (b'{"user_id": 5}', ["enterprise_id", "name"])):
        answer = await api.http.post("/api/v1/apps", content=body, headers=sent)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, lacking[0])
        assert error["message"] == f"Object missing required fields {', '.join(f'`{name}`' for name in lacking)}."
    broken = await api.http.post("/api/v1/apps", content=b'{"user_id": 5, "name', headers=sent)
    assert (broken.status_code, broken.json()["error"]["param"]) == (400, "user_id")
