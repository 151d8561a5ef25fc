"""Token counts out of an upstream's answer, and the strict bound on a prompt before it is sent. Pure and hot.

Sources of the shapes: OpenAI's chat, completions, embeddings and responses reference (cached, audio
and reasoning counts lie inside the totals), DeepSeek's `prompt_cache_hit_tokens`, Anthropic's
`cache_read_input_tokens` and `cache_creation_input_tokens` (beside `input_tokens`; a deployment says so
with `cached_inside=False`).
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.core.units import Usage

COUNT_MAX: Final = 1_000_000_000  # more tokens than any context holds: an upstream that says so is broken
_encode: Final = msgspec.json.Encoder().encode
_NO_FLAGS: Final[tuple[str, ...]] = ()
_NOTHING: Final[Mapping[str, Any]] = {}

# The most that one image can cost in any family that we know: 10,000 patches at 1.62 tokens a patch.
IMAGE_TOKENS_MAX: Final = 16_384
# gpt-4o-mini counts an image as 2,833 tokens and 5,667 for each of at most 8 tiles.
IMAGE_TOKENS_MAX_GPT_4O_MINI: Final = 48_169
# An earlier answer's audio that a message refers to by id only.
AUDIO_REFERENCE_TOKENS_MAX: Final = 16_384
# A file can say far more than its bytes (compressed text, a mere id): only the model's context bounds it.
UNBOUNDED_PART_TOKENS: Final = 2_000_000
# Providers wrap tool definitions in instructions of their own (Anthropic's table: up to 346 tokens; some models more).
TOOLS_TOKENS: Final = 1_024


def read_usage(raw: Mapping[str, Any], cached_inside: bool) -> tuple[Usage, tuple[str, ...]] | None:
    """Usage in disjoint buckets and the flags of what was wrong with it; None when it cannot be used and must be counted.

    Unusable: no prompt count, no completion count (embeddings: one that no total explains), a main
    count that is negative, not whole or above `COUNT_MAX`, or nothing but zeros. Details that contradict
    the main counts are cut down to them and flagged: `cached_exceeds_input`, `reasoning_exceeds_output`,
    `input_parts_overlap`, `output_parts_overlap`, `usage_detail_invalid`, `usage_total_mismatch`.
    """
    prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens")
    plain = _plain(raw, prompt, completion)
    if plain is not None:
        return plain, _NO_FLAGS
    if prompt is None:
        prompt = raw.get("input_tokens")
    if completion is None:
        completion = raw.get("output_tokens")
    total = raw.get("total_tokens")
    if completion is None and total is not None and total == prompt:
        completion = 0  # embeddings have no output to count
    if type(prompt) is not int or type(completion) is not int:
        prompt, completion = _whole(prompt), _whole(completion)
        if prompt is None or completion is None:
            return None
    if not (0 <= prompt <= COUNT_MAX and 0 <= completion <= COUNT_MAX) or not (prompt or completion):
        return None
    flags: list[str] = []
    inputs = _input_parts(raw, prompt, cached_inside, flags)
    outputs = _output_parts(raw, prompt, completion, total, flags)
    usage = Usage(
        input=inputs[0],
        cached_input=inputs[1],
        cache_write=inputs[2],
        cache_write_1h=inputs[3],
        audio_input=inputs[4],
        image_input=inputs[5],
        output=outputs[0],
        reasoning=outputs[1],
        audio_output=outputs[2],
    )
    if total is not None and total != sum(inputs) + sum(outputs) and total != prompt + completion:
        flags.append("usage_total_mismatch")
    return usage, tuple(flags) if flags else _NO_FLAGS


def _plain(raw: Mapping[str, Any], prompt: object, completion: object) -> Usage | None:
    """The usage where the main counts are in order and nothing else says anything: most answers."""
    if type(prompt) is not int or type(completion) is not int or not _PARTS.isdisjoint(raw):
        return None
    if not (0 < prompt <= COUNT_MAX and 0 <= completion <= COUNT_MAX) or raw.get("total_tokens") != prompt + completion:
        return None
    details = raw.get("prompt_tokens_details")
    if details is not None and (type(details) is not dict or any(details.values())):
        return None
    details = raw.get("completion_tokens_details")
    if details is not None and (type(details) is not dict or any(details.values())):
        return None
    return Usage(input=prompt, output=completion)


_PARTS: Final = frozenset(
    (
        "cache_read_input_tokens", "prompt_cache_hit_tokens", "cache_creation_input_tokens", "cache_creation",
        "input_tokens_details", "output_tokens_details",
    )
)  # fmt: skip


def _input_parts(raw: Mapping[str, Any], prompt: int, inside: bool, flags: list[str]) -> tuple[int, int, int, int, int, int]:
    """(input, cached, cache write, cache write of 1 h, audio, image), disjoint."""
    details = _details(raw, "prompt_tokens_details", "input_tokens_details", flags)
    cached = details.get("cached_tokens")
    if cached is None:
        cached = raw.get("cache_read_input_tokens")
        if cached is None:
            cached = raw.get("prompt_cache_hit_tokens", 0)
    write = raw.get("cache_creation_input_tokens", 0)
    audio = details.get("audio_tokens", 0)
    image = details.get("image_tokens", 0)
    if not (cached or write or audio or image):
        return prompt, 0, 0, 0, 0, 0
    cached, write, audio, image = _part(cached, flags), _part(write, flags), _part(audio, flags), _part(image, flags)
    if inside and cached > prompt:
        flags.append("cached_exceeds_input")
        cached = prompt
    rest = prompt - audio - image - (cached + write if inside else 0)
    if rest < 0:
        # Cached audio is counted twice by some; and lies are possible. What is left over is taken off the
        # cached part first: it is the cheaper bucket, so an overlap is never billed below the provider's price.
        flags.append("input_parts_overlap")
        room = prompt
        audio = min(audio, room)
        image = min(image, room - audio)
        if inside:
            write = min(write, room - audio - image)
            cached = min(cached, room - audio - image - write)
        rest = prompt - audio - image - (cached + write if inside else 0)
    write_1h = 0
    if write:
        by_age = raw.get("cache_creation")
        if isinstance(by_age, Mapping):
            write_1h = min(_part(by_age.get("ephemeral_1h_input_tokens", 0), flags), write)
    return rest, cached, write - write_1h, write_1h, audio, image


def _output_parts(raw: Mapping[str, Any], prompt: int, completion: int, total: object, flags: list[str]) -> tuple[int, int, int]:
    """(output, reasoning, audio), disjoint."""
    details = _details(raw, "completion_tokens_details", "output_tokens_details", flags)
    reasoning = details.get("reasoning_tokens", 0)
    audio = details.get("audio_tokens", 0)
    if not (reasoning or audio):
        return completion, 0, 0
    reasoning, audio = _part(reasoning, flags), _part(audio, flags)
    # Some count reasoning beside the completion (xAI does); their own total says which it is.
    beside = reasoning > 0 and total == prompt + completion + reasoning
    if not beside and reasoning > completion:
        flags.append("reasoning_exceeds_output")
        reasoning = completion
    room = completion if beside else completion - reasoning
    if audio > room:
        flags.append("output_parts_overlap")
        audio = room
    return room - audio, reasoning, audio


def _details(raw: Mapping[str, Any], name: str, other: str, flags: list[str]) -> Mapping[str, Any]:
    found = raw.get(name)
    if found is None:
        found = raw.get(other)
    if type(found) is dict:
        return found
    if found is not None:
        flags.append("usage_detail_invalid")
    return _NOTHING


def _part(value: object, flags: list[str]) -> int:
    """A detail's count; what is no count is none, and flagged."""
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value
    if value is not None:
        flags.append("usage_detail_invalid")
    return 0


def _whole(value: object) -> int | None:
    """A count given as 12.0 by servers whose language has one kind of number."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    return None


def input_bound(body: Mapping[str, Any], body_bytes: int, field: str, model: str) -> int:
    """More tokens than the prompt of this request can have, at next to no cost.

    `field` holds the prompt (`messages`, a list of objects; `prompt` or `input`), `model` is the upstream's own name: images are
    counted by family.

    Byte-level tokenizers give at most one token a byte, a character never takes fewer bytes in JSON than
    in UTF-8, and the JSON around a message outweighs the tokens that the chat format adds to it; so the
    body's bytes bound its text. Prompts given as token ids count as many. Images, whether sent as base64
    (a blank one compresses to nothing) or by address, count by rule; base64 audio is covered by its bytes
    (wav and mp3 need 1,000 bytes a second, models bill at most 50 tokens for it).
    """
    bound = body_bytes
    prompt = body.get(field)
    if type(prompt) is not list:
        pass
    elif field == "messages":
        for message in prompt:
            if type(message) is dict:
                content = message.get("content")
                if type(content) is list:
                    bound += _parts_bound(content, model)
                if "audio" in message:
                    bound += AUDIO_REFERENCE_TOKENS_MAX
    else:
        counted = count_ids(prompt)
        if counted is not None:
            bound += counted - len(_encode(prompt))  # the rest of the body is still bounded by its bytes
    if body.get("tools") or body.get("functions") or body.get("response_format"):  # a schema may become a tool on its way
        bound += TOOLS_TOKENS
    return bound


def count_ids(given: list[Any]) -> int | None:
    """How many token ids a prompt of ids, or of lists of ids, holds; None for any other prompt."""
    total = 0
    for item in given:
        if type(item) is int:
            total += 1
        elif type(item) is list and set(map(type, item)) <= {int}:
            total += len(item)
        else:
            return None
    return total


def image_tokens_max(model: object) -> int:
    """The most tokens that one image takes in a model's family. Source: OpenAI's guide to images, "Calculating costs"."""
    if isinstance(model, str) and "gpt-4o-mini" in model:
        return IMAGE_TOKENS_MAX_GPT_4O_MINI
    return IMAGE_TOKENS_MAX


def _parts_bound(content: list[Any], model: str) -> int:
    """What the parts of one message add to their bytes in the body; base64 of an image is taken off again."""
    added = 0
    for part in content:
        if type(part) is not dict:
            continue
        kind = part.get("type")
        if kind == "image_url" or kind == "input_image" or kind == "image":
            url = part.get("image_url")
            address = url.get("url") if type(url) is dict else url
            added += image_tokens_max(model)
            if type(address) is str and address.startswith("data:"):
                added -= len(address)
        elif type(kind) is not str or kind not in _TEXT_KINDS:
            added += UNBOUNDED_PART_TOKENS
    return added


_TEXT_KINDS: Final = frozenset(("text", "input_text", "output_text", "refusal", "input_audio"))
