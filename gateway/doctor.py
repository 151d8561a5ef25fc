"""`gateway doctor`: is everything that this gateway needs there, and set up as it should be? A sentence each.

It asks the stores, the clocks and the providers (one GET of their list of models, which costs nothing), and changes
nothing. What stops requests is a problem, what will hurt one day is a warning.
"""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import msgspec

from gateway.balance.condition import Condition, condition
from gateway.balance.model import BalanceUnavailable
from gateway.billing.model import PLATFORM_ACCOUNT, InboxState
from gateway.billing.ports import PaymentsDown, PaymentsRefused
from gateway.compose import Services, setting_names
from gateway.core.clock import now_ms, rfc3339
from gateway.db.faults import SqlDown, SqlRefused
from gateway.metrics import is_fresh, other_ports, snapshots
from gateway.providers.azure import is_translated
from gateway.providers.direct import address_of
from gateway.providers.model import Deployment
from gateway.providers.native import as_spoken_to
from gateway.providers.routing import DEMO
from gateway.settings import PREFIX

_CLOCKS_APART_MS: Final = 2000
_BACKLOG_MANY: Final = 100_000
_MEMORY_SHARE: Final = 0.8
_ASK_S: Final = 10.0
_MODELS: Final = "/models"
_AT_ONCE: Final = 8
_PAYMENTS: Final = "payments"


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, and a sentence about it."""

    about: str
    verdict: Verdict
    says: str


AskProvider = Callable[[Deployment], Awaitable[int | str]]


async def examine(services: Services, ask: AskProvider | None = None) -> list[Finding]:
    """Everything, in the order in which a request needs it. `ask` gives a provider's HTTP status, or what went wrong."""
    found = [*await _store(services), *await _databases(services), *_web(services), *_configuration(services), *_prices(services)]
    found += await _providers(services, ask or ask_for_models)
    return [*found, *await _payments(services), *await _webhooks(services)]


async def _store(services: Services) -> list[Finding]:
    try:
        seen, waiting = await condition(services.balance, services.clock), await services.events.depth()
    except BalanceUnavailable as down:
        return [Finding("balance store", Verdict.PROBLEM, f"It does not serve, so every charged request is refused: {down}")]
    return [*_server(seen), _clock("clock of the balance store", seen.clock_ahead_ms), *_worker(seen, waiting)]


def _server(seen: Condition) -> list[Finding]:
    about = "balance store"
    found = []
    if seen.role != "master":
        found.append(Finding(about, Verdict.PROBLEM, f"It is a {seen.role}: requests need the server that takes writes."))
    if seen.limit_bytes and seen.eviction != "noeviction":
        found.append(Finding(about, Verdict.PROBLEM, f"It evicts keys ({seen.eviction}): set maxmemory-policy noeviction."))
    if seen.limit_bytes and seen.used_bytes > _MEMORY_SHARE * seen.limit_bytes:
        share = 100 * seen.used_bytes // seen.limit_bytes
        found.append(Finding(about, Verdict.WARNING, f"{share} % of its memory limit are used; at 100 % requests are refused."))
    if not seen.is_append_only:
        text = "It keeps no append-only file: a restart loses balances until they are rebuilt from the books. Set appendonly yes."
        found.append(Finding(about, Verdict.WARNING, text))
    if not found:
        durable = f"append-only file, fsync {seen.fsync}" if seen.fsync else "append-only file"
        found.append(Finding(about, Verdict.OK, f"Version {seen.version} serves ({durable})."))
    return found


def _clock(about: str, ahead_ms: int | None) -> Finding:
    """Beside this machine's, which nothing here can tell to be right."""
    if ahead_ms is None:
        return Finding(about, Verdict.OK, "It is this machine's.")
    if abs(ahead_ms) > _CLOCKS_APART_MS:
        text = f"It is {ahead_ms / 1000:+.1f} s beside this machine's: limits and expiries are off by as much."
        return Finding(about, Verdict.WARNING, text)
    return Finding(about, Verdict.OK, f"It is {ahead_ms / 1000:+.1f} s beside this machine's.")


def _worker(seen: Condition, waiting: int) -> list[Finding]:
    about = "worker"
    if not seen.workers:
        text = f"None has shown itself for a minute; {waiting} usage events wait. Does `gateway serve` or `gateway worker` run?"
        return [Finding(about, Verdict.PROBLEM if waiting else Verdict.WARNING, text)]
    if waiting > _BACKLOG_MANY:
        return [Finding(about, Verdict.WARNING, f"{waiting} usage events wait for the books: one worker more would help.")]
    live = "One lives" if seen.workers == 1 else f"{seen.workers} live"
    return [Finding(about, Verdict.OK, f"{live}; {waiting} usage events wait.")]


async def _databases(services: Services) -> list[Finding]:
    if not await services.databases.answers():
        return [Finding("platform database", Verdict.PROBLEM, "It does not answer.")]
    found = [Finding("platform database", Verdict.OK, "It serves, at the newest schema."), await _database_clock(services)]
    names = await services.enterprise_ids()
    free = asyncio.Semaphore(_AT_ONCE)

    async def look(name: str) -> Finding | None:
        try:
            async with free:
                await services.databases.app(name)
        except (SqlDown, SqlRefused, ValueError) as failed:
            return Finding(f"database of {name}", Verdict.PROBLEM, f"It does not serve: {failed}")
        return None

    broken = [finding for finding in await asyncio.gather(*[look(name) for name in names]) if finding is not None]
    if names and not broken:
        found.append(Finding("app databases", Verdict.OK, "It serves." if len(names) == 1 else f"{len(names)} serve."))
    return found + broken


async def _payments(services: Services) -> list[Finding]:
    """Nothing where nothing is sold. One GET of the platform's latest payments."""
    about, settings = _PAYMENTS, services.settings
    if services.billing is None:
        return []
    payments, at_ms = services.billing.payments, now_ms(services.clock)
    try:
        async for _ in payments.payments_between(PLATFORM_ACCOUNT, at_ms - 1000, at_ms):
            break
    except (PaymentsDown, PaymentsRefused) as failed:
        return [Finding(about, Verdict.PROBLEM, f"Nothing can be bought: {failed}")]
    found = [Finding(about, Verdict.OK, f"Stripe answers, in {'live' if payments.is_live else 'test'} mode.")]
    for name in ("stripe_webhook_secret", "stripe_connect_webhook_secret"):
        if not getattr(settings, name):
            text = f"{PREFIX}{name.upper()} is not set: what Stripe tells that endpoint is not taken."
            found.append(Finding(about, Verdict.WARNING, text))
    return found


async def _webhooks(services: Services) -> list[Finding]:
    """What Stripe told and was not done. Nothing where nothing is sold, or the database does not answer, as is told elsewhere."""
    if services.receiving is None:
        return []
    try:
        counts = await services.receiving.inbox.counts()
    except (SqlDown, SqlRefused):
        return []
    failed, waiting = counts[InboxState.FAILED], counts[InboxState.WAITING]
    if not failed:
        return [Finding("webhooks", Verdict.OK, f"None failed; {waiting} wait.")]
    told = "1 webhook event of Stripe failed" if failed == 1 else f"{failed} webhook events of Stripe failed"
    text = f"{told}: what was paid or given back may not be in the books. `gateway webhooks list --state failed` says why."
    return [Finding("webhooks", Verdict.WARNING, text)]


async def _database_clock(services: Services) -> Finding:
    about, before_ms = "clock of the database", now_ms(services.clock)
    try:
        at_ms = await services.databases.clock_ms()
    except (SqlDown, SqlRefused) as failed:
        return Finding(about, Verdict.WARNING, f"It cannot be asked: {failed}")
    return _clock(about, None if at_ms is None else at_ms - (before_ms + now_ms(services.clock)) // 2)


def _web(services: Services) -> list[Finding]:
    """The clock by which everything here is told, and who serves on this machine."""
    at_ms = now_ms(services.clock)
    found = [Finding("clock of this machine", Verdict.OK, f"It says {rfc3339(at_ms)}.")]
    about = "web processes"
    live = sum(is_fresh(each, at_ms) for each in snapshots(services.settings))
    if live:
        text = "One gave a sign of life." if live == 1 else f"{live} gave a sign of life."
        return [*found, Finding(about, Verdict.OK, text)]
    others = other_ports(services.settings)
    where = f"None on port {services.settings.port} of this machine gives a sign of life"
    why = f", but on {', '.join(others)}: is MOZAIKS_PORT another?" if others else ": `gateway serve` does not run."
    return [*found, Finding(about, Verdict.WARNING if others else Verdict.PROBLEM, where + why)]


def _configuration(services: Services) -> list[Finding]:
    """Whether the processes that serve run with what this one has read. Nothing where none serves on this machine."""
    about = "configuration"
    if services.settings.faults:
        kept = "No gateway starts with it; one that runs keeps what it had."
        faults = [(_PAYMENTS if _is_of_selling(fault) else about, fault) for fault in services.settings.faults]
        return [Finding(of, Verdict.PROBLEM, f"{fault} {kept}") for of, fault in faults]
    at_ms = now_ms(services.clock)
    live = [each for each in snapshots(services.settings) if is_fresh(each, at_ms)]
    found: list[Finding] = []
    others = [each for each in live if each.models != services.models_name]
    if others:
        text = f"{len(others)} of {len(live)} web processes run with other models or prices than those of the configuration here:"
        found.append(Finding(about, Verdict.WARNING, f"{text} send SIGHUP, and look into the log."))
    own = setting_names(services.settings)
    waits = [name for name in own if any(each.started_with.get(name, own[name]) != own[name] for each in live)]
    if len(waits) == len(own):
        waits = ["key_pepper"]  # which the words of the others are made with
    for name in waits:
        text = f"{PREFIX}{name.upper()} is another than what runs was started with, and takes force with the next start."
        found.append(Finding(about, Verdict.WARNING, text))
    return found or ([Finding(about, Verdict.OK, "It is what runs.")] if live else [])


def _is_of_selling(fault: str) -> bool:
    return f"{PREFIX}STRIPE_" in fault


def _prices(services: Services) -> list[Finding]:
    """Of models that are named; for a pattern, each name has its own."""
    found, priced = [], 0
    for name in services.routing.models():
        for deployment in services.routing.route(name).deployments:
            provided = services.catalog.provided(deployment.id)
            if provided.cost is None or provided.charge is None:
                why = f" {provided.unpriced}" if provided.cost is None else ""
                text = f"{deployment.id} has no price: requests for {name} are refused, but of apps that have set one themselves"
                rest = " or are analytics_only, which measure them without. Set `prices` in the configuration."
                found.append(Finding("prices", Verdict.PROBLEM, text + rest + why))
            else:
                priced += 1
    if priced and not found:
        text = "The deployment of the named model has one." if priced == 1 else f"{priced} deployments of named models have one."
        found.append(Finding("prices", Verdict.OK, text))
    is_read = all(map(_is_of_selling, services.settings.faults))
    if not services.routing.models() and not services.routing.patterns() and is_read:
        found.append(Finding("models", Verdict.PROBLEM, "None is configured, so there is nothing to serve."))
    return found


async def _providers(services: Services, ask: AskProvider) -> list[Finding]:
    """Each address and key once, however many models are served there."""
    asked: dict[tuple[str, str], Deployment] = {}
    found = []
    for deployment in services.routing.deployments():
        if is_translated(deployment):
            text = "Its key shows with the first request: there is no list of models to ask this provider for."
            found.append(Finding(f"provider of {deployment.id}", Verdict.OK, text))
        elif deployment.provider != DEMO:
            asked.setdefault((deployment.api_base, deployment.api_key), as_spoken_to(deployment, _MODELS))
    told = await asyncio.gather(*[ask(deployment) for deployment in asked.values()])
    return found + [_provider(deployment, answer) for deployment, answer in zip(asked.values(), told, strict=True)]


def _provider(deployment: Deployment, answer: int | str) -> Finding:
    about = f"provider of {deployment.id}"
    match answer:
        case 200:
            return Finding(about, Verdict.OK, "It answers, and takes the key." if deployment.api_key else "It answers.")
        case 401 | 403 if not deployment.api_key and not deployment.headers:
            return Finding(about, Verdict.PROBLEM, f"It answers {answer}: it wants a key, and `api_key` is not set.")
        case 401 | 403:
            return Finding(about, Verdict.PROBLEM, f"It answers {answer}: the key is missing, wrong, or may not do this.")
        case 404 | 405:
            shows = ", so its key shows with the first request" if deployment.api_key else ""
            return Finding(about, Verdict.OK, f"It answers; it has no list of models{shows}.")
        case int():
            return Finding(about, Verdict.WARNING, f"It answers {answer}.")
        case _:
            return Finding(about, Verdict.PROBLEM, f"It cannot be asked: {answer}.")


async def ask_for_models(deployment: Deployment) -> int | str:
    """The status of GET /models there, or in a few words why there is none. No address and no key."""
    return await asyncio.to_thread(_asked, deployment)


def _asked(deployment: Deployment) -> int | str:
    headers = {"Accept": "application/json", **dict(deployment.headers)}
    if deployment.api_key:
        headers["Authorization"] = f"Bearer {deployment.api_key}"
    asked = urllib.request.Request(address_of(deployment.api_base, _MODELS), headers=headers)  # noqa: S310 - http(s), checked
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), _NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    try:
        with opener.open(asked, timeout=_ASK_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except urllib.error.URLError as failed:
        return str(getattr(failed.reason, "strerror", None) or failed.reason)
    except (OSError, ValueError) as failed:
        return str(getattr(failed, "strerror", None) or failed)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key goes to the configured address alone."""

    def redirect_request(self, *_: object) -> None:
        """Never."""
        return
