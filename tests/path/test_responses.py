"""`/v1/responses` with the unmodified `openai` client: natively, of a chat server's answers, and of the demo model's."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.path.conftest import DEARER, PRICED, Process, Stack, free_port, plain_env, start_gateway

FUNDS_MICRO = 100_000_000
TOOL: Any = {"type": "function", "name": "lookup", "parameters": {"type": "object", "properties": {}}, "strict": False}
TEXT = "".join(f" tok{n}" for n in range(20))
SCHEMA: Any = {"type": "json_schema", "name": "c", "schema": {"type": "object"}}
FEES = {"web_searches": "0.01", "web_searches_preview": "0.025", "file_searches": "0.0025", "container_gb": "0.03"}
SEARCHED: dict[str, Any] = {"input_tokens_max": 5000, "tool_calls": 8, "vector_stores": ["vs_ours"]}
SEARCHER: dict[str, Any] = {**PRICED, "request": "0.005", "variants": {"search_high": {"request": "0.012"}}}
WEB: Any = {"type": "web_search"}
CODE: Any = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}
FILES: Any = {"type": "file_search", "vector_store_ids": ["vs_ours"]}
CACHED = {"input": "1", "cached_input": "0.5", "cache_write": "2", "output": "10"}


@pytest.fixture(scope="module")
def native_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("responses") / "log"
    process = Process([sys.executable, "-m", "tests.scripted_responses", "--port", "0"], plain_env(), log)
    try:
        port = process.wait_for(r"port (\d+)").group(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str, native_url: str) -> Iterator[Stack]:
    """A gateway with a native server as `native/...`, chat servers as all else, and the demo model."""
    native: dict[str, Any] = {
        "provider": "openai",
        "model": "*",
        "api_base": native_url + "/v1",
        "api_key": "sk-made-up-upstream-key",
    }
    native |= {"speaks": ["responses"], "output_tokens_max": 1000, "first_byte_timeout_s": 2.0, "chunk_timeout_s": 2.0}
    chat: dict[str, Any] = {"provider": "openai", "api_base": upstream_url, "output_tokens_max": 1000, "model": "ok"}
    rich = {**native, "output_tokens_max": 100_000}
    models: list[dict[str, Any]] = [
        {"name": "native/*", "deployments": [{**native, "input_tokens_max": 5000}], "prices": CACHED},
        {"name": "narrow", "deployments": [{**native, "model": "ok", "limits": {"rpm": 4}}], "prices": PRICED},
        {"name": "rich/*", "deployments": [rich], "prices": PRICED},
        {"name": "tools/*", "deployments": [{**native, **SEARCHED}], "prices": {**PRICED, **FEES}},
        {"name": "tools-backed", "strategy": "order", "deployments": [
            {**native, **SEARCHED, "model": "ok", "api_base": f"http://127.0.0.1:{free_port()}/v1", "prices": {**PRICED, **FEES}},
            {**native, **SEARCHED, "model": "ok:calls=9", "tool_calls": 3, "prices": {**DEARER, "web_searches": "0.02"}},
        ]},
        {"name": "tools-mixed", "deployments": [
            {**native, **SEARCHED, "model": "ok:calls=1"}, {**chat, "weight": 1000}, {**chat, "model": "reject", "weight": 1000},
        ], "prices": {**PRICED, **FEES}},
        {"name": "searcher", "deployments": [{**chat, "model": "ok"}], "prices": SEARCHER},
        {"name": "long-chat", "deployments": [{**chat, "model": "ok:tokens=3000", "output_tokens_max": 9000}], "prices": PRICED},
        {"name": "either", "strategy": "order", "deployments": [{**native, "model": "reject:9"}, chat], "prices": PRICED},
    ]
    stack = start_gateway(tmp_path_factory.mktemp("house"), upstream_url, more_models=models, MOZAIKS_DEMO="true")
    try:
        yield stack
        audited = stack.cli("audit")
        assert "VIOLATED" not in audited
    finally:
        stack.admin.close()
        stack.process.stop()


HTTP = httpx.Client(timeout=60)


class App(str):
    """The name of the one app that most tests share, with this test's own end user, and the app's key."""

    user: str
    key: str


@pytest.fixture(scope="module")
def shared(house: Stack) -> tuple[str, str]:
    enterprise_id = house.app()
    return enterprise_id, house.key(enterprise_id)


@pytest.fixture
def app(house: Stack, shared: tuple[str, str]) -> App:
    made = App(shared[0])
    made.key = shared[1]
    house.count += 1
    made.user = f"user-{house.count}"
    house.fund(made, made.user, FUNDS_MICRO)
    return made


@pytest.fixture
def client(house: Stack, app: App) -> Any:
    return client_of(house, app)


def client_of(house: Stack, app: str, end_user: str = "", **more: str) -> Any:
    key, user = (app.key, app.user) if isinstance(app, App) else (house.key(app), "ann")
    headers = {"X-Platform-User-Id": end_user or user, **more}
    return OpenAI(base_url=house.url + "/v1", api_key=key, max_retries=0, default_headers=headers, http_client=HTTP)


def billed(house: Stack, app: App, count: int) -> list[dict[str, Any]]:
    """So many events of the test's end user; what they cost is gone from the wallet, and nothing is held."""
    deadline = time.monotonic() + 60
    while True:
        rows = house.get(f"/apps/{app}/usage-events", limit=200)["data"]
        events: list[dict[str, Any]] = [row for row in rows if row["platform_user_id"] == app.user]
        if len(events) >= count or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert len(events) == count, events
    wallet = house.wallet(app, app.user)
    assert wallet["held_micro"] == 0
    assert wallet["available_micro"] == FUNDS_MICRO - sum(event["amount_micro"] for event in events)
    return events


def charged(house: Stack, app: App, count: int = 1) -> list[dict[str, Any]]:
    """As `billed`, all of them for responses."""
    events = billed(house, app, count)
    assert {event["endpoint"] for event in events} == {"/responses"}
    return events


def journal(native_url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = HTTP.get(native_url + "/journal").json()
    return found


@pytest.mark.parametrize("model", ["native/ok", "ok"])
def test_an_answer_is_charged_to_the_micro_unit(house: Stack, app: App, client: Any, model: str) -> None:
    raw = client.responses.with_raw_response.create(model=model, input="one two three", instructions="be brief")
    answer = raw.parse()
    assert answer.output_text == TEXT
    assert answer.status == "completed"
    assert answer.usage is not None
    asked = answer.usage.input_tokens
    [event] = charged(house, app)
    assert event["amount_micro"] == asked + 20 * 10
    assert event["usage_source"] == "upstream"
    assert raw.headers["x-mozaiks-cost"] == f"{event['amount_micro'] / 1e6:.6f}".rstrip("0")


@pytest.mark.parametrize("model", ["native/ok", "ok", "demo"])
def test_a_stream_has_openais_events_in_order(house: Stack, app: App, client: Any, model: str) -> None:
    cap = 20 if model == "demo" else 100  # the demo model takes its time
    events = list(client.responses.create(model=model, input="say it", stream=True, max_output_tokens=cap))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 5
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *["response.output_text.delta"] * deltas, "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete" if model == "demo" else "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert last.response.output_text == said
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.response.id}
    [charge] = charged(house, app)
    assert charge["streamed"]
    assert (charge["usage_source"], charge["output_tokens"]) == ("upstream", last.response.usage.output_tokens)


async def test_the_async_client_and_the_streaming_helper_work(house: Stack, app: App) -> None:
    headers = {"X-Platform-User-Id": app.user}
    async with AsyncOpenAI(base_url=house.url + "/v1", api_key=app.key, max_retries=0, default_headers=headers) as client:
        for model in ("native/ok:tokens=5", "ok:tokens=5"):
            async with client.responses.stream(model=model, input="say it") as stream:
                async for _ in stream:
                    pass
                final = await stream.get_final_response()
            assert final.output_text == "".join(f" tok{n}" for n in range(5))
    assert [event["output_tokens"] for event in charged(house, app, 2)] == [5, 5]


@pytest.mark.parametrize("model", ["native/ok", "ok"])
def test_the_last_event_tells_the_cost_to_those_who_ask(house: Stack, app: App, model: str) -> None:
    asking, plain = client_of(house, app, **{"X-Include-Cost": "true"}), client_of(house, app)
    told: Any = list(asking.responses.create(model=model, input="x", stream=True))[-1].response.usage
    untold: Any = list(plain.responses.create(model=model, input="x", stream=True))[-1].response.usage
    first = min(charged(house, app, 2), key=lambda event: str(event["request_id"]))
    assert round(told.cost * 1e6) == first["amount_micro"]
    assert round(told.balance * 1e6) == FUNDS_MICRO - first["amount_micro"]
    assert not hasattr(untold, "cost")


@pytest.mark.parametrize("model", ["native/tools", "tools", "demo"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_loop_with_tools_runs(house: Stack, app: App, client: Any, model: str, streamed: bool) -> None:
    def ask(given: list[Any]) -> Any:
        if not streamed:
            return client.responses.create(model=model, input=given, tools=[TOOL])
        with client.responses.stream(model=model, input=given, tools=[TOOL]) as stream:
            return stream.get_final_response()

    given: list[Any] = [{"role": "user", "content": "use the tool"}]
    answer = ask(given)
    [call] = [item for item in answer.output if item.type == "function_call"]
    assert call.name == "lookup"
    assert isinstance(json.loads(call.arguments), dict)
    given += [item.to_dict() for item in answer.output]
    given.append({"type": "function_call_output", "call_id": call.call_id, "output": "it is 42"})
    if model == "tools":
        model = "ok"  # the scripted one would call for ever
    assert ask(given).output_text
    charged(house, app, 2)


class Colour(BaseModel):
    query: str


def test_structured_output_is_asked_for_and_parsed(client: Any, native_url: str) -> None:
    for model in ("native/json", "json"):
        answer = client.responses.parse(model=model, input="x", text_format=Colour)
        assert answer.output_parsed == Colour(query="x")
        with client.responses.stream(model=model, input="x", text_format=Colour) as stream:
            assert stream.get_final_response().output_parsed == Colour(query="x")
    sent = json.loads(client.responses.create(model="echo", input="x", text={"format": SCHEMA}).output_text)
    assert sent["messages"] == [{"role": "user", "content": "x"}]
    assert sent["response_format"] == {"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "object"}}}


def test_a_cap_is_sent_and_an_answer_that_reaches_it_is_incomplete(house: Stack, app: App, client: Any) -> None:
    for model in ("native/ok:tokens=50", "ok:tokens=50"):
        answer = client.responses.create(model=model, input="x", max_output_tokens=17)
        assert (answer.status, answer.incomplete_details and answer.incomplete_details.reason) == (
            "incomplete",
            "max_output_tokens",
        )
        [*_, last] = client.responses.create(model=model, input="x", max_output_tokens=17, stream=True)
        assert last.type == "response.incomplete"
    assert {event["output_tokens"] for event in charged(house, app, 4)} == {17}
    with pytest.raises(openai.BadRequestError) as low:
        client.responses.create(model="ok", input="x", max_output_tokens=15)
    assert low.value.param == "max_output_tokens"


def test_reasoning_and_what_the_provider_cached_have_their_own_prices(house: Stack, app: App, client: Any) -> None:
    client.responses.create(model="native/reasoning", input="x")
    reasoned = charged(house, app)[0]
    assert (reasoned["units"]["reasoning"], reasoned["units"]["output"]) == (10, 10)
    client.responses.create(model="native/cached", input="a b c d e")
    cached = max(charged(house, app, 2), key=lambda event: str(event["request_id"]))
    assert cached["amount_micro"] == 2 * 1 + 4 * 0.5 + 2 * 2 + 20 * 10  # 8 tokens: 4 cached, 2 written


# ---- whose a response is -------------------------------------------------------------------------------------------------


def test_follow_ups_and_stored_responses_count_on_the_limits_of_their_deployment(client: Any) -> None:
    first = client.responses.create(model="narrow", input="one two")
    for _ in range(2):
        client.responses.create(model="narrow", input="and?", previous_response_id=first.id)
    assert client.responses.retrieve(first.id).id == first.id
    asks: list[Any] = [
        lambda: client.responses.create(model="narrow", input="and?", previous_response_id=first.id),
        lambda: client.responses.create(model="narrow", input="and?", previous_response_id=first.id, stream=True),
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
    ]
    for ask in asks:
        with pytest.raises(openai.RateLimitError) as full:
            ask()
        body: Any = full.value.body
        assert body["limit_source"] == "provider"
        assert full.value.response.headers["retry-after"]


def test_a_response_is_continued_read_and_deleted_by_its_owner(house: Stack, app: App, client: Any, native_url: str) -> None:
    first = client.responses.create(model="native/ok", input="one two")
    events: list[Any] = list(
        client.responses.create(model="native/ok", input="three", previous_response_id=first.id, stream=True)
    )
    second = events[-1].response
    assert second.previous_response_id == events[0].response.previous_response_id == first.id
    assert second.usage.input_tokens == 3 + 1 + first.usage.total_tokens
    assert client.responses.retrieve(second.id).to_dict()["previous_response_id"] is not None
    found = client.responses.retrieve(first.id)
    assert (found.id, found.output_text) == (first.id, TEXT)
    assert found.metadata == {"price": 0.1, "big": 12345678901234567890}
    assert len(client.responses.input_items.list(first.id, limit=1).data) == 1
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(first.id)
    assert gone.value.code == "response_not_found"
    for model in ("native/ok", "native/forgetful", "native/ok"):  # the last one is asked as ever
        with pytest.raises(openai.NotFoundError) as unfollowed:
            client.responses.create(model=model, input="x", previous_response_id=first.id)
        assert (unfollowed.value.code, unfollowed.value.param) == ("response_not_found", "previous_response_id")
        assert "resp_0000" not in unfollowed.value.message  # the provider's own id
    assert client.responses.retrieve(second.id).status == "completed"
    assert "/responses/" in journal(native_url)[-1]["path"]
    assert journal(native_url)[-1]["headers"]["authorization"] == "Bearer sk-made-up-upstream-key"
    events = billed(house, app, 8)
    free = [event["endpoint"] for event in events if (event["amount_micro"], event["model"]) == (0, "native/ok")]
    assert sorted(free) == ["/responses/{response_id}"] * 5 + ["/responses/{response_id}/input_items"]


def test_asking_for_what_is_stored_counts_against_the_keys_limit_of_requests(house: Stack, app: App) -> None:
    client: Any = OpenAI(
        base_url=house.url + "/v1", api_key=house.key(app, limits={"rpm": 3}), max_retries=0,
        default_headers={"X-Platform-User-Id": app.user}, http_client=HTTP,
    )  # fmt: skip
    made = client.responses.create(model="native/ok", input="x")
    raw = client.responses.with_raw_response.retrieve(made.id)
    assert raw.headers["x-ratelimit-remaining-requests"] == "1"
    client.responses.retrieve(made.id)
    for ask in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.RateLimitError) as limited:
            ask(made.id)
        assert limited.value.code == "rate_limit_exceeded"
    assert client_of(house, app).responses.retrieve(made.id).id == made.id  # it was not deleted


def test_nobody_elses_response_exists(house: Stack, app: App, client: Any, native_url: str) -> None:
    mine = client.responses.create(model="native/ok", input="my secret")
    other = house.app()
    for end_user in (app.user, "bob"):
        house.fund(other, end_user, FUNDS_MICRO)
    house.fund(app, "bob", FUNDS_MICRO)
    upstream_ids = [f"resp_{number:048x}" for number in range(1, 200)]
    HTTP.delete(native_url + "/journal")
    key = house.key(app, level="platform")
    platform = OpenAI(base_url=house.url + "/v1", api_key=key, max_retries=0, http_client=HTTP)
    changed = mine.id[:-1] + ("A" if mine.id[-1] != "A" else "E")
    for stranger in (client_of(house, app, "bob"), client_of(house, other, app.user), platform):
        assert_nothing_there(stranger, mine.id)
    for made_up in (changed, mine.id[:40], upstream_ids[0], upstream_ids[-1], "resp_", "resp_é", "nothing"):
        assert_nothing_there(client, made_up)
    assert journal(native_url) == []  # nobody asked the provider
    assert client.responses.retrieve(mine.id).output_text == TEXT


def assert_nothing_there(client: Any, response_id: str) -> None:
    asks: list[Any] = [
        lambda: client.responses.retrieve(response_id),
        lambda: client.responses.delete(response_id),
        lambda: client.responses.input_items.list(response_id),
        lambda: client.responses.create(model="native/ok", input="and?", previous_response_id=response_id),
    ]
    for ask in asks:
        with pytest.raises(openai.NotFoundError) as nothing:
            ask()
        assert nothing.value.code == "response_not_found"


def test_a_model_that_keeps_no_responses_says_so(house: Stack, app: App, client: Any) -> None:
    answer = client.responses.create(model="ok", input="x", store=True)
    assert answer.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)
    with pytest.raises(openai.BadRequestError) as kept:
        client.responses.create(model="ok", input="x", previous_response_id=answer.id)
    assert kept.value.param == "previous_response_id"
    stored = client.responses.create(model="native/ok", input="x")
    with pytest.raises(openai.BadRequestError) as elsewhere:
        client.responses.create(model="demo", input="x", previous_response_id=stored.id)
    assert elsewhere.value.param == "previous_response_id"
    assert client.responses.create(model="rich/ok", input="x", previous_response_id=stored.id).output_text  # the same account


def test_a_follow_up_is_held_for_all_that_the_model_can_read(house: Stack) -> None:
    app = house.app()
    house.fund(app, "ann", 10_100)  # 5000 tokens at the dearest rate of input, which is all that native/* reads, but no output
    client = client_of(house, app)
    first = client.responses.create(model="native/ok:tokens=2", input="x", max_output_tokens=16)
    with pytest.raises(openai.APIStatusError) as short:
        client.responses.create(model="native/ok:tokens=2", input="y", previous_response_id=first.id, max_output_tokens=16)
    assert (short.value.status_code, short.value.code) == (402, "insufficient_balance")
    house.fund(app, "ann", 200)
    client.responses.create(model="native/ok:tokens=2", input="y", previous_response_id=first.id, max_output_tokens=16)
    assert house.wallet(app, "ann")["held_micro"] == 0


def test_items_are_sent_without_their_ids_and_reasoning_with_its_content(client: Any, native_url: str) -> None:
    given: list[Any] = [
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_foreign", "summary": []},
        {"type": "reasoning", "id": "rs_mine", "summary": [], "encrypted_content": "gAAAA"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "x"}],
        },
    ]
    client.responses.create(model="native/ok", input=given)
    sent = journal(native_url)[-1]["body"]["input"]
    assert [item.get("type") for item in sent] == [None, "reasoning", "message"]
    assert not any("id" in item for item in sent)


# ---- refusals and trouble ------------------------------------------------------------------------------------------------

NO_PRICE: list[tuple[str, dict[str, Any]]] = [
    ("background", {"background": True}),
    ("conversation", {"conversation": "conv_1"}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ("service_tier", {"service_tier": "priority"}),
    ("tools[0]", {"tools": [{"type": "web_search"}]}),
    ("tools[1]", {"tools": [TOOL, {"type": "mcp", "server_label": "x"}]}),
    ("tools[0]", {"tools": [{"type": "namespace", "name": "n", "description": "", "tools": [{"type": "code_interpreter"}]}]}),
    ("input[0]", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("input[0]", {"input": [{"id": "msg_1"}]}),
    ("input[0]", {"input": [{"type": "image_generation_call", "id": "x"}]}),
    ("tools[0]", {"tools": [{"type": "image_generation"}]}),
    ("tools[1]", {"tools": [FILES, FILES]}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "image_generation"}}),
    ("tool_choice", {"tool_choice": {"type": "mcp", "server_label": "x"}}),
    ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "web_search"}]}}),
    ("tools[1]", {"tools": [WEB, {"type": "web_search_preview"}]}),
    ("tools[0].container", {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}),
    ("tools[0].container", {"tools": [{**CODE, "container": {"type": "auto", "file_ids": ["file_1"]}}]}),
    ("tools[0].container", {"tools": [{**CODE, "container": {"type": "auto", "skills": [{"skill_id": "skill_1"}]}}]}),
    ("tools[0].container", {"tools": [{**CODE, "container": {"type": "auto", "id": "cntr_1"}}]}),
    ("tools[0].container", {"tools": [{**CODE, "container": {"type": ["auto"]}}]}),
    ("tools[0]", {"tools": [{**WEB, "vector_store_ids": ["vs_theirs"]}]}),
    ("input[0].content[0].file_id", {"input": [{"role": "user", "content": {"type": "input_file", "file_id": "file_1"}}]}),
    ("input[0].content[0].file_id", {"input": [{"role": "user", "content": [{"type": "x", "file": {"file_id": "file_1"}}]}]}),
    ("tools[0].container.memory_limit", {"tools": [{**CODE, "container": {"type": "auto", "memory_limit": "2g"}}]}),
    ("tools[0].vector_store_ids", {"tools": [{"type": "file_search"}]}),
    ("max_tool_calls", {"tools": [WEB], "max_tool_calls": 0}),
    ("input[0].content[0].file_id", {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]}),
    ("input", {"input": []}),
    ("max_tokens", {"max_tokens": 5}),
    ("n", {"n": 5}),
    ("stream", {"stream": "yes"}),
    ("instructions", {"instructions": [1]}),
]


@pytest.mark.parametrize("model", ["native/ok", "ok"])
def test_what_has_no_price_or_no_meaning_is_refused_by_its_name(house: Stack, app: App, model: str) -> None:
    for param, fields in NO_PRICE:
        body = {"model": model, "input": "x", **fields}
        headers = {"Authorization": f"Bearer {app.key}", "X-Platform-User-Id": app.user}
        answer = HTTP.post(house.url + "/v1/responses", json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), fields
    assert house.wallet(app, app.user)["available_micro"] == FUNDS_MICRO


def test_what_a_chat_cannot_be_asked_is_refused_by_its_name(client: Any) -> None:
    grammar: Any = {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}
    page: Any = {"type": "input_file", "file_url": "http://x/y.pdf"}
    asked: list[tuple[str, dict[str, Any]]] = [
        ("tools[0].format", {"tools": [grammar]}),
        ("input[0].content[0]", {"input": [{"role": "user", "content": [page]}]}),
        ("truncation", {"truncation": "auto"}),
        ("vendor_option", {"extra_body": {"vendor_option": 1}}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}),
    ]
    for param, fields in asked:
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**{"model": "ok", "input": "x", **fields})
        assert refused.value.param == param


def test_the_providers_refusal_keeps_its_status_and_words(client: Any) -> None:
    for model, words in (("native/reject", "scripted refusal"), ("status:422", "scripted 422")):
        with pytest.raises(openai.APIStatusError) as refused:
            client.responses.create(model=model, input="x")
        assert refused.value.status_code == (400 if "native" in model else 422)
        assert words in str(refused.value)


@pytest.mark.parametrize("model", ["native/failed", "native/error-event", "native/die-midstream", "native/half-stream",
                                   "error-event-midstream", "die-midstream", "half-stream"])  # fmt: skip
def test_a_stream_in_trouble_ends_as_the_client_knows_it_and_costs_what_was_seen(
    house: Stack, app: App, client: Any, model: str
) -> None:
    seen: list[Any] = []

    def read() -> None:
        with client.responses.create(model=model, input="one two", stream=True) as stream:
            for event in stream:
                seen.append(event)  # noqa: PERF402 - what came before the error counts

    if model == "native/failed":
        read()
        assert seen[-1].type == "response.failed"
        words = seen[-1].response.error.message
    else:
        with pytest.raises(openai.APIError) as broke:
            read()
        words = str(broke.value.body)
    assert "made-up-upstream-key" not in words
    assert "10.1.2.3" not in words
    assert seen[0].type == "response.created"
    [event] = charged(house, app)
    deltas = sum(each.type.endswith(".delta") for each in seen)
    assert event["amount_micro"] == (0 if model == "native/failed" else event["input_tokens"] + 10 * event["output_tokens"])
    assert event["output_tokens"] >= deltas
    if model != "native/failed":
        assert event["usage_source"] == "counted"


@pytest.mark.parametrize("model", ["native/no-usage", "no-usage"])
def test_what_the_provider_does_not_tell_is_counted_and_told(house: Stack, app: App, client: Any, model: str) -> None:
    [*_, last] = client.responses.create(model=model, input="one two three", stream=True)
    [event] = charged(house, app)
    assert event["usage_source"] == "counted"
    assert event["output_tokens"] >= 20
    told: Any = last
    assert (told.response.usage.input_tokens, told.response.usage.output_tokens) == (
        event["input_tokens"],
        event["output_tokens"],
    )


@pytest.mark.parametrize("model", ["rich/ok:tokens=9000", "long-chat"])
def test_a_stream_whose_wallet_runs_dry_ends_as_incomplete(house: Stack, model: str) -> None:
    app = house.app()
    house.fund(app, "ann", 20_000)  # covers 2,000 tokens of output
    key = house.key(app)
    body = {"model": model, "input": "x", "stream": True}
    headers = {"Authorization": f"Bearer {key}", "X-Platform-User-Id": "ann"}
    with HTTP.stream("POST", house.url + "/v1/responses", json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        assert int(answer.headers["x-mozaiks-output-cap"]) < 2000  # the provider was told where to end
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    wallet = house.wallet(app, "ann")
    assert wallet["held_micro"] == 0
    assert wallet["available_micro"] >= 0
    [event] = house.events(app, 1)
    assert 1800 < event["output_tokens"] < 2000 + 32 + 1  # see docs/reliability.md
    if event["usage_source"] == "counted":  # cut here, as the scripted tokens are two of the tokenizer's
        assert events[-2]["type"] == "error"
        assert events[-2]["error"]["code"] == "insufficient_balance"
        assert [each["sequence_number"] for each in events] == list(range(len(events)))
        said = "".join(each["delta"] for each in events if each["type"] == "response.output_text.delta")
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == said
        assert events[-1]["response"]["usage"]["output_tokens"] == event["output_tokens"]


def test_another_deployment_answers_where_the_first_is_down(house: Stack, app: App, client: Any) -> None:
    with pytest.raises(openai.BadRequestError):  # the caller's to mend, as every provider would say the same
        client.responses.create(model="either", input="x")
    assert client.responses.create(model="backed-model", input="x").output_text == "".join(f" tok{n}" for n in range(9))


def test_a_wallet_below_the_least_cap_is_refused(house: Stack) -> None:
    app = house.app()
    house.fund(app, "ann", 150)
    with pytest.raises(openai.APIStatusError) as poor:
        client_of(house, app).responses.create(model="native/ok", input="x")
    assert (poor.value.status_code, poor.value.code) == (402, "insufficient_balance")
    wallet = house.wallet(app, "ann")
    assert (wallet["available_micro"], wallet["held_micro"]) == (150, 0)


# ---- tools that the provider runs itself ----------------------------------------------------------------------------------

# What a call is held for: the 5,000 tokens that the model reads at most, and its fee; besides them all a definition.
CALL_MICRO = 5_000 + 10_000
DEFINED_MICRO = 16_384


def units(event: dict[str, Any]) -> dict[str, int]:
    return {kind: number for kind, number in event["units"].items() if number and kind not in ("input", "output")}


def create(client: Any, *, streamed: bool, **fields: Any) -> Any:
    if not streamed:
        return client.responses.create(**fields)
    *_, last = client.responses.create(stream=True, **fields)
    return last.response


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("options", "tools", "used", "fees_micro"),
    [
        ("calls=3", [WEB], {"web_searches": 3}, 30_000),
        ("calls=3,pages=1", [TOOL, {**WEB, "type": "web_search_2025_08_26"}], {"web_searches": 2}, 20_000),
        ("calls=2", [{"type": "web_search_preview", "search_context_size": "low"}], {"web_searches_preview": 2}, 50_000),
        ("calls=3", [FILES], {"file_searches": 3}, 7_500),
        ("calls=3", [CODE], {"container_gb": 4}, 120_000),  # one container of four gigabytes
        ("calls=3", [WEB, FILES, CODE], {"web_searches": 1, "file_searches": 1, "container_gb": 4}, 132_500),
        ("calls=0", [WEB], {}, 0),
    ],
)
def test_calls_of_the_providers_tools_cost_their_fees_to_the_micro_unit(
    house: Stack, app: App, client: Any, streamed: bool, options: str, tools: Any, used: dict[str, int], fees_micro: int
) -> None:
    answer = create(client, streamed=streamed, model=f"tools/ok:{options}", input="what is new?", tools=tools)
    assert answer.output_text == TEXT
    assert "\0calls" not in str(answer.usage.model_dump())
    [event] = charged(house, app)
    assert units(event) == used
    assert event["usage_source"] == "upstream"
    assert (event["input_tokens"], event["output_tokens"]) == (answer.usage.input_tokens, 20)
    assert event["amount_micro"] == answer.usage.input_tokens + 20 * 10 + fees_micro


def test_the_provider_is_told_how_often_its_tools_may_run(house: Stack, app: App, client: Any, native_url: str) -> None:
    answer = client.responses.create(model="tools/ok:calls=9", input="x", tools=[WEB])
    assert journal(native_url)[-1]["body"]["max_tool_calls"] == 8  # as the deployment says
    client.responses.create(model="tools/ok:calls=9", input="x", tools=[WEB], max_tool_calls=2)
    assert journal(native_url)[-1]["body"]["max_tool_calls"] == 2
    # What it called in an answer is not sent back: the provider would look for it under its account.
    client.responses.create(model="tools/ok", input=[*answer.output, {"role": "user", "content": "and?"}], tools=[WEB])
    assert [item["type"] for item in journal(native_url)[-1]["body"]["input"][:-1]] == ["message"]
    assert [event["units"].get("web_searches", 0) for event in charged(house, app, 3)] == [0, 2, 8]


def test_a_provider_that_calls_more_often_than_it_was_told_is_paid_for_it_and_never_believed_absurdly(
    house: Stack, app: App, client: Any
) -> None:
    client.responses.create(model="tools/ok:calls=4,heedless=1", input="x", tools=[WEB], max_tool_calls=2)
    client.responses.create(model="tools/ok:calls=9,heedless=1", input="x", tools=[WEB], max_tool_calls=2)
    absurd, over = charged(house, app, 2)
    assert (units(over), over["flags"]) == ({"web_searches": 4}, [])
    assert (units(absurd), absurd["flags"]) == ({"web_searches": 2}, ["usage_absurd"])


@pytest.mark.parametrize("streamed", [False, True])
def test_a_wallet_that_covers_some_calls_gets_so_many(house: Stack, native_url: str, streamed: bool) -> None:
    app = house.app()
    funds = DEFINED_MICRO + 1_500 + 10_000 + 3 * CALL_MICRO  # the prompt with TOOLS_TOKENS, 1,000 tokens of output
    house.fund(app, "ann", funds)
    with client_of(house, app).responses.with_streaming_response.create(
        model="tools/ok:calls=9", input="x", tools=[WEB], stream=streamed
    ) as answer:
        assert answer.headers["x-mozaiks-tool-calls"] == "3"
        answer.read()
    assert journal(native_url)[-1]["body"]["max_tool_calls"] == 3
    [event] = house.events(app, 1)
    assert units(event) == {"web_searches": 3}
    wallet = house.wallet(app, "ann")
    assert event["amount_micro"] == event["input_tokens"] + 10 * event["output_tokens"] + 3 * 10_000
    assert (wallet["held_micro"], wallet["available_micro"]) == (0, funds - event["amount_micro"])


def test_an_answer_with_fewer_calls_than_the_wallet_of_who_asks_next_covers_is_not_given_again(house: Stack) -> None:
    app = house.app()
    key = house.key(app)
    house.fund(app, "ann", DEFINED_MICRO + 1_500 + 10_000 + 3 * CALL_MICRO)
    house.fund(app, "bob", FUNDS_MICRO)
    body = {"model": "tools/ok:calls=9", "input": "x", "tools": [WEB], "store": False}
    told = []
    for user in ("ann", "bob", "bob"):
        headers = {"Authorization": f"Bearer {key}", "X-Platform-User-Id": user, "X-Mozaiks-Cache": "60"}
        answer = HTTP.post(house.url + "/v1/responses", json=body, headers=headers)
        told.append((answer.headers["x-mozaiks-cache"], len(answer.json()["output"]) - 1))
    assert told == [("miss", 3), ("miss", 8), ("hit", 8)]


def test_calls_that_the_client_names_are_cut_only_where_the_app_clamps(house: Stack, native_url: str) -> None:
    funds = DEFINED_MICRO + 1_500 + 10_000 + 2 * CALL_MICRO
    for policy, status in (("strict", 402), ("clamp", 200)):
        app = house.app(hold_policy=policy)
        house.fund(app, "ann", funds)
        headers = {"Authorization": f"Bearer {house.key(app)}", "X-Platform-User-Id": "ann"}
        body = {"model": "tools/ok:calls=9", "input": "x", "tools": [WEB], "max_tool_calls": 5}
        answer = HTTP.post(house.url + "/v1/responses", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status == 200:
            assert (answer.headers["x-mozaiks-tool-calls"], journal(native_url)[-1]["body"]["max_tool_calls"]) == ("2", 2)
        else:
            assert answer.json()["error"]["code"] == "insufficient_balance"
            assert house.wallet(app, "ann")["available_micro"] == funds


def test_a_wallet_that_covers_no_call_is_refused_and_one_that_covers_one_gets_less_output(house: Stack, native_url: str) -> None:
    for funds, status in ((DEFINED_MICRO + CALL_MICRO, 402), (DEFINED_MICRO + 1_500 + CALL_MICRO + 500, 200)):
        app = house.app()
        house.fund(app, "ann", funds)
        headers = {"Authorization": f"Bearer {house.key(app)}", "X-Platform-User-Id": "ann"}
        body = {"model": "tools/ok:calls=9", "input": "x", "tools": [WEB]}
        answer = HTTP.post(house.url + "/v1/responses", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status == 200:
            sent = journal(native_url)[-1]["body"]
            assert sent["max_tool_calls"] == 1
            assert 16 <= sent["max_output_tokens"] < 100
            assert house.events(app, 1)[0]["amount_micro"] <= funds


def test_of_a_models_deployments_only_those_that_have_the_tool_are_asked(house: Stack, app: App, client: Any) -> None:
    for _ in range(3):  # by lot another would be drawn all but once in two thousand times
        client.responses.create(model="tools-mixed", input="x", tools=[WEB])
    assert [units(event) for event in charged(house, app, 3)] == [{"web_searches": 1}] * 3


def test_another_deployment_is_asked_for_as_many_calls_at_its_own_fee(
    house: Stack, app: App, client: Any, native_url: str
) -> None:
    answer = client.responses.create(model="tools-backed", input="x", tools=[WEB], max_tool_calls=4)
    assert journal(native_url)[-1]["body"]["max_tool_calls"] == 4
    [event] = charged(house, app)
    assert units(event) == {"web_searches": 4}
    assert event["amount_micro"] == 2 * answer.usage.input_tokens + 20 * 20 + 4 * 20_000


def test_calls_of_a_stream_that_breaks_off_are_billed(house: Stack, app: App, client: Any) -> None:
    with pytest.raises(openai.APIError):
        for _ in client.responses.create(model="tools/die-calling:calls=3", input="x", tools=[WEB], stream=True):
            pass
    [event] = charged(house, app)
    assert (units(event), event["usage_source"], event["status"]) == ({"web_searches": 2}, "counted", "upstream_broke")
    assert event["amount_micro"] == event["input_tokens"] + 10 * event["output_tokens"] + 20_000


def test_calls_of_a_stream_whose_client_leaves_are_billed(house: Stack, app: App, client: Any) -> None:
    stream = client.responses.create(model="tools/ok:calls=3,ms=5", input="x", tools=[WEB], stream=True)
    next(event for event in stream if event.type == "response.output_text.delta")
    stream.close()
    [event] = charged(house, app)
    assert (units(event), event["status"]) == ({"web_searches": 3}, "client_left")
    assert event["amount_micro"] == event["input_tokens"] + 10 * event["output_tokens"] + 30_000


def test_a_tool_without_a_price_and_one_that_is_not_there_are_refused_by_name(house: Stack, app: App, native_url: str) -> None:
    own = house.app()
    house.post(f"/apps/{own}/price-books", {"model": "tools/ok", "prices": {"input": "1", "output": "2"}})
    house.fund(own, "ann", FUNDS_MICRO)
    HTTP.delete(native_url + "/journal")
    for key, user, model, tool, param, words in (
        (app.key, app.user, "native/ok", WEB, "tools[0]", "must name web_searches"),
        (app.key, app.user, "native/ok", CODE, "tools[0]", "must name container_gb"),
        (house.key(own), "ann", "tools/ok", FILES, "tools[0]", "must name file_searches"),
        (app.key, app.user, "ok", WEB, "tools[0]", "run by OpenAI"),
        (app.key, app.user, "tools/ok", {**FILES, "vector_store_ids": ["vs_theirs"]}, "tools[0].vector_store_ids", "vs_theirs"),
    ):
        headers = {"Authorization": f"Bearer {key}", "X-Platform-User-Id": user}
        answer = HTTP.post(house.url + "/v1/responses", json={"model": model, "input": "x", "tools": [tool]}, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
        assert words in answer.json()["error"]["message"]
    assert journal(native_url) == []
    assert house.wallet(app, app.user)["available_micro"] == FUNDS_MICRO


def test_fees_of_tools_are_listed_with_the_other_prices(house: Stack, app: App) -> None:
    headers = {"Authorization": f"Bearer {app.key}", "X-Platform-User-Id": app.user}
    told = HTTP.get(house.url + "/v1/models/searcher", headers=headers).json()["pricing"]
    assert (told["request"], told["variants"]["search_high"]["request"]) == ("0.005", "0.012")
    own = house.cli("prices", "list", "tools/ok")
    assert "web_searches 0.01, web_searches_preview 0.025, file_searches 0.0025, container_gb 0.03" in own
    assert "(also tools)" in house.cli("prices", "list", "tools/*")


def test_a_chats_search_costs_the_fee_of_its_size(house: Stack, app: App, client: Any) -> None:
    for size, fee_micro in ((None, 5_000), ("high", 12_000)):
        options = {} if size is None else {"search_context_size": size}
        client.chat.completions.create(
            model="searcher", messages=[{"role": "user", "content": "x"}], web_search_options=options
        )
        event = billed(house, app, 1 if size is None else 2)[0]
        assert event["amount_micro"] == event["input_tokens"] + 10 * event["output_tokens"] + fee_micro
    for model, options, param in (
        ("searcher", {"search_context_size": "low"}, "web_search_options.search_context_size"),
        ("searcher", {"search_context_size": "huge"}, "web_search_options.search_context_size"),
        ("ok", {}, "web_search_options"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "x"}], web_search_options=options
            )
        assert refused.value.param == param
