import pytest

from gateway.core.errors import InvalidRequest
from gateway.core.units import Usage
from gateway.db.engines import Databases
from gateway.ledger import queries
from gateway.ledger.model import Txn, UsageFilter, UsageRow
from gateway.ledger.service import Ledger
from tests.ledger.conftest import START_MS
from tests.ledger.values import grant_request, posting

HOUR = 3_600_000


async def filled(ledger: Ledger) -> list[UsageRow]:
    """Seven requests over three hours; two at one moment."""
    moments = [0, 1, 1, HOUR, HOUR + 5, 2 * HOUR, 25 * HOUR]
    batch = [
        posting(
            f"req_{n}",
            end_user="ann" if n % 2 else "bob",
            at=START_MS + at,
            model="small" if n < 4 else "large",
            amount_micro=10**n,
            tags=("a", 'quote"'),
            flags=("x",),
            units=Usage(input=n, cached_input=1),
            session_id=f"s{n % 3}",
        )
        for n, at in enumerate(moments)
    ]
    await ledger.post_app_usage("shop", batch)
    return [one.row for one in batch]


async def test_usage_rows_come_back_whole_latest_first_page_by_page(ledger: Ledger, databases: Databases) -> None:
    rows = await filled(ledger)
    for size in (1, 2, 3, 7, 50):
        seen: list[UsageRow] = []
        cursor = None
        while True:
            page = await queries.usage_rows(databases, "shop", limit=size, cursor=cursor)
            assert len(page.rows) <= size
            seen += page.rows
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == rows[::-1]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (UsageFilter(platform_user_id="ann"), [5, 3, 1]),
        (UsageFilter(model="large", session_id="s0"), [6]),
        (UsageFilter(from_ms=START_MS + 1, to_ms=START_MS + HOUR), [2, 1]),
        (UsageFilter(level="platform"), []),
    ],
)
async def test_filters_choose_rows(ledger: Ledger, databases: Databases, wanted: UsageFilter, ids: list[int]) -> None:
    await filled(ledger)
    page = await queries.usage_rows(databases, "shop", wanted)
    assert [row.request_id for row in page.rows] == [f"req_{n}" for n in ids]


async def test_totals_group_by_time_and_names_and_never_mix_assets(ledger: Ledger, databases: Databases) -> None:
    await filled(ledger)
    await ledger.post_app_usage("shop", [posting("req_9", level="platform", amount_micro=5, creator_micro=5, model="large")])
    (whole,) = await queries.usage_totals(databases, "shop")
    assert (whole.requests, whole.amount_micro, whole.creator_micro, whole.input_tokens) == (8, 1_111_116, 5, 24)
    by_hour = await queries.usage_totals(databases, "shop", ["hour"])
    start = START_MS - START_MS % HOUR
    assert [(total.group, total.requests) for total in by_hour] == [
        ((("hour", start),), 4),
        ((("hour", start + HOUR),), 2),
        ((("hour", start + 2 * HOUR),), 1),
        ((("hour", start + 25 * HOUR),), 1),
    ]
    both = await queries.usage_totals(databases, "shop", ["model", "level"], UsageFilter(to_ms=START_MS + HOUR))
    assert [(total.group, total.amount_micro) for total in both] == [
        ((("model", "large"), ("level", "platform")), 5),
        ((("model", "small"), ("level", "app_usage")), 111),
    ]
    other = [
        posting("req_1", "chat", amount_micro=3),
        posting("req_2", "chat", level="platform", amount_micro=4, creator_micro=4),
    ]
    await ledger.post_app_usage("chat", other)
    assert [(total.asset, total.amount_micro) for total in await queries.usage_totals(databases, "chat")] == [
        ("TOK", 3),
        ("USD", 4),
    ]
    days = await queries.usage_totals(databases, "shop", ["day"])
    assert sum(total.requests for total in days) == 8
    assert all(dict(total.group)["day"] % (24 * HOUR) == 0 for total in days)


async def test_transactions_and_accounts_are_paged_and_filtered(ledger: Ledger, databases: Databases) -> None:
    for n in range(5):
        await ledger.grant(grant_request(f"op-{n}", 100 + n))
    await ledger.post_app_usage("shop", [posting("req_1", amount_micro=5), posting("req_2", end_user="bob", amount_micro=7)])
    seen: list[Txn] = []
    cursor = None
    while True:
        page = await queries.transactions(databases, "shop", limit=3, cursor=cursor)
        seen += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == 7
    assert all(sum(entry.amount_micro for entry in txn.entries) == 0 and len(txn.entries) >= 2 for txn in seen)
    assert [txn.id for txn in seen] == sorted((txn.id for txn in seen), reverse=True)
    bobs = await queries.transactions(databases, "shop", owner="bob")
    assert [txn.op_id for txn in bobs.rows] == ["usage:req_2"]
    assert len((await queries.transactions(databases, "shop", kind="grant")).rows) == 5
    first = await queries.accounts(databases, "shop", limit=2)
    rest = await queries.accounts(databases, "shop", limit=50, cursor=first.next_cursor)
    every = [account.kind for account in (*first.rows, *rest.rows)]
    assert sorted(every) == ["expense.promo", "receivable.clawback", "revenue.usage", "user.available"]
    assert [one.owner for one in (await queries.accounts(databases, "shop", owner="ann")).rows] == ["ann"]
    assert (await queries.transactions(databases)).rows == ()


async def test_what_no_page_gave_out_is_refused(ledger: Ledger, databases: Databases) -> None:
    for call in (
        queries.accounts(databases, "shop", cursor="x"),
        queries.usage_rows(databases, "shop", cursor="²"),
        queries.usage_rows(databases, "shop", limit=0),
        queries.transactions(databases, limit=201),
        queries.usage_totals(databases, "shop", ["at; DROP TABLE usage"]),
    ):
        with pytest.raises(InvalidRequest):
            await call
