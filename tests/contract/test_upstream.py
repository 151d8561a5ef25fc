"""What every `Upstream` promises, on each adapter: direct against the scripted server, and the demo model."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.metering.counting import input_tokens
from gateway.metering.usage import input_bound, read_usage
from gateway.providers.demo import DemoUpstream
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import Deployment, Reply, Upstream
from gateway.providers.routing import Upstreams
from tests import scripted_upstream
from tests.replies import chunks


class Subject:
    """An adapter and a deployment that it serves."""

    def __init__(self, upstream: Upstream, deployment: Deployment) -> None:
        self.upstream = upstream
        self.deployment = deployment

    async def send(self, path: str, body: dict[str, Any]) -> Reply:
        model = {"model": self.deployment.model}
        return await self.upstream.send(self.deployment, path, json.dumps({**model, **body}).encode())

    async def whole(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self.send(path, body)
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("application/json")
        raw = await reply.read(60)
        await reply.close()
        found: dict[str, Any] = json.loads(raw)
        return found

    async def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        reply = await self.send(path, {**body, "stream": True})
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        raw = b"".join([chunk async for chunk in chunks(reply)])
        await reply.close()
        frames = raw.split(b"\n\n")
        assert frames[-2:] == [b"data: [DONE]", b""]
        return [json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-2]]


@pytest.fixture(params=["direct", "demo", "upstreams"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    demo = Deployment(id="demo/demo/0", provider="demo", model="demo", api_base="", api_key="")
    if request.param == "demo":
        yield Subject(DemoUpstream(pause_s=0), demo)
        return
    async with scripted_upstream.serving() as base:
        direct = DirectUpstream()
        served = Deployment(id="ok/openai/0", provider="openai", model="ok", api_base=base, api_key="sk")
        yield Subject(Upstreams(direct, {"demo": DemoUpstream()}) if request.param == "upstreams" else direct, served)
        await direct.close()


CHAT = "/chat/completions"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell me about prepaid wallets."}]


async def test_a_chat_is_answered_in_openais_shape_with_usage(subject: Subject) -> None:
    answer = await subject.whole(CHAT, {"messages": MESSAGES})
    assert answer["object"] == "chat.completion"
    assert answer["model"] == subject.deployment.model
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    read = read_usage(answer["usage"], cached_inside=True)
    assert read is not None
    assert read[1] == ()
    assert read[0].input_total > 0
    assert read[0].output_total > 0


async def test_a_stream_says_what_the_whole_answer_says(subject: Subject) -> None:
    body = {"messages": MESSAGES}
    answer = await subject.whole(CHAT, body)
    events = await subject.events(CHAT, {**body, "stream_options": {"include_usage": True}})
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == answer["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == answer["usage"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 2) + ["stop"]


async def test_usage_is_streamed_only_where_it_is_asked_for(subject: Subject) -> None:
    plain = await subject.events(CHAT, {"messages": MESSAGES})
    assert all("usage" not in event and event["choices"] for event in plain)
    asked = await subject.events(CHAT, {"messages": MESSAGES, "stream_options": {"include_usage": True}})
    assert all(event["usage"] is None for event in asked[:-1])
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_output_cap_is_obeyed_and_ends_with_length(subject: Subject, field: str) -> None:
    answer = await subject.whole(CHAT, {"messages": MESSAGES, field: 3})
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3
    events = await subject.events(CHAT, {"messages": MESSAGES, field: 3, "stream_options": {"include_usage": True}})
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["completion_tokens"] == 3


async def test_n_gives_as_many_choices_and_counts_all_of_them(subject: Subject) -> None:
    one = await subject.whole(CHAT, {"messages": MESSAGES})
    three = await subject.whole(CHAT, {"messages": MESSAGES, "n": 3})
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert three["usage"]["completion_tokens"] == 3 * one["usage"]["completion_tokens"]
    assert three["usage"]["prompt_tokens"] == one["usage"]["prompt_tokens"]


async def test_the_bound_covers_the_prompt_that_is_reported(subject: Subject) -> None:
    body = {"model": subject.deployment.model, "messages": MESSAGES}
    answer = await subject.whole(CHAT, body)
    assert answer["usage"]["prompt_tokens"] <= input_bound(body, len(json.dumps(body)), "messages", subject.deployment.model)


async def test_completions_are_answered(subject: Subject) -> None:
    answer = await subject.whole("/completions", {"prompt": "Once upon a time"})
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"]
    events = await subject.events("/completions", {"prompt": "Once upon a time", "stream_options": {"include_usage": True}})
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == answer["choices"][0]["text"]
    assert events[-1]["usage"] == answer["usage"]


async def test_embeddings_are_answered_as_floats_and_as_base64(subject: Subject) -> None:
    floats = await subject.whole("/embeddings", {"input": ["one text", "another"]})
    packed = await subject.whole("/embeddings", {"input": ["one text", "another"], "encoding_format": "base64"})
    assert [item["index"] for item in floats["data"]] == [0, 1]
    vector = floats["data"][0]["embedding"]
    assert abs(sum(number * number for number in vector) - 1) < 1e-5
    assert list(struct.unpack(f"<{len(vector)}f", base64.b64decode(packed["data"][0]["embedding"]))) == vector
    assert floats["usage"]["prompt_tokens"] == floats["usage"]["total_tokens"] > 0


async def test_closing_half_way_and_closing_twice_never_raise(subject: Subject) -> None:
    reply = await subject.send(CHAT, {"messages": MESSAGES, "stream": True})
    async for _ in chunks(reply):
        break
    await reply.close()
    await reply.close()
    untouched = await subject.send(CHAT, {"messages": MESSAGES})
    await untouched.close()
    assert (await subject.whole(CHAT, {"messages": MESSAGES}))["choices"]


async def test_header_names_are_in_lower_case(subject: Subject) -> None:
    reply = await subject.send(CHAT, {"messages": MESSAGES})
    assert reply.headers
    assert all(name == name.lower() for name in reply.headers)
    await reply.close()


async def test_a_stream_that_is_cancelled_does_not_disturb_the_next_request(subject: Subject) -> None:
    began = asyncio.Event()

    async def leave() -> None:
        reply = await subject.send(CHAT, {"messages": MESSAGES, "stream": True})
        try:
            async for _ in chunks(reply):
                began.set()
                await asyncio.Event().wait()
        finally:
            await reply.close()

    task = asyncio.create_task(leave())
    await asyncio.wait_for(began.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await subject.whole(CHAT, {"messages": MESSAGES}))["choices"]


async def test_many_at_once_do_not_mix(subject: Subject) -> None:
    deployment = msgspec.structs.replace(subject.deployment, model="echo" if subject.deployment.model == "ok" else "demo")
    each = Subject(subject.upstream, deployment)
    messages = [[{"role": "user", "content": f"number {number} of many"}] for number in range(50)]
    answers = await asyncio.gather(*[each.whole(CHAT, {"messages": message}) for message in messages])
    for number, answer in enumerate(answers):
        assert f"number {number} of many" in answer["choices"][0]["message"]["content"]


async def test_the_scripted_counts_follow_their_written_rule() -> None:
    body = {"messages": MESSAGES}
    assert scripted_upstream.prompt_tokens(body) == 3 + (3 + 2) + (3 + 5)
    assert input_tokens("gpt-4o", body, "messages") > 0
