import random
from typing import Any

import msgspec
import pytest

from gateway.proxy.relay import BrokenStream, Relay, generated_text


def frame(choices: list[Any], **fields: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"id": "c", "choices": choices, **fields}) + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return frame([{"index": 0, "delta": {"content": text}, "finish_reason": finish}], usage=None)


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
STREAM = delta('he said "usage": {') + delta("\n\n[DONE] ünï") + delta("", "stop") + frame([], usage=USAGE) + b"data: [DONE]\n\n"
SHOWN = delta('he said "usage": {') + delta("\n\n[DONE] ünï") + delta("", "stop")


def relayed(chunks: list[bytes]) -> tuple[bytes, Relay]:
    relay = Relay()
    out = b"".join(relay.feed(chunk) for chunk in chunks) + relay.end()
    return out, relay


def test_the_usage_chunk_and_the_end_are_kept_back() -> None:
    out, relay = relayed([STREAM])
    assert out == SHOWN
    assert relay.usage == USAGE
    assert relay.usage_chunk == {"id": "c", "choices": [], "usage": USAGE}
    assert relay.done
    assert relay.complete
    assert relay.text() == 'he said "usage": {\n\n[DONE] ünï'


def test_any_cut_of_the_bytes_gives_the_same_answer() -> None:
    seed = 77
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(500):
        cuts = sorted(source.sample(range(1, len(STREAM)), source.randint(0, 12)))
        pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]
        out, relay = relayed(pieces)
        assert out == SHOWN, cuts
        assert relay.usage == USAGE
        assert relay.text() == 'he said "usage": {\n\n[DONE] ünï'


def test_event_by_event_gives_what_the_whole_gives() -> None:
    seed = 2026
    print(f"seed {seed}")
    source = random.Random(seed)
    words = ["", "a", " tok", "\\", '"', '\\"', "\n", "\n\n", "usage", "error", "[DONE]", "data: ", "ünï", '"usage": {', "}]}"]
    for _ in range(300):
        frames = []
        fields = source.sample(["content", "text", "reasoning_content", "reasoning", "refusal"], 2)
        more: dict[str, Any] = {}
        for _ in range(source.randint(1, 12)):
            if source.random() < 0.2:  # now and then the events change in more than their text
                more = {"model": source.choice(words), "obfuscation": source.choice(words)}
                fields = source.sample(["content", "text", "reasoning_content", "reasoning", "refusal"], 2)
            delta = {name: "".join(source.choices(words, k=source.randint(0, 3))) for name in fields[: source.randint(1, 2)]}
            if source.random() < 0.5:
                frames.append(frame([{"index": 0, "delta": delta, "finish_reason": None}], **more))
            else:
                frames.append(frame([{"delta": delta}]).replace(b"data: ", b"data:", 1))
        out, relay = relayed(frames)
        # The mark at the end makes the other relay take the events apart one by one.
        whole_out, whole = relayed([b"".join(frames) + b"data: [DONE]\n\n"])
        assert out == whole_out == b"".join(frames)
        assert relay.text() == whole.text(), frames


def test_the_backslash_before_a_quote_is_not_the_end_of_a_text() -> None:
    frames = [b'data: {"content":"%b"}\n\n' % text for text in (b"a", b"b", b"c\\\\", b'\\"', b"d")]
    _, relay = relayed(frames)
    assert relay.text() == 'abc\\"d'
    _, relay = relayed([*frames[:2], b'data: {"content":"e\\"}\n\n'])  # broken JSON: not a text that ends there
    assert relay.text() == "ab"


def test_carriage_returns_are_understood() -> None:
    out, relay = relayed([STREAM.replace(b"\n\n", b"\r\n\r\n")])
    assert out == SHOWN.replace(b"\n\n", b"\r\n\r\n")
    assert relay.usage == USAGE


def test_usage_beside_choices_passes_and_the_last_counts() -> None:
    first = frame([{"delta": {"content": "a"}}], usage={"prompt_tokens": 1, "completion_tokens": 1})
    last = frame([{"delta": {"content": "b"}, "finish_reason": "stop"}], usage={"prompt_tokens": 1, "completion_tokens": 2})
    out, relay = relayed([first, last])
    assert out == first + last
    assert relay.usage == {"prompt_tokens": 1, "completion_tokens": 2}
    assert relay.usage_chunk is None
    assert relay.text() == "ab"


def test_half_a_stream_is_not_complete() -> None:
    out, relay = relayed([delta("a"), delta("b")[:-20]])
    assert out == delta("a")
    assert not relay.complete


def test_a_stream_that_only_lacks_its_end_mark_is_complete() -> None:
    _, relay = relayed([delta("a"), delta("", "stop")])
    assert relay.complete


def test_an_error_of_the_provider_is_kept_back_and_ends_what_is_forwarded() -> None:
    error = b'data: {"error": {"message": "overloaded"}}\n\n'
    out, relay = relayed([delta("a"), error, delta("b")])
    assert out == delta("a")
    assert relay.error == "it sent an error: overloaded"
    assert not relay.complete


def test_an_error_field_of_null_is_no_error() -> None:
    plain = frame([{"delta": {"content": "a"}, "finish_reason": "stop"}], error=None)
    out, relay = relayed([plain])
    assert out == plain
    assert relay.complete


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_may_name_themselves_span_lines_and_end_in_any_newline(end: bytes) -> None:
    counts = b'"usage":{"prompt_tokens":5000,"completion_tokens":5000}}'
    usage = b'event: message\nid: 7\ndata: {"id":"c","choices":[],\ndata: ' + counts + b"\n\n"
    stream = (b"event: message\n" + delta("a", "stop") + usage + b": ping\n\n" + b"data: [DONE]\n\n").replace(b"\n", end)
    out, relay = relayed([stream[at : at + 3] for at in range(0, len(stream), 3)])
    assert relay.usage == {"prompt_tokens": 5000, "completion_tokens": 5000}
    assert b"usage" not in out.replace(b'"usage":null', b"")
    assert relay.done
    assert relay.text() == "a"


def test_a_smaller_or_empty_usage_after_a_larger_one_changes_nothing() -> None:
    large, small = {"prompt_tokens": 10, "completion_tokens": 50}, {"prompt_tokens": 1, "completion_tokens": 1}
    for second in (small, {}):
        _, relay = relayed([frame([], usage=large), frame([], usage=second)])
        assert relay.usage == large


def test_reasoning_under_two_names_counts_once() -> None:
    _, relay = relayed(
        [frame([{"delta": {"reasoning": "hm", "reasoning_content": "hm"}}]), frame([{"delta": {"reasoning": "so"}}])]
    )
    assert relay.text() == "hmso"


def test_a_long_event_in_small_pieces_is_looked_at_once() -> None:
    long = delta("x" * 2_000_000)
    relay = Relay()
    looked = sum(len(relay._tail) and 1 for at in range(0, len(long), 1000) if relay.feed(long[at : at + 1000]) is not None)
    assert looked >= 1990
    assert relay.text() == "x" * 2_000_000


def test_a_frame_without_end_is_broken() -> None:
    relay = Relay()
    for _ in range(8):
        assert relay.feed(b"x" * 1_000_000) == b""
    with pytest.raises(BrokenStream):
        relay.feed(b"x" * 1_000_000)


def test_a_usage_event_that_is_no_json_is_broken() -> None:
    with pytest.raises(BrokenStream):
        Relay().feed(b'data: {"usage": {nope\n\n')


def test_the_text_of_a_whole_answer_is_found_with_its_tool_calls() -> None:
    body = msgspec.json.encode(
        {
            "choices": [
                {"message": {"role": "assistant", "content": 'a "b"\n', "tool_calls": [{"function": {"arguments": '{"x":1}'}}]}}
            ]
        }
    )
    assert generated_text(body) == 'a "b"\n{"x":1}'
