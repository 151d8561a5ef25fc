"""Several processes act at once in both databases."""

import asyncio
import sys
from collections import Counter

from gateway.db.engines import Databases
from gateway.ledger.audit import audit
from gateway.ledger.service import Ledger
from gateway.trail import store
from gateway.trail.service import Trail
from tests.ledger.conftest import APPS

WRITERS, TURNS = 3, 12


async def acts_of(databases: Databases, book: str | None) -> Counter[str]:
    engine = databases.platform if book is None else await databases.app(book)
    async with store.reading(engine) as conn:
        return Counter([line.act async for line in store.lines(conn, store.trail_of(book))])


async def test_writers_in_several_processes_make_one_unbroken_chain_and_lose_no_act(
    ledger: Ledger, databases: Databases, urls: tuple[str, str]
) -> None:
    await databases.app("shop")
    async with databases.platform.begin() as conn:
        await conn.exec_driver_sql("""UPDATE apps SET end_user_sources = '["token"]'""")
    command = [sys.executable, "-m", "tests.trail.writer", *urls]
    running = [
        await asyncio.create_subprocess_exec(*command, f"w{number}", str(TURNS), stderr=asyncio.subprocess.PIPE)
        for number in range(WRITERS)
    ]
    # Whoever looks meanwhile sees a whole chain.
    trail, looks = Trail(databases), 0
    ending = asyncio.gather(*[process.communicate() for process in running])
    while not ending.done():
        for book in (None, "shop"):
            verdict = await trail.verify(book)
            assert verdict.broken is None
            looks += verdict.lines > 0
        await asyncio.sleep(0.05)
    told = [err.decode() for _, err in await ending]
    assert [process.returncode for process in running] == [0] * WRITERS, told
    assert looks > 1
    every = WRITERS * TURNS
    assert await acts_of(databases, None) == {
        "creator.create": TURNS,
        "key.create": every,
        "key.update": every,
        "grant.create": every,
    }
    assert await acts_of(databases, "shop") == {"grant.create": every, "end_user_token.create": every}
    report = await audit(databases, list(APPS), None)
    assert report.ok, report
