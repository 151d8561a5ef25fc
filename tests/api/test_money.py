"""Grants, wallets, books and usage over HTTP: once per key, both stores agree, nobody sees another's money."""

import msgspec
import pytest

from gateway.balance.model import Admitted, Charge, HoldRequest
from gateway.core.ids import shard_of
from gateway.core.units import Usage
from gateway.identity.model import Role
from gateway.ledger.audit import audit
from gateway.ledger.model import GrantRequest, RefundRequest, UsagePosting, UsageRow, WalletKey
from tests.balance.server import handle

from .conftest import Api

U1 = {"enterprise_id": "shop", "platform_user_id": "u1"}


def posting(number: int, at_ms: int, *, level: str = "app_usage", end_user: str = "u1", app: str = "shop") -> UsagePosting:
    row = UsageRow(
        request_id=f"req_{number}",
        at=at_ms,
        level=level,
        user_id="alice",
        platform_user_id=end_user if level == "app_usage" else "",
        key_id="key_1",
        workflow_type="draft",
        session_id="s1",
        agent_name="",
        tags=("a",),
        endpoint="/chat/completions",
        model="gpt-4o",
        provider="openai",
        deployment="gpt-4o/openai/0",
        status="served",
        usage_source="upstream",
        units=Usage(input=10, output=5, reasoning=2),
        input_tokens=10,
        output_tokens=7,
        asset="USD",
        amount_micro=1_500_000,
        creator_micro=1_500_000 if level == "platform" else 0,
        provider_cost_micro=700_000,
        streamed=False,
        latency_ms=12,
        ttft_ms=3,
        attempts=1,
        http_status=200,
        flags=(),
    )
    return UsagePosting(app, "USD", True, row)


async def post(api: Api, *postings: UsagePosting) -> None:
    for each in postings:
        await api.ledger.post_app_usage(each.enterprise_id, [each])
        await api.ledger.post_platform_usage([each])


@pytest.mark.parametrize(("wallet", "path"), [({"user_id": "alice"}, "/wallets/alice"), (U1, "/apps/shop/wallets/u1")])
async def test_a_grant_is_in_the_books_and_spendable_at_once_and_only_once(api: Api, wallet: dict[str, str], path: str) -> None:
    first = await api.grant(wallet, 5_000_000, "k1", source="paid", reason="top-up")
    assert first.status_code == 201
    assert first.json()["id"].startswith("txn_")
    again = await api.grant(wallet, 5_000_000, "k1", source="paid", reason="top-up")
    assert (again.status_code, again.json()) == (201, first.json())
    shown = await api.ok("GET", path)
    assert (shown["asset"], shown["available_micro"], shown["held_micro"]) == ("USD", 5_000_000, 0)
    assert (shown["debt_micro"], shown["pending_micro"]) == (0, 0)
    assert [(lot["source"], lot["left_micro"]) for lot in shown["lots"]] == [("paid", 5_000_000)]
    name = "p/alice" if "user_id" in wallet else "a/shop/u1"
    (hot,) = await api.balance.read(shard_of("alice"), [name])
    assert hot is not None
    assert hot.available_micro == 5_000_000
    other = await api.grant(wallet, 6_000_000, "k1", source="paid", reason="top-up")
    assert (other.status_code, other.json()["error"]["param"]) == (409, "Idempotency-Key")
    assert (await api.ok("GET", path))["available_micro"] == 5_000_000


async def test_the_same_key_counts_once_though_sent_with_another_management_key(api: Api) -> None:
    first = await api.grant(U1, 5, "k", role=Role.CREATOR)
    api.credentials["fresh"] = (await api.ok("POST", "/management-keys", {}, 201, role=Role.CREATOR))["secret"]
    again = await api.grant(U1, 5, "k", role="fresh")
    assert again.json() == first.json()


async def test_a_creator_grants_in_its_own_apps_only_and_never_to_itself(api: Api) -> None:
    assert (await api.grant(U1, 5, "k", role=Role.CREATOR)).status_code == 201
    assert (await api.grant(U1, 5, "k", role="bob")).status_code == 404
    assert (await api.grant({"user_id": "alice"}, 5, "k", role=Role.CREATOR)).status_code == 403
    for role in (Role.APP_SERVER, Role.END_USER):
        assert (await api.grant(U1, 5, "k", role=role)).status_code == 403
    assert (await api.ok("GET", "/apps/shop/wallets/u1"))["available_micro"] == 5


async def test_a_grant_for_later_is_pending_until_then(api: Api) -> None:
    await api.grant(U1, 5, "k", effective_at="2099-01-01T00:00:00Z")
    shown = await api.ok("GET", "/apps/shop/wallets/u1")
    assert (shown["available_micro"], shown["pending_micro"]) == (0, 5)


async def test_a_wallet_never_used_is_empty_not_missing(api: Api) -> None:
    shown = await api.ok("GET", "/apps/shop/wallets/newcomer")
    nothing = ("available", "held", "debt", "pending", "left", "owed", "undrained")
    assert shown == {"asset": "USD", **{f"{name}_micro": 0 for name in nothing}, "lots": []}


async def test_what_is_shown_of_a_wallet_adds_up_whatever_it_owes_holds_and_waits_for(api: Api) -> None:
    wallet, shard = WalletKey("u1", "shop"), shard_of("alice")

    async def shown(*expected: int) -> None:
        """(left, owed, held, pending, undrained, available, debt)."""
        found = await api.ok("GET", "/apps/shop/wallets/u1", role=Role.END_USER)
        left, owed, held, pending, undrained, available, debt = (
            found[f"{name}_micro"] for name in ("left", "owed", "held", "pending", "undrained", "available", "debt")
        )
        assert (left, owed, held, pending, undrained, available, debt) == expected
        assert left == sum(lot["left_micro"] for lot in found["lots"])
        assert left - owed - held - pending - undrained == available - debt

    async def use(number: int, amount_micro: int) -> None:
        row = posting(number, 1)
        await post(api, msgspec.structs.replace(row, row=msgspec.structs.replace(row.row, amount_micro=amount_micro)))

    for number in (1, 2):
        request = GrantRequest(wallet, 1000, "USD", "paid", f"buy {number}", "stripe", external_ref=f"pi_{number}")
        await api.wallets.grant(request, f"buy {number}")
    await shown(2000, 0, 0, 0, 0, 2000, 0)
    hold = HoldRequest("req_held", shard, (Charge(wallet.name, 100, 100),), (), 60_000, b"{}")
    assert isinstance(await api.balance.reserve(hold), Admitted)
    await shown(2000, 0, 100, 0, 0, 1900, 0)
    await api.balance.credit("used", shard, wallet.name, -1045)  # it is not drained yet
    await shown(2000, 0, 100, 0, 1045, 855, 0)
    await use(1, 1045)
    await shown(955, 0, 100, 0, 0, 855, 0)
    await api.grant(U1, 7, "later", effective_at="2099-01-01T00:00:00Z")
    await shown(962, 0, 100, 7, 0, 855, 0)
    await api.wallets.deliver(await api.ledger.payments.refund(RefundRequest(wallet, "pi_1", "re_1", 400, "tester")))
    await shown(962, 400, 100, 7, 0, 455, 0)  # a debt that what is left covers
    await api.wallets.deliver(await api.ledger.payments.refund(RefundRequest(wallet, "pi_1", "re_2", 600, "tester")))
    await shown(962, 1000, 100, 7, 0, 0, 145)
    assert await api.balance.release(handle(hold))
    await shown(962, 1000, 0, 7, 0, 0, 45)
    await api.grant(U1, 50, "more")  # it pays the debt
    await shown(962, 950, 0, 7, 0, 5, 0)
    owed = (await api.ok("GET", "/ledger/accounts", enterprise_id="shop", owner="u1", kind="receivable.clawback"))["data"]
    assert [row["balance_micro"] for row in owed] == [-950]
    report = await audit(api.databases, ["shop"], api.balance)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


async def test_each_sees_its_own_wallets_only(api: Api) -> None:
    for role, path, status in (
        (Role.END_USER, "/apps/shop/wallets/u1", 200),
        (Role.END_USER, "/apps/shop/wallets/u2", 404),
        (Role.APP_SERVER, "/apps/shop/wallets/u2", 200),
        (Role.APP_SERVER, "/apps/second/wallets/u1", 404),
        (Role.CREATOR, "/apps/second/wallets/u1", 200),
        (Role.CREATOR, "/wallets/alice", 200),
        (Role.CREATOR, "/wallets/bob", 404),
        ("bob", "/apps/shop/wallets/u1", 404),
    ):
        assert (await api.call("GET", path, role=role)).status_code == status, (role, path)


async def test_the_books_are_shown_by_app_and_the_platforms_to_the_operator_only(api: Api) -> None:
    await api.grant(U1, 7, "k", source="promo", reason="hello")
    await api.grant({"user_id": "alice"}, 9, "k")
    (txn,) = (await api.ok("GET", "/ledger/transactions", enterprise_id="shop", role=Role.CREATOR))["data"]
    assert (txn["kind"], txn["reason"], txn["actor"]) == ("grant", "hello", "operator")
    assert {(entry["account"], entry["amount_micro"]) for entry in txn["entries"]} == {
        ("expense.promo", -7),
        ("user.available", 7),
    }
    accounts = (await api.ok("GET", "/ledger/accounts", enterprise_id="shop", owner="u1"))["data"]
    assert accounts == [{"owner": "u1", "account": "user.available", "asset": "USD", "balance_micro": 7}]
    (own,) = (await api.ok("GET", "/ledger/transactions"))["data"]
    assert {entry["amount_micro"] for entry in own["entries"]} == {-9, 9}
    for path in ("/ledger/transactions", "/ledger/accounts", "/usage"):
        refused = await api.call("GET", path, role=Role.CREATOR)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "enterprise_id")
        assert (await api.call("GET", path, role="bob", enterprise_id="shop")).status_code == 404


async def test_a_usage_event_keeps_the_names_of_the_usage_protocol(api: Api) -> None:
    await post(api, posting(1, 1_000), posting(2, 2_000, level="platform"))
    newest, oldest = (await api.ok("GET", "/apps/shop/usage-events", role=Role.CREATOR))["data"]
    assert (newest["request_id"], newest["level"], newest["billing_target"]) == ("req_2", "platform", "mozaiks_user")
    assert newest["platform_user_id"] is None
    protocol = {
        "level": "app_usage",
        "user_id": "alice",
        "enterprise_id": "shop",
        "platform_user_id": "u1",
        "workflow_type": "draft",
        "tokens_used": 17,
        "cost": "1.5",
        "billing_target": "app_user",
    }
    exact = {
        "amount_micro": 1_500_000,
        "provider_cost_micro": 700_000,
        "latency_ms": 12,
        "ttft_ms": 3,
        "at": "1970-01-01T00:00:01.000Z",
    }
    assert (protocol | exact).items() <= oldest.items()
    assert oldest["units"] == {"input": 10, "output": 5, "reasoning": 2}


async def test_end_users_and_app_servers_see_end_users_usage_only(api: Api) -> None:
    await post(api, posting(1, 1_000), posting(2, 2_000, end_user="u2"), posting(3, 3_000, level="platform"))

    async def seen(role: str, **query: str) -> list[str]:
        found = await api.ok("GET", "/apps/shop/usage-events", role=role, query=query)
        return [event["request_id"] for event in found["data"]]

    assert await seen(Role.CREATOR) == ["req_3", "req_2", "req_1"]
    assert await seen(Role.APP_SERVER) == ["req_2", "req_1"]
    assert await seen(Role.APP_SERVER, platform_user_id="u2") == ["req_2"]
    assert await seen(Role.END_USER) == ["req_1"]
    assert (await api.call("GET", "/apps/shop/usage-events", role=Role.END_USER, platform_user_id="u2")).status_code == 403
    assert (await api.call("GET", "/apps/shop/usage-events", role=Role.APP_SERVER, level="platform")).status_code == 403
    (event,) = (await api.ok("GET", "/apps/shop/usage-events", role=Role.END_USER))["data"]
    assert not {"provider_cost_micro", "creator_amount_micro", "provider", "deployment", "key_id"} & set(event)


async def test_usage_adds_up_within_an_app_and_over_all(api: Api) -> None:
    hour = 3_600_000
    await post(api, posting(1, 1), posting(2, hour), posting(3, 2, level="platform"), posting(4, 3, app="second"))
    (by_model,) = (await api.ok("GET", "/usage", enterprise_id="shop", level="app_usage", role=Role.CREATOR))["data"]
    assert (by_model["group"], by_model["requests"], by_model["amount_micro"]) == ({"model": "gpt-4o"}, 2, 3_000_000)
    by_hour = (await api.ok("GET", "/usage", enterprise_id="shop", group_by="hour,level"))["data"]
    assert [(row["group"]["hour"], row["group"]["level"], row["requests"]) for row in by_hour] == [
        ("1970-01-01T00:00:00.000Z", "app_usage", 1),
        ("1970-01-01T00:00:00.000Z", "platform", 1),
        ("1970-01-01T01:00:00.000Z", "app_usage", 1),
    ]
    everywhere = (await api.ok("GET", "/usage"))["data"]
    assert [(row["group"]["enterprise_id"], row["requests"]) for row in everywhere] == [("second", 1), ("shop", 3)]
    (total,) = (await api.ok("GET", "/usage", group_by=""))["data"]
    assert (total["group"], total["requests"], total["amount_micro"]) == ({}, 4, 6_000_000)
    assert (total["creator_amount_micro"], total["provider_cost_micro"], total["tokens_used"]) == (1_500_000, 2_800_000, 68)
    later = (await api.ok("GET", "/usage", query={"from": "1970-01-01T01:00:00Z", "to": "1970-01-01T02:00:00Z"}))["data"]
    assert [(row["group"]["enterprise_id"], row["requests"]) for row in later] == [("shop", 1)]
    whole = (await api.ok("GET", "/usage", enterprise_id="shop", group_by="", to="1970-01-01T01:00:00Z"))["data"]
    assert [row["requests"] for row in whole] == [2]


async def test_a_creator_cannot_give_away_what_the_operator_pays_for(api: Api) -> None:
    new = {"enterprise_id": "lavish", "user_id": "alice", "name": "lavish"}
    await api.ok("POST", "/apps", {**new, "cost_policy": "platform_pays"}, 201, role=Role.CREATOR)
    wallet = {"enterprise_id": "lavish", "platform_user_id": "u1"}
    assert (await api.grant(wallet, 5, "k", role=Role.CREATOR)).status_code == 403
    assert (await api.grant(wallet, 5, "k")).status_code == 201
    assert (await api.grant(U1, 5, "paid", role=Role.CREATOR, source="paid")).status_code == 403
    for field, value in (("enforcement", "analytics_only"), ("cost_policy", "own_keys")):
        body = {**new, "enterprise_id": f"free-{value}", field: value}
        assert (await api.call("POST", "/apps", body, role=Role.CREATOR)).status_code == 403
        await api.ok("POST", "/apps", body, 201)


async def test_a_grant_with_an_expiry_says_so_and_one_in_the_past_is_refused(api: Api) -> None:
    granted = await api.grant(U1, 5, "k", expires_at="2099-01-01T00:00:00Z")
    assert granted.json()["lot"]["expires_at"] == "2099-01-01T00:00:00.000Z"
    (lot,) = (await api.ok("GET", "/apps/shop/wallets/u1"))["lots"]
    assert lot["expires_at"] == "2099-01-01T00:00:00.000Z"


BAD_GRANTS: list[tuple[dict[str, object], str]] = [
    ({"amount_micro": 0}, "amount_micro"),
    ({"amount_micro": -5}, "amount_micro"),
    ({"amount_micro": 2**53}, "amount_micro"),
    ({"amount_micro": 10**30}, "amount_micro"),
    ({"amount_micro": 1.5}, "amount_micro"),
    ({"amount_micro": True}, "amount_micro"),
    ({"amount_micro": "5"}, "amount_micro"),
    ({"amount_micro": None}, "amount_micro"),
    ({"asset": "TOK"}, "asset"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"expires_at": "2099-01-01T00:00:00Z", "effective_at": "2099-01-02T00:00:00Z"}, "expires_at"),
    ({"expires_at": "soon"}, "expires_at"),
    ({"expires_at": "2099-01-01T00:00:00"}, "expires_at"),
    ({"source": "gift"}, "source"),
    ({"priority": 10**7}, "priority"),
    ({"priority": 0.5}, "priority"),
    ({"reason": "x" * 501}, "reason"),
    ({"fees": {"platform_micro": 1}}, "fees"),
    ({"wallet": {"enterprise_id": "shop"}}, "wallet"),
    ({"wallet": {"enterprise_id": "shop", "platform_user_id": "a/b"}}, "wallet.platform_user_id"),
]


@pytest.mark.parametrize(("wrong", "param"), BAD_GRANTS, ids=[str(case[0])[:60] for case in BAD_GRANTS])
async def test_a_wrong_grant_is_refused_by_name_and_moves_nothing(api: Api, wrong: dict[str, object], param: str) -> None:
    await api.grant(U1, 7, "first")
    before = await api.ok("GET", "/ledger/accounts", enterprise_id="shop")
    body = {"wallet": U1, "amount_micro": 5, **wrong}
    answer = await api.call("POST", "/grants", body, headers={"idempotency-key": "k"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert await api.ok("GET", "/ledger/accounts", enterprise_id="shop") == before
    assert [one["op_id"] for one in (await api.ok("GET", "/ledger/transactions", enterprise_id="shop"))["data"]] == [
        "grant:operator:first"
    ]
    (hot,) = await api.balance.read(shard_of("alice"), ["a/shop/u1"])
    assert hot is not None
    assert hot.available_micro == 7
    assert (await api.grant(U1, 5, "k")).status_code == 201, "the key of a refused grant is free"


async def test_a_grant_into_a_wallet_of_nobody_is_not_found(api: Api) -> None:
    for wallet in ({"user_id": "nobody"}, {"enterprise_id": "nowhere", "platform_user_id": "u1"}):
        assert (await api.grant(wallet, 5, "k")).status_code == 404


async def test_an_app_with_a_trial_shows_it_and_a_wrong_one_is_refused(api: Api) -> None:
    new = {"enterprise_id": "trying", "user_id": "alice", "name": "t", "cost_policy": "creator_pays"}
    for wrong, param in (
        ({"amount_micro": 0, "days": 7}, "trial.amount_micro"),
        ({"amount_micro": 5, "days": 0}, "trial.days"),
        ({"amount_micro": 5, "days": 3651}, "trial.days"),
        ({"amount_micro": 1.5, "days": 7}, "trial.amount_micro"),
        ({"amount_micro": 5}, "trial.days"),
        ({"amount_micro": 5, "days": 7, "weeks": 1}, "trial.weeks"),
    ):
        answer = await api.call("POST", "/apps", {**new, "trial": wrong})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    trial = {"amount_micro": 5, "days": 7}
    made = await api.ok("POST", "/apps", {**new, "trial": trial}, 201, role=Role.CREATOR)
    assert made["trial"] == trial
    assert (await api.ok("GET", "/apps/trying"))["trial"] == trial
    assert (await api.ok("PATCH", "/apps/trying", {"trial": None}, role=Role.CREATOR))["trial"] is None
    assert (await api.ok("GET", "/apps/trying"))["trial"] is None
    assert (await api.ok("PATCH", "/apps/trying", {"trial": trial}))["trial"] == trial


async def test_a_creator_gives_no_trials_of_what_the_operator_pays_for(api: Api) -> None:
    new = {"enterprise_id": "lavish", "user_id": "alice", "name": "lavish", "cost_policy": "platform_pays"}
    trial = {"amount_micro": 5, "days": 7}
    assert (await api.call("POST", "/apps", {**new, "trial": trial}, role=Role.CREATOR)).status_code == 403
    await api.ok("POST", "/apps", new, 201, role=Role.CREATOR)
    assert (await api.call("PATCH", "/apps/lavish", {"trial": trial}, role=Role.CREATOR)).status_code == 403
    assert (await api.ok("PATCH", "/apps/lavish", {"trial": trial}))["trial"] == trial
    measured = {**new, "enterprise_id": "measured", "enforcement": "analytics_only", "trial": trial}
    assert (await api.call("POST", "/apps", measured)).json()["error"]["param"] == "trial"


async def test_a_creator_gives_nothing_away_by_prices_where_the_operator_pays(api: Api) -> None:
    new = {"enterprise_id": "cheap", "user_id": "alice", "name": "cheap", "cost_policy": "platform_pays"}
    await api.ok("POST", "/apps", new, 201, role=Role.CREATOR)
    for price in ("0", "0.000001"):
        body = {"model": f"at {price}", "prices": {"input": price, "output": price}}
        answer = await api.call("POST", "/apps/cheap/price-books", body, role=Role.CREATOR)
        assert (answer.status_code, answer.json()["error"]["param"]) == (403, "prices")
        await api.ok("POST", "/apps/shop/price-books", body, 201, role=Role.CREATOR)  # it pays for this one's usage
        await api.ok("POST", "/apps/cheap/price-books", body, 201)
        assert (await api.ok("GET", "/apps/cheap/price-books"))["data"][0]["model"] == body["model"]
    await api.ok("POST", "/apps/cheap/price-books", {"markup_percent": 5}, 201, role=Role.CREATOR)
