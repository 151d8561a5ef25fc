"""`gateway audit` where no worker runs: what waits is told, and is no violation."""

import asyncio
import re

from gateway.balance.model import Charge, HoldRequest
from gateway.balance.redis_balance import RedisBalance
from gateway.core.ids import app_wallet, shard_of
from gateway.metering.event import EventFront, EventPayer, EventRest, encode_event
from tests.balance.server import handle

from .conftest import Cli


async def use(url: str, app: str, amount_micro: int, lost_micro: int = 0) -> None:
    """A request that is settled; `lost_micro` is gone from the wallet besides."""
    balance, wallet, shard = RedisBalance(url), app_wallet(app, "u1"), shard_of("acme")
    payers = (EventPayer(wallet, "end_user", "USD"),)
    front = EventFront(
        request_id=f"req_{app}", level="app_usage", user_id="acme", enterprise_id=app, key_id="key_1", endpoint="chat", model="m",
        platform_user_id="u1", payers=payers,
    )  # fmt: skip
    rest = EventRest(at_ms=1, status="served", usage_source="upstream", amounts_micro=(amount_micro,), held_micro=(amount_micro,))
    charges = (Charge(wallet, amount_micro, amount_micro),)
    hold = HoldRequest(front.request_id, shard, charges, (), 60_000, encode_event(front))
    await balance.reserve(hold)
    await balance.settle(handle(hold), (amount_micro,), 1, encode_event(rest))
    if lost_micro:
        await balance.credit(f"lost {app}", shard, wallet, -lost_micro)
    await balance.close()


async def give_back(url: str, app: str, amount_micro: int) -> None:
    balance = RedisBalance(url)
    await balance.credit(f"back {app}", shard_of("acme"), app_wallet(app, "u1"), amount_micro)
    await balance.close()


def test_usage_that_waits_is_told_with_its_age_and_is_no_violation(cli: Cli, app: str) -> None:
    cli.text("grants", "create", "--app", app, "--end-user", "u1", "--reason", "r", "--amount", "5")
    asyncio.run(use(cli.redis_url, app, 250_000))
    told = cli.text("audit")
    assert "VIOLATED" not in told
    assert re.search(r"1 usage event waits for \d+ seconds?, until a worker puts what was used into the books", told)
    answer = cli.json("audit")
    assert (answer["ok"], answer["events_waiting"]) == (True, 1)
    assert answer["oldest_event_age_s"] < 600
    assert cli.json("wallets", "show", "--app", app, "--end-user", "u1")["available_micro"] == 4_750_000


def test_a_wallet_that_lost_more_than_what_waits_is_a_violation(cli: Cli, app: str) -> None:
    cli.text("grants", "create", "--app", app, "--end-user", "u1", "--reason", "r", "--amount", "5")
    asyncio.run(use(cli.redis_url, app, 250_000, lost_micro=3))
    done = cli.run("audit")
    assert done.exit_code == 1
    assert f"wallet {app_wallet(app, 'u1')} has 4749997 in the hot store, 4750000 in the books" in done.stdout
    assert "usage events wait, the oldest for " in done.stdout
    asyncio.run(give_back(cli.redis_url, app, 3))
    assert cli.json("audit")["ok"]
