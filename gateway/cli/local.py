"""The management API, called in this process by the operator."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import click
import msgspec

from gateway.app import management
from gateway.balance.embedded_redis import EmbeddedRedisFailed
from gateway.balance.model import BalanceUnavailable
from gateway.cli.values import Span
from gateway.compose import Services, opened
from gateway.core.errors import GatewayError
from gateway.core.ids import new_id
from gateway.core.money import decimal_from_micro
from gateway.db.faults import SqlDown, SqlRefused
from gateway.settings import Makes, Part, Settings, SettingsError, load

T = TypeVar("T")
_log = logging.getLogger(__name__)

KNOWN: Final = (GatewayError, SqlDown, BalanceUnavailable, EmbeddedRedisFailed, SettingsError, OSError)


def sentence(error: BaseException) -> str:
    """What a person reads of a failure that we know."""
    if isinstance(error, GatewayError):
        return error.message
    if isinstance(error, SqlDown):
        return f"The database does not serve: {error}"
    if isinstance(error, BalanceUnavailable):
        return f"The balance store does not serve: {error}"
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return str(error)


class CouldNotLook(click.ClickException):
    """Status 2: nothing was found because nothing, or not everything, was looked at."""

    exit_code = 2


@contextmanager
def looking() -> Iterator[None]:
    """For commands whose status 1 says that something is wrong with the books: every failure to look is status 2."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except click.ClickException as refused:
        raise CouldNotLook(refused.format_message()) from refused
    except (*KNOWN, SqlRefused) as error:
        raise CouldNotLook(sentence(error)) from error
    except KeyboardInterrupt as stopped:
        raise CouldNotLook("stopped before the end") from stopped
    except Exception as bug:  # process edge: a bug in the audit must not pass for a violation, nor for a clean book
        _log.exception("could not look")
        raise CouldNotLook(f"a bug: {type(bug).__name__}: {bug}") from bug


def settings() -> Settings:
    """Settings of a process that serves, or makes an installation; a wrong one ends the command with its sentence."""
    try:
        return load()
    except SettingsError as wrong:
        raise click.ClickException(str(wrong)) from wrong


@asynccontextmanager
async def stores(needs: Part = Part.STORES, makes: Makes = Makes.NOWHERE) -> AsyncIterator[Services]:
    """Services of a command that neither serves nor makes an installation; settings that it `needs` and are wrong are status 2.

    What else is wrong with the file goes to stderr. A data directory that is not there is an error for who reads, and where no
    setting names it for everybody, not the place of a new installation: the gateway's is elsewhere.
    """
    try:
        async with opened(load(makes=makes, needs=needs), needs) as services:
            for fault in services.settings.faults if needs == Part.STORES else ():
                click.echo(f"Warning: {fault} This command goes without, but the gateway does not start.", err=True)
            yield services
    except SettingsError as wrong:
        raise CouldNotLook(str(wrong)) from wrong


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end."""
    return asyncio.run(work)


def request(
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
    needs: Part = Part.STORES,
) -> Any:
    """Answer of one call; a refusal ends the command with its message and status 1.

    Fields and parameters that are None are left out. Without an Idempotency-Key a fresh one is sent. What a call that does
    not need the models would warn of is left out where they cannot be read.
    """

    async def once() -> Any:
        async with stores(needs, Makes.NOWHERE if method == "GET" else Makes.WHERE_NAMED) as services:
            config = services.settings
            answer = await call(services, config.operator_token, method, path, body, query, idempotency_key)
        if config.faults and isinstance(answer, dict):
            answer.pop("warnings", None)
        return answer

    return run(once())


async def call(
    services: Services,
    token: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    idempotency_key: str | None = None,
) -> Any:
    """One call through the ASGI application of the management API."""
    app = management(services)
    given = {name: value for name, value in (body or {}).items() if value is not None}
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(asked, doseq=True).encode(),
        "headers": [
            (b"host", b"gateway"),
            (b"authorization", b"Bearer " + token.encode()),
            (b"content-type", b"application/json"),
            (b"idempotency-key", (idempotency_key or new_id("cli")).encode()),
        ],
        "client": None,
        "server": None,
    }
    sent: list[MutableMapping[str, Any]] = []
    message = {"type": "http.request", "body": msgspec.json.encode(given) if body is not None else b"", "more_body": False}
    waiting = [message]

    async def receive() -> MutableMapping[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # who streams an answer waits here for a disconnect, which never comes
        return waiting.pop()

    async def send(part: MutableMapping[str, Any]) -> None:
        sent.append(part)

    await app(scope, receive, send)
    payload = b"".join(part.get("body", b"") for part in sent if part["type"] == "http.response.body")
    if (b"content-type", b"application/json") not in sent[0]["headers"]:  # a table, as text
        return payload.decode()
    answer: Any = msgspec.json.decode(payload) if payload else None
    if sent[0]["status"] >= 400:
        error = answer["error"]
        raise click.ClickException(_as_typed(error["message"], error.get("param") or "") + await _next_command(services, error))
    return answer


async def _next_command(services: Services, error: Mapping[str, Any]) -> str:
    """Of a refusal that a creator's account at Stripe stands behind: the command that goes on from there."""
    state, user_id = error.get("account_state"), error.get("user_id")
    if state is None:
        return ""
    if user_id is None:
        user_id = (await services.ledger.apps([error["enterprise_id"]]))[error["enterprise_id"]].user_id
    if state == "none":
        return f" Make one: gateway sales connect {user_id} --email ADDRESS"
    return f" Let its owner answer Stripe: gateway sales onboard {user_id} --return-url URL"


def _as_typed(message: str, param: str) -> str:
    """A refusal with the field that it names as the option that was given for it, and bounds as they are typed there: of amounts
    as decimals, of spans of time as spans.
    """
    context = click.get_current_context(silent=True)
    params = [] if context is None else context.command.params
    typed = {each.name or "": max(each.opts, key=len) for each in params if isinstance(each, click.Option)}
    typed |= {each.name or "": each.metavar or (each.name or "").upper() for each in params if isinstance(each, click.Argument)}
    named = _option(param, typed)
    if "_micro" in param:
        message = _BOUNDS.sub(lambda found: f"{found[1]}{_decimal(found[2])} to {_decimal(found[3])}", message)
    elif any(each.name == param and isinstance(each.type, Span) for each in params):
        message = _BOUNDS.sub(lambda found: f"{found[1]}{Span.shown(int(found[2]))} to {Span.shown(int(found[3]))}", message)
        if context is not None and context.params.get(param) == 0:
            message += ", and 0 is no time at all"
    if named:
        marked = f"`{param}`"
        message = message.replace(marked, named) if marked in message else re.sub(rf"\b{re.escape(param)}\b", named, message)
    message = _MARKED.sub(lambda found: _option(found[1], typed) or _option(f"{param}.{found[1]}", typed) or found[0], message)
    where = named or param
    return f"{message} ({where})" if where and where not in message else message


def _option(field: str, typed: Mapping[str, str]) -> str:
    """What is typed for a field, or first for a struct; "" where nothing is."""
    begins = (name for name in typed if field and name.startswith(f"{field}_"))
    return next((typed[name] for name in (*_names_of(field), *begins) if name in typed), "")


_MARKED: Final = re.compile(r"`([a-z][a-z_.]*)`")
_BOUNDS: Final = re.compile(r"(must be (?:from )?)([0-9]+) to ([0-9]+)\b")


def _decimal(amount_micro: str) -> str:
    return decimal_from_micro(int(amount_micro))


def _names_of(param: str) -> tuple[str, ...]:
    """What an option for this field may be called: one in a struct has its struct's name before its own, or instead."""
    whole, dot, part = param.partition(".")
    if not dot:
        return (param, f"{param}_")  # `from` is a word of Python's own
    return (f"{whole}_{part}", part, f"end_user_{part}", *((whole,) if part == "amount_micro" else ()))
