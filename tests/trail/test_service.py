from collections.abc import Sequence

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.core.errors import InvalidRequest
from gateway.db import migrate
from gateway.db.engines import Databases
from gateway.db.tables import APP_BOOKS
from gateway.trail import store
from gateway.trail.model import GENESIS, Head
from gateway.trail.service import Trail, not_found
from tests.trail.chains import SHOP, act, add, chain, insert_of, rewritten, tamper, update_of

BOOKS = [None, SHOP]


async def test_an_empty_chain_is_whole_and_has_the_head_that_every_chain_began_with(databases: Databases) -> None:
    trail = Trail(databases)
    for book in BOOKS:
        verdict = await trail.verify(book, [GENESIS])
        assert (verdict.broken, verdict.lines, verdict.head) == (None, 0, Head())
        assert not_found([GENESIS], [verdict]) == []
        assert await trail.head(book) == Head()


async def test_lines_follow_one_another_from_the_first_to_the_head(databases: Databases) -> None:
    _, lines = await chain(databases, 5)
    assert [line.seq for line in lines] == [1, 2, 3, 4, 5]
    assert [line.prev_hash for line in lines] == [GENESIS, *[line.hash for line in lines[:-1]]]
    verdict = await Trail(databases).verify(SHOP, [lines[2].hash, lines[4].hash])
    assert (verdict.broken, verdict.lines, verdict.head) == (None, 5, Head(5, lines[4].hash))
    assert verdict.seen == {lines[2].hash, lines[4].hash}
    assert await Trail(databases).head(SHOP) == verdict.head


async def test_an_act_that_is_rolled_back_leaves_no_line_and_no_gap(databases: Databases) -> None:
    engine, _ = await chain(databases, 1)

    async def fails_after_its_line() -> None:
        async with engine.begin() as conn:
            await store.append(conn, store.trail_of(SHOP), act(2), 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails_after_its_line()
    (third,) = await add(engine, act(3))
    assert third.seq == 2
    assert (await Trail(databases).verify(SHOP)).broken is None


# (what is done to a chain of five lines, the first broken link)
_TAMPERINGS = {
    "a field changed": (["UPDATE trail SET actor = 'nobody' WHERE seq = 3"], "line 3 was changed"),
    "a time changed": (["UPDATE trail SET at = at + 1 WHERE seq = 1"], "line 1 was changed"),
    "a reason emptied of nothing": (["UPDATE trail SET reason = ' ' WHERE seq = 5"], "line 5 was changed"),
    "text moved from one field to the next": (
        ["UPDATE trail SET actor = 'actor', subject = ' 3subject 3' WHERE seq = 3"],
        "line 3 was changed",
    ),
    "a line deleted in the middle": (["DELETE FROM trail WHERE seq = 3"], "line 3 is missing"),
    "the first line deleted": (["DELETE FROM trail WHERE seq = 1"], "line 1 is missing"),
    "the last line deleted": (["DELETE FROM trail WHERE seq = 5"], "line 5 is missing: the chain ends at line 4"),
    "a gap closed by new numbers": (
        ["DELETE FROM trail WHERE seq = 3", "UPDATE trail SET seq = 3 WHERE seq = 4", "UPDATE trail SET seq = 4 WHERE seq = 5"],
        "line 3 does not follow line 2",
    ),
    "two lines swapped": (
        [f"UPDATE trail SET seq = {new} WHERE seq = {old}" for old, new in ((2, 99), (4, 2), (99, 4))],
        "line 2 does not follow line 1",
    ),
    "the head set back": (["UPDATE trail_head SET seq = 4"], "the head is line 4"),
    "the head taken away": (["DELETE FROM trail_head"], "the head is missing"),
    "every line deleted": (["DELETE FROM trail"], "line 1 is missing: the chain ends at line 0"),
}


@pytest.mark.parametrize("name", _TAMPERINGS)
async def test_tampering_breaks_the_chain_and_the_first_broken_link_is_named(databases: Databases, name: str) -> None:
    statements, words = _TAMPERINGS[name]
    engine, _ = await chain(databases, 5)
    await tamper(engine, *statements)
    verdict = await Trail(databases).verify(SHOP)
    assert verdict.broken is not None
    assert verdict.broken.startswith(words), verdict.broken


async def test_a_line_put_in_is_found(databases: Databases) -> None:
    engine, lines = await chain(databases, 4)
    later = [f"UPDATE trail SET seq = {seq + 1} WHERE seq = {seq}" for seq in (4, 3)]
    await tamper(engine, *later, insert_of(rewritten(lines[2], Head(2, lines[1].hash), 77)), "UPDATE trail_head SET seq = 5")
    verdict = await Trail(databases).verify(SHOP)
    assert (verdict.lines, verdict.broken) == (3, "line 4 does not follow line 3: one of them was changed, moved or put in")


async def test_a_line_written_anew_with_a_right_hash_is_found_by_the_line_after_it(databases: Databases) -> None:
    engine, lines = await chain(databases, 4)
    await tamper(engine, update_of(rewritten(lines[1], Head(1, lines[0].hash), 77), 2))
    verdict = await Trail(databases).verify(SHOP)
    assert (verdict.lines, verdict.broken) == (2, "line 3 does not follow line 2: one of them was changed, moved or put in")


async def test_a_last_line_written_anew_is_found_by_the_head(databases: Databases) -> None:
    engine, lines = await chain(databases, 3)
    await tamper(engine, update_of(rewritten(lines[2], Head(2, lines[1].hash), 77), 3))
    broken = (await Trail(databases).verify(SHOP)).broken
    assert broken is not None
    assert broken.startswith("the head is line 3 with hash")


async def test_only_a_pinned_head_shows_that_the_end_was_cut_off_together_with_the_head(databases: Databases) -> None:
    engine, lines = await chain(databases, 5)
    pins = [lines[4].hash, lines[2].hash]
    await tamper(engine, "DELETE FROM trail WHERE seq > 3", f"UPDATE trail_head SET seq = 3, hash = '{lines[2].hash}'")
    verdict = await Trail(databases).verify(SHOP, pins)
    assert (verdict.broken, verdict.lines) == (None, 3)
    assert not_found(pins, [verdict]) == [lines[4].hash]


async def test_a_chain_brought_from_another_app_is_found(databases: Databases) -> None:
    await add(await databases.app(SHOP), act(1), act(2, "chat"))
    verdict = await Trail(databases).verify(SHOP)
    assert verdict.broken == "line 2 is about the app 'chat': it is not of this chain"


_REFUSED = [
    "UPDATE trail SET reason = 'x'",
    "DELETE FROM trail",
    "DELETE FROM trail_head",
    "UPDATE trail_head SET seq = 1",
    "UPDATE trail_head SET seq = seq + 1",
    "UPDATE trail_head SET after_txn = 'z'",
    "INSERT INTO trail_head (id, seq, hash, after_txn) VALUES (2, 0, '', '')",
    "INSERT INTO trail (seq, at, role, actor, act, user_id, enterprise_id, subject, reason, before_json, after_json, txn_id,"
    " prev_hash, hash) SELECT seq + 1, at, role, actor, act, user_id, enterprise_id, subject, reason, before_json, after_json,"
    " txn_id, prev_hash, 'x' FROM trail WHERE seq = 2",
    "UPDATE txns SET reason = 'x'",
    "DELETE FROM txns",
    "UPDATE entries SET amount_micro = 0",
    "DELETE FROM entries",
]


async def let_through(engine: AsyncEngine, statements: Sequence[str]) -> list[str]:
    """Those that the database does not refuse as it should."""
    done = []
    for statement in statements:
        try:
            async with engine.begin() as conn:
                await conn.exec_driver_sql(statement)
        except DBAPIError as refused:
            if "append-only" in str(refused):
                continue
        done.append(statement)
    return done


@pytest.mark.parametrize("book", BOOKS)
async def test_the_database_itself_refuses_to_change_what_is_written(databases: Databases, book: str | None) -> None:
    engine = databases.platform if book is None else await databases.app(book)
    await add(engine, act(1), act(2), enterprise_id=book)
    async with engine.begin() as conn:
        await conn.exec_driver_sql("INSERT INTO accounts (id, owner, kind, asset, balance_micro) VALUES (1, '', 'k', 'USD', 0)")
        await conn.exec_driver_sql("INSERT INTO txns (id, op_id, kind, actor, reason, at) VALUES ('t', 'o', 'k', 'a', '', 1)")
        await conn.exec_driver_sql("INSERT INTO entries (txn_id, account_id, asset, amount_micro) VALUES ('t', 1, 'USD', 5)")
    assert await let_through(engine, _REFUSED) == []


@pytest.mark.parametrize("urls", ["postgres"], indirect=True)
async def test_postgres_does_not_empty_a_table_either(databases: Databases) -> None:
    tables = ["trail", "trail_head", "entries", "txns CASCADE"]
    assert await let_through(databases.platform, [f"TRUNCATE {table}" for table in tables]) == []


async def test_a_page_merges_both_chains_newest_first_and_goes_on_where_it_ended(databases: Databases) -> None:
    times = {None: [10, 30, 30, 60, 5], SHOP: [20, 30, 50]}
    for book, at in times.items():
        engine = databases.platform if book is None else await databases.app(book)
        for number, moment in enumerate(at):
            async with engine.begin() as conn:
                about = "other" if book is None and number == 1 else SHOP
                await store.append(conn, store.trail_of(book), act(number, about), moment)
    trail = Trail(databases)
    for limit in range(1, 9):
        found: list[tuple[str, int]] = []
        cursor: str | None = None
        while True:
            rows, cursor = await trail.page(SHOP, limit, cursor)
            assert len(rows) == limit or cursor is None
            found += [(row.chain, row.line.seq) for row in rows]
            if cursor is None:
                break
        # Each chain in its own order; line 2 of the platform's is about another app.
        own = [("app", 3), ("app", 2), ("app", 1)]
        assert [row for row in found if row[0] == "app"] == own
        assert [row for row in found if row[0] == "platform"] == [("platform", seq) for seq in (5, 4, 3, 1)]
    assert [row.line.seq for row in (await trail.page(None, 9, None))[0]] == [5, 4, 3, 2, 1]
    for cursor in ("", "1", "a.b", "1.2.3", "-1.1", "9" * 30 + "."):
        with pytest.raises(InvalidRequest):
            await trail.page(SHOP, 1, cursor)


async def test_grants_from_before_the_trail_need_no_line_and_those_since_do(databases: Databases) -> None:
    engine = await databases.app(SHOP)
    tables, books = store.trail_of(SHOP), APP_BOOKS
    grant = "INSERT INTO txns (id, op_id, kind, actor, reason, at) VALUES ('{0}', '{0}', 'grant', 'a', '', 1)"
    async with engine.begin() as conn:
        await conn.run_sync(migrate.downgrade, "app", "0001")
        await conn.exec_driver_sql(grant.format("txn_5"))
        await conn.run_sync(migrate.upgrade, "app")
        assert [found async for found in store.unlike_the_books(conn, tables, books)] == []
        await conn.exec_driver_sql(grant.format("txn_6"))
        assert [found async for found in store.unlike_the_books(conn, tables, books)] == [("txn_6", "")]
