"""The web process: an ASGI application made of the services, and what runs beside it.

The hot routes stand first and are raw ASGI; the management API and the health checks are ordinary
Starlette. The services are opened when the server starts the application (lifespan) and closed when it
stops, after the requests in flight have been settled.
"""

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
from collections.abc import AsyncIterator, Mapping
from hmac import compare_digest
from itertools import chain
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router

from gateway import background, logs
from gateway.api.endpoint import ApiContext
from gateway.api.pages import page_routes
from gateway.api.routes import routes as management_routes
from gateway.api.usage import usage_event
from gateway.api.webhooks import receivers
from gateway.balance.model import BalanceUnavailable, WalletState
from gateway.compose import Services, opened
from gateway.core.clock import now_ms
from gateway.core.errors import GatewayError, InvalidRequest, NotFound, Unauthenticated
from gateway.core.ids import new_id
from gateway.core.limits import DRAIN_ON_SHUTDOWN_S, FORM_BYTES_MAX, SETTLE_ON_SHUTDOWN_S
from gateway.db.faults import SqlDown
from gateway.ledger import queries
from gateway.ledger.model import wallet_from_name
from gateway.metering.counting import Counter
from gateway.metrics import CONTENT_TYPE, Metrics
from gateway.providers.azure import AZURE, AzureUpstream, is_translated
from gateway.providers.demo import DemoUpstream
from gateway.providers.direct import DirectUpstream
from gateway.providers.messages_over_chat import MessagesOverChat
from gateway.providers.model import COUNT_TOKENS, MESSAGES, RESPONSES, UNTRANSLATED, Dialect, Upstream
from gateway.providers.responses_over_chat import ResponsesOverChat
from gateway.providers.routing import DEMO, AsItIs, Upstreams
from gateway.providers.translated import TranslatedUpstream
from gateway.providers.translation import TRANSLATED
from gateway.proxy import wire
from gateway.proxy.account import Account
from gateway.proxy.again import Answers
from gateway.proxy.audio import Speech, Transcriptions, Translations
from gateway.proxy.chat import Chat, Completions, Embeddings
from gateway.proxy.count_tokens import CountTokens
from gateway.proxy.exchange import Exchange
from gateway.proxy.images import Edits, Generations
from gateway.proxy.messages import Messages, WithAnthropicHeaders
from gateway.proxy.meter import Meter
from gateway.proxy.models import Listed
from gateway.proxy.ports import Gate
from gateway.proxy.ranking import Moderations, Rerank
from gateway.proxy.renewal import Renewal
from gateway.proxy.response_ids import ResponseIds
from gateway.proxy.responses import OwnExchange, Responses
from gateway.proxy.routes import AccountEndpoint, DataPlane, ModelEndpoint, Traffic
from gateway.proxy.stored_responses import INPUT_ITEMS, StoredResponses
from gateway.proxy.surface import Surface
from gateway.proxy.uncharged import Uncharged
from gateway.proxy.uploads import ReadAside
from gateway.reloading import Reloading
from gateway.settings import Settings, load, translation_environment
from gateway.stopping import drain_first


def create() -> DataPlane:
    """The application, from this process's settings; the server's factory."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
    settings = load()
    logs.configure(settings.log_level)
    return application(settings)


def application(settings: Settings) -> DataPlane:
    """The application of one web process."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with opened(settings) as services:
            upstream, translated = _upstreams(services)
            traffic = Traffic()
            counter = Counter()
            exchange, hot, routes = _routes(services, upstream, traffic, counter)
            front.posts.update(hot)
            app.router.routes.extend(routes)
            reloading = Reloading(services, lambda: _warm(services, translated))
            reloading.on_signal()
            until_it_ends = [
                services.tasks.spawn(services.follow_changes(), "follow changes"),
                services.tasks.spawn(services.places.run(), "renew places"),
                services.tasks.spawn(reloading.run(), "follow the configuration"),
                services.tasks.spawn(_metered(services, traffic, exchange, app).run(), "metrics"),
                services.tasks.spawn(_renewal(services, exchange, counter).run(), "renew holds"),
            ]
            if services.receiving is not None:
                until_it_ends.append(services.tasks.spawn(services.receiving.inbox.keep_counted(), "count webhooks"))
            keeping = services.tasks.spawn(services.keeper.run(), "keep what the books do not have")
            stop = asyncio.Event()
            working = services.tasks.spawn(_work(services, stop), "worker") if settings.inline_worker else None
            # Everything made so far lives as long as the process: keep the collector from walking it again and again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT)
            drain_first(traffic, services.tasks, DRAIN_ON_SHUTDOWN_S)
            yield
            traffic.draining = True
            for task in until_it_ends:  # the server lets requests end before it comes here
                task.cancel()
            stop.set()
            if working is not None:
                await asyncio.wait([working], timeout=DRAIN_ON_SHUTDOWN_S)
            keeping.cancel()
            await services.tasks.finish(DRAIN_ON_SHUTDOWN_S)
            await services.keeper.finish(SETTLE_ON_SHUTDOWN_S)
            await upstream.close()

    app = Starlette(routes=[], lifespan=lifespan, exception_handlers={HTTPException: _http_error})
    app.router.redirect_slashes = False
    front = DataPlane(app)
    return front


def _upstreams(services: Services) -> tuple[Upstreams, TranslatedUpstream]:
    """The adapters of this process, and the one that translates: loaded beside the requests, where a deployment needs it."""
    direct = DirectUpstream()
    translated = TranslatedUpstream(direct, translation_environment)
    messages = MessagesOverChat()
    dialects: dict[str, Dialect] = {MESSAGES: messages, COUNT_TOKENS: messages, RESPONSES: ResponsesOverChat()}
    dialects |= dict.fromkeys(chain.from_iterable(UNTRANSLATED.values()), AsItIs())
    by_provider: dict[str, Upstream] = {DEMO: DemoUpstream(), **dict.fromkeys(TRANSLATED, translated)}
    by_provider[AZURE] = AzureUpstream(direct, translated)
    upstreams = Upstreams(direct, by_provider, dialects)
    _warm(services, translated)
    return upstreams, translated


def _warm(services: Services, translated: TranslatedUpstream) -> None:
    needed = [deployment for deployment in services.routing.deployments() if is_translated(deployment)]
    if needed:
        translated.warm(needed)


def _renewal(services: Services, exchange: Exchange, counter: Counter) -> Renewal:
    ttl_s = services.settings.hold_ttl_s
    return Renewal(exchange.in_flight, services.balance, counter, services.catalog, ttl_s, services.clock)


def _metered(services: Services, traffic: Traffic, exchange: Exchange, app: Starlette) -> Metrics:
    """The numbers of this process; `/metrics` is added to the application."""
    metrics = Metrics(services, Meter(traffic.seen), lambda: traffic.in_flight, lambda: len(exchange.in_flight))
    settings = services.settings

    async def scraped(request: Request) -> Response:
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        allowed = [token.encode() for token in (settings.operator_token, settings.metrics_token) if token]
        if scheme.lower() != "bearer" or not any(compare_digest(credential.strip().encode(), token) for token in allowed):
            refused = Unauthenticated("Send the operator's token, or that of MOZAIKS_METRICS_TOKEN, as `Authorization: Bearer`.")
            return Response(wire.error_body(refused, new_id("req")), refused.status, media_type="application/json")
        return Response((await metrics.text()).encode(), headers={"content-type": CONTENT_TYPE})

    app.router.routes.append(Route("/metrics", scraped, methods=["GET"]))
    return metrics


def management(services: Services) -> Router:
    """The management API alone, for callers inside this process."""
    return Router(routes=_management(services))


def _management(services: Services) -> list[BaseRoute]:
    context = ApiContext(
        identity=services.identity,
        wallets=services.wallets,
        databases=services.databases,
        catalog=services.catalog,
        routing=services.routing,
        answers=services.answers,
        operator_token=services.settings.operator_token,
        clock=services.clock,
        billing=services.billing,
        receiving=services.receiving,
        places=services.places,
        stripe_fault=services.settings.stripe_fault,
    )
    told = receivers(services.receiving.inbox if services.receiving else None)
    return [*told, *page_routes(context), *management_routes(context)]


def _routes(
    services: Services, upstream: Upstreams, traffic: Traffic, counter: Counter
) -> tuple[Exchange, dict[str, ModelEndpoint], list[BaseRoute]]:
    """What serves requests, the hot endpoints by path, every route (the hot ones too, for the answers to other methods)."""
    gate = services.identity
    exchange = Exchange(
        gate=gate,
        router=services.routing,
        prices=services.catalog,
        balance=services.balance,
        opener=services.wallets,
        upstream=upstream,
        counter=counter,
        tasks=services.tasks,
        clock=services.clock,
        hold_ttl_s=services.settings.hold_ttl_s,
        answers=Answers(services.answers, services.tasks, services.clock),
        places=services.places,
    )

    account = _account(services)
    ids = ResponseIds(services.settings.key_pepper.encode())
    hot = _hot(services, upstream, traffic, exchange, counter, ids)
    data_plane: list[BaseRoute] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in hot.items()]
    data_plane += _stored(StoredResponses(ids, gate, services.routing.deployment, upstream.direct, _uncharged(services)), gate)
    data_plane += [
        Route("/v1/models", AccountEndpoint(account.models, gate), methods=["GET"]),
        Route("/v1/models/{model:path}", AccountEndpoint(account.model, gate, ("model",)), methods=["GET"]),
        Route("/v1/balance", AccountEndpoint(account.balance, gate), methods=["GET"]),
        Route("/v1/usage/{request_id}", AccountEndpoint(account.usage, gate, ("request_id",)), methods=["GET"]),
    ]

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def readyz(_: Request) -> Response:
        found = await readiness(services, traffic)
        ready = all(value is not False for value in found.values())
        return Response(
            wire.encode_json({"ready": ready, **found}), status_code=200 if ready else 503, media_type="application/json"
        )

    health: list[BaseRoute] = [Route("/healthz", healthz), Route("/readyz", readyz)]
    return exchange, hot, [*data_plane, *health, *_management(services)]


def _account(services: Services) -> Account:
    """What callers may ask about themselves."""

    async def find_usage(enterprise_id: str, request_id: str, whole: bool) -> Mapping[str, Any] | None:
        row = await queries.usage_by_id(services.databases, enterprise_id, request_id)
        return None if row is None else msgspec.to_builtins(usage_event(enterprise_id, row, whole=whole))

    async def peek(wallet: str) -> WalletState:
        key = wallet_from_name(wallet)
        assert key is not None
        found = await services.wallets.view(key)
        return WalletState(found.available_micro - found.debt_micro, found.held_micro)

    async def lent_left(wallet: str) -> int | None:
        key = wallet_from_name(wallet)
        assert key is not None
        try:
            async with asyncio.timeout(_BOOKS_WAIT_S):
                return await services.ledger.lending.left(key)
        except (SqlDown, TimeoutError):
            return None

    def models() -> tuple[Listed, ...]:
        return services.listed_models

    return Account(
        gate=services.identity,
        balance=services.balance,
        opener=services.wallets,
        peek=peek,
        lent_left=lent_left,
        prices=services.catalog,
        listed_models=models,
        find_usage=find_usage,
        clock=services.clock,
        uncharged=_uncharged(services),
    )


def _hot(
    services: Services, upstream: Upstreams, traffic: Traffic, exchange: Exchange, counter: Counter, ids: ResponseIds
) -> dict[str, ModelEndpoint]:
    """Every surface of the data plane by its path."""
    gate = services.identity
    surfaces: tuple[Surface, ...] = (Chat(), Completions(), Embeddings())
    hot = {"/v1" + surface.path: ModelEndpoint(surface, exchange, gate, traffic) for surface in surfaces}
    messages = Messages()
    counting = CountTokens(gate, services.routing, upstream, counter, _uncharged(services))
    hot["/v1" + MESSAGES] = ModelEndpoint(messages, WithAnthropicHeaders(exchange), gate, traffic)
    hot["/v1" + COUNT_TOKENS] = ModelEndpoint(messages, counting, gate, traffic)
    responses = Responses(ids, gate, services.routing.deployment)
    hot["/v1" + RESPONSES] = ModelEndpoint(responses, OwnExchange(exchange, responses), gate, traffic)
    for made in MEDIA:
        media = made(lambda deployment_id: services.catalog.cost(deployment_id, now_ms(services.clock)), services.routing.serves)
        line = ReadAside(exchange) if media.bytes_max == FORM_BYTES_MAX else exchange
        hot["/v1" + media.path] = ModelEndpoint(media, line, gate, traffic, media.bytes_max)
    return hot


def _uncharged(services: Services) -> Uncharged:
    return Uncharged(services.balance, services.tasks, services.clock, services.settings.hold_ttl_s, services.places)


def _stored(stored: StoredResponses, gate: Gate) -> list[BaseRoute]:
    """What owners may ask of responses that a provider stores."""
    asked = (("GET", ""), ("DELETE", ""), ("GET", INPUT_ITEMS))
    named = ("response_id",)
    return [
        Route(
            "/v1" + RESPONSES + "/{response_id}" + below,
            AccountEndpoint(stored.handler(method, below), gate, named, takes_query=True),
            methods=[method],
        )
        for method, below in asked
    ]


MEDIA: Final = (Generations, Edits, Speech, Transcriptions, Translations, Moderations, Rerank)


async def readiness(services: Services, traffic: Traffic) -> dict[str, Any]:
    """Whether this process can serve: `balances` and `database` answer, not draining; and how many events wait."""
    found: dict[str, Any] = {"balances": True, "database": True, "serving": not traffic.draining, "events_waiting": None}
    try:
        await services.balance.ping()
        found["events_waiting"] = await services.events.depth()
    except BalanceUnavailable:
        found["balances"] = False
    found["database"] = await services.databases.answers()
    return found


async def _work(services: Services, stop: asyncio.Event) -> None:
    """The worker inside the web process: of several processes on one data directory, one at a time runs it."""
    lock = os.open(services.settings.data_dir / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _WORKER_TURN_S)
                continue
            await background.run(services, stop)
    finally:
        os.close(lock)


_WORKER_TURN_S: Final = 2.0
_BOOKS_WAIT_S: Final = 2.0  # what a balance is told without the books waits for them
# Requests make few cycles, and young objects die by their counts: look for cycles fifty times less often.
_COLLECT: Final = (50_000, 20, 50)


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the shape of every other error."""
    assert isinstance(error, HTTPException)
    request_id = new_id("req")
    twice = request.url.path.startswith("/v1/v1/")
    hint = " It has /v1 twice: leave it out of the client's base_url, as Anthropic's clients add it themselves." if twice else ""
    known: GatewayError = NotFound("There is nothing at this path." + hint)
    if error.status_code == 405:
        known = InvalidRequest("This path does not take that method.", code="method_not_allowed")
        known.status = 405
    headers = {**(error.headers or {}), "x-request-id": request_id}
    return Response(wire.error_body(known, request_id), known.status, headers, "application/json")
