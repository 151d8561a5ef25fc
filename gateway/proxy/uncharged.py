"""Requests that cost nothing and count all the same: against the limits of the key and its end user, and in the books."""

from time import perf_counter

from gateway.balance.model import Admitted, Balance, BalanceUnavailable, Hold, HoldRequest, LimitKind, RefusedByLimit
from gateway.balance.places import Full, Place, Places
from gateway.core.clock import Clock, now_ms
from gateway.core.tasks import Tasks
from gateway.core.words import CostPolicy, Level, RequestStatus, UsageSource
from gateway.identity.model import Principal
from gateway.metering.event import EventFront, EventRest, encode_event
from gateway.providers.model import Deployment
from gateway.proxy import quote, refusals
from gateway.proxy.ticket import Call
from gateway.proxy.wire import NO_TAGS, Tags, limit_headers

_COUNTED = (LimitKind.REQUESTS_PER_MINUTE, LimitKind.CONCURRENCY)


class Uncharged:
    """Admits such requests, and ends them; holds no state of theirs."""

    def __init__(self, balance: Balance, tasks: Tasks, clock: Clock, hold_ttl_s: int, places: Places | None = None) -> None:
        self._places = places
        self._balance = balance
        self._tasks = tasks
        self._clock = clock
        self._hold_ttl_ms = 1000 * hold_ttl_s

    async def admitted(self, front: EventFront, principal: Principal) -> tuple[Hold, Admitted]:
        """Counted by its limits; nothing is held of any wallet. RateLimited, Unavailable."""
        limits = quote.limits_of(principal, front.platform_user_id, charged=False)
        limits = tuple([limit for limit in limits if limit.kind in _COUNTED])
        wanted = HoldRequest(front.request_id, principal.shard, (), limits, self._hold_ttl_ms, encode_event(front))
        try:
            outcome = await self._balance.reserve(wanted)
        except BalanceUnavailable as broken:
            raise refusals.balance_unavailable() from broken
        if isinstance(outcome, RefusedByLimit):
            raise refusals.refusal(outcome, (), (), limits, principal.level)
        assert isinstance(outcome, Admitted), "it draws on no wallet"
        return Hold(front.request_id, principal.shard, (), limits), outcome

    async def counted(self, call: Call, endpoint: str, principal: Principal, end_user: str | None) -> None:
        """Count a question about the caller itself as a request a minute, where those are limited. RateLimited.

        It is in no books, and is answered all the same where nobody can count.
        """
        limits = quote.limits_of(principal, end_user or "", charged=False)
        limits = tuple([limit for limit in limits if limit.kind is LimitKind.REQUESTS_PER_MINUTE])
        if not limits:
            return
        front = encode_event(front_of(call, endpoint, "", principal, end_user, NO_TAGS, ("", "")))
        try:
            outcome = await self._balance.reserve(
                HoldRequest(call.request_id, principal.shard, (), limits, self._hold_ttl_ms, front)
            )
        except BalanceUnavailable:
            return
        if isinstance(outcome, RefusedByLimit):
            raise refusals.refusal(outcome, (), (), limits, principal.level)
        assert isinstance(outcome, Admitted), "it draws on no wallet"
        call.extra_headers += limit_headers(limits, outcome.remaining)
        self.given_back(Hold(call.request_id, principal.shard, (), limits), asked=True)

    async def seat(self, deployment: Deployment, request_id: str) -> Place | None:
        """A place at a deployment that has a capacity, as every request to it takes one. RateLimited where it is full."""
        if deployment.capacity is None or self._places is None:
            return None
        found = await self._places.take(deployment.capacity, request_id, 0)
        if isinstance(found, Full):
            raise refusals.full(deployment, found.wait_s)
        return found

    def leave(self, place: Place | None) -> None:
        """The provider has answered, or failed."""
        if place is not None and self._places is not None:
            self._places.leave(place, 0)

    def given_back(self, hold: Hold, *, asked: bool) -> None:
        """It came to nothing, and counts only where a provider was `asked`."""
        self._tasks.spawn(self._balance.release(hold, asked=asked), "release")

    async def served(self, hold: Hold, call: Call) -> None:
        """It counts, and is in the books."""
        rest = EventRest(
            at_ms=now_ms(self._clock),
            status=RequestStatus.SERVED.value,
            usage_source=UsageSource.NONE.value,
            latency_ms=round((perf_counter() - call.started) * 1000),
            attempts=1,
        )
        try:
            await self._balance.settle(hold, [], 0, encode_event(rest))
        except BalanceUnavailable:
            return  # it is kept, and costs nothing


def front_of(
    call: Call, endpoint: str, model: str, principal: Principal, end_user: str | None, tags: Tags, served_by: tuple[str, str]
) -> EventFront:
    """What the usage event says of such a request; `served_by` is a provider and the id of its deployment."""
    app = principal.app
    return EventFront(
        request_id=call.request_id,
        level=principal.level.value,
        user_id=app.user_id,
        enterprise_id=app.enterprise_id,
        key_id=principal.key_id,
        endpoint=endpoint,
        model=model,
        platform_user_id=end_user or "",
        workflow_type=tags.workflow_type,
        session_id=tags.session_id,
        agent_name=tags.agent_name,
        tags=tags.tags,
        provider=served_by[0],
        deployment=served_by[1],
        cost_policy=(app.cost_policy if principal.level is Level.APP_USAGE else CostPolicy.PLATFORM_PAYS).value,
    )
