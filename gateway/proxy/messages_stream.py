"""Anthropic's events on their way to the client: whole events pass as bytes, text and usage are read as they pass.

The last `message_delta`, which tells the usage, and `message_stop` are kept back until the request is settled. A stream that
is cut here ends as Anthropic's own do: its open block is stopped, `message_delta` says `max_tokens`, then comes the `error`
event that says why, then `message_stop`.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.units import Usage
from gateway.metering.messages import merged_usage, tells_searches, with_searches
from gateway.providers.frames import Frames, NotEvents, payload
from gateway.providers.messages_answers import ENDS_PLAINLY, USAGE_OF_A_DELTA
from gateway.proxy import wire
from gateway.proxy.anthropic_errors import error_event
from gateway.proxy.relay import BrokenStream, Streamed
from gateway.proxy.surface import Request

_NONE: Final = msgspec.Raw(b"")


class _Delta(msgspec.Struct):
    """What an event adds to a block, its texts as they stand in JSON; of `message_delta`, why the message ended."""

    type: Any = None
    text: msgspec.Raw = _NONE
    partial_json: msgspec.Raw = _NONE
    thinking: msgspec.Raw = _NONE
    stop_reason: Any = None


class _Block(msgspec.Struct):
    type: Any = None
    text: msgspec.Raw = _NONE
    thinking: msgspec.Raw = _NONE
    name: msgspec.Raw = _NONE
    content: msgspec.Raw = _NONE


class _Message(msgspec.Struct):
    usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    index: Any = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: Any = None
    error: Any = None


_decode: Final = msgspec.json.Decoder(_Event, float_hook=wire.read_float).decode
_STOP: Final = {"type": "message_stop"}
# Of a block's kind, what is no generated text: a signature stands for nothing, a citation repeats the prompt.
_UNBILLED: Final = ("signature_delta", "citations_delta")
_TEXTS: Final = ("text", "partial_json", "thinking")


def event(body: Mapping[str, Any]) -> bytes:
    """One event, named as its type."""
    return b"event: " + str(body["type"]).encode() + b"\ndata: " + wire.encode_json(body) + b"\n\n"


class MessageStream(Streamed):
    """One stream; see `surface.Stream`. `usage` is merged of all that was told."""

    __slots__ = (
        "_begun", "_counts_calls", "_delta", "_ended", "_frames", "_open", "_searches", "_searches_told", "_stop", "_told",
        "_told_at",
    )  # fmt: skip

    def __init__(self, *, counts_calls: bool = False) -> None:
        """`counts_calls`: Anthropic's own tools may be called in it."""
        super().__init__()
        self._counts_calls = counts_calls
        self._searches = 0  # of the web that were begun, and did not fail
        self._searches_told = False
        self._frames = Frames()
        self._begun = False
        self._delta = b""  # message_delta, kept back
        self._stop = b""  # message_stop
        self._open: Any = None  # the index of the block that is not stopped
        self._ended = False  # it was said why
        self._told_at = -1  # how many texts there were when the output was told
        self._told: dict[str, Any] | None = None

    def feed(self, chunk: bytes) -> bytes:
        """See `Stream`."""
        try:
            frames = self._frames.feed(chunk)
        except NotEvents as broken:
            raise BrokenStream(str(broken)) from broken
        return b"".join([self._passed(frame) for frame in frames])

    def end(self) -> bytes:
        """What was left, where it is a whole event but for its blank line."""
        rest = self._frames.rest()
        if not rest:
            return b""
        try:
            return self._passed(rest)
        except BrokenStream:
            return b""

    @property
    def usage(self) -> dict[str, Any] | None:
        """What was told; where its end did not, or does not count them, also the searches that were begun."""
        if not self._searches or (self._ended and self._searches_told):
            return self._told
        return with_searches(self._told, self._searches)

    @property
    def complete(self) -> bool:
        """Whether the upstream said the end of the message."""
        return not self.error and (self._ended or bool(self._stop))

    @property
    def told_early(self) -> bool:
        """Whether there were texts behind the last telling of the output."""
        return self._told is not None and any(self.texts[max(0, self._told_at) :])

    def finish(self) -> bytes:
        """Stops the open block; `last` ends the message."""
        self._delta = self._stop = b""
        opened, self._open = self._open, None
        return b"" if opened is None else event({"type": "content_block_stop", "index": opened})

    def last(
        self,
        request: Request,
        request_id: str,
        counted: Usage | None,
        money: Mapping[str, Any],
        error: GatewayError | None,
        *,
        asked: bool,
    ) -> bytes:
        """`message_delta` with the usage that was charged, an error where there is one, `message_stop`."""
        why = b"" if error is None else error_event(error, request_id)
        if not self._begun:
            return why
        more = {**({} if counted is None else _usage_of(counted)), **money}
        delta = self._delta
        if delta and more:
            delta = _with_usage(delta, more)
        elif not delta and (more or not self._stop):
            reason = "end_turn" if self._stop else "max_tokens"
            usage = {**USAGE_OF_A_DELTA, "output_tokens": 0, **(self.usage or {}), **more}
            ended = {"stop_reason": reason, "stop_sequence": None, **ENDS_PLAINLY}
            delta = event({"type": "message_delta", "delta": ended, "usage": usage})
        return delta + why + (self._stop or event(_STOP))

    def ended_by(self, error: GatewayError, request_id: str) -> bytes:
        """An error event, and nothing behind it."""
        return error_event(error, request_id)

    def _passed(self, frame: bytes) -> bytes:
        """Read one event; what to forward now."""
        data = payload(frame)
        if self.error or data == b"[DONE]":
            return b""
        if not data:
            return b"" if self._delta or self._stop else frame
        said = _read(data)
        if said.error is not None or said.type == "error":
            self._refused(said.error)
            return b""
        match said.type:
            case "content_block_delta" | "content_block_start" | "content_block_stop":
                self._look_at(said, data)
            case "message_start":
                self._begun = True
                if said.message is not None:
                    self._tell(said.message.usage, early=True)
            case "message_delta":
                self._tell(said.usage, early=False)
                self._ended = self._ended or (said.delta is not None and said.delta.stop_reason is not None)
                before, self._delta = self._delta, frame
                return b"" if self._stop else before
            case "message_stop":
                self._stop = self._stop or frame
            case _ if self._delta:
                return b""  # a ping that would come after the end
        if self._stop:
            return b""
        before, self._delta = self._delta, b""
        return before + frame

    def _look_at(self, said: _Event, data: bytes) -> None:
        """One event of a block's."""
        if said.delta is not None:
            self._keep_delta(said.delta, data)
            return
        self._open = said.index if said.type == "content_block_start" else None
        if said.content_block is not None:
            self._keep_all([said.content_block.text, said.content_block.thinking, said.content_block.name])
            if self._counts_calls:
                self._count_search(said.content_block)

    def _count_search(self, block: _Block) -> None:
        if block.type == "server_tool_use" and bytes(block.name) == b'"web_search"':
            self._searches += 1
        elif block.type == "web_search_tool_result" and bytes(block.content)[:1] == b"{":  # an error; results are a list
            self._searches = max(0, self._searches - 1)

    def _tell(self, usage: Any, *, early: bool) -> None:
        if type(usage) is not dict or not any(usage.values()):  # at the beginning of a translated one nothing is known
            return
        self._told = merged_usage(self._told, usage)
        self._searches_told = not early and (self._searches_told or tells_searches(usage))
        if not early and usage.get("output_tokens") is not None:
            self._told_at = len(self.texts)

    def _refused(self, told: Any) -> None:
        message = told.get("message") if type(told) is dict else told
        self.error = f"it sent an error: {message}" if type(message) is str and message else "it sent an error"

    def _keep_delta(self, delta: _Delta, data: bytes) -> None:
        if delta.type in _UNBILLED:
            return
        texts = [text for name in _TEXTS if bytes(text := getattr(delta, name))[:1] == b'"']
        if not texts and delta.type not in ("text_delta", "input_json_delta", "thinking_delta"):
            # Of a kind that is newer than this gateway: all its strings, as all that is generated is paid for.
            more = _whole(data)["delta"]
            texts = [msgspec.Raw(wire.encode_json(text)) for name, text in more.items() if name != "type" and type(text) is str]
        self._keep_all(texts or [msgspec.Raw(b'""')])

    def _keep_all(self, texts: list[msgspec.Raw]) -> None:
        for raw in texts:
            text = bytes(raw)
            if text[:1] == b'"' and (len(text) > 2 or len(texts) == 1):
                self.texts.append(text[1:-1])
                self.text_bytes += len(text) - 2 or 1  # something was made, or it would not have been sent


def _read(data: bytes) -> _Event:
    """The event. Bytes that are no UTF-8 spoil the text that they stand in, not what stands beside it. BrokenStream."""
    try:
        return _decode(data)
    except UnicodeDecodeError:
        return _read(data.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise BrokenStream("an event of the stream is not JSON, or no event of messages") from wrong


def _whole(data: bytes) -> dict[str, Any]:
    """All of an event, also what nobody here looks at otherwise. BrokenStream."""
    try:
        return dict(wire.decode_json(data))
    except UnicodeDecodeError:
        return _whole(data.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise BrokenStream("an event of the stream is not JSON, or no event of messages") from wrong


def _with_usage(frame: bytes, more: Mapping[str, Any]) -> bytes:
    """The `message_delta` with counts of ours beside, or instead of, the upstream's."""
    try:
        said = _whole(payload(frame))
    except BrokenStream:
        return frame  # it ends the message all the same
    usage = said.get("usage")
    return event({**said, "usage": {**(usage if type(usage) is dict else {}), **more}})


def _usage_of(counted: Usage) -> dict[str, int]:
    return {"input_tokens": counted.input_total, "output_tokens": counted.output_total}
