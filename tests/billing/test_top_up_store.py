"""Rows of automatic top-up on both kinds of database: of any number that begin at once one does, and the caps hold there."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from gateway.billing.model import Branding, Purchase, PurchaseState, TopUpRule
from gateway.billing.store import Store
from gateway.billing.top_ups.store import FAILED_DAILY_MAX, Begun, Saved, Since, Spent, TopUpStore
from gateway.billing.webhooks.store import InboxStore
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.ledger.model import GrantRequest, WalletKey
from gateway.ledger.service import Ledger
from gateway.trail.model import Act
from gateway.trail.service import Trail
from tests.db.conftest import databases as databases
from tests.db.conftest import urls as urls
from tests.ledger.conftest import add_owners

ANN, CAROL = WalletKey("ann", "shop"), WalletKey("carol")
NUMBERS = itertools.count(1)
ALWAYS = Since(0, 0)


def act(wallet: WalletKey) -> Act:
    return Act("purchase.create", "system", "top-up", "x", enterprise_id=wallet.enterprise_id or "")


def rule(wallet: WalletKey, **more: int) -> TopUpRule:
    given: dict[str, Any] = {"below_micro": 5, "monthly_max_minor": 1000, "daily_max": 24, **more}
    return TopUpRule(wallet, "plan_1", is_enabled=True, reason="", updated_at_ms=next(NUMBERS), **given)


def purchase(wallet: WalletKey, at_ms: int = 50, amount_minor: int = 300) -> Purchase:
    return Purchase(
        f"pur_{next(NUMBERS)}", wallet, "plan_1", "acct_1", "open", amount_minor, "USD", 3, 7, at_ms,
        is_automatic=True, method_id="pm_1",
    )  # fmt: skip


async def held(rows: TopUpStore, wallet: WalletKey) -> TopUpRule:
    found = await rows.rule(wallet)
    assert found is not None
    return found


@pytest.mark.parametrize("wallet", [ANN, CAROL], ids=["end user", "creator"])
async def test_of_many_that_begin_at_once_one_does_and_the_next_when_that_one_has_ended(
    databases: Databases, wallet: WalletKey
) -> None:
    await add_owners(databases)
    rows, inbox, sales = TopUpStore(databases), InboxStore(databases), Store(databases)
    await rows.put(rule(wallet), act(wallet))
    for paid in range(1, 4):
        now = await held(rows, wallet)
        made = [purchase(wallet) for _ in range(4)]
        begun = await asyncio.gather(*[rows.begin(now, each, ALWAYS, act(wallet)) for each in made])
        assert sorted(begun) == [Begun.MOVED] * 3 + [Begun.YES]
        (mine,) = [each for each, one in zip(made, begun, strict=True) if one == Begun.YES]
        assert await sales.purchase(wallet.enterprise_id, mine.id) == mine
        now = await held(rows, wallet)
        assert now.last_purchase_id == mine.id
        assert await rows.begin(now, purchase(wallet), ALWAYS, act(wallet)) == Begun.MOVED  # it is on its way
        assert [each.wallet for each in await rows.on_their_way(wallet.enterprise_id, 9)] == [wallet]
        assert await rows.spent(wallet, "USD", ALWAYS) == Spent(300 * paid, paid, 0)
        assert await inbox.end_purchase(wallet.enterprise_id, mine.id, PurchaseState.PAID, 60, f"pi_{paid}")
    now = await held(rows, wallet)
    assert await rows.begin(now, purchase(wallet), ALWAYS, act(wallet)) == Begun.MONTHLY
    assert await held(rows, wallet) == now  # what was refused has changed nothing
    assert await rows.begin(now, purchase(wallet, 500), Since(100, 100), act(wallet)) == Begun.YES
    assert await rows.spent(wallet, "EUR", ALWAYS) == Spent(0, 4, 0)
    assert (await Trail(databases).verify(wallet.enterprise_id)).broken is None


async def test_a_day_has_its_cap_and_what_failed_turns_its_own_rule_off_alone(databases: Databases) -> None:
    await add_owners(databases)
    rows = TopUpStore(databases)
    await rows.put(rule(ANN, daily_max=1), act(ANN))
    first = purchase(ANN)
    assert await rows.begin(await held(rows, ANN), first, ALWAYS, act(ANN)) == Begun.YES
    await rows.set_payment(first, "pi_9")
    assert await asyncio.gather(*[rows.fail(first, PurchaseState.FAILED, "declined", 70) for _ in range(3)]) in (
        [True, False, False], [False, True, False], [False, False, True],
    )  # fmt: skip
    off = await held(rows, ANN)
    assert (off.is_enabled, off.reason, await rows.enabled(None, "", 9), await rows.enabled("shop", "", 9)) == (
        False,
        "declined",
        [],
        [],
    )
    assert await rows.begin(off, purchase(ANN), ALWAYS, act(ANN)) == Begun.MOVED
    await rows.put(rule(ANN, daily_max=1), act(ANN))  # what failed does not count as bought
    second = purchase(ANN)
    assert await rows.begin(await held(rows, ANN), second, ALWAYS, act(ANN)) == Begun.YES
    assert not await rows.fail(first, PurchaseState.FAILED, "declined", 80)  # told again: the rule is another one by now
    assert (await held(rows, ANN)).is_enabled
    assert await InboxStore(databases).end_purchase("shop", second.id, PurchaseState.PAID, 90, "pi_10")
    now = await held(rows, ANN)
    assert await rows.begin(now, purchase(ANN), ALWAYS, act(ANN)) == Begun.DAILY
    stale = msgspec.structs.replace(now, updated_at_ms=0)
    assert (await rows.pause(stale, "plan_archived", 99), await rows.pause(now, "plan_archived", 99)) == (False, True)
    assert (await held(rows, ANN)).reason == "plan_archived"
    assert [each.wallet.owner for each in await rows.rules("shop", None, None, 9)] == ["ann"]
    assert await rows.rules("shop", None, "ann", 9) == []


async def test_however_often_a_rule_is_set_again_only_so_many_payments_fail_in_a_day(databases: Databases) -> None:
    await add_owners(databases)
    rows = TopUpStore(databases)
    day = Since(0, 100)
    for number in range(FAILED_DAILY_MAX):
        await rows.put(rule(ANN), act(ANN))
        tried = purchase(ANN, 100 + number)
        assert await rows.begin(await held(rows, ANN), tried, day, act(ANN)) == Begun.YES
        assert await rows.fail(tried, PurchaseState.FAILED, "card_declined", 200)
    await rows.put(rule(ANN, monthly_max_minor=99_999, daily_max=24), act(ANN))
    assert await rows.begin(await held(rows, ANN), purchase(ANN, 110), day, act(ANN)) == Begun.FAILED
    assert await rows.spent(ANN, "USD", day) == Spent(0, 0, FAILED_DAILY_MAX)
    assert await rows.begin(await held(rows, ANN), purchase(ANN, 300), Since(0, 101), act(ANN)) == Begun.YES  # a day later


async def test_who_is_charged_how_pages_look_and_what_a_wallet_has(databases: Databases) -> None:
    await add_owners(databases)
    rows, sales, ledger = TopUpStore(databases), Store(databases), Ledger(databases)
    assert await rows.saved(ANN, "acct_1") is None
    await sales.add_customer(ANN, "acct_1", "cus_1", 1)
    assert await rows.saved(ANN, "acct_1") == Saved("cus_1", None)
    await rows.save(ANN, "acct_1", "pm_1")
    assert await rows.saved(ANN, "acct_1") == Saved("cus_1", "pm_1")
    looks = Branding("shop", "Shop", None, "#000000", None, 5)
    for made in (looks, msgspec.structs.replace(looks, name="Other", updated_at_ms=6)):
        await sales.put_branding(made, Act("branding.set", "creator", "carol", "shop", enterprise_id="shop"))
        assert await sales.branding("shop") == made
    assert await sales.branding("chat") is None
    asset = (await ledger.wallet(ANN)).asset
    assert await ledger.settled(ANN) == 0
    for number, effective_at_ms in enumerate((None, 4_000_000_000_000)):  # granted now, and one that is not due yet
        request = GrantRequest(
            wallet=ANN, amount_micro=700, asset=asset, source=LotSource.PROMO, op_id=f"g{number}", actor="a",
            effective_at_ms=effective_at_ms,
        )  # fmt: skip
        await ledger.grant(request, fingerprint=f"g{number}")
    assert await ledger.settled(ANN) == 700
