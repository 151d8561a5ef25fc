"""What the model of a hold promises, asserted once for every adapter, before anything is sent.

A failure here is a mistake in the caller's code, never a fact of the caller's request.
"""

from collections.abc import Sequence
from itertools import chain, groupby
from operator import attrgetter, le
from typing import Final

from gateway.balance.model import HoldRequest
from gateway.core.ids import SHARDS
from gateway.core.money import AMOUNT_MICRO_MAX


def check_request(request: HoldRequest) -> None:
    """A request has each wallet once, each kind once a subject, amounts in range and a future deadline."""
    assert 0 <= request.shard < SHARDS
    assert request.ttl_ms > 0
    charges, limits = request.charges, request.limits
    bounds = list(chain.from_iterable(map(_BOUNDS, charges)))
    assert all(map(le, bounds[::2], bounds[1::2]))
    numbers = [0, *bounds, *chain.from_iterable(map(_NUMBERS, limits))]
    assert min(numbers) == 0
    assert max(numbers) <= AMOUNT_MICRO_MAX
    assert len(set(map(_WALLET, charges))) == len(charges)
    assert len(set(map(_COUNTER, limits))) == len(limits)
    if len(limits) > 2:
        subjects = list(map(_SUBJECT, limits))
        assert len(list(groupby(subjects))) == len(set(subjects)), "limits of one subject follow each other"


_WALLET: Final = attrgetter("wallet")
_BOUNDS: Final = attrgetter("floor_micro", "ceiling_micro")
_NUMBERS: Final = attrgetter("amount", "maximum")
_SUBJECT: Final = attrgetter("subject")
_COUNTER: Final = attrgetter("subject", "kind")


def check_amounts(wallets: Sequence[str], amounts_micro: Sequence[int], tokens: int) -> None:
    """A settlement has one amount in range per wallet of the hold."""
    assert len(amounts_micro) == len(wallets)
    assert 0 <= tokens <= AMOUNT_MICRO_MAX
    for amount_micro in amounts_micro:
        assert 0 <= amount_micro <= AMOUNT_MICRO_MAX


def check_credit(delta_micro: int) -> None:
    """A credit, of either sign, in range."""
    assert -AMOUNT_MICRO_MAX <= delta_micro <= AMOUNT_MICRO_MAX
