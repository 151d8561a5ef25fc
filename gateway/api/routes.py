"""The table as Starlette routes: authenticate, check the role, decode, call, encode. Every failure is one JSON error."""

import logging
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api import wire
from gateway.api.auth import Caller, identify
from gateway.api.endpoint import ApiContext, Call, Endpoint
from gateway.api.table import TABLE, offered
from gateway.balance.model import BalanceUnavailable
from gateway.balance.places import Full
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.core.errors import Forbidden, GatewayError, NotFound, RateLimited
from gateway.core.ids import new_id
from gateway.core.limits import APP_SALES_RPM, CREATOR_SALES_RPM, END_USER_RPM, END_USER_SALES_RPM
from gateway.db.faults import SqlDown, SqlRefused
from gateway.identity.model import Actor, Role
from gateway.providers.model import Capacity

_log = logging.getLogger(__name__)
_NOBODY = Caller(Actor(role=Role.PUBLIC, name="nobody"))


class MethodNotAllowed(GatewayError):
    """405: the path exists, not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


def routes(context: ApiContext) -> list[Route]:
    """The routes of the management API, and at the end one that answers 404 for everything else under /api."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in offered(context):
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    made = [Route(path, _Path(context, methods), name=path) for path, methods in paths.items()]
    absent = f"Nothing is sold here: {context.stripe_fault or _NO_KEY}"
    made += [Route(path, _Path(context, {}, absent), name=path) for path in {each.path for each in TABLE} - set(paths)]
    return [*made, Route("/api/{rest:path}", _Path(context, {}), name="api")]


_NO_KEY = "MOZAIKS_STRIPE_SECRET_KEY is not set."


class _Path:
    """One path with its methods, as an ASGI application."""

    def __init__(self, context: ApiContext, methods: dict[str, Endpoint], absent: str = "There is no such path.") -> None:
        self._context = context
        self._absent = absent
        self._methods = methods
        if "GET" in methods:
            self._methods = {"HEAD": methods["GET"], **methods}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        # A secret may be in the answer: no cache keeps it.
        headers = {"x-request-id": new_id("req"), "cache-control": "no-store"}
        try:
            response = await self._answer(request, headers)
        except GatewayError as error:
            response = wire.error_answer(error, headers)
        except (PaymentsDown, PaymentsRefused) as fault:
            response = wire.error_answer(wire.as_gateway_error(fault), headers)
        except (SqlDown, SqlRefused, BalanceUnavailable) as fault:
            _log.warning("request %s failed: %s", headers["x-request-id"], fault)
            response = wire.error_answer(wire.as_gateway_error(fault), headers)
        except ClientDisconnect:
            return
        except Exception:  # noqa: BLE001 - process edge: a bug answers 500 and is logged, the server lives on
            _log.exception("request %s failed", headers["x-request-id"])
            shown = GatewayError("The gateway failed. The operator can find it by the request id.")
            response = wire.error_answer(shown, headers)
        await response(scope, receive, send)

    async def _answer(self, request: Request, headers: dict[str, str]) -> Response:
        if not self._methods:
            raise NotFound(self._absent)
        if request.method == "OPTIONS" and "origin" in request.headers:
            return self._preflight(request, headers)
        endpoint = self._methods.get(request.method)
        if endpoint is None:
            headers["allow"] = ", ".join(sorted(self._methods))
            raise MethodNotAllowed(f"{request.method} is not allowed here.")
        caller = _NOBODY if Role.PUBLIC in endpoint.roles else await identify(self._context, request)
        _let_browser_read(request, caller.cors_origins, headers)
        if caller.actor.role not in endpoint.roles:
            raise Forbidden("This credential may not do this.")
        await self._count(endpoint, caller.actor, headers["x-request-id"])
        call = Call(
            actor=caller.actor,
            path=request.path_params,
            query=wire.read_query(request, endpoint.query),
            idempotency_key=wire.read_idempotency_key(request) if endpoint.idempotent else None,
            body=None if endpoint.body is None else await wire.read_body(request, endpoint.body, endpoint.body_bytes_max),
        )
        return wire.answered(await endpoint.handler(self._context, call), endpoint.status, headers)

    async def _count(self, endpoint: Endpoint, actor: Actor, request_id: str) -> None:
        """One more request of whoever it is, whichever token or key it has. RateLimited. Where nobody can count, all pass."""
        places = self._context.places
        if places is None:
            return
        for capacity in _counted(endpoint, actor):
            place = await places.take(capacity, request_id, 0)
            if isinstance(place, Full):
                raise RateLimited(f"You may send {capacity.rpm} such requests a minute.", retry_after_s=place.wait_s)
            if place is not None:
                places.leave(place, 0)

    def _preflight(self, request: Request, headers: dict[str, str]) -> Response:
        """What browsers ask first, without a credential: yes for every path that end users have.

        Whether a page may read the answer is decided with the answer, by the app of the token.
        """
        open_to = [method for method, endpoint in self._methods.items() if Role.END_USER in endpoint.roles]
        if open_to:
            headers["access-control-allow-origin"] = request.headers["origin"]
            headers["access-control-allow-methods"] = ", ".join(sorted(open_to))
            headers["access-control-allow-headers"] = "authorization, content-type, idempotency-key"
            headers["access-control-max-age"] = "600"
            headers["vary"] = "origin"
        return Response(status_code=204, headers=headers)


def _counted(endpoint: Endpoint, actor: Actor) -> list[Capacity]:
    """What a request counts on: of an end user all do; of the others what asks Stripe, but for an operator's."""
    asks_stripe = endpoint.asks_stripe or (endpoint.sells and endpoint.method != "GET")
    if actor.role == Role.END_USER:
        whose = f"{actor.enterprise_id}/{actor.platform_user_id}"
        of_all = Capacity(f"api:{whose}", END_USER_RPM)
        return [of_all, Capacity(f"sales:{whose}", END_USER_SALES_RPM)] if asks_stripe else [of_all]
    if not asks_stripe:
        return []
    if actor.role == Role.APP_SERVER:
        return [Capacity(f"sales-of-app:{actor.enterprise_id}", APP_SALES_RPM)]
    return [Capacity(f"sales-of-creator:{actor.user_id}", CREATOR_SALES_RPM)] if actor.role == Role.CREATOR else []


def _let_browser_read(request: Request, origins: Sequence[str], headers: dict[str, str]) -> None:
    origin = request.headers.get("origin")
    if origin is not None and ("*" in origins or origin in origins):
        headers["access-control-allow-origin"] = origin
        headers["access-control-expose-headers"] = "x-request-id, retry-after"
        headers["vary"] = "origin"
