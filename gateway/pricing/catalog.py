"""Every price there is: what providers take, what the platform takes from creators, what apps take from end users.

Provider prices come from the configuration, else from the price list in force (`lists`). Platform prices come from the
configuration (`charge`), else are the provider's plus the platform's markup. App prices are the app's
own book; without one an app in TOK takes 1 TOK a token, an app in USD takes the provider's price, and an
app in another asset has no price (so it refuses, rather than serve for free).

Reading is synchronous and from memory; an app's book is loaded once with `load_app` and again after
`BOOK_TTL_MS` since nothing about it was known to have changed, which bounds how late a process learns of a price that another
one added.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from gateway.core.ids import new_id
from gateway.core.money import TOK, USD
from gateway.core.units import TOKEN_KINDS
from gateway.db.faults import SqlDown
from gateway.pricing.book import ANY_MODEL, Book, Version
from gateway.pricing.configured import NOT_CONFIGURED, Configured, PriceOverride, Provided, percent
from gateway.pricing.lists import AHEAD_MS_MAX, BACKDATE_MS_MAX, FOR_EVER_MS, Lists
from gateway.pricing.rates import Rates, marked_up, rates_from
from gateway.pricing.shipped import PriceList, shipped
from gateway.pricing.store import LIST_ADDED, PriceRow, SameInstant, Store
from gateway.pricing.written import check_rates, check_whole, given_of
from gateway.trail.model import Act, Line

_log = logging.getLogger(__name__)

BOOK_TTL_MS: Final = 30_000
BOOKS_MAX: Final = 10_000
RATE_MICRO_MAX: Final = 10**15  # a billion units per million tokens
MARKUP_BP_MAX: Final = 1_000_000  # a hundredfold
MODEL_CHARS_MAX: Final = 256
_RESOLVED_MAX: Final = 10_000
_CONFIGURATIONS_MAX: Final = 20  # that requests in flight may have begun with
_READS_MAX: Final = 3
_TOK_A_TOKEN_MICRO: Final = 10**12  # 1 TOK a token, in micro-TOK per million tokens
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Compared(msgspec.Struct, frozen=True):
    """What the configuration and the price list in force say of a deployment, and what another list would, in USD."""

    configured: Rates | None
    listed: Rates | None
    source: str
    offered: Rates | None


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
        self.lists = Lists(self._store, clock)
        self._clock = clock
        self._configured = [Configured(self.lists, deployments, platform_markup_bp)]  # the newest first
        self._provided: dict[str, Provided] = {}
        self._books: dict[str, _AppBook] = {}
        self._confirmed_ms = 0  # the books were still so then
        self._changes = 0
        self._lists_doubted = False

    # ---- reading, on the path of a request ------------------------------------------------------

    def cost(self, deployment_id: str, at_ms: int) -> Rates | None:
        """What the provider takes, in USD; None when nobody knows. Of the configuration that held then."""
        found = self._provided.get(deployment_id)
        if found is None or not found.since_ms <= at_ms < found.until_ms:
            found = self._provide(deployment_id, at_ms)
        return found.cost

    def platform(self, model: str, deployment_id: str, at_ms: int) -> Rates | None:
        """What the platform takes from a creator, in USD; None when there is no price."""
        found = self._provided.get(deployment_id)
        if found is None or not found.since_ms <= at_ms < found.until_ms:
            found = self._provide(deployment_id, at_ms)
        return found.charge

    def app_cached(
        self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int
    ) -> Rates | Literal[False] | None:
        """What the app takes from its end users, in its asset; None when it has no price; False while `load_app` is due."""
        app = self._books.get(enterprise_id)
        if app is None or at_ms - max(app.loaded_at_ms, self._confirmed_ms) > BOOK_TTL_MS:
            return False
        found = app.resolved.get((asset, model, deployment_id))
        if found is not None and found[1] <= at_ms < found[2]:
            return found[0]
        rates = self._resolve(app.book, asset, model, deployment_id, at_ms)
        until = app.book.until(model, at_ms) or FOR_EVER_MS
        cost = self._provided.get(deployment_id)
        entry = (rates, at_ms, until if cost is None else min(until, cost.until_ms))
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
        if book is None or at_ms - max(book.loaded_at_ms, self._confirmed_ms) > BOOK_TTL_MS:
            await self.load_app(enterprise_id)
            book = self._books.get(enterprise_id)
        return AppRates(None, "none") if book is None else self._found(book.book, asset, model, deployment_id, at_ms)

    def provided(self, deployment_id: str) -> Provided:
        """What a deployment costs now and what creators are charged for it, with where each is from."""
        return self._provide(deployment_id, now_ms(self._clock))

    def compare(self, deployment_id: str, offered: PriceList | None = None) -> Compared:
        """The prices of a deployment by each that has some."""
        given, model = self._configured[0].given(deployment_id)
        if given is None:
            return Compared(None, None, "none", None)
        listed = self.lists.look_up(given.provider, model, given.region, now_ms(self._clock))
        other = None
        if offered is not None:  # what it does not have, the shipped one says
            other = shipped(given.provider, model, given.region, offered) or shipped(given.provider, model, given.region)
        configured = self._configured[0].cost(given)
        rates = None if listed.found is None else listed.found.rates
        return Compared(configured, rates, listed.source, None if other is None else other.rates)

    async def load_lists(self) -> None:
        """Bring the price lists that were added into memory. Raises SqlDown."""
        if await self.lists.load():
            self._forget_resolved()

    def configure(self, deployments: Iterable[PriceOverride], platform_markup_bp: int) -> None:
        """Another configuration from now on. Requests that were admitted before keep their prices. ValueError, as at first."""
        assert 0 <= platform_markup_bp <= MARKUP_BP_MAX
        since_ms = now_ms(self._clock) + 1
        new = Configured(self.lists, deployments, platform_markup_bp, since_ms)
        self._configured[0].until_ms = since_ms
        self._configured = [new, *self._configured][:_CONFIGURATIONS_MAX]
        self._forget_resolved()

    def invalidate(self, enterprise_id: str) -> None:
        """Forget an app's book: its prices changed."""
        self._changes += 1
        self._books.pop(enterprise_id, None)

    def forget_lines(self, lines: list[Line]) -> None:
        """Forget the books of the apps whose prices were changed, by the trail; doubt the lists where there is another one."""
        for line in lines:
            if line.act == LIST_ADDED:
                self._lists_doubted = True
            elif line.act.startswith("price"):
                self.invalidate(line.enterprise_id)

    async def catch_up(self) -> None:
        """Read the lists that were added, where there may be some. SqlDown."""
        if self._lists_doubted:
            self._lists_doubted = False
            try:
                await self.load_lists()
            except SqlDown:
                self._lists_doubted = True
                raise

    def confirm(self, at_ns: int) -> None:
        """What is in memory was still so at that time (Unix nanoseconds)."""
        self._confirmed_ms = at_ns // 1_000_000

    def forget_all(self) -> None:
        """Forget every app's book, and doubt the lists: messages about changes may have been missed."""
        self._changes += 1
        self._lists_doubted = True
        self._books.clear()

    # ---- management -------------------------------------------------------------------------------

    async def add_app_price(
        self,
        enterprise_id: str,
        model: str,
        effective_at_ms: int,
        *,
        rates: Mapping[str, Any] | None = None,
        markup_bp: int | None = None,
        actor: str,
        role: str = "operator",
    ) -> PriceRow:
        """Add a price that holds from `effective_at_ms`: `rates` in the app's asset (as `rates_from` has them), or a markup
        on the provider's price.

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
        told: dict[str, dict[str, dict[str, Any]]] = {}
        for deployment_id in self._configured[0].deployment_ids:
            provided = self._provide(deployment_id, now_ms(self._clock))
            both = (("cost", provided.cost), ("charge", provided.charge))
            told[deployment_id] = {name: given_of(rates) for name, rates in both if rates is not None}
        act = Act("prices.configure", "configuration", "configuration", "deployments", after=told)
        return await self._store.record_configured(act, now_ms(self._clock))

    # ---- within -----------------------------------------------------------------------------------

    def _provide(self, deployment_id: str, at_ms: int) -> Provided:
        held = next((each for each in self._configured if at_ms >= each.since_ms), self._configured[-1])
        provided = held.provide(deployment_id, at_ms)
        if provided is not NOT_CONFIGURED:
            _keep(self._provided, deployment_id, provided, _RESOLVED_MAX)
        return provided

    def _forget_resolved(self) -> None:
        self._provided.clear()
        for app in self._books.values():
            app.resolved.clear()

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


_ONE_TOK: Final = rates_from(TOK, dict.fromkeys(TOKEN_KINDS, _TOK_A_TOKEN_MICRO))


def _check(asset: str, rates: Mapping[str, Any] | None, markup_bp: int | None) -> None:
    if (rates is None) == (markup_bp is None):
        raise InvalidRequest("Give rates or a markup, not both.", param="rates")
    if markup_bp is not None:
        if asset != USD:
            raise InvalidRequest(f"Providers' prices are in USD: an app in {asset} needs rates, not a markup.", param="markup_bp")
        if not 0 <= markup_bp <= MARKUP_BP_MAX:
            raise InvalidRequest(f"markup_bp must be from 0 to {MARKUP_BP_MAX}.", param="markup_bp")
    if rates is not None:
        try:
            check_rates(rates, RATE_MICRO_MAX)
            check_whole(rates)
            rates_from(asset, rates)
        except ValueError as wrong:
            raise InvalidRequest(f"{wrong}.", param="rates") from wrong


def _keep(cache: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Names that clients choose are among the keys, so a cache is emptied before it grows without bound."""
    if len(cache) >= most:
        cache.clear()
    cache[key] = value


def _unavailable() -> Unavailable:
    return Unavailable("The platform database does not answer. Try again shortly.", retry_after_s=1)
