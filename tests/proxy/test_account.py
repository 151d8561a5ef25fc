"""What a caller is told of its own wallet, over the ports of `test_exchange`."""

from typing import Any, cast

import msgspec
import pytest

from gateway.core.clock import SYSTEM_CLOCK
from gateway.proxy.account import Account
from gateway.proxy.uncharged import Uncharged
from tests.proxy.test_exchange import PRINCIPAL, WALLET, House, Reply


class Asked:
    """A question without headers."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}


async def wallet_shown(opening: int, left: int | None) -> dict[str, Any]:
    """What of a wallet with so much is shown, where so much is left of what is lent, by the books (None: they are down)."""
    house = House(Reply([]), opening=opening)

    async def lent_left(wallet: str) -> int | None:
        assert wallet == WALLET
        return left

    account = Account(
        gate=house,
        balance=house.balance,
        opener=house,
        peek=cast(Any, None),
        lent_left=lent_left,
        prices=house,
        listed_models=tuple,
        find_usage=cast(Any, None),
        clock=SYSTEM_CLOCK,
        uncharged=Uncharged(house.balance, house.tasks, SYSTEM_CLOCK, 60),
    )
    shown: dict[str, Any] = msgspec.json.decode(await account.balance(cast(Any, Asked()), PRINCIPAL))["wallet"]
    return shown


@pytest.mark.parametrize(
    ("available", "left", "overage"),
    [
        (700, 0, 0),
        (700, 300, 300),
        (200, 300, 200),  # the books lag behind, or requests in flight hold the rest
        (-50, 300, 0),
        (0, None, 0),  # nobody needs to ask
        (700, None, None),
    ],
)
async def test_the_part_of_a_balance_that_is_lent_burns_last(available: int, left: int | None, overage: int | None) -> None:
    shown = await wallet_shown(available, left)
    assert (shown["available_micro"], shown["overage_micro"]) == (available, overage)
    assert (shown["overage"] is None) is (overage is None)
