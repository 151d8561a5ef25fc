"""What happens when a deployment fails before it answers: another one, a fallback model, or the error.

Each deployment of the model is asked once, in the route's order, then those of the fallback models that the key may use;
where `retries` says so, the last one again after a pause. What was tried is remembered for as long as the request runs,
whether attempts failed before their answers' heads or behind them, and there is a bound on attempts. Nothing was shown to
the client yet, so all it sees is a later answer and the number of attempts. What is the caller's to mend (a malformed
request) goes back at once, as every provider would say the same; only a prompt that is too long goes on to those that read
longer ones.

A deployment that is asked for as much as its capacity allows is passed over like one that failed, and so is one that cannot
read so long a prompt where another can: neither is asked, nor counts as an attempt.

Another deployment may be dearer. Before it is asked the hold is raised to what the request can cost there; one that the
wallets do not cover is passed over, or asked for less output where the hold may be clamped.

What a provider bills for an answer that never arrived is the platform's loss: the prompt of an attempt that was sent and
what had arrived are counted, and go into the provider's cost of the usage event. The payer pays for none of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from random import SystemRandom
from time import perf_counter
from typing import Final

from msgspec.structs import astuple

from gateway.balance.model import Balance, BalanceUnavailable
from gateway.balance.places import Full, Places
from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import GatewayError, InvalidRequest, NotFound, PaymentRequired, Unavailable, UpstreamFailed
from gateway.core.limits import ATTEMPTS_MAX
from gateway.core.units import Usage
from gateway.core.words import CostPolicy, HoldPolicy, RequestStatus, UsageSource
from gateway.metering.counting import Counter
from gateway.metering.event import EventRest, encode_event
from gateway.providers.model import Deployment, Reply, Route, Upstream, UpstreamFault
from gateway.providers.tokenizer import is_own_tokenizer
from gateway.proxy import quote, refusals, wire
from gateway.proxy.blame import Blame, blame
from gateway.proxy.chat import CHAT
from gateway.proxy.own_keys import as_paid_by
from gateway.proxy.ports import Gate, Prices, Router
from gateway.proxy.renewal import input_of
from gateway.proxy.surface import Request
from gateway.proxy.ticket import Ticket, Tried

_log = logging.getLogger(__name__)
_KEY_REFUSED: Final = frozenset((401, 402, 403))
_OURS_REST_S: Final = 60.0
_PAUSE_S: Final = 0.5
_PAUSE_S_MAX: Final = 8.0
_WAITED_S_MAX: Final = 20.0  # a provider that asks for more patience than that has failed
_LEAST_BYTES_A_TOKEN: Final = 2  # of prompts that are worth counting before they are sent
_COUNTED_BYTES_MAX: Final = 64 * 1024  # of prompts that are counted after a failure, while a client waits
_BYTES_A_TOKEN: Final = 4  # of longer ones
_ARRIVED_BYTES_MAX: Final = 256 * 1024

Pause = Callable[[float], Awaitable[None]]


class PassedOver(UpstreamFault):
    """A deployment is not asked, and the error that this is should nobody else serve."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.message, sent=False)
        self.error = error


class Attempts:
    """First and further attempts of requests; holds no state of theirs."""

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
        *,
        places: Places | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`release` ends a ticket's hold; `random` (0 to 1) spreads the pauses; without `places` no capacity is looked at."""
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
        self._places = places
        self._clock = clock

    async def first(self, ticket: Ticket) -> None:
        """Before the first deployment of a route with a choice or a capacity is asked. PassedOver."""
        deployment = ticket.deployment
        most = deployment.input_tokens_max
        if most is not None and ticket.request.body_bytes > _LEAST_BYTES_A_TOKEN * most and self._somebody_reads_more(ticket):
            tokens = await input_of(ticket, self._counter)
            if not is_own_tokenizer(deployment.model):
                tokens = tokens * 2 // 3  # what it has at the least: the counter is generous with other models' tokens
            if tokens > most:
                raise PassedOver(refusals.too_long(deployment, tokens))
        await self._begin(ticket)

    def leave(self, ticket: Ticket, tokens: int = 0, *, asked: bool = True) -> None:
        """The ticket's place at its deployment, if it has one, is free again."""
        place, ticket.place = ticket.place, None
        if place is not None and self._places is not None:
            self._places.leave(place, tokens, asked=asked)

    async def after(self, ticket: Ticket, failed: UpstreamFault | Reply) -> Reply:
        """The first answer with status 200; GatewayError, and the hold is ended, where there is none."""
        first = ticket.deployment
        tried = ticket.tried = ticket.tried or Tried(first, isinstance(failed, PassedOver), {first.id})
        told: GatewayError | None = None
        none_failed = True
        while True:
            error, may_go_on = await self._noted(ticket, failed)
            if not isinstance(failed, PassedOver):  # the last failure is told, and only without one who was passed over
                told, none_failed = error, False
            elif none_failed:
                told = _sooner(told, error)
            assert told is not None
            found = await self._next(ticket, tried) if may_go_on else None
            if found is None or ticket.call.answer.left:
                await self._given_up(ticket, told)
                raise told from (failed if isinstance(failed, UpstreamFault) else None)
            _log.info("%s does not serve, %s is asked", ticket.deployment.id, found.id)
            what = _WHY.get(error.code, "full" if isinstance(failed, PassedOver) else "failed")
            ticket.noted += (f"{what}:{ticket.deployment.id}",)
            ticket.attempts += not isinstance(failed, PassedOver)
            ticket.deployment = found
            ticket.sent_at = perf_counter()
            try:
                await self._begin(ticket)
                request = ticket.request
                reply = await self._upstream.send(ticket.deployment, request.surface.path, self._body(ticket), request.headers)
            except UpstreamFault as fault:
                failed = fault
                continue
            if reply.status == 200:
                return reply
            failed = reply

    def broke(self, ticket: Ticket, fault: UpstreamFault) -> UpstreamFailed:
        """The error that ends a stream which broke off before its client's eyes: nobody else can go on with it."""
        self._suspected(ticket, began=True)
        return refusals.fault_error(fault, ticket.deployment, ticket.attempts)

    def answered(self, ticket: Ticket) -> None:
        """A deployment of several has begun its answer."""
        self._served(ticket, whole=False)

    def ended(self, ticket: Ticket) -> None:
        """A deployment of several has given its whole answer."""
        self._served(ticket, whole=True)
        if ticket.front.cost_policy != CostPolicy.OWN_KEYS and ticket.used is not None:  # another's account may be slower
            output = ticket.used.output if ticket.relay is None else 0  # a stream begins before it is made
            self._router.took(ticket.deployment.id, ticket.first_byte_at - ticket.sent_at, output)

    def _served(self, ticket: Ticket, *, whole: bool) -> None:
        health = self._router.health
        if health.troubled:
            own = ticket.front.cost_policy == CostPolicy.OWN_KEYS
            health.served(ticket.deployment.id, whole=whole, only=ticket.principal.app.user_id if own else None)

    def _failed(self, ticket: Ticket, rest_s: float | None = None, told_s: float | None = None) -> None:
        """Who is the only one to ask is counted, and never left alone."""
        if ticket.route.several:
            self._router.health.failed(ticket.deployment.id, rest_s, told_s=told_s)
        else:
            self._router.health.count(ticket.deployment.id, "failed")

    def _suspected(self, ticket: Ticket, rest_s: float = 0.0, *, began: bool = False, alone: bool = True) -> None:
        """It failed, if only because of this request. What becomes of one creator's own key is nobody else's trouble."""
        if ticket.route.several:
            all_, by = ticket.front.cost_policy != CostPolicy.OWN_KEYS, ticket.principal.app.user_id
            self._router.health.suspected(ticket.deployment.id, by, rest_s, began=began, alone=alone, all_=all_)
        else:
            self._router.health.count(ticket.deployment.id, "failed")

    async def _begin(self, ticket: Ticket) -> None:
        """The deployment is about to be asked. PassedOver where it is full."""
        try:
            ticket.deployment = await as_paid_by(self._gate, ticket.principal, ticket.deployment)
        except InvalidRequest as without_key:
            raise PassedOver(without_key) from without_key
        deployment = ticket.deployment
        if deployment.capacity is not None and self._places is not None:
            tokens = ticket.input_bound + ticket.output_held
            found = await self._places.take(deployment.capacity, ticket.call.request_id, tokens)
            if isinstance(found, Full):
                raise PassedOver(refusals.full(deployment, found.wait_s))
            ticket.place = found
        self._router.health.asked(deployment.id, ticket.principal.app.user_id)

    async def _next(self, ticket: Ticket, tried: Tried) -> Deployment | None:
        """What to try next, already paid for; waits where the same one is tried again. None: nobody any more."""
        if ticket.attempts >= ATTEMPTS_MAX:
            return None
        asked_for = ticket.request.model
        for model, deployment in self._others(ticket, ticket.route, asked_for):
            if deployment.id in tried.ids:
                continue
            tried.ids.add(deployment.id)
            if _reads_more(deployment, ticket.too_small) and await self._may_serve(ticket, model, deployment):
                tried.nobody_else = False
                return deployment
        # Nobody who reads more could be asked: the provider itself says what it thinks of the prompt.
        if ticket.too_small and tried.nobody_else and tried.first_was_passed_over:
            tried.first_was_passed_over = False  # once
            if await self._may_serve(ticket, asked_for, tried.first):
                return tried.first
        if tried.retries >= ticket.route.retries or not _reads_more(ticket.deployment, ticket.too_small):
            return None
        backoff_s = min(_PAUSE_S_MAX, _PAUSE_S * 2**tried.retries) * (0.5 + self._random() / 2)
        pause_s = max(ticket.retry_after_s, backoff_s)
        tried.retries += 1
        tried.waited_s += pause_s
        if tried.waited_s > _WAITED_S_MAX:
            return None
        await self._pause(pause_s)
        return ticket.deployment

    def _others(self, ticket: Ticket, route: Route, asked_for: str) -> Iterator[tuple[str, Deployment]]:
        """Every deployment that the key may use, under the name of its model, in the order to try."""
        for deployment in route.deployments:
            yield asked_for, deployment
        for model in route.fallbacks:
            if ticket.principal.models and not self._gate.may_use(ticket.principal, model):
                continue
            try:
                fallback = self._router.route(model, ticket.principal.app.user_id)
            except NotFound:
                continue
            for deployment in fallback.deployments:
                yield model, deployment

    def _somebody_reads_more(self, ticket: Ticket) -> bool:
        most = ticket.deployment.input_tokens_max or 0
        return any(_reads_more(each, most) for _, each in self._others(ticket, ticket.route, ticket.request.model))

    async def _noted(self, ticket: Ticket, failed: UpstreamFault | Reply) -> tuple[GatewayError, bool]:
        """The error that this failure would be, whether others may be asked, and what it says about the deployment."""
        deployment, health = ticket.deployment, self._router.health
        if isinstance(failed, PassedOver):
            if failed.error.code == refusals.CONTEXT_TOO_LONG:
                ticket.too_small = max(ticket.too_small, deployment.input_tokens_max or 1)
                health.count(deployment.id, "too_long")
            elif failed.error.code != refusals.NO_OWN_KEY:
                health.count(deployment.id, "full")
                ticket.retry_after_s = failed.error.retry_after_s or 0.0
            return failed.error, True
        ticket.asked = ticket.asked or not isinstance(failed, UpstreamFault) or failed.sent
        if isinstance(failed, UpstreamFault):
            if failed.sent or ticket.front.cost_policy == CostPolicy.OWN_KEYS:
                self._suspected(ticket, began=ticket.first_byte_at > ticket.sent_at)
            else:
                self._failed(ticket)
            self.leave(ticket, await self._wasted(ticket, failed) if failed.sent else 0, asked=failed.sent)
            ticket.retry_after_s = 0.0
            return refusals.fault_error(failed, deployment, ticket.attempts), True
        self.leave(ticket)
        try:
            body = await failed.read(deployment.first_byte_timeout_s + deployment.chunk_timeout_s)
        except UpstreamFault:
            body = b""
        finally:
            await failed.close()
        error = refusals.answer_error(failed.status, failed.headers, body, deployment, ticket.attempts)
        ticket.retry_after_s = refusals.retry_after_s(failed.headers) or 0.0
        if error.code == refusals.CONTEXT_TOO_LONG:
            ticket.too_small = max(ticket.too_small, deployment.input_tokens_max or 1)
            health.said_nothing(deployment.id, ticket.principal.app.user_id)
            return error, True
        return self._blamed(ticket, failed.status, body, error)

    def _blamed(self, ticket: Ticket, status: int, body: bytes, error: GatewayError) -> tuple[GatewayError, bool]:
        """As `_noted`, of an error answer."""
        deployment, health, by = ticket.deployment, self._router.health, ticket.principal.app.user_id
        whose = blame(status, body, is_chat=ticket.request.surface.path == CHAT)
        own = ticket.front.cost_policy == CostPolicy.OWN_KEYS
        if own and whose is not Blame.FAILURE:
            health.said_nothing(deployment.id, by)
            if refusals.status_meant(status, body, is_chat=True) in _KEY_REFUSED:
                error = refusals.own_key_refused(deployment, status)
        elif whose in (Blame.CALLER, Blame.REQUEST):
            health.said_nothing(deployment.id, by)
        elif whose is Blame.ACCOUNT:
            self._failed(ticket, _OURS_REST_S)
        elif whose is Blame.REFUSAL:
            self._suspected(ticket, _OURS_REST_S, alone=False)
        elif whose is Blame.RATE:
            self._failed(ticket, told_s=ticket.retry_after_s or None)
        else:
            self._suspected(ticket, ticket.retry_after_s)
        return error, whose is not Blame.CALLER

    async def _wasted(self, ticket: Ticket, fault: UpstreamFault) -> int:
        """What an attempt has used that was sent and came to nothing, in tokens; its cost is added to the ticket's."""
        deployment, request = ticket.deployment, ticket.request
        began = ticket.first_byte_at > ticket.sent_at
        text = fault.arrived[:_ARRIVED_BYTES_MAX].decode("utf-8", "replace") if ticket.relay is None else ticket.relay.text()
        ticket.relay = ticket.made = None  # the next attempt is counted by itself
        if request.body_bytes <= _COUNTED_BYTES_MAX:
            prompt = request.surface.prompt(self._parsed(ticket).body)
            tokens = min(ticket.input_bound, await self._counter.count_input(deployment.model, *prompt, ticket.front))
        else:
            tokens = min(ticket.input_bound, request.body_bytes // _BYTES_A_TOKEN)
        output = min(await self._counter.count_text(deployment.model, text, ticket.front), ticket.output_held) if text else 0
        rates = self._prices.cost(deployment.id, ticket.at_ms)
        if rates is not None and ticket.front.cost_policy != CostPolicy.OWN_KEYS:
            rates = rates.variant(request.variant)
            cost = rates.price_of(astuple(Usage(input=tokens, output=output)))
            if began and request.units and request.calls is None:  # of calls nobody knows how many there were
                cost += rates.units_price(request.units)
            if cost:
                ticket.wasted_micro += cost
                ticket.noted += ("cost_estimated",) if "cost_estimated" not in ticket.noted else ()
        return tokens + output

    async def _given_up(self, ticket: Ticket, error: GatewayError) -> None:
        """End the hold of a request that nobody serves: nothing is paid, and what it has cost is in its usage event."""
        self.leave(ticket)
        if not ticket.wasted_micro:
            await self._release(ticket)
            return
        rest = EventRest(
            at_ms=now_ms(self._clock),
            status=RequestStatus.UPSTREAM_BROKE,
            usage_source=UsageSource.NONE,
            amounts_micro=(0,) * len(ticket.paying),
            held_micro=ticket.granted,
            provider_cost_micro=ticket.wasted_micro,
            latency_ms=round((perf_counter() - ticket.call.started) * 1000),
            attempts=ticket.attempts,
            http_status=error.status,
            flags=ticket.noted,
        )
        ticket.ended = True
        try:
            await self._balance.settle(ticket.hold, rest.amounts_micro, 0, encode_event(rest))
        except BalanceUnavailable:
            _log.warning("settle of %s is kept until the balance store serves", ticket.hold.request_id)

    async def _may_serve(self, ticket: Ticket, model: str, deployment: Deployment) -> bool:
        """Raise the hold to what the request can cost there. False where that is not covered, or nobody knows the price."""
        request, surface = ticket.request, ticket.request.surface
        end_user = ticket.front.platform_user_id or None
        try:
            paying = quote.payers(self._prices, ticket.principal, end_user, model, deployment.id, ticket.at_ms)
            if paying is None:  # the app has changed since the first attempt
                await self._prices.load_app(ticket.principal.app.enterprise_id)
                paying = quote.payers(self._prices, ticket.principal, end_user, model, deployment.id, ticket.at_ms)
            if paying is None:  # once more, while it was read
                return False
            if request.units or request.variant:
                paying = quote.for_units(self._prices, paying, request, deployment, ticket.at_ms)
            again = self._parsed(ticket)
            bound = surface.bound(again, deployment)
        except (PaymentRequired, InvalidRequest, Unavailable):  # it does not serve this surface; no prices to be had
            return False
        if paying and not await self._covered(ticket, paying, bound):
            prompt = await self._counter.count_input(deployment.model, *surface.prompt(again.body), ticket.front)
            bound = min(bound, prompt if request.calls is None else prompt + request.calls.tokens)
            if not await self._covered(ticket, paying, bound) and not self._lowered(ticket, paying, bound):
                return False
        ticket.paying, ticket.input_bound, ticket.served_model = paying, bound, model
        return True

    async def _covered(self, ticket: Ticket, paying: tuple[quote.Payer, ...], bound: int) -> bool:
        """Whether the hold covers the output and the units at these rates, raised to it as far as the wallets go."""
        output = ticket.output_held
        wanted = [charge.ceiling_micro for charge in quote.charges(paying, bound, output, output, ticket.request.units)]
        if any(ceiling > held for ceiling, held in zip(wanted, ticket.granted, strict=True)):
            try:
                extended = await self._balance.extend(ticket.hold, wanted, self._hold_ttl_ms)
            except BalanceUnavailable:
                return False
            if extended is None:
                return False
            ticket.granted = extended.granted
        if not ticket.output_held:  # nothing that could be less
            return all(held >= ceiling for held, ceiling in zip(ticket.granted, wanted, strict=True))
        return quote.output_covered(paying, ticket.granted, bound, ticket.request.units) >= ticket.output_held

    def _lowered(self, ticket: Ticket, paying: tuple[quote.Payer, ...], bound: int) -> bool:
        """Ask for no more output than the hold covers, where that may be."""
        request = ticket.request
        may = request.output_cap is None or ticket.principal.app.hold_policy is HoldPolicy.CLAMP
        per_choice = quote.output_covered(paying, ticket.granted, bound, request.units) // request.choices
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
        """The request once more: its body is not kept. Its tools may run as often as they are held for."""
        again = ticket.request.surface.parse(ticket.call.raw, ticket.call.headers.get(b"content-type", b""))
        again.calls = ticket.request.calls
        return again


_WHY: Final = {refusals.CONTEXT_TOO_LONG: "too_long", refusals.NO_OWN_KEY: "no_key"}


def _sooner(told: GatewayError | None, error: GatewayError) -> GatewayError:
    """Of deployments that were passed over, the one that can be asked the soonest."""
    if told is None or told.retry_after_s is None:
        return error
    return told if error.retry_after_s is None or told.retry_after_s <= error.retry_after_s else error


def _reads_more(deployment: Deployment, tokens: int) -> bool:
    return not tokens or (deployment.input_tokens_max or 0) > tokens
