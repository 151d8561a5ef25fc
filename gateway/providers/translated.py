"""Providers of other dialects, behind the same port as the byte path: litellm translates, `direct` talks.

litellm itself is behind `litellm_bridge`, which is imported when the first deployment needs it (or by `warm`, at the start,
beside the requests): seconds, so in a thread. Requests that come before wait for it.

Usage. Whatever the provider counts, `translation.usage_of` puts every part inside its total, so `Deployment.cached_inside` is
always true here. What litellm 1.106 makes of each provider's counts (function: its file under litellm/llms/):

    anthropic  prompt = input + cache read + cache written; read and written told again, written by age; thinking is inside
               the output (AnthropicConfig.calculate_usage: anthropic/chat/transformation.py)
    bedrock    the same, from inputTokens and cacheRead/WriteInputTokens (AmazonConverseConfig.transform_usage:
               bedrock/chat/converse_transformation.py)
    gemini     prompt as told, cached inside it, images and audio told apart; completion = candidates + thoughts, thoughts
               told as reasoning (VertexGeminiConfig._calculate_usage: vertex_ai/gemini/vertex_and_google_ai_studio_gemini.py)
    mistral, azure, groq and others of OpenAI's dialect
               as told: cached and reasoning inside; DeepSeek's cache hits become cached tokens (Usage: ../types/utils.py)
    cohere     `usage.tokens`, no parts; what it bills may be less (CohereV2ChatConfig.transform_response:
               cohere/chat/v2_transformation.py)
    ollama     prompt_eval_count and eval_count, no parts (OllamaChatConfig.transform_response: ollama/chat/transformation.py)

Translating costs what litellm costs, on the event loop: measured beside the byte path in one run, 0.9 ms of CPU a streamed
event and 8 ms a whole answer, against 0.01 and 0.15 ms. A provider that speaks OpenAI's dialect is better asked as `openai`.

A provider that tells no usage is counted by the gateway, never by litellm. Some tell it in a stream only when asked, and are
not asked by litellm: ai21_chat, cerebras, databricks, deepinfra, featherless_ai, hyperbolic, nscale and nvidia_nim.
"""

import asyncio
import importlib
import logging
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from gateway.core.limits import ANSWER_BYTES_MAX, CONNECT_TIMEOUT_S
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import Deployment, Headers, Reply, UpstreamFault, UpstreamSilent
from gateway.providers.translation import (
    EMBEDDINGS,
    Asked,
    Untranslatable,
    embeddings_answer,
    parse,
    refusal_body,
    stream_event,
    usage_event,
    usage_of,
    whole_answer,
)

_log = logging.getLogger(__name__)

_BRIDGE: Final = "gateway.providers.litellm_bridge"
_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream; charset=utf-8"
_DONE: Final = b"data: [DONE]\n\n"
_TAKES_MAX: Final = 1024
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=,-]*")  # it may be the caller's choice, and becomes a part of an address


class ReadyReply:
    """A reply whose body is here."""

    content_type = _JSON

    def __init__(self, status: int, body: bytes, retry_after: str = "") -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "application/json"}
        if retry_after:
            self.headers = {**self.headers, "retry-after": retry_after}
        self._body = body

    async def read(self, limit_s: float) -> bytes:
        """The body."""
        return self._body

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """The body in one piece."""
        body, self._body = self._body, b""
        return not body or take(body)

    async def close(self) -> None:
        """Nothing is held."""


class EventsReply:
    """A reply that is translated event by event, as it is read."""

    status = 200
    content_type = _EVENTS

    def __init__(self, events: "_Events", close: Callable[[], Awaitable[None]]) -> None:
        self.headers: Mapping[str, str] = {"content-type": _EVENTS.decode()}
        self._events: _Events | None = events
        self._close = close

    async def read(self, limit_s: float) -> bytes:
        """Every event, for a caller that did not expect a stream."""
        whole = bytearray()

        def take(piece: bytes) -> bool:
            whole.extend(piece)
            if len(whole) > ANSWER_BYTES_MAX:
                raise UpstreamFault("the upstream's answer is too large", sent=True)
            return True

        try:
            async with asyncio.timeout(limit_s):
                await self.relay(take)
        except TimeoutError as late:
            raise UpstreamSilent("the upstream's answer took too long", sent=True) from late
        return bytes(whole)

    async def relay(self, take: Callable[[bytes], bool]) -> bool:
        """Events as they come."""
        while self._events is not None:
            event = await self._events.next()
            if not event:
                return True
            if not take(event):
                return False
            await asyncio.sleep(0)  # a burst of events is much work here: everybody else has a turn between two
        return True

    async def close(self) -> None:
        """End the provider's stream, read to its end or not."""
        events, self._events = self._events, None
        if events is not None:
            await self._close()


class TranslatedUpstream:
    """The `Upstream` of every provider that litellm translates. Make it inside the event loop that uses it."""

    def __init__(self, direct: DirectUpstream, prepare: Callable[[], None]) -> None:
        """`prepare` is called once before litellm is imported: what its environment must say."""
        self._direct = direct
        self._prepare = prepare
        self._bridge: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self._takes: dict[tuple[str, str], frozenset[str]] = {}
        self._rehearsed: tuple[Deployment, ...] = ()

    def warm(self, deployments: Sequence[Deployment]) -> None:
        """Begin to import litellm, and what it needs for these, so that the first request need not wait for it.

        What fails is logged, and tried again when a request comes.
        """
        self._rehearsed = tuple(deployments)
        self._loading = self._load()

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        """As `Upstream.send`. What cannot be translated is answered 400, as the provider would."""
        bridge = self._bridge or await self._loaded()
        try:
            if not _MODEL.fullmatch(deployment.model) or ".." in deployment.model:
                raise Untranslatable("This model's name cannot be one of its provider's.", "model")
            asked = parse(path, body, deployment.provider, self._taken(bridge, deployment))
        except Untranslatable as wrong:
            return ReadyReply(400, refusal_body(str(wrong), "unsupported_parameter", param=wrong.param))
        wire = bridge.Wire(self._direct, deployment, streamed=asked.streamed)
        # The connection has its own limits, each of them shorter; this one is for litellm's search for credentials.
        limit_s = CONNECT_TIMEOUT_S + 2 * deployment.first_byte_timeout_s + deployment.chunk_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._asked(bridge, wire, deployment, asked)
        except TimeoutError as late:
            await wire.close()
            raise UpstreamSilent("the translation of the request took too long", sent=wire.asked) from late
        except bridge.Refused as refused:
            return ReadyReply(refused.status, refused.body, refused.retry_after)
        except BaseException:  # cancelled or a bug: the provider must not go on
            await wire.close()
            raise

    async def _asked(self, bridge: Any, wire: Any, deployment: Deployment, asked: Asked) -> Reply:
        said = await bridge.ask(wire, deployment, asked)
        if asked.streamed:
            # Some providers' requests leave with the first look at their stream, and may be refused then.
            events = _Events(asked, deployment.model, lambda: bridge.next_chunk(wire, deployment, said))
            await events.begin()
            return EventsReply(events, wire.close)
        await wire.close()
        answer = embeddings_answer if asked.path == EMBEDDINGS else whole_answer
        return ReadyReply(200, answer(asked, deployment.model, said.model_dump(exclude_none=True)))

    async def close(self) -> None:
        """Nothing of its own is open: connections are those of the byte path."""

    def _taken(self, bridge: Any, deployment: Deployment) -> frozenset[str]:
        key = deployment.provider, deployment.model
        found = self._takes.get(key)
        if found is None:
            if len(self._takes) >= _TAKES_MAX:
                self._takes.clear()
            found = self._takes[key] = bridge.takes(deployment)
        return found

    async def _loaded(self) -> Any:
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = self._load()
        self._bridge = await asyncio.shield(self._loading)
        return self._bridge

    def _load(self) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Any] = loop.create_future()

        def done(bridge: Any, failed: Exception | None) -> None:
            if failed is None:
                loaded.set_result(bridge)
            else:
                loaded.set_exception(UpstreamFault("the gateway cannot load its translation of this provider", sent=False))
                loaded.exception()  # looked at, also where nobody waits

        def load() -> None:
            found: Any = None
            failed: Exception | None = None
            try:
                self._prepare()
                found = importlib.import_module(_BRIDGE)
            except Exception as wrong:  # noqa: BLE001 - a foreign package's import: whatever it raises
                _log.exception("litellm could not be imported")
                failed = wrong
            try:
                loop.call_soon_threadsafe(done, found, failed)
            except RuntimeError:
                return  # the loop ended before
            if found is not None:
                for deployment in self._rehearsed:
                    found.rehearse(deployment)

        # A daemon: a gateway that is told to stop does not wait for the import.
        threading.Thread(target=load, name="litellm", daemon=True).start()
        return loaded


class _Events:
    """The frames of one stream, each translated when it is asked for."""

    def __init__(self, asked: Asked, model: str, next_chunk: Callable[[], Awaitable[dict[str, Any] | None]]) -> None:
        self._asked = asked
        self._model = model
        self._next_chunk = next_chunk
        self._first = True
        self._ready: deque[bytes] = deque()
        self._ended = False
        self._named: dict[str, Any] = {}  # one id for all: some translations make up one for each event
        self._usage: dict[str, Any] | None = None

    async def begin(self) -> None:
        """Wait for the first."""
        self._ready.append(await self.next())

    async def next(self) -> bytes:
        """The next, empty at the end."""
        while not self._ready and not self._ended:
            chunk = await self._next_chunk()
            if chunk is None:
                self._ended = True
                if self._asked.wants_usage and self._usage is not None:
                    self._ready.append(usage_event(self._asked, self._model, self._named, self._usage))
                self._ready.append(_DONE)
                break
            if not self._named:
                self._named = {"id": chunk.get("id"), "created": chunk.get("created")}
            chunk |= self._named
            self._usage = usage_of(chunk.get("usage") or {}) or self._usage
            event = stream_event(self._asked, self._model, chunk, first=self._first)
            if event:
                self._first = False
                self._ready.append(event)
        return self._ready.popleft() if self._ready else b""
