"""What clients were told, what the provider served, and what the books say, held against each other."""

import asyncio
from collections.abc import Sequence

from gateway.balance.model import WalletState
from gateway.core.ids import app_wallet, platform_wallet, shard_of
from tests.chaos.house import APP, CREATOR, FUNDS, USERS, House
from tests.chaos.load import Asked

DELIVERED = {"served", "client_left", "upstream_broke", "abandoned"}


async def settled_down(house: House, victim: str = "") -> set[str]:
    """No hold stands and every event is in the books; the requests whose holds nobody but the sweeper could end.

    The load has ended: what a live gateway has under way ends by itself (a client that left early goes on being metered,
    a settle that waits for Redis is repeated), what is left is a dead one's. Only when Redis died may a live one have
    left a hold: a release, or a reserve, that it got no answer to.
    """
    give_up = asyncio.get_running_loop().time() + (6 if victim == "redis" else 30)
    while await house.running() and asyncio.get_running_loop().time() < give_up:
        await asyncio.sleep(0.02)
    assert victim == "redis" or not await house.running(), "a hold of a live gateway does not end"
    abandoned = await house.age_holds()
    if abandoned:
        await house.direct.sweep(shard_of(CREATOR))
    assert await house.holds() == 0
    await house.drained(0.8 if victim == "redis" else 8.0)
    return abandoned


async def compared(
    house: House, asked: Sequence[Asked], name: str, victim: str, abandoned: set[str] | None = None
) -> dict[str, int]:
    """The rule of this folder (see its docstring) for the requests of one round; AssertionError names the first break.

    `abandoned` are the requests whose holds were swept: each has its row that says so, and no other has.

    Returns how many requests there were of each fate.
    """
    sql = "SELECT request_id, session_id, status, amount_micro, creator_micro FROM usage WHERE starts_with(session_id, $1)"
    rows: dict[str, list[tuple[str, str, int]]] = {}
    for request_id, marker, status, amount_micro, creator_micro in await house.rows(sql, name + "-"):
        rows.setdefault(marker, []).append((request_id, status, amount_micro))
        assert status != "abandoned" or amount_micro == creator_micro == 0, marker
    told = {request_id for found in rows.values() for request_id, status, _ in found if status == "abandoned"}
    assert told == (abandoned or set()), "what was swept is not what the rows call abandoned"
    served = await house.served()
    fates: dict[str, int] = {}
    assert set(rows) <= {each.marker for each in asked}
    for each in asked:
        found = rows.get(each.marker, [])
        fate = _fate(each, found, served.get(each.marker, 0), victim)
        fates[fate] = fates.get(fate, 0) + 1
    await _wallets(house)
    return fates


def _fate(each: Asked, found: list[tuple[str, str, int]], served: int, victim: str) -> str:
    story = f"{each}, rows {found}, at the provider {served} times"
    assert len(found) <= 1, f"doubled: {story}"
    assert served <= 1, f"asked the provider twice: {story}"
    row = found[0] if found else None
    if each.request_id and row is not None:
        assert row[0] == each.request_id, f"another id: {story}"
    if each.is_whole and each.status == 200 and not each.broke:
        assert row is not None, f"lost: {story}"
        untold = each.cost_micro < 0 and victim == "redis"  # a stream whose settlement had to wait for Redis
        assert row[1] == "served", story
        assert untold or row[2] == each.cost_micro, f"not what was told: {story}"
        assert row[2] > 0, story
        assert served, f"answered without the provider: {story}"
        return "answered"
    if each.is_whole and each.broke:
        assert row is not None, f"lost: {story}"
        assert row[1] == "upstream_broke", story
        assert row[2] > 0, story
        return "broken stream"
    if each.is_whole and each.status in (502, 504):  # 504: on a busy machine a slow provider can be too slow
        # A release that Redis did not take is the sweeper's; a provider that fell silent took something for the prompt.
        is_free = row is None or (row[1] == "upstream_broke" and row[2] == 0)
        assert is_free or (row is not None and row[1] == "abandoned" and victim == "redis"), f"a failure was charged: {story}"
        return "failed"
    if each.is_whole:
        assert each.status == 503, story
        assert row is None or row[1] == "abandoned", f"a refusal was charged: {story}"
        assert not served, f"refused, but the provider was asked: {story}"
        return "refused"
    if each.left and victim not in ("gateway", "redis"):
        assert row is not None, f"lost: {story}"
        assert row[1] in ("client_left", "served"), story
    if not served:
        assert row is None or row[1] == "abandoned", f"charged without the provider: {story}"
        return "never asked" if row is None else "abandoned before the provider"
    if row is None:
        assert each.kind == "fails", f"lost: {story}"
        return "given back"
    assert row[1] in DELIVERED, story
    return "left early" if each.left else f"cut off, {row[1]}"


async def _wallets(house: House) -> None:
    """Redis = what was paid in less what the usage rows charge, nothing held, nobody in flight."""
    sql = "SELECT platform_user_id, SUM(amount_micro)::bigint, SUM(creator_micro)::bigint FROM usage GROUP BY 1"
    charged = {user: (int(amount), int(creator)) for user, amount, creator in await house.rows(sql)}
    names = [app_wallet(APP, f"user-{number}") for number in range(USERS)]
    states = await house.direct.read(shard_of(CREATOR), [*names, platform_wallet(CREATOR)])
    expected = [WalletState(FUNDS - charged.get(f"user-{number}", (0, 0))[0], 0) for number in range(USERS)]
    expected.append(WalletState(FUNDS - sum(creator for _, creator in charged.values()), 0))
    assert states == expected
    assert await house.direct.link.call("HGET", f"mzk:{{s{shard_of(CREATOR):03d}}}:l:k/{house.key_id}", "concurrency") == b"0"
