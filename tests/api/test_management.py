"""Creators, apps, keys, tokens and prices over HTTP: the fields of the contract, and what each role can do."""

import asyncio
import re

import msgspec
from httpx import ASGITransport, AsyncClient
from starlette.routing import Router

from gateway.api.routes import routes
from gateway.identity.model import Role

from .conftest import Api

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_a_creator_and_an_app_are_made_shown_listed_and_changed(api: Api) -> None:
    made = await api.ok("POST", "/creators", {"user_id": "carol", "name": "Carol"}, 201)
    assert RFC3339.fullmatch(made.pop("created_at"))
    assert made == {"user_id": "carol", "name": "Carol", "status": "active"}
    assert (await api.ok("PATCH", "/creators/carol", {"name": "C."}))["name"] == "C."
    body = {"enterprise_id": "cafe", "user_id": "carol", "name": "Caf\u00e9", "asset": "TOK", "hold_policy": "clamp"}
    app = await api.ok("POST", "/apps", {**body, "end_user_limits": {"rpm": 3}, "default_end_user": "shared"}, 201)
    assert app == await api.ok("GET", "/apps/cafe")
    assert body.items() <= app.items()
    assert (app["enforcement"], app["cost_policy"]) == ("prepaid", "platform_pays")
    changed = await api.ok("PATCH", "/apps/cafe", {"name": "Bar", "default_end_user": None, "end_user_sources": ["user"]})
    assert changed == {**app, "name": "Bar", "default_end_user": None, "end_user_sources": ["user"]}


async def test_lists_are_paged_by_cursor(api: Api) -> None:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await api.ok("GET", "/apps", limit=2, query=cursor)
        assert set(page) == {"data", "has_more", "next_cursor"}
        seen += [app["enterprise_id"] for app in page["data"]]
        if not page["has_more"]:
            assert page["next_cursor"] is None
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == ["bobs", "second", "shop"]
    mine = await api.ok("GET", "/apps", role=Role.CREATOR)
    assert [app["enterprise_id"] for app in mine["data"]] == ["second", "shop"]


async def test_a_key_shows_its_secret_once_and_works_until_it_is_revoked(api: Api) -> None:
    body = {
        "level": "app_usage",
        "name": "web",
        "models": ["gpt-*"],
        "limits": {"rpm": 5},
        "expires_at": "2099-01-01T00:00:00+01:00",
    }
    made = await api.ok("POST", "/apps/shop/keys", body, 201, role=Role.CREATOR)
    secret = made.pop("secret")
    assert secret.startswith("mzk_live_")
    assert (made["expires_at"], made["models"], made["limits"]["rpm"]) == ("2098-12-31T23:00:00.000Z", ["gpt-*"], 5)
    assert made == await api.ok("GET", f"/apps/shop/keys/{made['id']}")
    assert made in (await api.ok("GET", "/apps/shop/keys"))["data"]
    await api.identity.authenticate(secret)
    changed = await api.ok("PATCH", f"/apps/shop/keys/{made['id']}", {"expires_at": None, "models": None, "limits": None})
    assert (changed["expires_at"], changed["models"], changed["limits"].get("rpm")) == (None, [], None)
    assert changed["name"] == "web"
    rotated = await api.ok("POST", f"/apps/shop/keys/{made['id']}/rotate", {"overlap_seconds": 60}, 201)
    assert rotated["id"] != made["id"]
    await api.identity.authenticate(rotated["secret"])
    await api.identity.authenticate(secret)
    gone = await api.ok("DELETE", f"/apps/shop/keys/{made['id']}")
    assert RFC3339.fullmatch(gone["revoked_at"])
    answer = await api.http.get("/api/v1/apps/shop/wallets/u1", headers={"authorization": f"Bearer {secret}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked_api_key")


async def test_a_limit_that_is_named_is_set_null_takes_it_away_and_the_others_stay(api: Api) -> None:
    made = await api.ok("POST", "/apps/shop/keys", {"level": "app_usage", "limits": {"rpm": 5, "tpm": 9}}, 201)
    for path, name in ((f"/apps/shop/keys/{made['id']}", "limits"), ("/apps/shop", "end_user_limits")):
        await api.ok("PATCH", path, {name: {"rpm": 5, "tpm": 9}})
        assert (await api.ok("PATCH", path, {name: {"rpm": None, "concurrency": 0}}))[name] == {"tpm": 9, "concurrency": 0}
        assert (await api.ok("PATCH", path, {name: {}}))[name] == {"tpm": 9, "concurrency": 0}
        assert (await api.ok("PATCH", path, {"name": "n"}))[name] == {"tpm": 9, "concurrency": 0}
        refused = await api.call("PATCH", path, {name: {"tpm": -1, "rpm": 7}})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, f"{name}.tpm")
        assert (await api.call("PATCH", path, {name: {"rps": 7}})).status_code == 400
        shown = await api.ok("GET", path)
        assert shown[name] == {"tpm": 9, "concurrency": 0}
        assert (await api.ok("PATCH", path, {name: None})) == {**shown, name: {}}


async def test_two_who_change_different_limits_at_once_both_have_their_way(api: Api) -> None:
    path = f"/apps/shop/keys/{api.key_id}"
    names = ("rpm", "tpm", "concurrency", "spend_micro_per_day", "spend_micro_per_month", "spend_micro_total")
    await asyncio.gather(*[api.ok("PATCH", path, {"limits": {name: at}}) for at, name in enumerate(names, 1)])
    assert (await api.ok("GET", path))["limits"] == {name: at for at, name in enumerate(names, 1)}


async def test_a_management_key_is_made_for_oneself_and_ends_at_once(api: Api) -> None:
    made = await api.ok("POST", "/management-keys", {}, 201, role=Role.CREATOR)
    assert made["user_id"] == "alice"
    api.credentials["second"] = made["secret"]
    listed = (await api.ok("GET", "/management-keys", role="second"))["data"]
    assert made["id"] in [key["id"] for key in listed]
    assert all(key["user_id"] == "alice" and "secret" not in key for key in listed)
    assert (await api.call("POST", "/management-keys", {"user_id": "bob"}, role="second")).status_code == 404
    assert (await api.call("DELETE", f"/management-keys/{made['id']}", role="bob")).status_code == 404
    await api.ok("DELETE", f"/management-keys/{made['id']}", role="second")
    answer = await api.call("GET", "/apps", role="second")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "revoked_api_key")


async def test_an_app_server_mints_tokens_on_its_own_key(api: Api) -> None:
    token = await api.ok(
        "POST", "/apps/shop/end-user-tokens", {"platform_user_id": "u9", "expires_in_seconds": 60}, 201, role=Role.APP_SERVER
    )
    assert (token["key_id"], token["platform_user_id"]) == (api.key_id, "u9")
    assert (await api.identity.authenticate(token["token"])).platform_user_id == "u9"


async def test_only_an_operator_suspends_and_a_suspended_creator_is_out(api: Api) -> None:
    for status in ("suspended", "active"):
        assert (await api.call("PATCH", "/apps/shop", {"status": status}, role=Role.CREATOR)).status_code == 403
    await api.ok("PATCH", "/apps/shop", {"status": "suspended"})
    answer = await api.call("GET", "/apps/shop/usage-events", role=Role.APP_SERVER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "app_suspended")
    await api.ok("PATCH", "/creators/alice", {"status": "suspended"})
    assert (await api.call("GET", "/apps", role=Role.CREATOR)).status_code == 403


async def test_prices_are_added_and_shown_newest_first(api: Api) -> None:
    first = await api.ok("POST", "/apps/shop/price-books", {"markup_percent": "12.5"}, 201, role=Role.CREATOR)
    assert (first["model"], first["markup_percent"], first["prices"]) == ("*", "12.5", None)
    later = {"model": "gpt-4o", "prices": {"input": "0.15", "output": "2"}, "effective_at": "2027-01-01T00:00:00Z"}
    second = await api.ok("POST", "/apps/shop/price-books", later, 201)
    assert (second["prices"], second["effective_at"], second["asset"]) == (later["prices"], "2027-01-01T00:00:00.000Z", "USD")
    assert (await api.ok("GET", "/apps/shop/price-books"))["data"] == [second, first]
    page = await api.ok("GET", "/apps/shop/price-books", limit=1)
    assert page["data"] == [second]
    assert (await api.ok("GET", "/apps/shop/price-books", cursor=page["next_cursor"]))["data"] == [first]
    again = await api.call("POST", "/apps/shop/price-books", later)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_an_apps_markup_is_shown_and_changed_from_now_on(api: Api) -> None:
    async def book() -> list[tuple[str, str | None]]:
        lines = (await api.ok("GET", "/apps/shop/price-books"))["data"]
        return [(line["model"], line["markup_percent"]) for line in lines]

    shown = await api.ok("GET", "/apps/shop")
    assert shown["markup_percent"] is None
    changed = await api.ok("PATCH", "/apps/shop", {"name": "Dear", "markup_percent": 12.5}, role=Role.CREATOR)
    assert changed == {**shown, "name": "Dear", "markup_percent": "12.5"}
    assert changed == await api.ok("GET", "/apps/shop")
    assert changed in (await api.ok("GET", "/apps"))["data"]
    await api.ok("PATCH", "/apps/shop", {"markup_percent": "12.50"})
    assert await book() == [("*", "12.5")], "what is in force already is no second line"
    await api.ok("POST", "/apps/shop/price-books", {"markup_percent": 90, "effective_at": "2033-01-01T00:00:00Z"}, 201)
    await api.ok("POST", "/apps/shop/price-books", {"model": "own", "markup_percent": 7}, 201)
    assert (await api.ok("GET", "/apps/shop"))["markup_percent"] == "12.5"
    assert (await api.ok("PATCH", "/apps/shop", {"markup_percent": 0}))["markup_percent"] == "0"
    await api.ok("POST", "/apps/shop/price-books", {"prices": {"input": "1", "output": "1"}}, 201)
    assert (await api.ok("GET", "/apps/shop"))["markup_percent"] is None
    assert len(await book()) == 5


async def test_a_markup_that_cannot_be_changes_nothing_else_either(api: Api) -> None:
    await api.ok("POST", "/apps", {"enterprise_id": "tokens", "user_id": "alice", "name": "T", "asset": "TOK"}, 201)
    for app, markup, role, status in (
        ("shop", -1, Role.OPERATOR, 400),
        ("shop", "much", Role.OPERATOR, 400),
        ("shop", None, Role.OPERATOR, 400),
        ("tokens", 5, Role.OPERATOR, 400),
        ("shop", 5, "bob", 404),
        ("shop", 5, Role.APP_SERVER, 403),
    ):
        answer = await api.call("PATCH", f"/apps/{app}", {"name": "changed", "markup_percent": markup}, role=role)
        assert answer.status_code == status, (app, markup, role)
        assert (await api.ok("GET", f"/apps/{app}"))["name"] != "changed"
        assert (await api.ok("GET", f"/apps/{app}/price-books"))["data"] == []
    refused = await api.call("PATCH", "/apps/shop", {"cost_policy": "platform_pays"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cost_policy")


async def test_what_an_app_takes_is_shown_to_its_creator_and_to_no_other(api: Api) -> None:
    (own,) = (await api.ok("GET", "/prices", role=Role.CREATOR, model="own", enterprise_id="shop"))["data"]
    assert (own["prices"]["input"], own["charge"]["input"], own["app_prices"]["input"]) == ("1", "1.1", "1")
    (unknown,) = (await api.ok("GET", "/prices", role="bob", model="nobody-knows"))["data"]
    assert (unknown["prices"], unknown["charge"], unknown["source"]) == ({}, None, "none")
    assert (await api.call("GET", "/prices", role="bob", enterprise_id="shop")).status_code == 404


async def test_an_app_made_with_a_markup_has_it_as_its_first_price(api: Api) -> None:
    body = {"enterprise_id": "dear", "user_id": "alice", "name": "Dear", "markup_percent": 20}
    await api.ok("POST", "/apps", body, 201, role=Role.CREATOR)
    (price,) = (await api.ok("GET", "/apps/dear/price-books"))["data"]
    assert (price["model"], price["markup_percent"]) == ("*", "20")


async def test_a_page_of_the_app_may_read_an_end_users_answers_and_no_other_page(api: Api) -> None:
    await api.ok("PATCH", "/apps/shop", {"cors_origins": ["https://shop.example"]})
    path = "/apps/shop/wallets/u1"
    for origin, allowed in (("https://shop.example", True), ("https://evil.example", False)):
        headers = {"origin": origin}
        answer = await api.call("GET", path, role=Role.END_USER, headers=headers)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        by_key = await api.call("GET", path, role=Role.APP_SERVER, headers=headers)
        assert "access-control-allow-origin" not in by_key.headers
    asked = await api.http.options(f"/api/v1{path}", headers={"origin": "https://shop.example"})
    assert (asked.status_code, asked.headers["access-control-allow-methods"]) == (204, "GET, HEAD")
    closed = await api.http.options("/api/v1/apps/shop/keys", headers={"origin": "https://shop.example"})
    assert "access-control-allow-origin" not in closed.headers


async def test_no_answer_is_cached_and_each_has_its_request_id(api: Api) -> None:
    answers = [
        await api.call("GET", "/apps/shop"),
        await api.call("GET", "/apps/nowhere"),
        await api.http.get("/api/openapi.json"),
    ]
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    assert (await api.call("HEAD", "/apps/shop")).status_code == 200


async def test_an_empty_operator_token_lets_nobody_in(api: Api) -> None:
    open_door = msgspec.structs.replace(api.context, operator_token="")
    async with AsyncClient(transport=ASGITransport(Router(routes=routes(open_door))), base_url="http://gateway") as http:
        for headers in ({"authorization": "Bearer "}, {"authorization": "Bearer"}, {}):
            assert (await http.get("/api/v1/creators", headers=headers)).status_code == 401
