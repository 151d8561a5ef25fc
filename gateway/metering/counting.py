"""Counting tokens ourselves, off the event loop: for wallets that the strict bound would refuse, and for
answers whose upstream does not say.

The counts are tiktoken's: exact for OpenAI's texts, an estimate for models with a tokenizer of their
own. The frame of a chat (3 tokens a message, 1 for a name, 3 to open the answer) is OpenAI's published
recipe; tool definitions and schemas are counted as their JSON, which is longer than what models are
shown. What has no text counts as in `usage.input_bound`.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from gateway.core.limits import JSON_DEPTH_MAX
from gateway.metering.event import EventFront
from gateway.metering.usage import (
    AUDIO_REFERENCE_TOKENS_MAX,
    TOOLS_TOKENS,
    UNBOUNDED_PART_TOKENS,
    count_ids,
    image_tokens_max,
)
from gateway.providers.tokenizer import encode, encoding_name, is_own_tokenizer

_MESSAGE_TOKENS: Final = 3
_NAME_TOKENS: Final = 1
_ANSWER_TOKENS: Final = 3
# An image at `detail: low`: 85 tokens in the families that have it; gpt-4o-mini's count is 2,833.
_LOW_DETAIL_TOKENS: Final = 2_833
# One token for each 100 ms at OpenAI, up to 50 a second elsewhere; mp3 needs at least 1,000 bytes a second.
_AUDIO_BYTES_A_TOKEN: Final = 20
_AT_ONCE_MAX: Final = 3  # long prompts must not take every thread that other work needs
_AT_ONCE_OF_AN_APP: Final = 2  # fewer than there are: another app's prompt never waits for one app's alone
_AT_ONCE_OF_AN_END_USER: Final = 1
_COUNTED_CHARS_MAX: Final = 1_000_000  # of one answer's text: what lies behind them counts by the average of those


# Fields that no provider reads as text of the prompt. Whatever is not named here counts by its bytes: the
# count runs for wallets that hold just so much, and must never be below what an upstream may read.
_NOT_PROMPT: Final = frozenset(
    (
        "model", "stream", "stream_options", "n", "best_of", "max_tokens", "max_completion_tokens", "temperature", "top_p",
        "stop", "seed", "user", "safety_identifier", "metadata", "logit_bias", "logprobs", "top_logprobs", "presence_penalty",
        "frequency_penalty", "parallel_tool_calls", "tool_choice", "service_tier", "store", "encoding_format", "dimensions",
        "echo", "modalities", "audio", "reasoning_effort", "verbosity", "prompt_cache_key",
    )
)  # fmt: skip


class Times(msgspec.Struct, frozen=True):
    """One of a list of texts that a model reads so often: it is counted once."""

    text: str
    times: int


class Counter:
    """Counts in worker threads, a few at a time, and of one app and one end user fewer, so that nobody waits for what another
    has asked. Make it inside the event loop that uses it.
    """

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(_AT_ONCE_MAX)
        self._apps = _Queues(_AT_ONCE_OF_AN_APP)
        self._end_users = _Queues(_AT_ONCE_OF_AN_END_USER)

    async def count_input(self, model: str, body: Mapping[str, Any], field: str, of: EventFront | None = None) -> int:
        """Tokens of a prompt: `model` is the upstream's own name, `field` holds the prompt; `of` says whose it is."""
        async with self._turn(of):
            return await asyncio.to_thread(input_tokens, model, body, field)

    async def count_text(self, model: str, text: str, of: EventFront | None = None) -> int:
        """Tokens of a text that was made, of a long one by its first million characters."""
        async with self._turn(of):
            if len(text) <= _COUNTED_CHARS_MAX:
                return await asyncio.to_thread(text_tokens, model, text)
            begun = await asyncio.to_thread(text_tokens, model, text[:_COUNTED_CHARS_MAX])
        return begun * len(text) // _COUNTED_CHARS_MAX

    @asynccontextmanager
    async def _turn(self, of: EventFront | None) -> AsyncIterator[None]:
        if of is None:
            async with self._all:
                yield
            return
        app = of.enterprise_id
        async with self._end_users.turn((app, of.platform_user_id)), self._apps.turn(app), self._all:
            yield


class _Queues:
    """So many at once under each name; a name under which nobody waits is forgotten."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: dict[Hashable, int] = {}
        self._slots: dict[Hashable, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, name: Hashable) -> AsyncIterator[None]:
        slots = self._slots.setdefault(name, asyncio.Semaphore(self._at_once))
        self._waiting[name] = self._waiting.get(name, 0) + 1
        try:
            async with slots:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._slots[name]


def text_tokens(model: str, text: str) -> int:
    """Tokens of a text. Takes a second for a few megabytes."""
    return len(encode(encoding_name(model), text)) if text else 0


def input_tokens(model: str, body: Mapping[str, Any], field: str) -> int:
    """Tokens of a prompt; see the module on what is exact. What is not understood counts by its bytes, never as nothing."""
    total = 0
    for name, value in body.items():
        if name == field == "messages" and isinstance(value, list):
            total += _ANSWER_TOKENS + sum(_message_tokens(model, message) for message in value)
        elif name == field:
            total += _prompt_tokens(model, value)
        elif name in ("tools", "functions", "response_format") and value:
            total += TOOLS_TOKENS + text_tokens(model, _json(value).decode())
        elif name == "suffix" and isinstance(value, str):
            total += text_tokens(model, value)
        elif name not in _NOT_PROMPT and isinstance(value, str | list | dict):
            total += len(_json(value))
    if is_own_tokenizer(model):
        return total
    return total * 3 // 2  # tokenizers of other families split some scripts finer than the one that counts here


def _prompt_tokens(model: str, prompt: Any) -> int:
    if isinstance(prompt, str):
        return text_tokens(model, prompt)
    if not isinstance(prompt, list):
        return len(_json(prompt))
    ids = count_ids(prompt)
    if ids is not None:
        return ids
    return sum(_item_tokens(model, item) for item in prompt)


def _item_tokens(model: str, item: Any) -> int:
    if isinstance(item, Times):
        return item.times * text_tokens(model, item.text)
    return text_tokens(model, item) if isinstance(item, str) else len(_json(item))


def _message_tokens(model: str, message: Any) -> int:
    if not isinstance(message, dict):
        return len(_json(message))
    total = _MESSAGE_TOKENS
    for key, value in message.items():
        if key == "content" and isinstance(value, list):
            total += sum(_part_tokens(model, part) for part in value)
        elif key == "audio":
            total += AUDIO_REFERENCE_TOKENS_MAX
        else:
            total += sum(text_tokens(model, text) for text in _texts(value))
            total += _NAME_TOKENS if key == "name" else 0
    return total


def _part_tokens(model: str, part: Any) -> int:
    if not isinstance(part, dict):
        return len(_json(part))
    kind = part.get("type")
    if kind in ("image_url", "input_image", "image"):
        url = part.get("image_url")
        low = isinstance(url, dict) and url.get("detail") == "low"
        image = min(_LOW_DETAIL_TOKENS, image_tokens_max(model)) if low else image_tokens_max(model)
        return image + _others(model, part, "image_url")
    if kind == "input_audio":
        audio = part.get("input_audio")
        data = audio.get("data") if isinstance(audio, dict) else None
        if not isinstance(data, str):
            return len(_json(part))
        return len(data) // _AUDIO_BYTES_A_TOKEN + 1 + _others(model, part, "input_audio")
    if kind in ("text", "input_text", "output_text", "refusal"):
        return _others(model, part, "")
    return UNBOUNDED_PART_TOKENS


def _others(model: str, part: dict[str, Any], but: str) -> int:
    """Tokens of a part's texts, less those of the field that is counted by rule and the type."""
    return sum(text_tokens(model, text) for key, value in part.items() if key not in ("type", but) for text in _texts(value))


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Every string inside a value, such as the calls of an earlier answer."""
    if isinstance(value, str):
        yield value
    elif depth < JSON_DEPTH_MAX and isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner, depth + 1)
    elif depth < JSON_DEPTH_MAX and isinstance(value, list):
        for inner in value:
            yield from _texts(inner, depth + 1)


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
