"""What the model of a hold promises, asserted once for every adapter, before anything is sent.

A failure here is a mistake in the caller's code, never a fact of the caller's request.
"""

from collections.abc import Sequence
from itertools import groupby

from gateway.balance.model import BY_TOKENS, HoldRequest, Limit
from gateway.core.ids import SHARDS
from gateway.core.money import AMOUNT_MICRO_MAX


def check_request(request: HoldRequest) -> None:
    """A request has each wallet once, amounts in range and a future deadline. Its limits: `check_limits`."""
    assert 0 <= request.shard < SHARDS
    assert request.ttl_ms > 0
    assert 0 <= request.tokens <= AMOUNT_MICRO_MAX
    charges = request.charges
    for charge in charges:
        assert 0 <= charge.floor_micro <= charge.ceiling_micro <= AMOUNT_MICRO_MAX
    if len(charges) > 1:
        assert len({charge.wallet for charge in charges}) == len(charges)


def check_limits(limits: Sequence[Limit]) -> None:
    """Limits have each kind once a subject, those of one subject in a row, and numbers in range."""
    for limit in limits:
        assert limit.charge >= 0
        assert BY_TOKENS <= limit.amount <= AMOUNT_MICRO_MAX
        assert 0 <= limit.maximum <= AMOUNT_MICRO_MAX
    assert len({(limit.subject, limit.kind) for limit in limits}) == len(limits)
    subjects = [limit.subject for limit in limits]
    assert len(list(groupby(subjects))) == len(set(subjects)), "limits of one subject follow each other"


def check_amounts(wallets: Sequence[str], amounts_micro: Sequence[int], tokens: int) -> None:
    """A settlement has one amount in range per wallet of the hold."""
    assert len(amounts_micro) == len(wallets)
    assert 0 <= tokens <= AMOUNT_MICRO_MAX
    for amount_micro in amounts_micro:
        assert 0 <= amount_micro <= AMOUNT_MICRO_MAX


def check_extension(
    wallets: Sequence[str], ceilings_micro: Sequence[int], owed_micro: Sequence[int], ttl_ms: int, tokens: int
) -> None:
    """An extension has a ceiling in range per wallet of the hold, what is owed on each or on none, and a future deadline."""
    assert ttl_ms > 0
    assert 0 <= tokens <= AMOUNT_MICRO_MAX
    assert len(ceilings_micro) == len(wallets)
    assert len(owed_micro) in (0, len(wallets))
    assert all(0 <= micro <= AMOUNT_MICRO_MAX for micro in (*ceilings_micro, *owed_micro))


def check_credit(delta_micro: int) -> None:
    """A credit, of either sign, in range."""
    assert -AMOUNT_MICRO_MAX <= delta_micro <= AMOUNT_MICRO_MAX
