"""What the audit makes of usage on its way: settled in the hot store, and not in the books before a worker has put it there.

Owns telling what of the events that wait a book does not have yet. They are read only where a check finds a difference, in
batches, so any number may wait. An event that is posted and was not acknowledged waits too, and explains nothing.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from gateway.core.limits import DRAIN_BATCH
from gateway.db.engines import Databases
from gateway.ledger import journal, store


class WaitingUsage(Protocol):
    """Usage events that a worker has not taken off the hot store yet."""

    def of(self, shard: int) -> AsyncIterator[tuple[str, Mapping[str, int]]]:
        """Of each event of the shard: its request, and the micro-units that it took from each wallet, by the wallet's name."""
        ...


async def not_in_the_book(
    databases: Databases, waiting: WaitingUsage, shard: int, enterprise_id: str | None, wallets: Collection[str]
) -> dict[str, int]:
    """Micro-units that the hot store has taken from those wallets of one book, and the book has not. SqlDown."""
    taken: dict[str, int] = {}
    batch: dict[str, list[tuple[str, int]]] = {}
    async for request_id, charges in waiting.of(shard):
        if theirs := [(wallet, amount) for wallet, amount in charges.items() if wallet in wallets]:
            batch[request_id] = theirs
        if len(batch) == DRAIN_BATCH:
            await _take_new(databases, enterprise_id, batch, taken)
            batch = {}
    await _take_new(databases, enterprise_id, batch, taken)
    return taken


async def _take_new(
    databases: Databases, enterprise_id: str | None, batch: Mapping[str, list[tuple[str, int]]], taken: dict[str, int]
) -> None:
    known = await _known(databases, enterprise_id, list(batch)) if batch else set()
    for request_id, charges in batch.items():
        for wallet, amount in charges if request_id not in known else ():
            taken[wallet] = taken.get(wallet, 0) + amount


async def _known(databases: Databases, enterprise_id: str | None, request_ids: Sequence[str]) -> set[str]:
    """Those of the requests that the book has."""
    if enterprise_id is not None:
        async with store.reading(await databases.app(enterprise_id)) as conn:
            return await store.known_requests(conn, request_ids)
    names = {journal.usage_op(request_id): request_id for request_id in request_ids}
    async with store.reading(databases.platform) as conn:
        return {names[op_id] for op_id in await store.known_ops(conn, store.books_of(None), list(names))}


async def that_wait(waiting: WaitingUsage, shard: int, request_ids: Collection[str]) -> set[str]:
    """Those of the requests whose event waits."""
    return {request_id async for request_id, _ in waiting.of(shard) if request_id in request_ids}
