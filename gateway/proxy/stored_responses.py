"""`GET` and `DELETE` of `/v1/responses/{id}`, `GET` of its `input_items`: for the owner of a response, free of charge.

They are passed to the deployment that stores it. Somebody else's response looks like one that never was. They are requests
for the limits of the key and its end user, and the books have a record of each.
"""

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from gateway.core.errors import InvalidRequest
from gateway.identity.model import Principal
from gateway.providers.model import METHOD, RESPONSES, Deployment, Upstream, UpstreamFault
from gateway.providers.native import as_spoken_to
from gateway.proxy import refusals, wire
from gateway.proxy.own_keys import as_paid_by
from gateway.proxy.ports import Gate
from gateway.proxy.response_ids import Owner, OwnNames, ResponseIds
from gateway.proxy.responses import FindDeployment, not_found, returned
from gateway.proxy.ticket import Call
from gateway.proxy.uncharged import Uncharged, front_of

INPUT_ITEMS: Final = "/input_items"
_PARAM: Final = "response_id"
_ENDPOINT: Final = RESPONSES + "/{response_id}"  # as usage records have it
_QUERY: Final = frozenset(("after", "include", "include[]", "limit", "order"))
_IN_A_PATH: Final = "-_"  # beside letters and digits


class StoredResponses:
    """Handlers of `routes.AccountEndpoint`, whose path parameter is the id."""

    def __init__(self, ids: ResponseIds, gate: Gate, find: FindDeployment, upstream: Upstream, uncharged: Uncharged) -> None:
        """`upstream` is the byte path."""
        self._uncharged = uncharged
        self._ids = ids
        self._gate = gate
        self._find = find
        self._upstream = upstream

    def handler(self, method: str, below: str = "") -> Callable[[Call, Principal], Awaitable[bytes]]:
        """The handler of a method on what is `below` the response."""

        async def handle(call: Call, principal: Principal) -> bytes:
            return await self._asked(call, principal, method, below)

        return handle

    async def _asked(self, call: Call, principal: Principal, method: str, below: str) -> bytes:
        """The provider's answer, under our id. GatewayError."""
        text, _, query = call.raw.decode("latin-1").partition("?")
        end_user = self._gate.resolve_end_user(principal, call.headers, {})
        owner = Owner.of(principal, end_user)
        stored = self._ids.opened(owner, text)
        deployment = None if stored is None else self._find(stored.deployment_id)
        if stored is None or deployment is None or RESPONSES not in deployment.speaks:
            raise not_found(text, _PARAM)
        deployment = await as_paid_by(self._gate, principal, deployment)
        path = f"{RESPONSES}/{quote(stored.response_id, safe=_IN_A_PATH)}{below}{_checked(query)}"
        tags, served_by = wire.read_tags(call.headers, {}), (deployment.provider, stored.deployment_id)
        model = stored.deployment_id.partition("=")[2] or deployment.model
        hold, admitted = await self._uncharged.admitted(
            front_of(call, _ENDPOINT + below, model, principal, end_user, tags, served_by), principal
        )
        call.extra_headers += wire.limit_headers(hold.limits, admitted.remaining)
        place, asked = None, False
        try:
            place = await self._uncharged.seat(deployment, call.request_id)
            asked = True
            status, body = await self._answer(deployment, method, path)
        except BaseException:  # a fault or a cancelled task alike: the request is given back before it goes on
            self._uncharged.given_back(hold, asked=asked)
            raise
        finally:
            self._uncharged.leave(place)
        await self._uncharged.served(hold, call)
        if status == 404:
            raise not_found(text, _PARAM)
        if status != 200:
            raise refusals.answer_error(status, {}, body, deployment, 1)
        return returned(body, OwnNames(self._ids, owner, deployment, (stored.response_id, text))) if not below else body

    async def _answer(self, deployment: Deployment, method: str, path: str) -> tuple[int, bytes]:
        try:
            reply = await self._upstream.send(as_spoken_to(deployment, RESPONSES), path, b"", ((METHOD, method),))
            try:
                return reply.status, await reply.read(deployment.first_byte_timeout_s)
            finally:
                await reply.close()
        except UpstreamFault as fault:
            raise refusals.fault_error(fault, deployment, 1) from fault


def _checked(query: str) -> str:
    """The query as it is sent on: pages of a list, and what to include. A stored answer is not streamed again."""
    given = parse_qsl(query, keep_blank_values=True)
    for name, value in given:
        if name not in _QUERY and not (name == "stream" and value == "false"):
            raise InvalidRequest(f"{name[:64]} is not taken here", param=name[:64])
    kept = [(name, value) for name, value in given if name in _QUERY]
    return "?" + urlencode(kept) if kept else ""
