"""Overage through REST: who agrees for whom, how a buyer stands, its bills. What was lent and billed is put there as rows."""

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
import sqlalchemy as sa

from gateway.billing.model import Subscription
from gateway.billing.overage.model import BillState, Idle, Line, LineState, OverageBill
from gateway.billing.overage.store import OverageStore
from gateway.billing.webhooks.store import InboxStore
from gateway.core.words import CostPolicy, LotSource
from gateway.identity.model import NewApp, Role
from gateway.ledger.audit import audit
from gateway.ledger.lending import PRIORITY
from gateway.ledger.model import GrantRequest, WalletKey
from gateway.ledger.payments import allowance_op
from gateway.trail.service import Trail

from .conftest import OPERATOR, Api

U1, ALICE = WalletKey("u1", "shop"), WalletKey("alice")
MONTHLY = {
    "enterprise_id": "shop", "kind": "subscription", "interval": "month", "name": "Plus", "currency": "USD",
    "price_micro": 20_000_000, "grant_micro": 25_000_000,
}  # fmt: skip
TERMS = {"max_micro": 50_000_000, "price_micro": 1_100_000, "per_micro": 1_000_000}
TEN = {"limit_micro": 10_000_000}


async def subscribed(api: Api, wallet: WalletKey = U1, **plan: Any) -> str:
    """The plan of a subscription that goes on, `sub_<owner>` here and `sub_at_<owner>` at Stripe."""
    body = {**MONTHLY, "overage": TERMS, "enterprise_id": wallet.enterprise_id, **plan}
    plan_id = str((await api.ok("POST", "/plans", body, 201))["id"])
    owner = wallet.owner
    row = Subscription(f"sub_{owner}", wallet, plan_id, "acct_1", f"sub_at_{owner}", "active", 1, 2, False, 1, 1)
    rows = InboxStore(api.databases)
    assert await rows.put_subscription(None, row)
    assert await rows.subscribers.claim(wallet, row.subscription_id) == row.subscription_id
    return plan_id


def line(number: int, state: LineState, wallet: WalletKey = U1, used_micro: int | None = None, plan_id: str = "plan_1") -> Line:
    name = f"ovr_{wallet.owner}_{number}"
    return Line(
        name, wallet, number, f"sub_at_{wallet.owner}", "acct_1", plan_id, state, 7_000_000, 2, 3, 1, f"lot_{name}", used_micro
    )


async def paid(api: Api, wallet: WalletKey) -> None:
    """The allowance of the subscription's period, which money paid for."""
    op_id = allowance_op(f"sub_at_{wallet.owner}", 1, 2, "paid")
    request = GrantRequest(wallet, 25_000_000, "USD", LotSource.PAID, op_id, "stripe", external_ref=f"pi_{wallet.owner}")
    await api.wallets.grant(request, op_id)


async def billed(api: Api, bill_id: str, wallet: WalletKey = U1, used_micro: int = 2_000_000, **more: Any) -> OverageBill:
    """A bill of one line that has ended."""
    rows = OverageStore(api.databases)
    number = max((each.number for each in await rows.lines(wallet)), default=0) + 1
    ended = line(number, LineState.ENDED, wallet, used_micro)
    given = {"currency": "USD", "amount_minor": 220, "fee_minor": 22, "due_at_ms": 5, "attempts": 0, "reason": "", **more}
    bill = OverageBill(
        bill_id, wallet, ended.subscription_id, "acct_1", BillState.OPEN, used_micro=used_micro, created_at_ms=5, **given
    )
    await rows.add_line(ended)
    await rows.add_bill(bill, [ended])
    return bill


def overage(amount_micro: int, op_id: str) -> GrantRequest:
    return GrantRequest(U1, amount_micro, "USD", LotSource.OVERAGE, op_id, "overage", priority=PRIORITY, expires_at_ms=2**41)


async def clean(api: Api) -> None:
    report = await audit(api.databases, ["shop"], api.balance)
    assert report.ok, [check.violations for check in report.checks if not check.ok]


async def refused(api: Api, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, str, str | None]:
    answer = await api.call(method, path, body, **more)
    assert answer.status_code >= 400, answer.text
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def check_described(api: Api, method: str, path: str, value: Any) -> None:
    described = (await api.http.get("/api/openapi.json")).json()
    schema = described["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(value, {**schema, "components": described["components"]})


# ---- agreements --------------------------------------------------------------------------------


async def test_a_buyer_agrees_sees_how_it_stands_and_ends_it(api: Api) -> None:
    assert await refused(api, "DELETE", "/overage", role=Role.END_USER) == (404, "not_found", None)
    made = await api.ok("PUT", "/overage", TEN, role=Role.END_USER)
    assert made == {
        "wallet": {"user_id": None, "enterprise_id": "shop", "platform_user_id": "u1"},
        "asset": "USD", "limit_micro": 10_000_000, "most_micro": 0, "lent_micro": 0, "used_micro": 0,
        "unbilled_micro": 0, "unpaid_micro": 0, "cost_micro": None, "plan_id": None, "currency": None, "overage": None,
        "status": "idle", "reason": "no_subscription", "updated_at": made["updated_at"],
    }  # fmt: skip
    await check_described(api, "put", "/api/v1/overage", made)
    plan_id = await subscribed(api)
    for limit_micro, most_micro in ((80_000_000, 50_000_000), (10_000_000, 10_000_000)):
        more = await api.ok("PUT", "/overage", {"limit_micro": limit_micro}, role=Role.END_USER)
        assert (more["limit_micro"], more["most_micro"], more["status"]) == (limit_micro, most_micro, "idle")
    rows = OverageStore(api.databases)
    await rows.add_line(line(1, LineState.DONE, used_micro=900, plan_id=plan_id))
    await rows.add_line(line(2, LineState.ENDED, used_micro=3_000_000, plan_id=plan_id))
    await billed(api, "bill_1", used_micro=2_000_000)
    lent = line(4, LineState.OPEN, plan_id=plan_id)
    lot_id = (await api.wallets.grant(overage(7_000_000, lent.op_id), lent.op_id)).lot.id
    await rows.add_line(msgspec.structs.replace(lent, lot_id=lot_id))
    (stands,) = (await api.ok("GET", "/overage", role=Role.END_USER))["data"]
    assert (stands["most_micro"], stands["lent_micro"]) == (10_000_000, 7_000_000)
    assert (stands["unbilled_micro"], stands["unpaid_micro"], stands["status"]) == (3_000_000, 2_000_000, "on")
    assert (stands["used_micro"], stands["cost_micro"]) == (0, 3_300_000)  # what is on a bill is not told twice
    assert (stands["plan_id"], stands["currency"], stands["overage"]) == (plan_id, "USD", TERMS)
    off = await api.ok("DELETE", "/overage", role=Role.END_USER)
    assert (off["status"], off["reason"], off["most_micro"], off["unpaid_micro"]) == ("off", "", 0, 2_000_000)
    assert (off["lent_micro"], off["unbilled_micro"]) == (0, 3_000_000)  # nothing of the last one was used
    assert (await api.wallets.view(U1)).available_micro == 0
    assert (await api.ok("GET", "/overage", role=Role.END_USER))["data"] == [off]
    await check_described(api, "delete", "/api/v1/overage", off)
    acts, _ = await Trail(api.databases).page("shop", 50, None)
    told = [(each.line.act, each.line.role, each.line.subject) for each in acts if each.line.act.startswith("overage.")]
    assert told == [("overage.end", "end_user", "u1"), *[("overage.agree", "end_user", "u1")] * 3]
    await clean(api)


async def test_who_agrees_for_whom(api: Api) -> None:
    u1, of_shop = {"platform_user_id": "u1"}, {"enterprise_id": "shop"}
    for role, fields, found in (
        (Role.OPERATOR, {**of_shop, **u1}, (403, "forbidden", None)),
        (Role.OPERATOR, of_shop, (400, "invalid_request", "platform_user_id")),
        (Role.OPERATOR, {}, (400, "invalid_request", "user_id")),
        (Role.END_USER, {"platform_user_id": "u2"}, (403, "end_user_mismatch", "platform_user_id")),
        (Role.END_USER, {"enterprise_id": "second"}, (404, "not_found", "enterprise_id")),
        (Role.APP_SERVER, {}, (400, "invalid_request", "platform_user_id")),
        (Role.APP_SERVER, {**u1, "enterprise_id": "second"}, (404, "not_found", "enterprise_id")),
        (Role.APP_SERVER, {"user_id": "alice"}, (400, "invalid_request", "user_id")),
        (Role.CREATOR, {**u1, "enterprise_id": "bobs"}, (404, "not_found", "enterprise_id")),
        (Role.CREATOR, u1, (400, "invalid_request", "platform_user_id")),
        ("bob", {**u1, **of_shop}, (404, "not_found", "enterprise_id")),
        ("bob", {"user_id": "alice"}, (404, "not_found", "user_id")),
    ):
        assert await refused(api, "PUT", "/overage", {**TEN, **fields}, role=role) == found, (role, fields)
    assert (await api.ok("GET", "/overage", enterprise_id="shop"))["data"] == []
    for role, fields, owner in (
        (Role.END_USER, {}, "u1"),
        (Role.END_USER, {**of_shop, **u1}, "u1"),
        (Role.APP_SERVER, {"platform_user_id": "u2"}, "u2"),
        (Role.CREATOR, {**of_shop, "platform_user_id": "u3"}, "u3"),
    ):
        made = await api.ok("PUT", "/overage", {**TEN, **fields}, role=role)
        assert made["wallet"]["platform_user_id"] == owner
    for role, query, owners in (
        (Role.END_USER, {}, ["u1"]),
        (Role.APP_SERVER, {}, ["u1", "u2", "u3"]),
        (Role.APP_SERVER, {"platform_user_id": "u2"}, ["u2"]),
        (Role.CREATOR, of_shop, ["u1", "u2", "u3"]),
        (Role.CREATOR, {"enterprise_id": "second"}, []),
        (Role.CREATOR, {}, []),
        (Role.OPERATOR, of_shop, ["u1", "u2", "u3"]),
        (Role.OPERATOR, {}, []),
    ):
        rows = (await api.ok("GET", "/overage", role=role, query=query))["data"]
        assert [row["wallet"]["platform_user_id"] for row in rows] == owners, (role, query)
    for path in ("/overage", "/overage-bills"):
        assert (await refused(api, "GET", path, role=Role.END_USER, platform_user_id="u2"))[:2] == (403, "end_user_mismatch")
        assert await refused(api, "GET", path, role="bob", enterprise_id="shop") == (404, "not_found", "enterprise_id")
        assert await refused(api, "GET", path, role="bob", user_id="alice") == (404, "not_found", "user_id")
    assert (await refused(api, "DELETE", "/overage", role=Role.END_USER, platform_user_id="u2"))[0] == 403
    assert (await refused(api, "DELETE", "/overage", role="bob", enterprise_id="shop", platform_user_id="u2"))[0] == 404
    gone = await api.ok("DELETE", "/overage", enterprise_id="shop", platform_user_id="u2")
    assert (gone["status"], gone["wallet"]["platform_user_id"]) == ("off", "u2")


async def test_a_creator_agrees_with_the_platform_for_itself_and_the_operator_sells_to_it(api: Api) -> None:
    await subscribed(api, ALICE)
    for role, fields in ((Role.CREATOR, {}), (Role.CREATOR, {"user_id": "alice"}), (Role.OPERATOR, {"user_id": "alice"})):
        made = await api.ok("PUT", "/overage", {**TEN, **fields}, role=role)
        assert made["wallet"] == {"user_id": "alice", "enterprise_id": None, "platform_user_id": None}
        assert made["most_micro"] == 10_000_000
    await billed(api, "bill_1", ALICE, fee_minor=0)
    for role, rows in ((Role.OPERATOR, 1), (Role.CREATOR, 1), ("bob", 0)):
        assert len((await api.ok("GET", "/overage", role=role))["data"]) == rows
        assert len((await api.ok("GET", "/overage-bills", role=role))["data"]) == rows
    assert (await api.ok("DELETE", "/overage", role=Role.CREATOR))["status"] == "off"


@pytest.mark.parametrize(
    ("method", "body", "query", "param"),
    [
        ("PUT", {}, {}, "limit_micro"),
        ("PUT", {"limit_micro": 0}, {}, "limit_micro"),
        ("PUT", {"limit_micro": -5}, {}, "limit_micro"),
        ("PUT", {"limit_micro": 2**53}, {}, "limit_micro"),
        ("PUT", {"limit_micro": 1.5}, {}, "limit_micro"),
        ("PUT", {"limit_micro": "5"}, {}, "limit_micro"),
        ("PUT", {"limit_micro": True}, {}, "limit_micro"),
        ("PUT", {"limit_micro": None}, {}, "limit_micro"),
        ("PUT", {**TEN, "most_micro": 5}, {}, "most_micro"),
        ("PUT", {**TEN, "app": "shop"}, {}, "app"),
        ("PUT", {**TEN, "platform_user_id": "a/b"}, {}, "platform_user_id"),
        ("PUT", [TEN], {}, "body"),
        ("DELETE", None, {"limit_micro": "5"}, "limit_micro"),
        ("GET", None, {"limit": "0"}, "limit"),
        ("GET", None, {"limit": "201"}, "limit"),
        ("GET", None, {"cursor": "a/b"}, "cursor"),
        ("GET", None, {"status": "on"}, "status"),
    ],
)
async def test_what_cannot_be_meant_is_refused_and_named(
    api: Api, method: str, body: Any, query: dict[str, str], param: str
) -> None:
    sent = {"platform_user_id": "u1", **body} if isinstance(body, dict) else body
    found = await refused(api, method, "/overage", sent, role=Role.APP_SERVER, query=query)
    assert (found[0], found[2]) == (400, param)
    assert (await api.ok("GET", "/overage", role=Role.APP_SERVER))["data"] == []


async def test_after_a_bill_that_nobody_paid_its_seller_alone_turns_it_on_again(api: Api) -> None:
    await api.ok("PUT", "/overage", TEN, role=Role.END_USER)
    rows = OverageStore(api.databases)
    assert await rows.pause(U1, "payment_refunded", 5)
    (paused,) = (await api.ok("GET", "/overage", role=Role.END_USER))["data"]
    assert (paused["status"], paused["reason"], paused["most_micro"]) == ("paused", "payment_refunded", 0)
    assert (await api.ok("PUT", "/overage", TEN, role=Role.END_USER))["status"] == "idle"
    assert await rows.pause(U1, "unpaid", 5)
    still = await api.ok("DELETE", "/overage", role=Role.END_USER)  # ending it is no way out
    assert (still["status"], still["reason"]) == ("paused", "unpaid")
    assert await refused(api, "PUT", "/overage", TEN, role=Role.END_USER) == (403, "unpaid", None)
    assert not await rows.pause(U1, "unpaid", 6)
    assert not await rows.pause(U1, "payment_disputed", 6)
    again = await api.ok("PUT", "/overage", {**TEN, "platform_user_id": "u1"}, role=Role.APP_SERVER)
    assert (again["status"], again["reason"]) == ("idle", "no_subscription")
    for reason in ("", "payment_refunded"):  # who ended it, or was paused, before the bill was lost
        await api.ok("PUT", "/overage", {**TEN, "platform_user_id": "u1"}, role=Role.APP_SERVER)
        if reason:
            assert await rows.pause(U1, reason, 7)
        else:
            await api.ok("DELETE", "/overage", role=Role.END_USER)
        assert not await rows.pause(U1, "payment_refunded", 8)
        assert await rows.pause(U1, "unpaid", 9)
        assert await refused(api, "PUT", "/overage", TEN, role=Role.END_USER) == (403, "unpaid", None)


async def test_who_has_agreed_and_is_lent_nothing_is_told_why(api: Api) -> None:
    inbox, wallets = InboxStore(api.databases), {name: WalletKey(name, "shop") for name in ("no", "bare", "due", "gift", "full")}
    await subscribed(api, wallets["bare"], overage=None)
    for name in ("due", "gift", "full"):
        await subscribed(api, wallets[name])
    for name in ("due", "full"):
        await paid(api, wallets[name])
    await billed(api, "bill_1", wallets["full"], used_micro=10_000_000)
    held = await inbox.subscription("shop", "sub_at_due")
    assert held is not None
    assert await inbox.put_subscription(held, msgspec.structs.replace(held, state="past_due"))
    reasons = {"no": "no_subscription", "bare": "plan_without_overage", "due": "not_paid_for", "gift": "not_paid_for"}
    for name, reason in {**reasons, "full": "limit_reached"}.items():
        made = await api.ok("PUT", "/overage", {**TEN, "platform_user_id": name}, role=Role.APP_SERVER)
        assert (made["status"], made["reason"]) == ("idle", reason), name
    more = await api.ok("PUT", "/overage", {"limit_micro": 11_000_000, "platform_user_id": "full"}, role=Role.APP_SERVER)
    assert (more["status"], more["reason"], more["lent_micro"]) == ("on", "", 1_000_000)
    ended = msgspec.structs.replace(held, state="canceled")
    assert await inbox.put_subscription(await inbox.subscription("shop", "sub_at_due"), ended)
    (gone,) = (await api.ok("GET", "/overage", role=Role.APP_SERVER, platform_user_id="due"))["data"]
    assert (gone["status"], gone["reason"]) == ("idle", "no_subscription")
    described = (await api.http.get("/api/openapi.json")).json()["components"]["schemas"]["AgreementAnswer"]["properties"]
    assert all(f"`{reason}`" in described["reason"]["description"] for reason in Idle)
    selling = Path(__file__, "../../../docs/selling.md").resolve().read_text()
    assert all(f"`{reason}`" in selling for reason in Idle)


async def test_nobody_agrees_to_overage_where_the_platform_pays(api: Api) -> None:
    new = NewApp("given", "alice", "Given", cost_policy=CostPolicy.PLATFORM_PAYS)
    await api.registry.create_app(OPERATOR, new)
    found = await api.call("PUT", "/overage", {**TEN, "enterprise_id": "given", "platform_user_id": "u1"}, role=Role.CREATOR)
    assert (found.status_code, found.json()["error"]["param"]) == (400, "enterprise_id")
    assert "Nothing is lent in an app whose usage the platform pays for" in found.text
    assert (await api.ok("GET", "/overage", enterprise_id="given"))["data"] == []


# ---- lists -------------------------------------------------------------------------------------


async def test_agreements_are_listed_by_owner_page_by_page(api: Api) -> None:
    for owner in ("u4", "u1", "u3", "u2", "u5"):
        await api.ok("PUT", "/overage", {**TEN, "platform_user_id": owner}, role=Role.APP_SERVER)
    pages, cursor = [], dict[str, str]()
    while True:
        page = await api.ok("GET", "/overage", role=Role.APP_SERVER, query={"limit": "2", **cursor})
        pages.append([row["wallet"]["platform_user_id"] for row in page["data"]])
        await check_described(api, "get", "/api/v1/overage", page)
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [["u1", "u2"], ["u3", "u4"], ["u5"]]


async def test_a_page_of_agreements_is_as_many_reads_as_one(api: Api) -> None:
    asked = list[str]()
    for owner in ("u1", "u2", "u3", "u4"):
        await subscribed(api, WalletKey(owner, "shop"))
        if owner == "u1":  # to whom something is lent
            await paid(api, WalletKey(owner, "shop"))
        await api.ok("PUT", "/overage", {**TEN, "platform_user_id": owner}, role=Role.APP_SERVER)

    def note(*given: Any) -> None:
        asked.append(given[2])

    engines = [api.databases.platform.sync_engine, (await api.databases.app("shop")).sync_engine]
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    counts = []
    for limit in (2, 4):
        asked.clear()
        page = await api.ok("GET", "/overage", role=Role.APP_SERVER, limit=limit)
        assert [row["reason"] for row in page["data"]] == ["", *["not_paid_for"] * (limit - 1)]
        counts.append(len(asked))
    assert counts[0] == counts[1] > 5


async def test_bills_are_listed_newest_first_with_the_share_for_who_has_it(api: Api) -> None:
    u2, rows = WalletKey("u2", "shop"), OverageStore(api.databases)
    await subscribed(api)
    await subscribed(api, u2)
    paid = await billed(api, "bill_1")
    await rows.end_bill(paid, BillState.PAID, 9, "pi_1")
    await billed(api, "bill_2", u2, reason="Stripe says no", currency="KWD", amount_minor=1_500, fee_minor=150)
    given = await billed(api, "bill_3", used_micro=4)
    await rows.end_bill(given, BillState.GIVEN, 10, reason="its invoice is void")
    shop = (await api.ok("GET", "/overage-bills", role=Role.CREATOR, enterprise_id="shop"))["data"]
    assert shop == (await api.ok("GET", "/overage-bills", enterprise_id="shop"))["data"]
    assert shop[2] == {
        "id": "bill_1", "wallet": {"user_id": None, "enterprise_id": "shop", "platform_user_id": "u1"},
        "subscription_id": "sub_u1", "state": "paid", "currency": "USD", "used_micro": 2_000_000, "amount_micro": 2_200_000,
        "reason": "", "created_at": "1970-01-01T00:00:00.005Z", "ended_at": "1970-01-01T00:00:00.009Z",
        "fee_micro": 220_000, "payment_id": "pi_1",
    }  # fmt: skip
    assert [(row["id"], row["state"], row["subscription_id"], row["reason"], row["ended_at"] is None) for row in shop[:2]] == [
        ("bill_3", "given", "sub_u1", "its invoice is void", False),
        ("bill_2", "open", "sub_u2", "Stripe says no", True),
    ]
    assert (shop[1]["amount_micro"], shop[1]["fee_micro"], shop[1]["payment_id"]) == (1_500_000, 150_000, None)
    bare = [{name: value for name, value in row.items() if name not in ("fee_micro", "payment_id")} for row in shop]
    assert (await api.ok("GET", "/overage-bills", role=Role.APP_SERVER))["data"] == bare
    own = await api.ok("GET", "/overage-bills", role=Role.END_USER)
    assert own["data"] == [bare[0], bare[2]]
    first = await api.ok("GET", "/overage-bills", role=Role.END_USER, limit=1)
    assert (first["data"], first["has_more"], first["next_cursor"]) == ([bare[0]], True, "bill_3")
    rest = await api.ok("GET", "/overage-bills", role=Role.END_USER, limit=1, cursor=first["next_cursor"])
    assert (rest["data"], rest["has_more"]) == ([bare[2]], False)
    for page in (own, first, {**own, "data": shop}):
        await check_described(api, "get", "/api/v1/overage-bills", page)
    assert await refused(api, "GET", "/overage-bills", role=Role.APP_SERVER, limit=0) == (400, "invalid_request", "limit")


# ---- wallets -----------------------------------------------------------------------------------


async def test_a_wallet_shows_what_is_lent_and_nobody_grants_it_by_hand(api: Api) -> None:
    await api.wallets.grant(overage(700, "line"), "line")
    await api.grant({"enterprise_id": "shop", "platform_user_id": "u1"}, 5, "k")
    shown = await api.ok("GET", "/apps/shop/wallets/u1", role=Role.END_USER)
    assert [(lot["source"], lot["left_micro"]) for lot in shown["lots"]] == [("promo", 5), ("overage", 700)]
    assert shown["available_micro"] == 705
    await check_described(api, "get", "/api/v1/apps/{enterprise_id}/wallets/{platform_user_id}", shown)
    for role in (Role.OPERATOR, Role.CREATOR):
        answer = await api.grant({"enterprise_id": "shop", "platform_user_id": "u1"}, 5, "o", role, source="overage")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "source")
    described = (await api.http.get("/api/openapi.json")).json()
    source = described["components"]["schemas"]["GrantBody"]["properties"]["source"]
    assert sorted(source["enum"]) == sorted(each for each in LotSource if each != LotSource.OVERAGE)
    await clean(api)
