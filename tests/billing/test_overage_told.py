"""Overage through a whole gateway: requests served and refused, and webhooks that are shuffled, doubled or never come."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from gateway.billing.webhooks.inbox import _EFFECTS
from tests.billing.at_stripe import OnFake
from tests.billing.house import DAY, House, Shop
from tests.billing.test_told import ask, opened
from tests.fake_stripe.control import running
from tests.path.conftest import upstream_url as upstream_url

MONTH = 31 * DAY + 7200
# A request costs 250 micro-units: an allowance of two, four more beyond it, at half a dollar each.
ALLOWANCE, MOST = 500, 1000
OVERAGE = {"max_micro": MOST, "price_micro": 500_000, "per_micro": 250}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    """The fake's clock is 500 days behind, so that months can pass in it."""
    with running(now=int(time.time()) - 500 * DAY) as control:
        yield from opened(tmp_path_factory.mktemp("overage"), upstream_url, OnFake(control))


def settled(shop: Shop, end_user: str, *states: str, timeout_s: float = 60.0) -> list[dict[str, Any]]:
    """A buyer's bills, the oldest first, once they are all in these states and nothing waits to be billed."""
    deadline = time.monotonic() + timeout_s
    while True:
        shop.house.deliver(types=tuple(_EFFECTS))
        rows = shop.house.stack.get("/overage-bills", enterprise_id=shop.app, platform_user_id=end_user)["data"]
        (stands,) = shop.house.stack.get("/overage", enterprise_id=shop.app, platform_user_id=end_user)["data"]
        if [row["state"] for row in reversed(rows)] == list(states) and not stands["unbilled_micro"]:
            return list(reversed(rows))
        assert time.monotonic() < deadline, (rows, stands)
        time.sleep(0.2)


def agree(shop: Shop, key: str, end_user: str, limit: int = MOST) -> None:
    """As the app's server does."""
    body = {"platform_user_id": end_user, "limit_micro": limit}
    url = shop.house.stack.url + "/api/v1/overage"
    answer = httpx.put(url, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 200, answer.text


def balance(shop: Shop, key: str, end_user: str) -> tuple[int, int]:
    """(available, what of it is overage), as the app's server asks for it."""
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": end_user}
    answer = httpx.get(shop.house.stack.url + "/v1/balance", headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    wallet = answer.json()["wallet"]
    assert Decimal(wallet["overage"]) * 1_000_000 == wallet["overage_micro"]
    return wallet["available_micro"], wallet["overage_micro"]


def subscriber(house: House) -> tuple[Shop, str]:
    """A shop with a subscriber who has agreed, and the app's key."""
    shop = house.shop("USD")
    key = house.stack.key(shop.app)
    shop.buy(shop.monthly(10_000_000, ALLOWANCE, overage=OVERAGE), "ann")
    house.deliver()
    agree(shop, key, "ann")
    return shop, key


def test_requests_beyond_the_allowance_are_served_up_to_the_limit_and_billed_after_the_period(house: House) -> None:
    shop, key = subscriber(house)
    assert balance(shop, key, "ann") == (ALLOWANCE + MOST, MOST)
    for number in range(1, 7):
        assert ask(house.stack, key, "ann") == 200
        left = ALLOWANCE + MOST - 250 * number
        assert balance(shop, key, "ann") == (left, min(left, MOST))  # drained or not: it burns last
    assert ask(house.stack, key, "ann") == 402
    house.stack.events(shop.app, 6)
    (stands,) = house.stack.get("/overage", enterprise_id=shop.app)["data"]
    assert (stands["status"], stands["reason"]) == ("idle", "limit_reached")
    assert (stands["lent_micro"], stands["used_micro"], stands["cost_micro"]) == (MOST, MOST, 2_000_000)
    house.stack.fund(shop.app, "ann", 40)
    assert balance(shop, key, "ann") == (40, 0)  # none of it is lent
    house.control.advance(MONTH)
    (bill,) = settled(shop, "ann", "paid")
    assert (bill["used_micro"], bill["amount_micro"], bill["fee_micro"]) == (MOST, 2_000_000, 250_000)
    assert shop.available("ann") >= ALLOWANCE + MOST + 40  # what was left of before goes within a minute
    assert ask(house.stack, key, "ann") == 200
    shop.check()
    accounts = shop.accounts()
    assert accounts["ann/receivable.overage/USD"] == -MOST  # lent again
    assert accounts["/due_to_platform/USD"] == 2 * 1_250_000 + 250_000
    month = datetime.fromtimestamp(house.control.now(), UTC).strftime("%Y-%m")
    (found,) = house.stack.get(f"/statements/{shop.user_id}", month=month)["currencies"]
    assert found["difference_micro"] == 0, found
    house.stack.cli("audit")


def test_webhooks_shuffled_several_times_or_never_make_the_same_books(house: House) -> None:
    found = []
    for how in ("in order", "shuffled", "never"):
        shop, key = subscriber(house)
        assert [ask(house.stack, key, "ann") for _ in range(5)] == [200] * 5
        house.stack.events(shop.app, 5)
        house.control.advance(MONTH)
        if how == "never":
            deadline = time.monotonic() + 120
            while True:
                house.control.drop_waiting()
                looked = house.stack.cli("reconcile", "--billing", "--since", "600d")
                assert " 0 wrong" in looked, looked
                rows = house.stack.get("/overage-bills", enterprise_id=shop.app)["data"]
                if [row["state"] for row in rows] == ["paid"]:
                    break
                assert time.monotonic() < deadline, rows
        elif how == "shuffled":
            house.deliver(order="shuffle", seed=5, copies=3, senders=8, types=tuple(_EFFECTS))
        settled(shop, "ann", "paid")
        (stands,) = house.stack.get("/overage", enterprise_id=shop.app)["data"]
        assert (stands["lent_micro"], stands["unpaid_micro"], stands["status"]) == (MOST, 0, "on"), how
        shop.check()
        found.append(shop.accounts())
    assert found == [found[0]] * 3
    house.stack.cli("audit")
