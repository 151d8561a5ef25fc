"""The platform's share of what creators' apps sell: terms with a beginning, in basis points, and what they make of an amount.

An app's own term comes before that of all its creator's apps; without one there is no share. A payment has the share of the
moment in which the buyer was sent to pay, a subscription that of its beginning or of its last change of plans.
"""

from typing import Final

import msgspec

from gateway.billing.acts import act
from gateway.billing.model import FeeTerm
from gateway.billing.store import Store, Taken
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, Forbidden, InvalidRequest
from gateway.identity.model import Actor, Role
from gateway.identity.registry import Registry

BP: Final = 10_000  # of everything
_AHEAD_MS: Final = 5 * 366 * 86_400_000


def fee_minor(amount_minor: int, fee_bp: int) -> int:
    """The share of an amount, in whole minor units, half a unit rounded up."""
    assert amount_minor >= 0
    assert 0 <= fee_bp <= BP
    return (2 * amount_minor * fee_bp + BP) // (2 * BP)


class Fees:
    """Terms, and the one in force."""

    def __init__(self, store: Store, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock

    async def add(
        self, actor: Actor, user_id: str, enterprise_id: str | None, fee_bp: int, effective_at_ms: int | None
    ) -> FeeTerm:
        """A term from a moment on, by default now; not in the past, whose payments have their share. Operator only.

        InvalidRequest, NotFound, Forbidden; Conflict when another begins at the same moment.
        """
        if actor.role != Role.OPERATOR:
            raise Forbidden("Only an operator sets the platform's share.")
        if not 0 <= fee_bp <= BP:
            raise InvalidRequest("`fee_percent` must be 0 to 100", param="fee_percent")
        creator = await self._registry.creator(actor, user_id)
        app = None if enterprise_id is None else await self._registry.app(actor, enterprise_id)
        if app is not None and app.user_id != creator.user_id:
            raise InvalidRequest("The app is another creator's.", param="enterprise_id")
        at_ms = now_ms(self._clock)
        begins_ms = at_ms if effective_at_ms is None else effective_at_ms
        if not at_ms <= begins_ms <= at_ms + _AHEAD_MS:
            raise InvalidRequest("`effective_at` must not lie in the past, nor five years ahead", param="effective_at")
        term = FeeTerm(user_id, enterprise_id, begins_ms, fee_bp, at_ms, actor.name)
        after = {"fee_bp": fee_bp, "effective_at_ms": begins_ms}
        line = act(actor, "fee_term.create", enterprise_id or user_id, app, after=after)
        try:
            await self._store.add_fee_term(term, msgspec.structs.replace(line, user_id=user_id))
        except Taken as taken:
            raise Conflict("Another term begins at that moment.", param="effective_at") from taken
        return term

    async def listed(self, actor: Actor, user_id: str | None, count: int) -> list[FeeTerm]:
        """The latest first. Operator only."""
        if actor.role != Role.OPERATOR:
            raise Forbidden("Only an operator sees the terms of all.")
        return await self._store.fee_terms(user_id, count)

    async def in_force(self, user_id: str, enterprise_id: str) -> int:
        """Basis points of an app's payments now."""
        return await self._store.fee_bp(user_id, enterprise_id, now_ms(self._clock))
