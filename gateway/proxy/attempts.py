"""What happens when a deployment fails before it answers: another one, a fallback model, or the error.

Each deployment of the model is asked once, in the route's order, then those of the fallback models that the key may use;
where `retries` says so, the last one again after a pause. Nothing was shown to the client yet, so all it sees is a later
answer and the number of attempts. What is the caller's to mend (a malformed request) goes back at once, as every provider
would say the same.

Another deployment may be dearer. Before it is asked the hold is raised to what the request can cost there; one that the
wallets do not cover is passed over, or asked for less output where the hold may be clamped.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from random import SystemRandom
from time import perf_counter
from typing import Final

from gateway.balance.model import Balance, BalanceUnavailable
from gateway.core.errors import GatewayError, NotFound, PaymentRequired
from gateway.core.words import HoldPolicy
from gateway.metering.counting import Counter
from gateway.providers.model import Deployment, Reply, Upstream, UpstreamFault
from gateway.proxy import quote, refusals, wire
from gateway.proxy.ports import Gate, Prices, Router
from gateway.proxy.surface import Request
from gateway.proxy.ticket import Ticket

_log = logging.getLogger(__name__)
_CALLERS_TO_MEND: Final = frozenset((400, 409, 413, 415, 422))
_OURS_TO_MEND: Final = frozenset((401, 403, 404))  # a key or a name in the configuration
_OURS_REST_S: Final = 60.0
_PAUSE_S: Final = 0.5
_PAUSE_S_MAX: Final = 8.0
_WAITED_S_MAX: Final = 20.0  # a provider that asks for more patience than that has failed

Pause = Callable[[float], Awaitable[None]]


class Attempts:
    """Further attempts of requests whose first one failed; holds no state of theirs."""

    def __init__(
        self,
        gate: Gate,
        router: Router,
        prices: Prices,
        balance: Balance,
        upstream: Upstream,
        counter: Counter,
        release: Callable[[Ticket], Awaitable[None]],
        hold_ttl_ms: int,
        pause: Pause = asyncio.sleep,
        random: Callable[[], float] | None = None,
    ) -> None:
        """`release` ends a ticket's hold; `random` (0 to 1) spreads the pauses."""
        self._gate = gate
        self._router = router
        self._prices = prices
        self._balance = balance
        self._upstream = upstream
        self._counter = counter
        self._release = release
        self._hold_ttl_ms = hold_ttl_ms
        self._pause = pause
        self._random = random or SystemRandom().random

    async def after(self, ticket: Ticket, failed: UpstreamFault | Reply) -> Reply:
        """The first answer with status 200; GatewayError, and the hold is released, where there is none."""
        candidates = self._candidates(ticket)
        while True:
            error = await self._noted(ticket, failed)
            found = None if _is_callers(failed) else await anext(candidates, None)
            if found is None or ticket.call.answer.left:
                await self._release(ticket)
                raise error from (failed if isinstance(failed, UpstreamFault) else None)
            _log.info("%s failed, %s is asked", ticket.deployment.id, found.id)
            ticket.noted += (f"failed:{ticket.deployment.id}",)
            ticket.deployment = found
            ticket.attempts += 1
            ticket.sent_at = perf_counter()
            try:
                reply = await self._upstream.send(found, ticket.request.surface.path, self._body(ticket), ticket.request.headers)
            except UpstreamFault as fault:
                failed = fault
                continue
            if reply.status == 200:
                return reply
            failed = reply

    async def _candidates(self, ticket: Ticket) -> AsyncIterator[Deployment]:
        """What to try next, each already paid for; waits where the same one is tried again."""
        route = ticket.route
        asked_for = ticket.request.model
        for deployment in route.deployments:
            if deployment is not ticket.deployment and await self._may_serve(ticket, asked_for, deployment):
                yield deployment
        for model in route.fallbacks:
            if ticket.principal.models and not self._gate.may_use(ticket.principal, model):
                continue
            try:
                fallback = self._router.route(model)
            except NotFound:
                continue
            for deployment in fallback.deployments:
                if await self._may_serve(ticket, model, deployment):
                    yield deployment
        waited_s = 0.0
        for number in range(route.retries):
            pause_s = max(ticket.retry_after_s, min(_PAUSE_S_MAX, _PAUSE_S * 2**number) * (0.5 + self._random() / 2))
            waited_s += pause_s
            if waited_s > _WAITED_S_MAX:
                return
            await self._pause(pause_s)
            yield ticket.deployment

    async def _noted(self, ticket: Ticket, failed: UpstreamFault | Reply) -> GatewayError:
        """The error that this failure would be, and what it says about the deployment."""
        deployment, health = ticket.deployment, self._router.health
        if isinstance(failed, UpstreamFault):
            health.failed(deployment.id)
            return refusals.fault_error(failed, deployment, ticket.attempts)
        try:
            body = await failed.read(deployment.first_byte_timeout_s + deployment.chunk_timeout_s)
        except UpstreamFault:
            body = b""
        finally:
            await failed.close()
        error = refusals.answer_error(failed.status, failed.headers, body, deployment, ticket.attempts)
        ticket.retry_after_s = refusals.retry_after_s(failed.headers) or 0.0
        if failed.status in _OURS_TO_MEND:
            health.failed(deployment.id, _OURS_REST_S)
        elif _is_callers(failed):
            health.said_nothing(deployment.id)
        else:
            health.failed(deployment.id, ticket.retry_after_s or None)
        return error

    async def _may_serve(self, ticket: Ticket, model: str, deployment: Deployment) -> bool:
        """Raise the hold to what the request can cost there. False where that is not covered, or nobody knows the price."""
        request, surface = ticket.request, ticket.request.surface
        end_user = ticket.front.platform_user_id or None
        try:
            paying = quote.payers(self._prices, ticket.principal, end_user, model, deployment.id, ticket.at_ms)
            assert paying is not None, "the app's prices were loaded for the first attempt"
            if request.units or request.variant:
                paying = quote.for_units(self._prices, paying, request, deployment.id, ticket.at_ms)
        except PaymentRequired:
            return False
        again = self._parsed(ticket)
        bound = surface.bound(again, deployment)
        if paying and not await self._covered(ticket, paying, bound):
            bound = min(bound, await self._counter.count_input(deployment.model, *surface.prompt(again.body)))
            if not await self._covered(ticket, paying, bound) and not self._lowered(ticket, paying, bound):
                return False
        ticket.paying, ticket.input_bound, ticket.served_model = paying, bound, model
        return True

    async def _covered(self, ticket: Ticket, paying: tuple[quote.Payer, ...], bound: int) -> bool:
        """Whether the hold covers the output at these rates, raised to it as far as the wallets go."""
        wanted = [payer.rates.ceiling(bound, ticket.output_held) for payer in paying]
        if any(ceiling > held for ceiling, held in zip(wanted, ticket.granted, strict=True)):
            try:
                extended = await self._balance.extend(ticket.hold, wanted, self._hold_ttl_ms)
            except BalanceUnavailable:
                return False
            if extended is None:
                return False
            ticket.granted = extended.granted
        return quote.output_covered(paying, ticket.granted, bound) >= ticket.output_held

    def _lowered(self, ticket: Ticket, paying: tuple[quote.Payer, ...], bound: int) -> bool:
        """Ask for no more output than the hold covers, where that may be."""
        request = ticket.request
        may = request.output_cap is None or ticket.principal.app.hold_policy is HoldPolicy.CLAMP
        per_choice = quote.output_covered(paying, ticket.granted, bound) // request.choices
        if ticket.rolls or not may or per_choice < 1 or not ticket.output_held:
            return False
        ticket.cap, ticket.is_cut, ticket.output_held = per_choice, True, per_choice * request.choices
        return True

    def _body(self, ticket: Ticket) -> bytes:
        """The request once more, as this deployment takes it."""
        deployment, request = ticket.deployment, self._parsed(ticket)
        wire.read_tags(ticket.call.headers, request.body)  # takes what is ours out of the metadata
        cap = ticket.cap
        if cap is not None and deployment.output_tokens_max is not None:
            cap = min(cap, deployment.output_tokens_max)
        return request.surface.outgoing(request, deployment, cap)

    @staticmethod
    def _parsed(ticket: Ticket) -> Request:
        """The request once more: its body is not kept."""
        return ticket.request.surface.parse(ticket.call.raw, ticket.call.headers.get(b"content-type", b""))


def _is_callers(failed: UpstreamFault | Reply) -> bool:
    return not isinstance(failed, UpstreamFault) and failed.status in _CALLERS_TO_MEND
