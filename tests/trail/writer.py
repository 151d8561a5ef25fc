"""One of several processes that act at once: `python -m tests.trail.writer PLATFORM_URL TEMPLATE NAME COUNT`."""

import asyncio
import sys
from contextlib import suppress

from gateway.core.errors import Conflict
from gateway.core.words import Level
from gateway.db.engines import Databases
from gateway.identity.model import Actor, KeyChanges, LimitChanges, NewKey, NewToken, Role
from gateway.identity.service import Identity
from gateway.identity.store import Store
from gateway.ledger.model import WalletKey
from gateway.ledger.service import Ledger
from tests.ledger.values import SHOPPER, grant_request, posting

PEPPER = b"a pepper of the tests, long enough"


async def main(platform: str, template: str, name: str, count: int) -> None:
    """In each turn, beside each other: acts in both databases, and usage, which is no act."""
    databases = Databases(platform, template)
    actor = Actor(Role.OPERATOR, name)
    registry = Identity(Store(databases.platform, databases.app), PEPPER).registry
    ledger = Ledger(databases)

    async def contested(number: int) -> None:
        with suppress(Conflict):  # another process was first: its act, not ours
            await registry.create_creator(actor, f"contested-{number}", "x")

    async def key_changes(number: int) -> None:
        key, _ = await registry.create_key(actor, "shop", NewKey(f"{name}-{number}", Level.APP_USAGE))
        await registry.update_key(actor, "shop", key.id, KeyChanges(limits=LimitChanges(rpm=number)))
        await registry.mint_end_user_token(actor, "shop", NewToken("ann", key_id=key.id))

    async def used(number: int) -> None:
        batch = [posting(f"req_{name}_{number}", amount_micro=1, creator_micro=1)]
        await ledger.post_app_usage("shop", batch)
        await ledger.post_platform_usage(batch)

    for number in range(count):
        await asyncio.gather(
            contested(number),
            key_changes(number),
            ledger.grant(grant_request(f"{name}-{number}", 5, SHOPPER)),
            ledger.grant(grant_request(f"{name}-{number}", 5, WalletKey("carol"))),
            used(number),
        )
    await databases.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
