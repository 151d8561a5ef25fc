"""Values that the tests of the books share."""

from typing import Any

from gateway.core.units import Usage
from gateway.ledger.model import GrantRequest, UsagePosting, UsageRow, WalletKey
from tests.ledger.conftest import APPS, START_MS

SHOPPER = WalletKey("ann", "shop")


def grant_request(op_id: str, amount_micro: int = 1000, wallet: WalletKey = SHOPPER, **changed: Any) -> GrantRequest:
    asset = "USD" if wallet.enterprise_id is None else APPS[wallet.enterprise_id][1]
    given = {"asset": asset, "source": "promo", "actor": "tester", **changed}
    return GrantRequest(wallet=wallet, amount_micro=amount_micro, op_id=op_id, **given)


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
