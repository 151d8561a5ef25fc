"""One streamed answer of `/v1/responses`: typed events on their way to the client.

Events pass as they came, but for those that carry the response itself, whose id becomes ours. The last of them
(`response.completed`, `response.incomplete`, `response.failed`), which tells the usage, is kept back until the request is
settled. An `error` event is not forwarded, because its words may name addresses or keys. Generated text is kept as it stands
in JSON, to be counted, and to say in an answer that is cut here what was made until then.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from gateway.core.errors import GatewayError
from gateway.core.units import Usage
from gateway.providers.event_frames import Frames, NoEvents, data_of
from gateway.proxy import wire
from gateway.proxy.relay import BrokenStream, Streamed, text_of
from gateway.proxy.responses_tools import CALLS, calls_in
from gateway.proxy.surface import Request

COMPLETED: Final = "response.completed"
INCOMPLETE: Final = "response.incomplete"
FAILED: Final = "response.failed"
NOTHING_USED: Final[dict[str, Any]] = {"nothing_used": True}  # told by an answer that failed before anything was made
_ENDS: Final = frozenset((COMPLETED, INCOMPLETE, FAILED, "response.cancelled"))
_DELTAS: Final = {
    "response.output_text.delta": "output_text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
    "response.reasoning_text.delta": "reasoning_text",
    "response.reasoning_summary_text.delta": "summary_text",
}
_MADE_FIELDS: Final = ("name", "arguments", "input", "text", "refusal", "code")  # of an item or its parts: what a model wrote
_encode: Final = wire.encode_json


class Names(Protocol):
    """What of an answer is not the client's to see, and what stands there instead."""

    def renamed(self, response: dict[str, Any]) -> dict[str, Any]:
        """A response under the id that its owner knows it by, values decoded or raw."""
        ...

    def cleaned(self, words: str) -> str:
        """An upstream's words without keys and addresses."""
        ...


class _Event(msgspec.Struct):
    """What is looked at of an event; checked for its type alone."""

    type: str = ""
    sequence_number: Any = None
    delta: Any = None
    output_index: Any = 0
    content_index: Any = 0
    summary_index: Any = 0
    item: Any = None
    response: msgspec.Raw = msgspec.Raw(b"")
    message: Any = None
    error: Any = None


_decode_event: Final = msgspec.json.Decoder(_Event, float_hook=wire.read_float).decode
decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Item:
    """One output item: as it was added, what was said of it since, and as it was when done."""

    __slots__ = ("added", "done", "said")

    def __init__(self, added: dict[str, Any]) -> None:
        self.added = added
        self.done: dict[str, Any] | None = None
        self.said: dict[tuple[str, int], list[bytes]] = {}

    def so_far(self) -> dict[str, Any]:
        if self.done is not None:
            return self.done
        item = {**self.added, "status": "incomplete"}
        for (kind, _), texts in sorted(self.said.items(), key=lambda each: each[0][1]):
            text = text_of(texts)
            if kind in ("arguments", "input", "code"):
                item[kind] = text
            elif kind == "summary_text":
                item["summary"] = [*(item.get("summary") or ()), {"type": kind, "text": text}]
            else:
                part: dict[str, Any] = {"type": kind, "refusal" if kind == "refusal" else "text": text}
                if kind == "output_text":
                    part["annotations"] = []
                item["content"] = [*(item.get("content") or ()), part]
        return item


class ResponsesStream(Streamed):
    """See `surface.Stream`."""

    def __init__(self, names: Names, *, counts_calls: bool = False) -> None:
        """`counts_calls`: tools of the provider's own may be among the items."""
        super().__init__()
        self._names = names
        self._counts_calls = counts_calls
        self._frames = Frames()
        self._response: dict[str, Any] | None = None  # as the latest event had it, renamed
        self._rename: tuple[bytes, bytes] | None = None  # the id as a JSON string: the upstream's, and ours
        self._items: dict[int, _Item] = {}
        self._final: tuple[str, dict[str, Any]] | None = None
        self._next_number = 0
        self._told: Any = None  # of usage

    @property
    def usage(self) -> Any:
        """What was told of it, with the calls of tools that were seen until now."""
        if not self._counts_calls or self._told is NOTHING_USED:
            return self._told
        output = self._final[1].get("output") if self._final is not None else None
        calls = calls_in(decoded(output) or [item.done or item.added for item in self._items.values()])
        return {**(self._told if type(self._told) is dict else {}), CALLS: calls} if calls else self._told

    @property
    def complete(self) -> bool:
        """Whether the upstream ended the answer itself."""
        return self._final is not None and not self.error

    def feed(self, chunk: bytes) -> bytes:
        """Whole events, less those that are kept back. BrokenStream."""
        try:
            return b"".join([self._passed(frame) for frame in self._frames.feed(chunk)])
        except NoEvents as broken:
            raise BrokenStream(str(broken)) from broken

    def end(self) -> bytes:
        """The last event, where the upstream closed without the blank line behind it."""
        rest = self._frames.rest()
        payload = data_of(rest)
        if not payload or payload == b"[DONE]":
            return b""
        try:
            msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return b""  # it broke off in the middle
        return self._passed(rest + b"\n\n")

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
        """The event that ends the answer, its usage with what it cost for a client that asked; before it why it was cut."""
        ended = b"" if error is None else self.ended_by(error, request_id)
        kind, response = self._final or (INCOMPLETE, self._so_far())
        if not response:
            return ended
        usage = self._told if self._told is not NOTHING_USED else None
        if counted is not None:
            usage = usage_of(counted)
        if usage is not None or money:
            response["usage"] = {**(usage or {}), **money}
        return ended + self._event(kind, {"response": response})

    def ended_by(self, error: GatewayError, request_id: str) -> bytes:
        """An error event."""
        number = self._next_number
        self._next_number += 1
        return error_event(error, request_id, number)

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        event = {"type": kind, **fields, "sequence_number": self._next_number}
        self._next_number += 1
        return b"event: " + kind.encode() + b"\ndata: " + _encode(event) + b"\n\n"

    def _so_far(self) -> dict[str, Any]:
        """The response as if the model had ended here; nothing where the client saw none."""
        if self._response is None:
            return {}
        output = [item.so_far() for _, item in sorted(self._items.items())]
        cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": output}
        return {**self._response, **cut}

    def _passed(self, frame: bytes) -> bytes:
        """Read one event: what of it the client gets."""
        if self._final is not None or self.error:
            return b""
        payload = data_of(frame)
        if not payload:
            return frame  # a comment keeps the connection alive
        if payload == b"[DONE]":
            return b""
        event = _parsed(payload)
        kind, number = event.type, event.sequence_number
        if kind in _ENDS:
            self._end(kind, event)
            return b""
        if type(number) is int:
            self._next_number = max(self._next_number, number + 1)
        if kind == "error" or (event.error and not kind.startswith("response.")):
            self.error = _words_of(event)
            return b""
        if kind.endswith(".delta"):
            self._say(kind, event)
        elif event.response:
            return self._about(kind, payload, event)
        elif kind == "response.output_item.added" and type(event.item) is dict and type(event.output_index) is int:
            self._items[event.output_index] = _Item(event.item)
            if type(event.item.get("name")) is str:
                self._keep(event.item["name"])
        elif kind == "response.output_item.done" and type(event.item) is dict and type(event.output_index) is int:
            self._done(event)
        if self._rename is not None and self._rename[0] in frame:
            return frame.replace(*self._rename)
        return frame

    def _say(self, kind: str, event: _Event) -> None:
        text = event.delta
        if type(text) is not str:
            text = "" if text is None else _encode(text).decode()
        kept = self._keep(text)
        what, item = _DELTAS.get(kind), self._items.get(event.output_index if type(event.output_index) is int else -1)
        if what is not None and item is not None:
            place = event.summary_index if what == "summary_text" else event.content_index
            item.said.setdefault((what, place if type(place) is int else 0), []).append(kept)

    def _done(self, event: _Event) -> None:
        """An item is whole. Some servers say nothing of it before."""
        item = self._items.setdefault(event.output_index, _Item(event.item))
        item.done = event.item
        if not item.said:
            for text in made_texts({**event.item, "name": None} if item.added is not event.item else event.item):
                self._keep(text)

    def _keep(self, text: str) -> bytes:
        kept = _encode(text)[1:-1]
        self.texts.append(kept)
        self.text_bytes += len(kept) or 1
        return kept

    def _about(self, kind: str, payload: bytes, event: _Event) -> bytes:
        """An event that carries the response so far."""
        fields: dict[str, Any] = _fields(payload)
        response: dict[str, Any] = _fields(event.response)
        before = bytes(response.get("id", b""))
        self._response = self._names.renamed(response)
        fields["response"] = self._response
        if before[:1] == b'"':
            self._rename = before, _encode(self._response["id"])
        return b"event: " + kind.encode() + b"\ndata: " + _encode(fields) + b"\n\n"

    def _end(self, kind: str, event: _Event) -> None:
        response: dict[str, Any] = self._names.renamed(_fields(event.response)) if event.response else {}
        told = response.pop("usage", None)
        self._told = decoded(told)
        if kind == FAILED:
            cleaned_error(response, self._names)
            if type(self._told) is not dict and not self.texts and not (self._counts_calls and self._items):
                self._told = NOTHING_USED
        if not self.texts and "output" in response:  # a server that sent no events but the last
            for text in texts_in(response["output"]):
                self._keep(text)
        self._final = kind, response or self._so_far()


def _parsed(payload: bytes) -> _Event:
    try:
        return _decode_event(payload)
    except UnicodeDecodeError:  # spoils the text that it stands in, not what stands beside it
        return _parsed(payload.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise BrokenStream("an event of the stream is not JSON") from wrong


def _fields(raw: bytes | msgspec.Raw) -> dict[str, Any]:
    try:
        return dict(decode_fields(raw))
    except UnicodeDecodeError:
        return _fields(bytes(raw).decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError) as wrong:
        raise BrokenStream("an event of the stream is not as it must be") from wrong


def decoded(value: Any) -> Any:
    """A value that may still be as it stood in the JSON; None for one that nobody can read, such as a number out of range."""
    if type(value) is not msgspec.Raw:
        return value
    try:
        return wire.decode_json(value)
    except UnicodeDecodeError:
        return decoded(msgspec.Raw(bytes(value).decode("utf-8", "replace").encode()))
    except (msgspec.DecodeError, RecursionError):
        return None


def _words_of(event: _Event) -> str:
    error = event.error
    message = error.get("message") if type(error) is dict else error
    message = message or event.message
    return f"it sent an error: {message}" if type(message) is str and message else "it sent an error"


def cleaned_error(response: dict[str, Any], names: Names) -> None:
    """Take keys and addresses out of what a response that failed says of its error, which may be raw."""
    error = decoded(response.get("error"))
    if error is None:
        response["error"] = None
    if type(error) is dict and type(error.get("message")) is str:
        response["error"] = {**error, "message": names.cleaned(error["message"])}


def texts_in(output: Any) -> list[str]:
    """What the items of an `output` (raw or decoded) say that was generated, in order."""
    output, found = decoded(output), list[str]()
    for item in output if type(output) is list else ():
        if type(item) is dict:
            found += made_texts(item)
    return found


def made_texts(item: Mapping[str, Any]) -> list[str]:
    """What one output item says that was generated."""
    found = [item[name] for name in _MADE_FIELDS if type(item.get(name)) is str]
    for field in ("summary", "content"):
        parts = item.get(field)
        for part in parts if type(parts) is list else ():
            if type(part) is dict:
                found += [part[name] for name in _MADE_FIELDS if type(part.get(name)) is str]
    return found


def usage_of(usage: Usage) -> dict[str, Any]:
    """The usage object of a response, of what was counted here."""
    asked, made = usage.input_total, usage.output_total
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": asked + made,
    }


def error_event(error: GatewayError, request_id: str, number: int = 0) -> bytes:
    """The event that ends a stream in trouble: typed as this surface's are, with the object that clients raise for."""
    told = wire.decode_json(wire.error_body(error, request_id))["error"]
    event = {
        "type": "error", "code": error.code, "message": error.message, "param": error.param, "sequence_number": number,
        "error": told,
    }  # fmt: skip
    return b"event: error\ndata: " + wire.encode_json(event) + b"\n\n"
