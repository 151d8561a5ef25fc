"""The one file that imports litellm, which takes seconds and some 180 MB: loaded by name, in a thread, when it is needed.

litellm translates; it does not talk. Every HTTP client that it uses for an answer is replaced by one whose transport is
`direct`: same pool, same time-outs, verified certificates, no proxies, no redirects, no cookies, and one POST a request,
so that neither litellm nor a provider's SDK inside it can repeat one. Its other ways to the network end here: a GET is refused
(images by address, lists of models), as is anything from its synchronous client (models' properties, an Ollama server's
`/api/show`). What remains its own are the credentials of clouds (botocore, google-auth), fetched in its worker threads.

Switched off besides: callbacks, logging (it would print requests), telemetry, caches, retries, fallbacks, rewriting of
requests, its counting of tokens (what a provider does not tell is counted here, and flagged so), its limit on repeated chunks,
and context caching at Gemini (further calls, and storage that nobody priced). `settings.translation_environment` must have
been called before the import: it keeps litellm from the network for its price map and from reading a `.env` file.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import litellm
from litellm._internal_context import is_internal_call
from litellm.caching.llm_caching_handler import LLMClientCache
from litellm.exceptions import LiteLLMUnknownProvider
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler, HTTPHandler
from msgspec.structs import replace

from gateway.core.limits import CONNECT_TIMEOUT_S
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import Deployment, Reply, UpstreamFault
from gateway.providers.native import ANTHROPIC
from gateway.providers.translation import CHAT, EMBEDDINGS, EMBEDS_ONLY, Asked, provider_refusal, refusal_body, unserved

_log = logging.getLogger(__name__)

# Lines of the request that the connection writes itself.
_CONNECTION_HEADERS: Final = frozenset(
    (
        "accept-encoding", "connection", "content-length", "content-type", "cookie", "expect", "host", "keep-alive",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
    )
)  # fmt: skip
_WORDS_CHARS_MAX: Final = 300
_GEMINI_ENDS: Final = (b'"finishReason"', b'"blockReason"')
_WORD_BYTES_MAX: Final = 16
# litellm calls what is missing in the gateway's own setup a bad request, too.
_OPERATORS: Final = re.compile(r"credential|environment|install|import|api.?key|provider", re.IGNORECASE)


class Refused(Exception):
    """An answer that says no: the provider's, or litellm's own before anything was sent."""

    def __init__(self, status: int, body: bytes, retry_after: str = "") -> None:
        super().__init__(str(status))
        self.status = status
        self.body = body
        self.retry_after = retry_after


class Wire:
    """What one request may do on the network, and what became of it."""

    def __init__(self, direct: DirectUpstream, deployment: Deployment, *, streamed: bool) -> None:
        self._direct = direct
        self._deployment = deployment
        self._streamed = streamed
        self._reply: Reply | None = None
        self.asked = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.refusal = b""
        self.fault: UpstreamFault | None = None
        gemini = deployment.provider == "gemini" or (deployment.provider == "vertex_ai" and deployment.model.startswith("gemini"))
        self._ends = _GEMINI_ENDS if gemini else ()
        self._tail = b""
        self.finished = not gemini  # litellm takes each event of Gemini's for a finished one, so its own words are looked for

    def look(self, piece: bytes) -> None:
        """Whether the provider says why it ends."""
        if not self.finished:
            seen = self._tail + piece
            self.finished = any(word in seen for word in self._ends)
            self._tail = seen[-_WORD_BYTES_MAX:]

    async def carry(self, request: httpx.Request) -> httpx.Response:
        """Send what litellm made. A provider's refusal is kept as it came, a fault is kept and raised."""
        try:
            return await self._carry(request)
        except UpstreamFault as fault:
            if self.fault is None:
                self.fault = fault
            raise

    async def _carry(self, request: httpx.Request) -> httpx.Response:
        own = urlsplit(self._deployment.api_base)
        if request.method != "POST" or self.asked or (own.netloc and own.netloc.lower() != request.url.netloc.decode().lower()):
            raise UpstreamFault("the translation needs more than one request to the provider", sent=self.asked)
        self.asked = True
        limit_s = self._deployment.first_byte_timeout_s + self._deployment.chunk_timeout_s
        headers = {name: value for name, value in request.headers.items() if name not in _CONNECTION_HEADERS}
        headers |= {name.lower(): value for name, value in self._deployment.headers}
        target = replace(self._deployment, api_base=str(request.url), api_key="", headers=tuple(headers.items()), params=())
        reply = self._reply = await self._direct.send(target, "", await request.aread())
        self.status, self.headers = reply.status, reply.headers
        if reply.status != 200:
            content = self.refusal = await reply.read(limit_s)
        elif not self._streamed or reply.content_type.startswith(b"application/json"):
            content = await reply.read(limit_s)
        else:
            return httpx.Response(200, headers=reply.headers, stream=_Body(self, reply), request=request)
        await reply.close()
        return httpx.Response(reply.status, headers=_unframed(reply.headers), content=content, request=request)

    async def close(self) -> None:
        """End the provider's answer, where it has not ended itself."""
        reply, self._reply = self._reply, None
        if reply is not None:
            await reply.close()


def _unframed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in ("content-length", "transfer-encoding")}


class _Body(httpx.AsyncByteStream):
    """The body of a streamed answer, read as litellm asks for more."""

    def __init__(self, wire: Wire, reply: Reply) -> None:
        self._wire = wire
        self._reply = reply

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []

        def take(piece: bytes) -> bool:
            pieces.append(piece)
            return False

        ended = False
        while not ended:
            try:
                ended = await self._reply.relay(take)
            except UpstreamFault as fault:
                self._wire.fault = fault
                raise
            while pieces:
                piece = pieces.pop(0)
                self._wire.look(piece)
                yield piece

    async def aclose(self) -> None:
        await self._reply.close()


_WIRE: Final[ContextVar[Wire]] = ContextVar("wire")


class _Transport(httpx.AsyncBaseTransport):
    """Every asynchronous client's: the wire of the request that is being worked on."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        wire = _WIRE.get(None)
        if wire is None:
            raise UpstreamFault("the translation asked for something of its own", sent=False)
        return await wire.carry(request)


class _NoTransport(httpx.BaseTransport):
    """Every synchronous client's."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.UnsupportedProtocol("the gateway does not let litellm on the network")


class _Clients(LLMClientCache):  # type: ignore[misc]
    """litellm's cache of clients, which always has ours. SDKs' clients are kept as before: they use ours underneath."""

    def __init__(self, answers: Any, nothing: Any) -> None:
        super().__init__()
        self._answers = answers
        self._nothing = nothing

    def get_cache(self, key: str, **kwargs: Any) -> Any:
        if key.startswith("async_httpx_client"):
            return self._answers
        if key.startswith("httpx_client"):
            return self._nothing
        return super().get_cache(key, **kwargs)


def _settle_in() -> None:
    """litellm's globals as this gateway needs them; once, at the import."""
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).disabled = True
    for name in ("httpx", "httpcore", "openai", "botocore"):  # whose lines name URLs, and keys in them
        logging.getLogger(name).setLevel(logging.WARNING)
    timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)  # `direct` has its own
    answers = AsyncHTTPHandler(timeout=timeout, transport=_Transport(), follow_redirects=False)
    nothing = HTTPHandler(client=httpx.Client(transport=_NoTransport(), trust_env=False))
    off: dict[str, Any] = {
        "set_verbose": False, "suppress_debug_info": True, "telemetry": False, "logging": False, "turn_off_message_logging": True,
        "callbacks": [], "input_callback": [], "success_callback": [], "failure_callback": [], "service_callback": [],
        "_async_input_callback": [], "_async_success_callback": [], "_async_failure_callback": [],
        "num_retries": 0, "model_fallbacks": None, "cache": None, "drop_params": False, "modify_params": False,
        "disable_streaming_logging": True, "disable_token_counter": True, "REPEATED_STREAMING_CHUNK_LIMIT": 1 << 60,
        "disable_anthropic_gemini_context_caching_transform": True, "enable_anthropic_prompt_caching": False,
        "include_cost_in_streaming_usage": False, "use_litellm_proxy": False, "disable_aiohttp_transport": True,
        "route_all_chat_openai_to_responses": False, "model_alias_map": {}, "max_budget": 0.0,
        "in_memory_llm_clients_cache": _Clients(answers, nothing), "module_level_aclient": answers,
        "module_level_client": nothing, "aclient_session": answers.client, "client_session": nothing.client,
    }  # fmt: skip
    for name, value in off.items():
        setattr(litellm, name, value)


_settle_in()


def takes(deployment: Deployment) -> frozenset[str]:
    """OpenAI's fields that litellm translates for this deployment's model. UpstreamFault where it cannot tell."""
    try:
        return frozenset(litellm.get_supported_openai_params(deployment.model, deployment.provider) or ())
    except Exception as failed:  # litellm raises whatever the code for its hundred providers raises
        raise UpstreamFault("the gateway's translation does not know this model", sent=False) from failed


def _arguments(deployment: Deployment, asked: Asked) -> dict[str, Any]:
    given: dict[str, Any] = {
        **asked.fields,
        **dict(deployment.params),
        "model": f"{deployment.provider}/{deployment.model}",
        "custom_llm_provider": deployment.provider,
        "num_retries": 0,
        "max_retries": 0,
        "timeout": httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        "drop_params": False,
    }
    if asked.path != EMBEDDINGS:
        given["_skip_mcp_handler"] = True  # it needs a package that is not installed, for tools that are refused before
    if deployment.api_base:
        given["api_base"] = deployment.api_base
        if deployment.provider == ANTHROPIC:  # litellm adds the version
            given["api_base"] = deployment.api_base.rstrip("/").removesuffix("/v1")
    if deployment.api_key:
        given["api_key"] = deployment.api_key
    return given


@contextlib.contextmanager
def _on(wire: Wire) -> Iterator[None]:
    """What litellm does inside goes over this wire, and is not logged or priced."""
    here, quiet = _WIRE.set(wire), is_internal_call.set(True)
    try:
        yield
    finally:
        _WIRE.reset(here)
        is_internal_call.reset(quiet)


async def ask(wire: Wire, deployment: Deployment, asked: Asked) -> Any:
    """litellm's answer: a model of its own, or a stream of them. Raises Refused, UpstreamFault."""
    call: Callable[..., Any] = litellm.aembedding if asked.path == EMBEDDINGS else litellm.acompletion
    try:
        with _on(wire):
            answer = await call(**_arguments(deployment, asked))
    except Exception as failed:  # as above
        if asked.path == EMBEDDINGS and isinstance(failed, LiteLLMUnknownProvider) and not wire.asked:
            wrong = unserved(asked.path, deployment.provider)
            raise Refused(400, refusal_body(str(wrong), "unsupported_parameter", param=wrong.param)) from failed
        raise trouble(wire, deployment, failed) from failed
    if hasattr(answer, "__aiter__"):
        answer.logging_obj._on_deferred_stream_complete = True  # else it prices a stream when it ends
    return answer


async def next_chunk(wire: Wire, deployment: Deployment, stream: Any) -> dict[str, Any] | None:
    """What a stream says next, None at its end. Raises Refused, where nothing was said yet, and UpstreamFault.

    A provider that ends without saying why it finished broke off: litellm makes up a reason then.
    """
    try:
        with _on(wire):
            chunk = await anext(stream, None)
            if chunk is None:
                return None
            told = stream.received_finish_reason or stream.intermittent_finish_reason
            said: dict[str, Any] = chunk.model_dump(exclude_none=True)
    except Exception as failed:  # as above
        raise trouble(wire, deployment, failed) from failed
    if not (told and wire.finished) and any(choice.get("finish_reason") for choice in said["choices"]):
        raise UpstreamFault("the upstream ended the stream early", sent=True)
    return said


def rehearse(deployment: Deployment) -> None:
    """Translate a request that goes nowhere, in this thread: litellm imports much at the first use. Never raises."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": "?"}], "stream": True, "max_tokens": 1, "tools": [tool]}
    if deployment.provider in EMBEDS_ONLY:
        return
    try:
        known = {"messages", "stream", *takes(deployment)}
        asyncio.run(_rehearsed(deployment, Asked(CHAT, {name: value for name, value in fields.items() if name in known})))
    except Exception:  # noqa: BLE001 - as above; the first request will say the same to somebody who waits
        _log.debug("%s cannot be rehearsed", deployment.id, exc_info=True)


async def _rehearsed(deployment: Deployment, asked: Asked) -> None:
    direct = DirectUpstream()
    wire = Wire(direct, deployment, streamed=False)
    wire.asked = True  # nothing may be sent
    try:
        stream = await ask(wire, deployment, asked)
        await next_chunk(wire, deployment, stream)
    except (Refused, UpstreamFault):
        return  # as it must
    finally:
        await direct.close()


_CODES: Final = (
    (litellm.ContextWindowExceededError, "context_length_exceeded"),
    (litellm.ContentPolicyViolationError, "content_policy_violation"),
    (litellm.AuthenticationError, "invalid_api_key"),
)


def trouble(wire: Wire, deployment: Deployment, failed: Exception) -> Refused | UpstreamFault:
    """What went wrong: the wire knows best, because litellm guesses statuses and puts requests into its words."""
    if wire.fault is not None:
        return wire.fault
    if wire.status not in (0, 200):
        code = next((code for kind, code in _CODES if isinstance(failed, kind)), None)
        secrets = [value for _, value in deployment.params if isinstance(value, str)]
        status, body = provider_refusal(wire.status, wire.refusal, code, secrets)
        return Refused(status, body, wire.headers.get("retry-after", ""))
    if wire.asked:
        _log.warning("litellm failed with %s on the answer of %s", type(failed).__name__, deployment.id)
        return UpstreamFault("the upstream sent what could not be translated, or an error in mid-stream", sent=True)
    words = str(getattr(failed, "message", "")).partition("\n")[0]
    if isinstance(failed, litellm.BadRequestError) and not _OPERATORS.search(words):
        words = words.rpartition("Error: ")[2].rpartition("Exception - ")[2].strip()
        return Refused(400, refusal_body(words[:_WORDS_CHARS_MAX] or "The request cannot be translated."))
    _log.warning("litellm failed with %s before it asked %s: %s", type(failed).__name__, deployment.id, words[:_WORDS_CHARS_MAX])
    return UpstreamFault("the gateway could not make a request for this provider", sent=False)
