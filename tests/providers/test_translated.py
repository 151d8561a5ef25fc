"""Translated providers: litellm between the gateway and servers of Anthropic's, Gemini's, Ollama's and Bedrock's dialects.

The suite of the port runs here too, on the scripted server of OpenAI's dialect, so that litellm is imported in one process only.
"""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from gateway.metering.usage import read_usage
from gateway.providers import translation
from gateway.providers.direct import DirectUpstream
from gateway.providers.model import Deployment, UpstreamFault, UpstreamSilent
from gateway.providers.translated import TranslatedUpstream
from gateway.settings import translation_environment
from tests import scripted_dialects, scripted_upstream
from tests.contract.test_upstream import *  # noqa: F403 - every promise of the port
from tests.contract.test_upstream import CHAT, Subject
from tests.replies import chunks

KEY = "sk-ant-made-up-secret"
CLAUDE = "claude-sonnet-4-5"
OLD_CLAUDE = "claude-3-haiku-20240307"  # is made to call a tool where a schema is asked for
GEMINI = "gemini-2.5-flash"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": PARAMETERS}}
USAGE = {"stream_options": {"include_usage": True}}


@pytest.fixture(scope="module", autouse=True)
def loading() -> tuple[bool, int]:
    """Loads litellm: whether it was there before, and how often the event loop turned while a request waited for it."""

    async def load() -> tuple[bool, int]:
        direct = DirectUpstream()
        upstream = TranslatedUpstream(direct, translation_environment)
        was_there, turns = "litellm" in sys.modules, 0
        served = Deployment(id="x", provider="anthropic", model=CLAUDE, api_base="http://127.0.0.1:9", api_key=KEY)
        upstream.warm([served])
        waiting = asyncio.create_task(Subject(upstream, served).send(CHAT, say("hello")))
        while not hasattr(sys.modules.get("gateway.providers.litellm_bridge"), "trouble"):  # it is not loaded to its end
            await asyncio.sleep(0.02)
            turns += 1
        with pytest.raises(UpstreamFault):  # nobody listens there
            await waiting
        await direct.close()
        return was_there, turns

    return asyncio.run(load())


def test_the_loop_turns_while_litellm_is_loaded(loading: tuple[bool, int]) -> None:
    was_there, turns = loading
    assert was_there or turns > 20
    assert "litellm" in sys.modules


class House:
    """The adapter, and the server of dialects behind it."""

    def __init__(self, upstream: TranslatedUpstream, base: str, client: httpx.AsyncClient) -> None:
        self.upstream = upstream
        self.base = base
        self._client = client

    def of(self, provider: str, model: str, **fields: Any) -> Subject:
        given = {"first_byte_timeout_s": 5.0, "chunk_timeout_s": 5.0, "api_base": self.base, **fields}
        return Subject(self.upstream, Deployment(id="x/y/0", provider=provider, model=model, api_key=KEY, **given))

    async def journal(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._client.get("/journal")).json()["requests"]
        await self._client.delete("/journal")
        return found

    async def left(self) -> int:
        return int((await self._client.get("/journal")).json()["left"])


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with scripted_dialects.serving() as base, httpx.AsyncClient(base_url=base) as client:
        direct = DirectUpstream()
        yield House(TranslatedUpstream(direct, translation_environment), base, client)
        await direct.close()


@pytest.fixture(params=["hosted_vllm", "together_ai"])  # type: ignore[no-redef]
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """For the suite of the port: litellm's own client, and an SDK's inside it."""
    async with scripted_upstream.serving() as base:
        direct = DirectUpstream()
        served = Deployment(id="ok/x/0", provider=request.param, model="ok", api_base=base, api_key=KEY)
        yield Subject(TranslatedUpstream(direct, translation_environment), served)
        await direct.close()


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}], **fields}


def told(events: list[dict[str, Any]], field: str = "content") -> str:
    return "".join(event["choices"][0]["delta"].get(field) or "" for event in events if event["choices"])


DIALECTS = [("anthropic", CLAUDE), ("gemini", GEMINI), ("ollama_chat", "llama3")]


@pytest.mark.parametrize(("provider", "model"), DIALECTS)
async def test_an_answer_is_openais_whole_and_streamed(house: House, provider: str, model: str) -> None:
    subject = house.of(provider, model)
    answer = await subject.whole(CHAT, say("hello", max_tokens=50))
    assert answer["object"] == "chat.completion"
    assert answer["model"] == model
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello from afar."}
    assert answer["choices"][0]["finish_reason"] == "stop"
    events = await subject.events(CHAT, say("hello", max_tokens=50, **USAGE))
    assert told(events) == "Hello from afar."
    assert len(events) >= 4  # piece by piece
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 2) + ["stop"]
    assert {event["id"] for event in events} == {events[0]["id"]}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == answer["usage"]
    plain = await subject.events(CHAT, say("hello"))
    assert all("usage" not in event and event["choices"] for event in plain)


async def test_the_request_arrives_in_the_providers_own_words(house: House) -> None:
    body = say("hello", max_tokens=50, temperature=0.5, stop=["END"], top_k=3, user="u1", n=1, seed=None, store=False)
    body |= {"metadata": {"a": "b"}, "service_tier": "auto", "presence_penalty": 0}
    await house.of("anthropic", CLAUDE, headers=(("X-Team", "blue"),)).whole(CHAT, body)
    [claude] = await house.journal()
    assert claude["path"] == "/v1/messages"
    assert claude["headers"]["x-api-key"] == KEY
    assert claude["headers"]["x-team"] == "blue"
    assert claude["body"]["system"] == [{"type": "text", "text": "Be brief."}]
    assert claude["body"]["max_tokens"] == 50
    assert claude["body"]["stop_sequences"] == ["END"]
    assert claude["body"]["top_k"] == 3
    assert claude["body"]["metadata"] == {"user_id": "u1"}
    body.pop("user")
    await house.of("gemini", GEMINI).whole(CHAT, body)
    [gemini] = await house.journal()
    assert gemini["path"] == f"/models/{GEMINI}:generateContent"
    assert gemini["headers"]["x-goog-api-key"] == KEY
    config = gemini["body"]["generationConfig"]
    assert (config["temperature"], config["max_output_tokens"], config["stop_sequences"]) == (0.5, 50, ["END"])


async def test_marks_for_the_providers_cache_go_along(house: House) -> None:
    marked = {"type": "text", "text": "A long story.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    await house.of("anthropic", CLAUDE).whole(CHAT, {"messages": [{"role": "user", "content": [marked]}]})
    [request] = await house.journal()
    assert request["body"]["messages"][0]["content"] == [marked]


async def test_bedrock_is_asked_with_a_signature_and_its_caches_are_counted(house: House) -> None:
    params = (("aws_region_name", "eu-west-1"), ("aws_access_key_id", "AKIAMADEUP"), ("aws_secret_access_key", "made-up-secret"))
    subject = house.of("bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0", params=params)
    keyless = Subject(subject.upstream, replace(subject.deployment, api_key=""))
    answer = await keyless.whole(CHAT, say("hello"))
    [request] = await house.journal()
    assert request["path"] == "/model/anthropic.claude-3-5-sonnet-20240620-v1%3A0/converse"
    assert request["headers"]["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAMADEUP/")
    read = read_usage(answer["usage"], cached_inside=True)
    assert read is not None
    usage, flags = read
    assert (usage.input, usage.cached_input, usage.cache_write, usage.output, flags) == (100, 40, 50, 20, ())


@pytest.mark.parametrize("streamed", [False, True])
async def test_every_kind_of_token_lands_in_its_bucket_once(house: House, streamed: bool) -> None:
    async def usage_of(provider: str, model: str) -> tuple[int, ...]:
        subject = house.of(provider, model)
        if streamed:
            raw = (await subject.events(CHAT, say("do:ok", **USAGE)))[-1]["usage"]
        else:
            raw = (await subject.whole(CHAT, say("do:ok")))["usage"]
        read = read_usage(raw, cached_inside=True)
        assert read is not None
        usage, flags = read
        assert flags == ()
        kinds = (usage.input, usage.cached_input, usage.cache_write, usage.cache_write_1h, usage.image_input)
        return (*kinds, usage.output, usage.reasoning)

    assert await usage_of("anthropic", CLAUDE) == (100, 40, 30, 20, 0, 20, 0)
    assert await usage_of("gemini", GEMINI) == (60, 40, 0, 0, 20, 30, 12)
    assert await usage_of("ollama_chat", "llama3") == (100, 0, 0, 0, 0, 20, 0)


async def test_usage_that_the_provider_did_not_tell_is_not_made_up(house: House) -> None:
    subject = house.of("anthropic", CLAUDE)
    assert "usage" not in await subject.whole(CHAT, say("do:no-usage"))
    events = await subject.events(CHAT, say("do:no-usage", **USAGE))
    assert all(event["choices"] and event["usage"] is None for event in events)
    async with scripted_upstream.serving() as base:
        plain = house.of("hosted_vllm", "no-usage", api_base=base)
        assert "usage" not in await plain.whole(CHAT, say("hello"))
        events = await plain.events(CHAT, say("hello", **USAGE))
        assert all(event["choices"] and event["usage"] is None for event in events)


@pytest.mark.parametrize(("provider", "model"), DIALECTS[:2])
async def test_tools_are_called_whole_and_streamed(house: House, provider: str, model: str) -> None:
    subject = house.of(provider, model)
    answer = await subject.whole(CHAT, say("do:tools", tools=TOOLS))
    [choice] = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    events = await subject.events(CHAT, say("do:tools", tools=TOOLS, tool_choice="auto", **USAGE))
    deltas = [part for event in events if event["choices"] for part in event["choices"][0]["delta"].get("tool_calls", ())]
    assert deltas[0]["id"]
    assert deltas[0]["function"]["name"] == "weather"
    assert {delta["index"] for delta in deltas} == {0}
    assert json.loads("".join(delta["function"]["arguments"] for delta in deltas)) == {"city": "Paris"}
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_tools_result_goes_back_in_the_providers_words(house: House) -> None:
    subject = house.of("anthropic", CLAUDE)
    answer = await subject.whole(CHAT, say("do:tools", tools=TOOLS))
    await house.journal()
    message = answer["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"}
    body = say("do:tools", tools=TOOLS)
    await subject.whole(CHAT, {**body, "messages": [*body["messages"], message, result]})
    [request] = await house.journal()
    used, given = request["body"]["messages"][1:]
    assert used["content"][-1]["type"] == "tool_use"
    assert used["content"][-1]["input"] == {"city": "Paris"}
    assert (given["content"][0]["type"], given["content"][0]["tool_use_id"]) == ("tool_result", "toolu_1")


@pytest.mark.parametrize(("provider", "model"), [("anthropic", CLAUDE), ("anthropic", OLD_CLAUDE), ("gemini", GEMINI)])
async def test_structured_output_is_text_that_fits_the_schema(house: House, provider: str, model: str) -> None:
    subject = house.of(provider, model)
    answer = await subject.whole(CHAT, say("do:json", response_format=SCHEMA))
    [request] = await house.journal()
    assert '"city"' in json.dumps(request["body"])  # the schema went along
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Paris"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    if provider == "anthropic":
        events = await subject.events(CHAT, say("do:json", response_format=SCHEMA, **USAGE))
        assert json.loads(told(events)) == {"city": "Paris"}


async def test_thinking_is_told_apart_and_its_signature_is_kept(house: House) -> None:
    subject = house.of("anthropic", CLAUDE)
    answer = await subject.whole(CHAT, say("do:thinking", reasoning_effort="low"))
    message = answer["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hello from afar.", "Hm, well.")
    assert message["thinking_blocks"] == [{"type": "thinking", "thinking": "Hm, well.", "signature": "c2lnbmVk"}]
    assert "provider_specific_fields" not in message
    [request] = await house.journal()
    assert request["body"]["thinking"]["type"] == "enabled"
    events = await subject.events(CHAT, say("do:thinking", reasoning_effort="low", **USAGE))
    assert (told(events), told(events, "reasoning_content")) == ("Hello from afar.", "Hm, well.")
    assert json.dumps(events).count("Hm,") == 1  # text that stands there twice would be counted twice
    assert json.dumps(events).count("c2lnbmVk") == 1


async def test_images_go_inline_and_are_never_fetched_by_the_gateway(house: House) -> None:
    def look(url: str) -> dict[str, Any]:
        parts = [{"type": "text", "text": "what is it"}, {"type": "image_url", "image_url": {"url": url}}]
        return {"messages": [{"role": "user", "content": parts}]}

    inline = f"data:image/png;base64,{PIXEL}"
    await house.of("anthropic", CLAUDE).whole(CHAT, look(inline))
    [claude] = await house.journal()
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    assert claude["body"]["messages"][0]["content"][1]["source"] == source
    await house.of("gemini", GEMINI).whole(CHAT, look(inline))
    [gemini] = await house.journal()
    assert gemini["body"]["contents"][0]["parts"][1]["inline_data"] == {"mime_type": "image/png", "data": PIXEL}
    # An address is the provider's to fetch, or nobody's: the gateway would do it from inside the network.
    await house.of("anthropic", CLAUDE).whole(CHAT, look("https://pictures.invalid/cat.png"))
    [claude] = await house.journal()
    assert claude["body"]["messages"][0]["content"][1]["source"] == {"type": "url", "url": "https://pictures.invalid/cat.png"}
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        address = f"http://127.0.0.1:{trap.getsockname()[1]}/cat.png"
        reply = await house.of("gemini", GEMINI).send(CHAT, look(address))
        assert reply.status == 400
        assert await house.journal() == []
        await house.of("ollama_chat", "llama3").whole(CHAT, look(address))
        with pytest.raises(BlockingIOError):
            trap.accept()
    from litellm import constants

    assert constants.MAX_IMAGE_URL_DOWNLOAD_SIZE_MB == 0  # it does not even look the name up


async def refused(subject: Subject, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    reply = await subject.send(CHAT, body)
    error: dict[str, Any] = json.loads(await reply.read(5))["error"]
    await reply.close()
    return reply.status, error, dict(reply.headers)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_refusal_keeps_the_providers_status_and_words(house: House, streamed: bool) -> None:
    claude, gemini = house.of("anthropic", CLAUDE), house.of("gemini", GEMINI)
    for status, words in ((400, "prompt is odd"), (401, "invalid x-api-key"), (500, "prompt is odd"), (529, "Overloaded")):
        found, error, _ = await refused(claude, say(f"do:status:{status}", stream=streamed))
        assert (found, error["message"]) == (status, words)
    status, error, headers = await refused(claude, say("do:status:429", stream=streamed))
    assert (status, error["type"], headers["retry-after"]) == (429, "some_error", "7")
    # Gemini refuses the gateway's own key with 400, as if the caller could mend it.
    status, error, _ = await refused(gemini, say("do:status:400", stream=streamed))
    assert (status, error["code"]) == (401, "invalid_api_key")
    status, error, _ = await refused(gemini, say("do:status:429", stream=streamed))
    assert (status, error["type"]) == (429, "RESOURCE_EXHAUSTED")
    assert len(await house.journal()) == 7  # one request each: nobody tried again


def kept(pieces: list[bytes], piece: bytes) -> bool:
    pieces.append(piece)
    return True


async def test_what_breaks_is_a_fault_that_says_whether_it_was_sent(house: House) -> None:
    impatient = house.of("anthropic", CLAUDE, first_byte_timeout_s=0.2, chunk_timeout_s=0.2)
    with pytest.raises(UpstreamSilent) as silent:
        await impatient.send(CHAT, say("do:hang"))
    assert silent.value.sent
    for script, kind in (("hang-midstream", UpstreamSilent), ("half", UpstreamFault), ("error-midstream", UpstreamFault)):
        reply = await impatient.send(CHAT, say(f"do:{script}", stream=True))
        pieces: list[bytes] = []
        with pytest.raises(UpstreamFault) as broken:
            await reply.relay(partial(kept, pieces))
        await reply.close()
        seen = b"".join(pieces)
        assert type(broken.value) is kind, script
        assert broken.value.sent
        assert KEY not in broken.value.reason
        assert b"Hello" in seen
        assert b'"finish_reason":"stop"' not in seen  # litellm makes up an end where a stream just stops
    reply = await house.of("gemini", GEMINI).send(CHAT, say("do:half", stream=True))
    with pytest.raises(UpstreamFault):
        _ = [chunk async for chunk in chunks(reply)]
    assert len(await house.journal()) == 5
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for provider, model in (("anthropic", CLAUDE), ("gemini", GEMINI), ("together_ai", "llama")):
            with pytest.raises(UpstreamFault) as refused_there:
                await house.of(provider, model, api_base=nowhere).send(CHAT, say("hello"))
            assert not refused_there.value.sent, provider
            assert "127.0.0.1" not in refused_there.value.reason


async def test_a_client_that_leaves_ends_the_providers_stream(house: House) -> None:
    reply = await house.of("anthropic", CLAUDE).send(CHAT, say("do:forever", stream=True))
    seen: list[bytes] = []

    def take(piece: bytes) -> bool:
        seen.append(piece)
        return len(seen) < 3

    assert await reply.relay(take) is False
    assert await house.left() == 0
    await reply.close()
    for _ in range(200):
        if await house.left():
            break
        await asyncio.sleep(0.02)
    assert await house.left() == 1
    assert await reply.relay(take) is True


async def test_a_burst_of_events_leaves_the_others_their_turns(house: House) -> None:
    turns, seen = 0, []

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def take(_: bytes) -> bool:
        seen.append(turns)
        return True

    async with scripted_upstream.serving() as base:
        reply = await house.of("hosted_vllm", "ok:tokens=200", api_base=base).send(CHAT, say("hello", stream=True))
        await asyncio.sleep(0.2)  # all of it has arrived
        ticking = asyncio.create_task(tick())
        assert await reply.relay(take)
        ticking.cancel()
        await reply.close()
    assert len(seen) > 200
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "field",
    [
        {"api_base": "http://127.0.0.1:9"}, {"base_url": "http://127.0.0.1:9"}, {"api_key": "stolen"}, {"mock_response": "free"},
        {"fallbacks": ["gpt-4"]}, {"extra_headers": {"x-api-key": "other"}}, {"callbacks": ["langfuse"]}, {"n": 3}, {"seed": 7},
        {"custom_llm_provider": "openai"}, {"logit_bias": {"5": 1}}, {"speed": "fast"}, {"num_retries": 3}, {"store": True},
    ],
)  # fmt: skip
async def test_a_field_without_a_translation_is_refused_by_its_name(house: House, field: dict[str, Any]) -> None:
    [name] = field
    status, error, _ = await refused(house.of("anthropic", CLAUDE), say("hello", **field))
    assert (status, error["param"], error["code"]) == (400, name, "unsupported_parameter")
    assert await house.journal() == []


async def test_parts_and_models_that_no_provider_could_mean_are_refused(house: House) -> None:
    parts = {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}
    status, error, _ = await refused(house.of("anthropic", CLAUDE), parts)
    assert (status, error["param"]) == (400, "messages[0].content")
    status, error, _ = await refused(house.of("gemini", "gemini-x/../../v1beta/files"), say("hello"))
    assert (status, error["param"]) == (400, "model")
    assert await house.journal() == []


async def test_one_post_to_the_configured_host_is_all_that_litellm_may_do(house: House) -> None:
    from gateway.providers.litellm_bridge import Wire

    deployment = house.of("anthropic", CLAUDE).deployment
    direct = DirectUpstream()
    asked = httpx.Request("POST", house.base + "/api/chat", json={"model": "m", "messages": []})
    for wrong in (
        httpx.Request("GET", house.base + "/journal"),
        httpx.Request("POST", "http://127.0.0.1:9/v1/messages", json={}),
    ):
        with pytest.raises(UpstreamFault) as caught:
            await Wire(direct, deployment, streamed=False).carry(wrong)
        assert not caught.value.sent
    wire = Wire(direct, deployment, streamed=False)
    assert (await wire.carry(asked)).status_code == 200
    with pytest.raises(UpstreamFault) as again:
        await wire.carry(asked)
    assert again.value.sent
    await direct.close()
    assert len(await house.journal()) == 1


async def test_requests_are_not_logged(house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.DEBUG)
    await house.of("anthropic", CLAUDE).whole(CHAT, say("a private matter"))
    await house.of("gemini", GEMINI).events(CHAT, say("a private matter"))
    await refused(house.of("anthropic", CLAUDE), say("a private matter do:status:400"))
    await house.journal()
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert "private" not in said
    assert KEY not in said


async def test_embeddings_are_translated(house: House) -> None:
    answer = await house.of("gemini", "text-embedding-004").whole("/embeddings", {"input": ["one", "two"]})
    assert [item["embedding"] for item in answer["data"]] == [[0.6, 0.8], [0.6, 0.8]]
    assert "usage" not in answer  # Gemini tells none here
    reply = await house.of("gemini", "text-embedding-004").send("/embeddings", {"input": [[1, 2, 3]]})
    assert reply.status == 400


async def test_a_missing_setup_is_the_operators_trouble(house: House) -> None:
    subject = house.of("bedrock", "anthropic.claude-3-5-sonnet-20240620-v1:0", params=(("aws_profile_name", "nobody"),))
    with pytest.raises(UpstreamFault) as caught:
        await Subject(subject.upstream, replace(subject.deployment, api_key="")).send(CHAT, say("hello"))
    assert not caught.value.sent


async def test_litellm_knows_every_provider_that_is_said_to_be_translated(house: House) -> None:
    import litellm

    assert {getattr(each, "value", each) for each in litellm.provider_list} >= translation.TRANSLATED
