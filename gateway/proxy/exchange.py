"""The straight line of one exchange: who, where, how much, hold, send, relay, price, settle.

Every way out after the hold ends it exactly once: `settle` when the provider produced something,
`release` when it did not. A started request finishes its metering: when the client leaves, writing
stops, counting does not.
"""

import asyncio
import logging
from collections.abc import Callable
from operator import add
from time import perf_counter
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from gateway.balance.model import (
    SPEND_KINDS,
    Admitted,
    Balance,
    BalanceUnavailable,
    Hold,
    HoldRequest,
    RefusedByLimit,
    RefusedByWallet,
    Settled,
    WalletMissing,
)
from gateway.balance.places import Places
from gateway.core import limits
from gateway.core.clock import Clock
from gateway.core.errors import Forbidden, GatewayError
from gateway.core.money import AMOUNT_MICRO_MAX, decimal_from_micro
from gateway.core.tasks import Tasks
from gateway.core.units import TOKEN_KINDS, Usage
from gateway.core.words import CostPolicy, DisconnectPolicy, HoldPolicy, RequestStatus, UsageSource
from gateway.identity.model import Principal
from gateway.metering.counting import Counter
from gateway.metering.event import EventFront, EventRest, encode_event
from gateway.providers.model import Reply, Route, Upstream, UpstreamFault
from gateway.proxy import quote, refusals, wire
from gateway.proxy.again import HEADER, Answers
from gateway.proxy.attempts import Attempts
from gateway.proxy.doubt import MUCH_TOKENS, as_counted, believed
from gateway.proxy.ports import Gate, Opener, Prices, Router
from gateway.proxy.relay import BrokenStream
from gateway.proxy.renewal import input_of, sign
from gateway.proxy.rolling import SLICE_TOKENS, RollingHold, Slices, rolling_hold, uncovered
from gateway.proxy.surface import Request, Stream, Surface
from gateway.proxy.ticket import Call, Ticket
from gateway.proxy.tool_calls import fewer, tell_cut

_log = logging.getLogger(__name__)
_CACHED: Final = ("cached",)  # flags of an answer that is given again
_EXHAUSTED: Final = ("wallet_exhausted",)  # flags of a stream that was cut here
_UNKNOWN_BALANCE: Final = ("balance_unavailable",)
_CUT_UNREAD: Final = ("cut_unread",)  # its client had left
_TOKEN_KINDS: Final = len(TOKEN_KINDS)
# Python 3.11 finds a member of an enum class in ten times the steps of a plain name.
_CANCEL: Final = DisconnectPolicy.CANCEL
_OWN_KEYS: Final = CostPolicy.OWN_KEYS.value
_SERVED: Final = RequestStatus.SERVED
_CLIENT_LEFT: Final = RequestStatus.CLIENT_LEFT
_UPSTREAM: Final = UsageSource.UPSTREAM.value
_COUNTED: Final = UsageSource.COUNTED.value


class Exchange:
    """Serves one request after another; holds no state of theirs."""

    def __init__(
        self,
        gate: Gate,
        router: Router,
        prices: Prices,
        balance: Balance,
        opener: Opener,
        upstream: Upstream,
        counter: Counter,
        tasks: Tasks,
        clock: Clock,
        hold_ttl_s: int = limits.HOLD_TTL_S,
        read_on_s: float = limits.DRAIN_FOR_THE_LEFT_S,
        *,
        answers: Answers,
        places: Places | None = None,
    ) -> None:
        self._gate = gate
        self._router = router
        self._prices = prices
        self._balance = balance
        self._opener = opener
        self._upstream = upstream
        self._counter = counter
        self._tasks = tasks
        self._clock = clock
        self._hold_ttl_ms = 1000 * hold_ttl_s
        self._read_on_s = read_on_s
        self._answers = answers
        others = (gate, router, prices, balance, upstream, counter, self._release, self._hold_ttl_ms)
        self._attempts = Attempts(*others, places=places, clock=clock)
        self.in_flight: dict[str, Ticket] = {}  # admitted and not ended, by request id; see `renewal`

    async def run(self, call: Call, surface: Surface, principal: Principal) -> Ticket:
        """Answer one request of a known caller; GatewayError when it is refused or fails before the first byte."""
        request = surface.parse(call.raw, call.headers.get(b"content-type", b""))
        end_user = self._gate.resolve_end_user(principal, call.headers, request.body)
        route = self._router.route(request.model, principal.app.user_id)
        if request.placed is not None:
            route = request.placed(route)
        call.model = request.model
        if principal.models and not self._gate.may_use(principal, request.model):
            raise Forbidden(f"this key may not use {request.model}", code="model_not_allowed", param="model")
        if principal.app.answer_cache is not None or HEADER in call.headers:
            call.again, route = await self._answers.look(call.headers.get(HEADER), request, principal, end_user, route)
        ticket = await self._admit(call, request, principal, end_user, route)
        self.in_flight[call.request_id] = ticket
        try:
            await self._forward(ticket)
        except BaseException:  # a bug or a cancelled task alike: the hold must end before it goes on
            if not ticket.ended:
                self._tasks.spawn(self._release(ticket, asked=ticket.sent_at > 0.0), "release")
            raise
        finally:
            del self.in_flight[call.request_id]
        return ticket

    async def _forward(self, ticket: Ticket) -> None:
        request = ticket.request
        body = request.surface.outgoing(request, ticket.deployment, ticket.cap)
        request.body = {}  # the bytes are enough from here on, and a parsed body takes many times as much
        ticket.sent_at = perf_counter()
        if ticket.call.again is not None and ticket.call.again.hit is not None:
            ticket.noted = _CACHED
            if (broke := await self._delivered(ticket, ticket.call.again.reply())) is not None:
                raise refusals.fault_error(broke, ticket.deployment, 1) from broke
            return
        try:
            if ticket.route.several or ticket.front.cost_policy == _OWN_KEYS:
                await self._attempts.first(ticket)
            reply = await self._upstream.send(ticket.deployment, request.surface.path, body, request.headers)
        except UpstreamFault as fault:
            reply = await self._attempts.after(ticket, fault)
        if reply.status != 200:
            reply = await self._attempts.after(ticket, reply)
        while (broke := await self._delivered(ticket, reply)) is not None:
            reply = await self._attempts.after(ticket, broke)

    async def _delivered(self, ticket: Ticket, reply: Reply) -> UpstreamFault | None:
        """Pass the answer on; what happened when it broke off before anybody saw it."""
        request, again = ticket.request, ticket.call.again
        if again is not None:
            ticket.call.extra_headers += self._answers.headers(again)
            reply = again.recorded(reply)
        ticket.first_byte_at = perf_counter()
        if ticket.route.several:
            self._attempts.answered(ticket)
        try:
            if request.surface.streams(request, reply):
                is_whole = await self._stream(ticket, reply)
            else:
                if ticket.rolls and (refused := await uncovered(self._balance, ticket, self._hold_ttl_ms)) is not None:
                    await self._release(ticket)
                    raise refused
                is_whole = await self._whole(ticket, reply)
        except UpstreamFault as fault:
            return fault
        finally:
            await reply.close()
        if ticket.route.several and is_whole:
            self._attempts.ended(ticket)
        return None

    # ---- before the provider: price it and hold the money -------------------------------------

    async def _admit(self, call: Call, request: Request, principal: Principal, end_user: str | None, route: Route) -> Ticket:
        deployment = route.deployments[0]
        tags = wire.read_tags(call.headers, request.body)
        at_ms = self._clock() // 1_000_000
        paying = quote.payers(self._prices, principal, end_user, request.model, deployment.id, at_ms)
        if paying is None:
            await self._prices.load_app(principal.app.enterprise_id)
            paying = quote.payers(self._prices, principal, end_user, request.model, deployment.id, at_ms)
            assert paying is not None
        if request.units or request.variant:
            paying = quote.for_units(self._prices, paying, request, deployment, at_ms)
        if call.again is not None:
            paying = call.again.paying(paying)
        front = quote.front_of(call.request_id, request, principal, end_user, tags, deployment, paying)
        return await self._reserve(call, request, principal, route, paying, front, at_ms)

    async def _reserve(
        self,
        call: Call,
        request: Request,
        principal: Principal,
        route: Route,
        paying: tuple[quote.Payer, ...],
        front: EventFront,
        at_ms: int,
    ) -> Ticket:
        """Hold the strict bound; only where the wallet does not cover it, count exactly and fit the output to what is left."""
        deployment, surface = route.deployments[0], request.surface
        bound, most = surface.bound(request, deployment), surface.most(request, deployment)
        shows = request.shows and not deployment.hidden_reasoning
        rolls = shows and request.output_cap is None and bool(paying) and most > SLICE_TOKENS
        total, shard, request_id = (SLICE_TOKENS if rolls else most) * request.choices, principal.shard, call.request_id
        context = encode_event(front)
        counted = quote.limits_of(principal, front.platform_user_id, bool(paying))
        exact, opened, least = False, False, total
        while True:
            asked = quote.charges(paying, bound, least, total, request.units)
            try:
                wanted = HoldRequest(request_id, shard, asked, counted, self._hold_ttl_ms, context, bound + total)
                outcome = await self._balance.reserve(wanted)
            except BalanceUnavailable as broken:
                raise refusals.balance_unavailable() from broken
            if type(outcome) is Admitted:
                break
            if type(outcome) is WalletMissing:
                if opened or not await refusals.opened(self._opener, shard, outcome, paying, asked, principal.level):
                    raise refusals.balance_unavailable()
                opened = True
            elif exact or (isinstance(outcome, RefusedByLimit) and counted[outcome.limit].kind not in SPEND_KINDS):
                assert isinstance(outcome, RefusedByWallet | RefusedByLimit)
                fits = None
                if exact and request.calls is not None:
                    rates = [payer.rates for payer in paying]
                    fits = fewer(request, outcome, counted, rates, bound, least, principal.app.hold_policy)
                    tell_cut(request, call.extra_headers)
                if fits is None:
                    refused = refusals.refusal(outcome, paying, asked, counted, principal.level, bound + total)
                    raise await refusals.explained(refused, outcome, asked, self._opener)
                bound, least = fits
            else:
                exact = True
                prompt = await self._counter.count_input(deployment.model, *surface.prompt(request.body), front)
                bound = min(bound, prompt if request.calls is None else prompt + request.calls.tokens)
                if most and (request.output_cap is None or principal.app.hold_policy == HoldPolicy.CLAMP):
                    least = request.choices if request.calls is None else min(total, SLICE_TOKENS * request.choices)
        cap, is_cut = None, False
        if rolls or (paying and least < total):
            covered = outcome.granted
            if rolls:  # it may grow to all that there is
                covered = tuple(map(add, covered, outcome.available))
            cap = min(most, quote.output_covered(paying, covered, bound, request.units) // request.choices)
            is_cut = cap < most
        elif paying and request.output_cap is None and most:
            cap = most  # the hold covers no more, so no more may be made, whatever the upstream's own default is
        hold = Hold(request_id, shard, tuple([charge.wallet for charge in asked]), counted)
        return Ticket(
            call, request, principal, deployment, paying, hold, outcome, outcome.granted, bound, cap, is_cut, rolls, front, at_ms,
            route, min(total, cap * request.choices) if cap is not None and not rolls else total,
        )  # fmt: skip

    # ---- after the provider's first byte ------------------------------------------------------

    async def _whole(self, ticket: Ticket, reply: Reply) -> bool:
        body = await reply.read(ticket.deployment.first_byte_timeout_s + ticket.deployment.chunk_timeout_s)
        surface = ticket.request.surface
        try:
            told = surface.told(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as garbage:
            raise UpstreamFault("its answer is not JSON", sent=True, arrived=body) from garbage
        settled, cost, _ = await self._settle(ticket, told, lambda: surface.text(body), _SERVED)
        if settled is not None and not settled.stands and ticket.paying:
            raise refusals.balance_unavailable()  # this process stood still, and its hold was swept
        headers = self._headers(ticket, reply.content_type or b"application/json")
        if ticket.paying:
            headers += wire.money_headers(cost, settled.available[0] if settled is not None else None)
        answer = ticket.call.answer
        answer.whole(200, headers, surface.returned(ticket.request, body))
        await answer.drained()
        return True

    async def _stream(self, ticket: Ticket, reply: Reply) -> bool:
        relay, answer = ticket.request.surface.stream(ticket.request, reply), ticket.call.answer
        ticket.relay, ticket.made = relay, None
        ticket.lease = max(ticket.lease, ticket.call.started + self._hold_ttl_ms / 1000)
        rolling = rolling_hold(self._balance, self._counter, ticket, relay, self._hold_ttl_ms) if ticket.rolls else None
        try:
            forward, trouble, flags = await self._relayed(ticket, reply, relay, rolling)
        except asyncio.CancelledError:
            ticket.ended = True
            self._tasks.spawn(self._settle(ticket, relay.usage, relay.text, RequestStatus.ABANDONED, whole=False), "settle")
            raise
        status = _SERVED
        if trouble is not None:
            status = RequestStatus.UPSTREAM_BROKE
            if not answer.started:
                raise trouble
        elif await answer.gone():
            status = _CLIENT_LEFT
        whole = relay.complete and not flags and not relay.told_early
        try:
            settled, cost, counted = await self._settle(ticket, relay.usage, relay.text, status, flags, whole=whole)
        except asyncio.CancelledError:
            if not ticket.ended:  # it was being counted
                ticket.ended = True
                self._tasks.spawn(self._settle(ticket, relay.usage, relay.text, status, flags, whole=whole), "settle")
            raise
        error: GatewayError | None = None
        if trouble is not None:
            error = self._attempts.broke(ticket, trouble)
        elif flags and flags != _CUT_UNREAD:
            error = refusals.balance_unavailable()
            if rolling is not None and flags == _EXHAUSTED:
                error = refusals.exhausted(ticket.paying[rolling.dry], ticket.principal.level)
        if not answer.started:
            answer.start(200, self._headers(ticket, relay.content_type))
        answer.end(forward + self._last_frames(ticket, relay, trouble is not None, settled, cost, counted, error))
        await answer.drained()
        return trouble is None

    async def _relayed(
        self, ticket: Ticket, reply: Reply, relay: Stream, rolling: RollingHold | None
    ) -> tuple[bytes, UpstreamFault | None, tuple[str, ...]]:
        """Pass the stream on. Returns what to put behind it, what broke upstream, and what to note: why it was cut here."""
        try:
            async with asyncio.timeout(limits.STREAM_SECONDS_MAX) as limit:
                cut = await self._passed_on(ticket, reply, relay, rolling, limit)
        except UpstreamFault as fault:
            return b"", fault, ()
        except BrokenStream as broken:
            return b"", UpstreamFault(str(broken), sent=True), ()
        except TimeoutError:
            if not ticket.call.answer.left:
                return b"", UpstreamFault("the stream took too long", sent=True), ()
            cut = _CUT_UNREAD
        except BalanceUnavailable:  # nothing more may be spent; what was made is settled, now or later
            cut = _UNKNOWN_BALANCE
        if cut:
            return relay.finish(), None, cut
        forward = relay.end()
        if relay.complete:
            return forward, None, ()
        told = refusals.without_secrets(relay.error, ticket.deployment) if relay.error else "it ended the stream early"
        return forward, UpstreamFault(told, sent=True), ()

    async def _passed_on(
        self, ticket: Ticket, reply: Reply, relay: Stream, rolling: RollingHold | None, limit: asyncio.Timeout
    ) -> tuple[str, ...]:
        """Chunks as they come, the hold growing with them where it rolls: () at the upstream's end, else why it was cut."""
        answer, left = ticket.call.answer, False
        late: list[bytes] = []  # what came when the hold might have been swept

        def take(chunk: bytes) -> bool:
            if perf_counter() > ticket.lease:
                late.append(chunk)
                return False
            forward = relay.feed(chunk)
            if not forward:
                return True
            if not answer.started:
                answer.start(200, self._headers(ticket, relay.content_type))
            return answer.write(forward)

        def count(chunk: bytes) -> bool:
            relay.feed(chunk)
            return True

        use, ended = take if rolling is None else Slices(take, relay, rolling), False
        while not ended:
            if late:
                if not await sign(self._balance, ticket, self._hold_ttl_ms):
                    return _UNKNOWN_BALANCE
                chunk = b"".join(late)
                late.clear()
                use(chunk)
            elif rolling is not None and rolling.waits:
                use(b"")
            else:
                ended = await reply.relay(use)
            await answer.drained()
            if answer.left and not left:
                left = True
                hides = ticket.deployment.hidden_reasoning or not ticket.request.shows
                if ticket.principal.app.disconnect_policy is _CANCEL and not hides:
                    return _CUT_UNREAD
                use = count if rolling is None else Slices(count, relay, rolling)
                limit.reschedule(asyncio.get_running_loop().time() + self._read_on_s)
            if rolling is None or relay.text_bytes < rolling.pause_at:
                continue
            has_more = await rolling.grow()
            ticket.granted = rolling.granted
            if not has_more:
                return _EXHAUSTED
        return ()

    def _last_frames(
        self,
        ticket: Ticket,
        relay: Stream,
        broken: bool,
        settled: Settled | None,
        cost: int,
        counted: Usage | None,
        error: GatewayError | None,
    ) -> bytes:
        """The usage chunk with its cost for those who asked, then the end; or the error event that ends a broken stream."""
        if broken and error is not None:
            return relay.ended_by(error, ticket.call.request_id)
        include_cost = ticket.call.headers.get(b"x-include-cost", b"").lower() == b"true"
        money: dict[str, Any] = {}
        if (include_cost or ticket.request.wants_usage) and settled is not None and settled.available and ticket.paying:
            money["cost"] = msgspec.Raw(decimal_from_micro(cost).encode())
            money["balance"] = msgspec.Raw(decimal_from_micro(settled.available[0]).encode())
        return relay.last(ticket.request, ticket.call.request_id, counted, money, error, asked=include_cost)

    # ---- the end of the hold -------------------------------------------------------------------

    async def _settle(
        self,
        ticket: Ticket,
        told: Any,
        text: Callable[[], str],
        status: RequestStatus,
        noted: tuple[str, ...] = (),
        *,
        whole: bool = True,
    ) -> tuple[Settled | None, int, Usage | None]:
        """Price what was used and debit it.

        Returns the result (None when Redis must be asked again later), the cost, and the usage where it is our own count.
        """
        deployment = ticket.deployment
        read = ticket.request.surface.measured(told, ticket.request, deployment)
        if read is not None:
            (usage, flags), source, counts = read, _UPSTREAM, astuple(read[0])
            if not whole or sum(counts[:_TOKEN_KINDS]) > MUCH_TOKENS:
                (usage, flags), is_theirs = await believed(ticket, read, whole, lambda: self._counted(ticket, text()))
                source, counts = _UPSTREAM if is_theirs else _COUNTED, astuple(usage)
        else:
            (usage, flags), source = await as_counted(ticket, told, self._counted(ticket, text())), _COUNTED
            counts = astuple(usage)
        paying, variant = ticket.paying, ticket.request.variant
        if variant:
            paying = quote.served(paying, variant)
        amounts = [min(payer.rates.price_of(counts), AMOUNT_MICRO_MAX) for payer in paying]
        provider_cost = quote.cost_micro(self._prices, ticket.front.cost_policy, deployment.id, variant, counts, ticket.at_ms)
        started, ticket.used = ticket.call.started, usage
        rest = encode_event(
            EventRest(
                at_ms=self._clock() // 1_000_000,
                status=status._value_,
                usage_source=source,
                amounts_micro=tuple(amounts),
                held_micro=ticket.granted,
                usage=usage,
                provider_cost_micro=0 if ticket.noted == _CACHED else provider_cost + ticket.wasted_micro,
                latency_ms=round((perf_counter() - started) * 1000),
                ttft_ms=round((ticket.first_byte_at - started) * 1000),
                attempts=ticket.attempts,
                http_status=499 if status is _CLIENT_LEFT else 200,
                flags=flags + noted + ticket.noted,
                served_by=(ticket.served_model, deployment.provider, deployment.id) if ticket.served_model else None,
            )
        )
        is_cut = ticket.is_cut or (ticket.request.calls is not None and ticket.request.calls.is_cut)
        if ticket.call.again is not None and whole and status is _SERVED and not is_cut:
            self._answers.keep(ticket.call.again, ticket.route, deployment, counts, variant)
        tokens = sum(counts[:_TOKEN_KINDS])  # its buckets are disjoint
        cost = amounts[0] if amounts else 0
        if ticket.place is not None:
            self._attempts.leave(ticket, tokens)
        settled = None
        ticket.ended = True  # also when this task is cancelled from here on: the settlement is kept, and must not be released
        try:
            settled = await self._balance.settle(ticket.hold, amounts, tokens, rest)
        except BalanceUnavailable:
            _log.warning("settle of %s is kept until the balance store serves", ticket.hold.request_id)
        return settled, cost, None if source is _UPSTREAM else usage

    async def _counted(self, ticket: Ticket, text: str) -> Usage:
        """Usage that we count ourselves, because the upstream did not say."""
        output = await self._counter.count_text(ticket.deployment.model, text, ticket.front) if text else 0
        return Usage(input=await input_of(ticket, self._counter), output=output)

    async def _release(self, ticket: Ticket, *, asked: bool = False) -> None:
        self._attempts.leave(ticket)
        ticket.ended = True
        try:
            await self._balance.release(ticket.hold, asked=asked or ticket.asked or ticket.first_byte_at > 0.0)
        except BalanceUnavailable:
            _log.warning("release of %s is left to the sweeper", ticket.hold.request_id)

    def _headers(self, ticket: Ticket, content_type: bytes) -> list[tuple[bytes, bytes]]:
        call, level = ticket.call, ticket.principal.level
        overhead_ms = (perf_counter() - call.started - (ticket.first_byte_at - ticket.sent_at)) * 1000
        headers = wire.answer_headers(content_type, call.request_id, level, ticket.deployment.id, ticket.attempts, overhead_ms)
        headers += call.extra_headers
        if ticket.is_cut and ticket.cap is not None:
            headers.append((b"x-mozaiks-output-cap", b"%d" % ticket.cap))
        if ticket.hold.limits:
            headers += wire.limit_headers(ticket.hold.limits, ticket.admitted.remaining)
        return headers
