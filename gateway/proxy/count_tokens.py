"""`/v1/messages/count_tokens`: what a prompt would count, free of charge.

A deployment that speaks Anthropic's dialect is asked, unless it is full; for the others the gateway counts, as it does for
poor wallets, so the number is one that the prompt does not exceed. No money is held, but it is a request: the limits of the
key and of its end user count it, and the books have a record of it, which costs nothing.
"""

from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from gateway.core.errors import Forbidden, GatewayError, RateLimited
from gateway.identity.model import Principal
from gateway.metering.counting import Counter
from gateway.metering.event import EventFront
from gateway.metering.messages import messages_prompt
from gateway.providers.model import COUNT_TOKENS, Deployment, Headers, Upstream, UpstreamFault
from gateway.proxy import refusals, wire
from gateway.proxy.messages import check_prompt, surface_of
from gateway.proxy.own_keys import as_paid_by
from gateway.proxy.ports import Gate, Router
from gateway.proxy.surface import Surface
from gateway.proxy.ticket import Call
from gateway.proxy.uncharged import Uncharged, front_of

_NOT_THERE: Final = frozenset((404, 405, 501))  # a server of messages that does not count


class CountTokens:
    """Counts the tokens of one prompt after another; see `routes.Line`."""

    def __init__(self, gate: Gate, router: Router, upstream: Upstream, counter: Counter, uncharged: Uncharged) -> None:
        self._gate = gate
        self._router = router
        self._upstream = upstream
        self._counter = counter
        self._uncharged = uncharged

    async def run(self, call: Call, surface: Surface, principal: Principal) -> None:
        """As `Line.run`."""
        call.extra_headers += [(b"request-id", call.request_id.encode())]
        passed_on = surface_of(call.headers).passed_on()
        body = wire.read_body(call.raw, call.headers.get(b"content-type", b""))
        model = wire.read_model(body)
        check_prompt(body)
        end_user = self._gate.resolve_end_user(principal, call.headers, body)
        deployments = self._router.route(model).deployments
        if principal.models and not self._gate.may_use(principal, model):
            raise Forbidden(f"this key may not use {model}", code="model_not_allowed", param="model")
        tags = wire.read_tags(call.headers, body)
        asked = next((each for each in deployments if COUNT_TOKENS in each.speaks), deployments[0])
        front = front_of(call, COUNT_TOKENS, model, principal, end_user, tags, (asked.provider, asked.id))
        hold, admitted = await self._uncharged.admitted(front, principal)
        place, asks = None, False
        try:
            if COUNT_TOKENS in asked.speaks:
                asked = await as_paid_by(self._gate, principal, asked)
                with suppress(RateLimited):  # one that is full needs not be asked
                    place = await self._uncharged.seat(asked, call.request_id)
                    asks = True
            counted = await self._count(asked, body, passed_on, front, asks=asks)
        except BaseException:  # a bug or a cancelled task alike: the request is given back before it goes on
            self._uncharged.given_back(hold, asked=asks)
            raise
        finally:
            self._uncharged.leave(place)
        await self._uncharged.served(hold, call)
        overhead_ms = (perf_counter() - call.started) * 1000
        headers = wire.answer_headers(b"application/json", call.request_id, principal.level, asked.id, 1, overhead_ms)
        headers += call.extra_headers
        headers += wire.limit_headers(hold.limits, admitted.remaining)
        call.answer.whole(200, headers, counted)
        await call.answer.drained()

    async def _count(
        self, deployment: Deployment, body: dict[str, Any], headers: Headers, front: EventFront, *, asks: bool
    ) -> bytes:
        """The answer's body. GatewayError where the provider is asked and does not give one."""
        if asks:
            try:
                answer = await self._asked(deployment, body, headers)
            except UpstreamFault as fault:
                raise refusals.fault_error(fault, deployment, 1) from fault
            if answer is not None:
                return answer
        tokens = await self._counter.count_input(deployment.model, *messages_prompt(body), front)
        return wire.encode_json({"input_tokens": tokens})

    async def _asked(self, deployment: Deployment, body: dict[str, Any], headers: Headers) -> bytes | None:
        """The provider's own answer; None where it does not count."""
        sent = wire.encode_json({**body, "model": deployment.model})
        reply = await self._upstream.send(deployment, COUNT_TOKENS, sent, headers)
        try:
            answer = await reply.read(deployment.first_byte_timeout_s)
        finally:
            await reply.close()
        if reply.status == 200:
            return answer
        if reply.status in _NOT_THERE:
            return None
        error: GatewayError = refusals.answer_error(reply.status, reply.headers, answer, deployment, 1)
        raise error
