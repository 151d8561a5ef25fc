"""Every price there is: what providers take, what the platform takes from creators, what apps take from end users.

Provider prices come from the configuration, else from the shipped list. Platform prices come from the
configuration (`charge`), else are the provider's plus the platform's markup. App prices are the app's
own book; without one an app in TOK takes 1 TOK a token, an app in USD takes the provider's price, and an
app in another asset has no price (so it refuses, rather than serve for free).

Reading is synchronous and from memory; an app's book is loaded once with `load_app` and again after
`BOOK_TTL_MS`, which bounds how late a process learns of a price that another one added.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.core.ids import expanded_id, new_id
from gateway.core.money import TOK, USD
from gateway.core.units import TOKEN_KINDS, UNIT_KINDS
from gateway.db.faults import SqlDown
from gateway.pricing.book import ANY_MODEL, Book, Version
from gateway.pricing.rates import PRICED_KINDS, Rates, marked_up, rate_from_decimal, rates_from
from gateway.pricing.shipped import shipped
from gateway.pricing.store import PriceRow, SameInstant, Store
from gateway.trail.model import Act

_log = logging.getLogger(__name__)

BOOK_TTL_MS: Final = 30_000
BOOKS_MAX: Final = 10_000
RATE_MICRO_MAX: Final = 10**15  # a billion units per million tokens
MARKUP_BP_MAX: Final = 1_000_000  # a hundredfold
BACKDATE_MS_MAX: Final = 60_000  # clocks differ; within it a price holds from now
AHEAD_MS_MAX: Final = 10 * 366 * 24 * 3_600_000
MODEL_CHARS_MAX: Final = 256
_RESOLVED_MAX: Final = 10_000
_CONFIGURATIONS_MAX: Final = 20  # that requests in flight may have begun with
_READS_MAX: Final = 3
_TOK_A_TOKEN_MICRO: Final = 10**12  # 1 TOK a token, in micro-TOK per million tokens
_FOR_EVER_MS: Final = 2**62
_BY_TOKENS: Final = frozenset(("input", "output"))  # what prices must name, or one of these: the model is not sold by the token
_BY_UNITS: Final = frozenset((*UNIT_KINDS, "request"))
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class PriceOverride(msgspec.Struct, frozen=True):
    """What the configuration says of one deployment's prices. Give one for every deployment.

    `prices` (what the provider takes) and `charge` (what the platform takes) are decimal strings of USD, by kind
    ("input": "0.15"; kinds as in `core.units` and "request"): of a million, or of one, as `rates.rate_from_decimal` has it.
    `model` "*" is a
    deployment that is asked for many models.
    """

    deployment_id: str
    provider: str
    model: str
    prices: Mapping[str, str] | None = None
    charge: Mapping[str, str] | None = None


class Provided(msgspec.Struct, frozen=True):
    """The prices of one deployment that serves one model: what its provider takes, and what creators are charged; in USD.

    The sources say where each is from: `configuration`, `shipped list`, `provider's price`, `markup 10 %`, or `none`.
    """

    cost: Rates | None
    cost_source: str
    charge: Rates | None
    charge_source: str


class AppRates(msgspec.Struct, frozen=True):
    """What an app takes, in its asset, and where that is from: `app's price`, `app's markup 20 %`, `provider's price`,
    `1 TOK a token`, or `none`. `since_ms` is the time of the app's own price or markup.
    """

    rates: Rates | None
    source: str
    since_ms: int | None = None


class _AppBook(msgspec.Struct):
    book: Book
    loaded_at_ms: int
    # (asset, model, deployment) -> rates, and from when until when they hold
    resolved: dict[tuple[str, str, str], tuple[Rates | None, int, int]]


class _Configured:
    """The prices of one configuration."""

    def __init__(self, deployments: Iterable[PriceOverride], platform_markup_bp: int) -> None:
        self.markup_bp = platform_markup_bp
        self.given = {each.deployment_id: each for each in deployments}
        self.prices = {each.deployment_id: _parsed(each) for each in self.given.values()}
        self.provided: dict[str, Provided] = {}

    def provide(self, deployment_id: str) -> Provided:
        """The prices of a deployment, which are remembered."""
        given, model = self._given(deployment_id)
        if given is None:
            return Provided(None, "none", None, "none")
        cost, charge = self.prices[given.deployment_id]
        source = charge_source = "configuration"
        if cost is None:
            listed = shipped(given.provider, model)
            cost = listed.rates if listed is not None else None
            source = "none" if cost is None else "shipped list"
        if charge is None:
            charge_source = f"markup {percent(self.markup_bp)} %" if self.markup_bp else "provider's price"
            charge = marked_up(cost, self.markup_bp) if cost is not None else None
        provided = Provided(cost, source, charge, "none" if charge is None else charge_source)
        _keep(self.provided, deployment_id, provided, _RESOLVED_MAX)
        return provided

    def _given(self, deployment_id: str) -> tuple[PriceOverride | None, str]:
        """The configuration of a deployment and the model it serves; a `*` deployment's id tells the model."""
        given = self.given.get(deployment_id)
        if given is not None:
            return given, given.model
        for given in self.given.values():
            stem = expanded_id(given.deployment_id, "")
            if given.model == "*" and deployment_id.startswith(stem):
                return given, deployment_id.removeprefix(stem)
        return None, ""


class Catalog:
    """The prices of one process."""

    def __init__(
        self,
        engine: AsyncEngine,
        deployments: Iterable[PriceOverride],
        platform_markup_bp: int = 0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Raises ValueError, naming the deployment, for a price that is not a decimal or of an unknown kind."""
        assert 0 <= platform_markup_bp <= MARKUP_BP_MAX
        self._store = Store(engine)
        self._clock = clock
        self._configured = _Configured(deployments, platform_markup_bp)
        self._provided = self._configured.provided
        self._since_ms = 0  # the configuration holds from then on
        self._before: list[tuple[int, _Configured]] = []  # those before it, and until when each held; the newest first
        self._books: dict[str, _AppBook] = {}
        self._changes = 0

    # ---- reading, on the path of a request ------------------------------------------------------

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        """What the provider takes, in USD; None when nobody knows. Of the configuration that held then."""
        if at_ms < self._since_ms:
            return self._then(deployment_id, at_ms).cost
        return (self._provided.get(deployment_id) or self._provide(deployment_id)).cost

    def platform(self, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        """What the platform takes from a creator, in USD; None when there is no price."""
        if at_ms < self._since_ms:
            return self._then(deployment_id, at_ms).charge
        return (self._provided.get(deployment_id) or self._provide(deployment_id)).charge

    def app_cached(
        self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int
    ) -> Rates | Literal[False] | None:
        """What the app takes from its end users, in its asset; None when it has no price; False while `load_app` is due."""
        app = self._books.get(enterprise_id)
        if app is None or at_ms - app.loaded_at_ms > BOOK_TTL_MS:
            return False
        found = app.resolved.get((asset, model, deployment_id))
        if found is not None and found[1] <= at_ms < found[2]:
            return found[0]
        rates = self._resolve(app.book, asset, model, deployment_id, at_ms)
        until = app.book.until(model, at_ms)
        entry = (rates, at_ms, _FOR_EVER_MS if until is None else until)
        _keep(app.resolved, (asset, model, deployment_id), entry, _RESOLVED_MAX)
        return rates

    async def load_app(self, enterprise_id: str) -> None:
        """Bring an app's book into memory, or up to date. Raises Unavailable; an old book is kept in use instead."""
        for _ in range(_READS_MAX):
            changes = self._changes
            try:
                rows = await self._store.prices(enterprise_id)
            except SqlDown as down:
                old = self._books.get(enterprise_id)
                if old is None:
                    raise _unavailable() from down
                _log.warning("the price book of %s could not be read again; the old one stays", enterprise_id)
                old.loaded_at_ms = now_ms(self._clock)
                return
            if changes == self._changes:  # else a price was added while we read
                break
        book = _AppBook(Book(row.version for row in rows), now_ms(self._clock), {})
        self._books.pop(enterprise_id, None)
        if len(self._books) >= BOOKS_MAX:
            del self._books[next(iter(self._books))]  # the one loaded longest ago
        self._books[enterprise_id] = book

    async def app(self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        """As `app_cached`, loading the book first where needed. Raises Unavailable."""
        rates = self.app_cached(enterprise_id, asset, model, deployment_id, at_ms)
        if rates is False:
            rates = (await self.app_rates(enterprise_id, asset, model, deployment_id, at_ms)).rates
        return rates

    async def app_rates(self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int) -> AppRates:
        """As `app`, with where it is from: for people, who ask seldom."""
        book = self._books.get(enterprise_id)
        if book is None or at_ms - book.loaded_at_ms > BOOK_TTL_MS:
            await self.load_app(enterprise_id)
            book = self._books.get(enterprise_id)
        return AppRates(None, "none") if book is None else self._found(book.book, asset, model, deployment_id, at_ms)

    def provided(self, deployment_id: str) -> Provided:
        """What a deployment costs and what creators are charged for it, with where each is from."""
        return self._provided.get(deployment_id) or self._provide(deployment_id)

    def invalidate(self, enterprise_id: str) -> None:
        """Forget an app's book: its prices changed."""
        self._changes += 1
        self._books.pop(enterprise_id, None)

    def invalidate_all(self) -> None:
        """Forget every app's book: messages about changes may have been missed."""
        self._changes += 1
        self._books.clear()

    def configure(self, deployments: Iterable[PriceOverride], platform_markup_bp: int) -> None:
        """Another configuration from now on. Requests that were admitted before keep their prices. ValueError, as at first."""
        assert 0 <= platform_markup_bp <= MARKUP_BP_MAX
        new = _Configured(deployments, platform_markup_bp)
        self._since_ms = now_ms(self._clock) + 1
        self._before = [(self._since_ms, self._configured), *self._before][:_CONFIGURATIONS_MAX]
        self._configured, self._provided = new, new.provided
        for app in self._books.values():
            app.resolved.clear()

    def _then(self, deployment_id: str, at_ms: int) -> Provided:
        """As the configuration had it that held at that time."""
        held = self._configured
        for until_ms, before in self._before:
            if at_ms < until_ms:
                held = before
        return held.provided.get(deployment_id) or held.provide(deployment_id)

    # ---- management -------------------------------------------------------------------------------

    async def add_app_price(
        self,
        enterprise_id: str,
        model: str,
        effective_at_ms: int,
        *,
        rates: Mapping[str, int] | None = None,
        markup_bp: int | None = None,
        actor: str,
        role: str = "operator",
    ) -> PriceRow:
        """Add a price that holds from `effective_at_ms`: `rates` in the app's asset, or a markup on the provider's price.

        `actor`, of `role`, stands in the trail.
        Never for the past: what is over keeps its price. Raises NotFound, InvalidRequest, Conflict (the
        model has a price from that very moment), Unavailable.
        """
        at_ms = now_ms(self._clock)
        if not AHEAD_MS_MAX > effective_at_ms - at_ms >= -BACKDATE_MS_MAX:
            raise InvalidRequest("A price holds from now or later, at most ten years ahead.", param="effective_at")
        if not 0 < len(model) <= MODEL_CHARS_MAX or ("*" in model and model != ANY_MODEL):
            raise InvalidRequest("model must be a model's name, or * for every model.", param="model")
        try:
            asset = await self._store.asset(enterprise_id)
            if asset is None:
                raise NotFound("There is no such app.", param="enterprise_id")
            _check(asset, rates, markup_bp)
            version = Version(model, max(effective_at_ms, at_ms), dict(rates) if rates is not None else None, markup_bp)
            row = PriceRow(new_id("prc"), version, at_ms, actor)
            await self._store.add(enterprise_id, row, role)
        except SameInstant as taken:
            raise Conflict("The model has a price from that moment already.", param="effective_at") from taken
        except SqlDown as down:
            raise _unavailable() from down
        finally:
            self.invalidate(enterprise_id)  # also after a failure: the row may have been written
        return row

    async def app_prices(self, enterprise_id: str) -> Sequence[PriceRow]:
        """Every price that the app ever set, by model and time. Raises Unavailable."""
        try:
            return await self._store.prices(enterprise_id)
        except SqlDown as down:
            raise _unavailable() from down

    async def markups_bp(self, enterprise_ids: Sequence[str]) -> dict[str, int]:
        """The markup in force now on every model without prices of its own, of those of the apps that have one. Unavailable."""
        try:
            found = await self._store.defaults_at(enterprise_ids, now_ms(self._clock))
        except SqlDown as down:
            raise _unavailable() from down
        return {app: version.markup_bp for app, version in found.items() if version.markup_bp is not None}

    async def record_configured(self) -> bool:
        """Say in the trail what the configuration and the shipped list make every deployment cost and charge, if it changed.

        For the start of the gateway, where such a change takes force; True when there is a new line. The line's actor
        is the configuration: who edited the file is not known here. SqlDown.
        """
        told: dict[str, dict[str, dict[str, int]]] = {}
        for deployment_id in self._configured.given:
            provided = self._provide(deployment_id)
            both = (("cost", provided.cost), ("charge", provided.charge))
            told[deployment_id] = {name: _rates_told(rates) for name, rates in both if rates is not None}
        act = Act("prices.configure", "configuration", "configuration", "deployments", after=told)
        return await self._store.record_configured(act, now_ms(self._clock))

    # ---- within -----------------------------------------------------------------------------------

    def _provide(self, deployment_id: str) -> Provided:
        return self._configured.provide(deployment_id)

    def _resolve(self, book: Book, asset: str, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        return self._found(book, asset, model, deployment_id, at_ms).rates

    def _found(self, book: Book, asset: str, model: str, deployment_id: str, at_ms: int) -> AppRates:
        version = book.at(model, at_ms)
        if version is not None and version.rates is not None:
            return AppRates(rates_from(asset, dict(version.rates)), "app's price", version.effective_at_ms)
        if asset == TOK and version is None:
            return AppRates(_ONE_TOK, "1 TOK a token")
        cost = self.cost(deployment_id, at_ms) if asset == USD else None
        if cost is None:
            return AppRates(None, "none")
        if version is None:
            return AppRates(cost, "provider's price")
        markup_bp = version.markup_bp or 0
        return AppRates(marked_up(cost, markup_bp), f"app's markup {percent(markup_bp)} %", version.effective_at_ms)


def percent(basis_points: int) -> str:
    """The shortest exact percentage: 1250 -> "12.5"."""
    whole, rest = divmod(basis_points, 100)
    return f"{whole}.{rest:02d}".rstrip("0") if rest else str(whole)


_ONE_TOK: Final = rates_from(TOK, dict.fromkeys(TOKEN_KINDS, _TOK_A_TOKEN_MICRO))


def _parsed(given: PriceOverride) -> tuple[Rates | None, Rates | None]:
    found: list[Rates | None] = []
    for name, prices in (("prices", given.prices), ("charge", given.charge)):
        try:
            micro = {kind: rate_from_decimal(kind, text) for kind, text in prices.items()} if prices is not None else None
            if micro is not None and not (micro.keys() >= _BY_TOKENS or micro.keys() & _BY_UNITS):
                raise ValueError('input and output must both be named (say output: "0" for embeddings)')
            found.append(rates_from(USD, micro) if micro is not None else None)
        except ValueError as wrong:
            raise ValueError(f"{name} of {given.deployment_id}: {wrong}") from wrong
    return found[0], found[1]


def _rates_told(rates: Rates) -> dict[str, int]:
    """Micro-units per million, by kind; kinds that cost nothing are left out."""
    return {kind: rate for kind in PRICED_KINDS if (rate := getattr(rates, kind))}


def _check(asset: str, rates: Mapping[str, int] | None, markup_bp: int | None) -> None:
    if (rates is None) == (markup_bp is None):
        raise InvalidRequest("Give rates or a markup, not both.", param="rates")
    if markup_bp is not None:
        if asset != USD:
            raise InvalidRequest(f"Providers' prices are in USD: an app in {asset} needs rates, not a markup.", param="markup_bp")
        if not 0 <= markup_bp <= MARKUP_BP_MAX:
            raise InvalidRequest(f"markup_bp must be from 0 to {MARKUP_BP_MAX}.", param="markup_bp")
    if rates is not None:
        if any(type(rate) is not int or not 0 <= rate <= RATE_MICRO_MAX for rate in rates.values()):
            raise InvalidRequest(f"Rates are whole micro-units per million, from 0 to {RATE_MICRO_MAX}.", param="rates")
        try:
            rates_from(asset, dict(rates))
        except ValueError as wrong:
            raise InvalidRequest(f"{wrong}.", param="rates") from wrong
        if not (rates.keys() >= _BY_TOKENS or rates.keys() & _BY_UNITS):
            raise InvalidRequest("Rates need input and output; 0 is a rate.", param="rates")


def _keep(cache: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Names that clients choose are among the keys, so a cache is emptied before it grows without bound."""
    if len(cache) >= most:
        cache.clear()
    cache[key] = value


def _unavailable() -> Unavailable:
    return Unavailable("The platform database does not answer. Try again shortly.", retry_after_s=1)
