"""Every service of one process, made from the settings: with `app` and `worker`, where adapters are named.

Opening order: the hot store (started here on the embedded default), the databases (migrated), the
services on them, the upstreams. Closing is the reverse, so the last settle still finds its store.
"""

import asyncio
import hashlib
import hmac
import importlib
import logging
import re
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from gateway.answers.redis_answers import KeptAnswers
from gateway.balance import embedded_redis
from gateway.balance.keeping import Keeper
from gateway.balance.reconcile import Reconciler
from gateway.balance.redis_balance import RedisBalance
from gateway.balance.redis_events import Claimed, RedisEvents
from gateway.balance.redis_places import RedisPlaces
from gateway.balance.wallets import Wallets
from gateway.billing.service import Billing
from gateway.billing.subscriber_store import SubscriberStore
from gateway.billing.top_ups.charging import ToppingUp
from gateway.billing.top_ups.store import TopUpStore
from gateway.billing.webhooks.receiving import Receiving
from gateway.config.models import DIALECTS, DeploymentConfig, LimitsConfig, ModelConfig
from gateway.core.clock import SYSTEM_CLOCK, now_ms
from gateway.core.tasks import Tasks
from gateway.db.engines import Databases
from gateway.identity.cache import PRICE_LISTS, PRICES, SUBSCRIPTION, TOP_UP, WEBHOOK, InvalidationBus
from gateway.identity.following import Following
from gateway.identity.service import Identity
from gateway.identity.store import Store as IdentityStore
from gateway.ledger.audit import AuditReport, audit, persisting
from gateway.ledger.model import WalletKey, wallet_from_name
from gateway.ledger.service import Ledger
from gateway.metering.drain import Drain
from gateway.metering.event import ABANDONED
from gateway.metering.waiting import Waiting
from gateway.pricing.catalog import Catalog
from gateway.pricing.configured import PriceOverride, read_override
from gateway.pricing.shipped import shipped, shipped_sizes, shipped_surfaces
from gateway.providers.azure import is_azure_itself, is_v1
from gateway.providers.model import Capacity, Deployment, ModelEntry
from gateway.providers.routing import DEMO, Routing
from gateway.proxy.models import Listed, listed
from gateway.settings import NAMES, Part, Settings, SettingsError

_log = logging.getLogger(__name__)
_AUDITS_MAX: Final = 4
_ONLY_READ: Final = frozenset(("/moderations", "/rerank"))
_REASONS: Final = re.compile(r"o\d|gpt-5")  # Azure's models that refuse `max_tokens`
_AUDIT_AGAIN_S: Final = 1.5

DEMO_MODEL: Final = ModelConfig(
    name="demo",
    deployments=[DeploymentConfig(provider=DEMO, model="demo", input_tokens_max=128_000, output_tokens_max=4_096)],
    prices={"input": "0.50", "output": "2"},
)


class Services:
    """What the processes of the gateway are built of. Made and closed by `opened`."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self.settings = settings
        self._listed_models: tuple[Listed, ...] | None = None
        self._listed_by = ""  # the price list that was in force then
        self.tasks = Tasks()
        self.clock = SYSTEM_CLOCK
        self.databases = Databases(settings.database_url, settings.app_database_url)
        self.balance = RedisBalance(redis_url, event_backlog_max=settings.event_backlog_max, abandoned=ABANDONED)
        self.places = RedisPlaces(redis_url, self.tasks, settings.hold_ttl_s)
        self.bus = InvalidationBus(redis_url)
        # On the embedded default one worker runs at a time, so what another had claimed is what a dead one left.
        # With several, an event that a slow one still holds is given out twice now and then, and posted once.
        self.events = RedisEvents(redis_url, min_idle_ms=60_000 if settings.redis_url else 0)
        self.answers = KeptAnswers(redis_url, settings.answer_cache_bytes_max)
        self.identity = Identity(
            IdentityStore(self.databases.platform, self.databases.app), settings.key_pepper.encode(), self.bus, self.clock
        )
        self.ledger = Ledger(self.databases, self.clock)
        self.wallets = Wallets(self.balance, self.ledger, self.enterprise_ids, self.clock, self.identity.registry.trial_of)
        if settings.stripe_secret_key:
            self.wallets.lapsed = SubscriberStore(self.databases).lapsed
            self.wallets.tell = lambda wallet: self.bus.publish(SUBSCRIPTION, wallet)
        self.balance.rebuild_lost = self.wallets.rebuild_lost
        self.billing = _billing(settings, self)
        self.receiving = _receiving(settings, self)
        self.topping_up = _topping_up(self)
        self.keeper = Keeper(self.balance)
        self.reconciler = Reconciler(self.balance, self.ledger, self.enterprise_ids, self.wallets.rebuild_lost)
        entries, overrides = _configured(settings)
        self.catalog = Catalog(self.databases.platform, overrides, settings.platform_markup_bp, self.clock)
        self.routing = self._routing(entries)

    def reconfigure(self, new: Settings) -> None:
        """Take the models and prices of other settings, and nothing else of them. SettingsError, and nothing has changed."""
        settings = msgspec.structs.replace(self.settings, models=new.models, platform_markup_bp=new.platform_markup_bp)
        entries, overrides = _configured(settings)
        try:
            routing = self._routing(entries)
            self.catalog.configure(overrides, settings.platform_markup_bp)
        except ValueError as wrong:
            raise _wrong_models(settings, wrong) from wrong
        self.routing.become(routing)
        self.settings = settings
        self._listed_models = None

    def _routing(self, entries: list[ModelEntry]) -> Routing:
        return Routing(entries, sizes=shipped_sizes, cost_of=self._cost_of, serves=shipped_surfaces)

    @property
    def models_name(self) -> str:
        """A word for the models and prices that this process runs with: another one where anything of them differs."""
        return models_name(self.settings)

    def _cost_of(self, deployment_id: str) -> int | None:
        """A token in and a token out, by which deployments of one model are compared."""
        rates = self.catalog.cost(deployment_id, now_ms(self.clock))
        return None if rates is None else rates.input + rates.output

    def drain(self, consumer: str) -> Drain[Claimed]:
        """A drain of usage events into the books; `consumer` names it to the other drains."""
        return Drain(self.events, self.ledger, consumer, spent=self.topping_up.noticed if self.topping_up else None)

    async def enterprise_ids(self) -> list[str]:
        """Every app's id."""
        return await self.identity.registry.enterprise_ids()

    async def audited(self) -> AuditReport:
        """The books and the hot balances, checked; under traffic, again until only what stays is left."""
        waiting = Waiting(self.events)
        report = await audit(self.databases, await self.enterprise_ids(), self.balance, waiting)
        for _ in range(_AUDITS_MAX - 1):
            if report.ok:
                break
            await asyncio.sleep(_AUDIT_AGAIN_S)
            report = persisting(report, await audit(self.databases, await self.enterprise_ids(), self.balance, waiting))
        return report

    async def follow_changes(self) -> None:
        """Forget what other processes changed, until cancelled."""
        trail = Following(self.databases.platform, (self.identity, self.catalog), self.clock)

        def changed(kind: str, subject: str) -> None:
            if kind in (WEBHOOK, TOP_UP, SUBSCRIPTION):
                self._news_of_billing(kind, subject)
                return
            self.identity.forget(kind, subject)
            if kind == PRICES and subject == PRICE_LISTS:
                trail.look_soon()
            elif kind == PRICES:
                self.catalog.invalidate(subject)

        def connected() -> None:
            self.identity.forget_all()
            self.catalog.forget_all()
            trail.look_soon()

        beside = self.tasks.spawn(trail.run(), "follow the trail")
        try:
            await self.bus.run(changed, connected)
        finally:
            beside.cancel()

    def _news_of_billing(self, kind: str, subject: str) -> None:
        wallet = wallet_from_name(subject)
        if kind == WEBHOOK and self.receiving is not None:
            self.receiving.inbox.noticed()
        elif kind == SUBSCRIPTION:
            self.wallets.forget_lapse(subject)
        elif kind == TOP_UP and self.topping_up is not None and wallet is not None:
            self.topping_up.turned_on([wallet])

    @property
    def listed_models(self) -> tuple[Listed, ...]:
        """Every model that can be listed: those configured, and those that a pattern stands for; by their first deployments."""
        in_force = self.catalog.lists.in_force()
        if self._listed_models is None or self._listed_by != in_force:
            self._listed_by = in_force
            names = dict.fromkeys(self.routing.models())
            for pattern, provider in self.routing.patterns():
                names |= dict.fromkeys(self.catalog.lists.names(provider, pattern))
            self._listed_models = tuple([self._listed(name) for name in names])
        return self._listed_models

    def _listed(self, name: str) -> Listed:
        deployment = min(self.routing.route(name).deployments, key=lambda each: each.id)
        known = shipped(deployment.provider, deployment.model)
        if known is None:
            return listed(name, deployment, "", (), None)
        return listed(name, deployment, known.mode, known.capabilities, known.input_tokens_max)


@asynccontextmanager
async def opened(settings: Settings, needs: Part = Part.ALL) -> AsyncIterator[Services]:
    """Services on open, migrated stores; closed at the end. Raises EmbeddedRedisFailed, SettingsError, SqlDown.

    Where not all of the settings is needed, models that are wrong are left out, and told in `settings.faults`.
    """
    if needs != Part.ALL:
        settings = _as_far_as_they_are_well(settings)
    async with AsyncExitStack() as stack:
        redis_url = settings.redis_url
        if not redis_url:
            server = await embedded_redis.start(settings.data_dir)
            stack.push_async_callback(server.stop)
            redis_url = server.url
        try:
            services = Services(settings, redis_url)
        except ValueError as wrong:
            raise _wrong_models(settings, wrong) from wrong
        stack.push_async_callback(services.databases.close)
        stack.push_async_callback(services.balance.close)
        stack.push_async_callback(services.places.close)
        stack.push_async_callback(services.events.close)
        stack.push_async_callback(services.bus.close)
        stack.push_async_callback(services.answers.close)
        if services.billing is not None:
            stack.push_async_callback(services.billing.close)
        await services.databases.migrate()
        await services.catalog.load_lists()
        yield services


def _billing(settings: Settings, services: Services) -> Billing | None:
    """None without Stripe's key: then its SDK, which takes 14 MB, is not imported."""
    if not settings.stripe_secret_key:
        return None
    adapter = importlib.import_module("gateway.billing.stripe.reports")
    secrets = {"platform": settings.stripe_webhook_secret, "connect": settings.stripe_connect_webhook_secret}
    payments = adapter.StripeReports(settings.stripe_secret_key, secrets, settings.stripe_api_base)
    return Billing(
        payments,
        services.databases,
        services.identity.registry,
        services.clock,
        public_url=settings.public_url,
        link_secret=settings.key_pepper.encode(),
    )


def _receiving(settings: Settings, services: Services) -> Receiving | None:
    billing = services.billing
    if billing is None:
        return None
    secrets = {"platform": settings.stripe_webhook_secret, "connect": settings.stripe_connect_webhook_secret}
    made = Receiving(
        billing.payments,
        billing.store,
        services.databases,
        services.wallets,
        services.ledger,
        services.enterprise_ids,
        frozenset(name for name, secret in secrets.items() if secret),
        services.clock,
        grace_days=settings.grace_days,
        kept_days=settings.webhooks_kept_days,
    )
    billing.overage.changed = made.effects.overages.follow
    billing.overage.why_idle = made.effects.overages.idle
    if not settings.inline_worker:
        made.inbox.tell = lambda: services.bus.publish(WEBHOOK, "waits")
    return made


def _topping_up(services: Services) -> ToppingUp | None:
    billing, receiving = services.billing, services.receiving
    if billing is None or receiving is None:
        return None
    made = ToppingUp(
        billing.payments,
        billing.store,
        TopUpStore(services.databases),
        receiving.effects,
        services.ledger,
        services.identity.registry,
        services.enterprise_ids,
        services.clock,
    )

    def turned_on(wallets: Collection[WalletKey]) -> None:
        made.turned_on(wallets)
        for wallet in wallets:  # whoever posts its usage, in whichever process, knows of the rule from now on
            services.tasks.spawn(services.bus.publish(TOP_UP, wallet.name), "tell of a top-up")

    billing.top_ups.turned_on = turned_on
    return made


def _wrong_models(settings: Settings, wrong: ValueError) -> SettingsError:
    where = "models" if settings.config is None else f"{settings.config}: models"
    return SettingsError(f"{where}: {wrong}.", "models")


def _as_far_as_they_are_well(settings: Settings) -> Settings:
    """Without the models that stop a start."""
    well, faults = [], list(settings.faults)
    for model in settings.models:
        try:
            entry = _entry(model)
            Routing([msgspec.structs.replace(entry, fallbacks=())])
            for override in _overrides(model, entry):
                read_override(override)
        except ValueError as wrong:
            faults.append(str(_wrong_models(settings, wrong)))
        else:
            well.append(model)
    kept = msgspec.structs.replace(settings, models=tuple(well), faults=tuple(faults))
    try:
        Routing(_configured(kept)[0])
    except ValueError as wrong:
        return msgspec.structs.replace(kept, models=(), faults=(*faults, str(_wrong_models(settings, wrong))))
    return kept


def models_name(settings: Settings) -> str:
    """See `Services.models_name`. Keyed, as providers' keys are part of it."""
    return _word(settings, (settings.models, settings.platform_markup_bp, settings.demo))


def setting_names(settings: Settings) -> dict[str, str]:
    """Such a word for each of the settings that a process keeps until it ends."""
    names = [name for name in settings.__struct_fields__ if name in NAMES]
    return {name: _word(settings, getattr(settings, name)) for name in names}


def _word(settings: Settings, of: Any) -> str:
    told = msgspec.json.encode(of, enc_hook=str)
    return hmac.new(settings.key_pepper.encode(), told, hashlib.sha256).hexdigest()[:16]


def _configured(settings: Settings) -> tuple[list[ModelEntry], list[PriceOverride]]:
    models = (*settings.models, DEMO_MODEL) if settings.demo else settings.models
    entries = [_entry(model) for model in models]
    return entries, [override for model, entry in zip(models, entries, strict=True) for override in _overrides(model, entry)]


def _entry(model: ModelConfig) -> ModelEntry:
    deployments = [_deployment(model, index, config) for index, config in enumerate(model.deployments)]
    return ModelEntry(model.name, tuple(deployments), tuple(model.fallbacks), model.retries, model.strategy)


def _deployment(model: ModelConfig, index: int, config: DeploymentConfig) -> Deployment:
    name, limits = f"{model.name}/{config.provider}/{index}", config.limits
    # OpenAI's own newer models refuse `max_tokens`; other servers of the dialect may not know the new name, nor do older
    # versions of Azure's API for other models.
    is_newer = urlsplit(config.api_base).hostname == "api.openai.com"
    if _is_azure_itself(config):
        is_newer = is_v1(config.api_base) or bool(_REASONS.match(config.model or model.name))
    own_field = "max_completion_tokens" if is_newer else "max_tokens"
    return Deployment(
        id=name,
        provider=config.provider,
        model=config.model or model.name,
        api_base=config.api_base,
        api_key=config.api_key,
        weight=config.weight,
        output_cap_field=config.output_cap_field or own_field,
        cached_inside=config.cached_tokens == "inside",
        input_tokens_max=config.input_tokens_max,
        output_tokens_max=config.output_tokens_max,
        headers=tuple(config.headers.items()),
        first_byte_timeout_s=config.first_byte_timeout_s,
        chunk_timeout_s=config.chunk_timeout_s,
        hidden_reasoning=config.hidden_reasoning,
        params=tuple(config.params.items()),
        speaks=_spoken(config),
        api_version=config.api_version,
        own_keys=config.own_keys,
        tool_calls=config.tool_calls,
        tool_call_tokens=config.tool_call_tokens,
        vector_stores=frozenset(config.vector_stores),
        names_tier=_is_openai_itself(config),
        capacity=None if limits == LimitsConfig() else Capacity(name, limits.rpm, limits.tpm, limits.concurrency),
    )


def _is_openai_itself(config: DeploymentConfig) -> bool:
    """Or one of its regional hosts. A `service_tier` that is missing there is `auto`: what the project's settings say, while
    `default` is the standard price whatever they say (OpenAI's API reference of chat completions and responses).
    """
    host = urlsplit(config.api_base).hostname or ""
    return host == "api.openai.com" or host.endswith(".api.openai.com")


def _is_azure_itself(config: DeploymentConfig) -> bool:
    return is_azure_itself(config.provider, config.api_base, config.api_version, config.params)


def _spoken(config: DeploymentConfig) -> frozenset[str]:
    names = config.speaks
    if names is None:
        names = ["messages"] if config.provider == "anthropic" else []
        if urlsplit(config.api_base).hostname == "api.openai.com":
            names = ["responses"]
        elif _is_azure_itself(config):
            names = ["images", "audio", "responses"] if is_v1(config.api_base) else ["images", "audio"]
    return frozenset(path for name in names for path in DIALECTS[name])


def _overrides(model: ModelConfig, entry: ModelEntry) -> list[PriceOverride]:
    return [
        PriceOverride(
            deployment.id,
            deployment.provider,
            deployment.model,
            config.prices or model.prices,
            model.charge,
            _region(config),
            _makes_tokens(config, deployment),
        )
        for deployment, config in zip(entry.deployments, model.deployments, strict=True)
    ]


def _makes_tokens(config: DeploymentConfig, deployment: Deployment) -> bool:
    """False where it is known that it only reads: by the price list, or as it says itself."""
    surfaces = shipped_surfaces(deployment.provider, deployment.model)
    if surfaces is None:
        surfaces = frozenset(path for name in config.speaks or () for path in DIALECTS[name])
    return not surfaces or not surfaces <= _ONLY_READ


def _region(config: DeploymentConfig) -> str:
    """Where a deployment serves, as far as that costs more: OpenAI's and xAI's regional hosts, Google's locations."""
    host = urlsplit(config.api_base).hostname or ""
    if host.endswith((".api.openai.com", ".api.x.ai")):
        return host.partition(".")[0]
    is_regional = config.provider == "vertex_ai" and config.params.get("vertex_location") != "global"
    return "regional" if is_regional else ""
