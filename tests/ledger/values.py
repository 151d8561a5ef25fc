"""Values that the tests of the books share."""

from collections.abc import Sequence
from typing import Any

from gateway.core.units import Usage
from gateway.ledger.model import GrantRequest, UsagePosting, UsageRow, WalletKey
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS, START_MS

SHOPPER = WalletKey("ann", "shop")


def grant_request(op_id: str, amount_micro: int = 1000, wallet: WalletKey = SHOPPER, **changed: Any) -> GrantRequest:
    asset = "USD" if wallet.enterprise_id is None else APPS[wallet.enterprise_id][1]
    given = {"asset": asset, "source": "promo", "actor": "tester", **changed}
    return GrantRequest(wallet=wallet, amount_micro=amount_micro, op_id=op_id, **given)


class HotPurse:
    """A hot wallet that gives whatever it has, which is all that the books say."""

    def __init__(self, available_micro: int) -> None:
        self.available_micro = available_micro
        self.taken: dict[str, int] = {}

    async def read(self, shard: int, wallets: Sequence[str]) -> list["HotPurse"]:
        return [self]

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        if op_id not in self.taken:
            taken = max(0, min(self.available_micro, most_micro))
            if not taken and most_micro:
                return 0
            self.taken[op_id] = taken
            self.available_micro -= taken
        return self.taken[op_id]


async def hot_of(ledger: Ledger, wallet: WalletKey) -> HotPurse:
    """The hot wallet that belongs to the books as they stand."""
    return HotPurse((await ledger.opening(wallet)).amount_micro)


async def expire_all(ledger: Ledger, enterprise_id: str | None) -> int:
    """Expire what is due of one book, nothing being in flight; credits that wait are applied first."""
    waiting = await ledger.waiting_credits(enterprise_id)
    await ledger.mark_applied(enterprise_id, [credit.txn_id for credit in waiting])
    count = 0
    for lot, wallet in await ledger.expiries.due(enterprise_id):
        posted = await ledger.expiries.expire(lot, wallet, await hot_of(ledger, wallet))
        count += posted is not None
    return count


def posting(request_id: str, app: str = "shop", end_user: str = "ann", **changed: Any) -> UsagePosting:
    """Level 2 usage; `amount_micro`, `creator_micro`, `provider_cost_micro` and the rest as in UsageRow."""
    user_id, asset = APPS[app]
    level = changed.get("level", "app_usage")
    row = {
        "request_id": request_id,
        "at": START_MS,
        "level": level,
        "user_id": user_id,
        "platform_user_id": end_user,
        "key_id": "key_1",
        "workflow_type": "",
        "session_id": "",
        "agent_name": "",
        "tags": (),
        "endpoint": "chat",
        "model": "small",
        "provider": "p",
        "deployment": "d",
        "status": "served",
        "usage_source": "upstream",
        "units": Usage(input=3, output=4),
        "input_tokens": 3,
        "output_tokens": 4,
        "asset": asset if level == "app_usage" else "USD",
        "amount_micro": 0,
        "creator_micro": 0,
        "provider_cost_micro": 0,
        "streamed": True,
        "latency_ms": 5,
        "ttft_ms": 2,
        "attempts": 1,
        "http_status": 200,
        "flags": (),
    }
    bears_cost = changed.pop("bears_cost", True)
    return UsagePosting(app, asset, bears_cost, UsageRow(**{**row, **changed}))
