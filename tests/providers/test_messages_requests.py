"""Requests in Anthropic's dialect as chats: what is translated, what is dropped, what is refused by its name."""

from typing import Any

import pytest

from gateway.providers.messages_requests import chat_of
from gateway.providers.model import Deployment
from gateway.providers.translation import Untranslatable

PLAIN = Deployment("m/openai/0", "openai", "gpt", "http://a.example/v1", "k", output_cap_field="max_completion_tokens")
THINKS = Deployment("m/openai/0", "openai", "o3", "http://a.example/v1", "k", hidden_reasoning=True, output_tokens_max=100)
BEDROCK = Deployment("m/bedrock/0", "bedrock", "anthropic.claude-sonnet-4-5", "", "", hidden_reasoning=True)
HI: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
MARK = {"cache_control": {"type": "ephemeral"}}


def chat(deployment: Deployment = PLAIN, messages: Any = HI, **fields: Any) -> dict[str, Any]:
    return chat_of({"model": "m", "max_tokens": 500, "messages": messages, **fields}, deployment)


def test_a_conversation_with_tools_is_the_same_conversation() -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", **MARK}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "s"},
                {"type": "text", "text": "I look. "},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
                {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                    {"type": "text", "text": "rain"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ]},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no clock", "is_error": True},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]  # fmt: skip
    asked = chat(messages=messages, system=[{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief.", **MARK}])
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    calls = [
        {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
        {"id": "toolu_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert asked["messages"] == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "I look. ", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "rain\n(What it shows follows.)"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no clock"},
        {"role": "user", "content": [picture, {"type": "text", "text": "And now?"}]},
    ]
    kept = chat(BEDROCK, messages, system=[{"type": "text", "text": "Be brief.", **MARK}])["messages"]
    assert kept[0]["content"] == [{"type": "text", "text": "Be brief.", **MARK}]
    assert kept[1]["content"] == [{"type": "text", "text": "Weather?", **MARK}]
    assert kept[2]["thinking_blocks"] == [{"type": "thinking", "thinking": "Hm", "signature": "s"}]


def test_options_have_their_other_names() -> None:
    tool = {"name": "weather", "description": "d", "input_schema": SCHEMA, "strict": True, "defer_loading": False, **MARK}
    asked = chat(
        stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=5, stream=True, tools=[tool], metadata={"user_id": "u"},
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, service_tier="auto", speed=None,
        context_management={"edits": [{"type": "clear_thinking_20251015"}]},
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )  # fmt: skip
    function = {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}
    assert asked == {
        "model": "gpt", "messages": HI, "max_completion_tokens": 500, "stop": ["END"], "temperature": 0.5, "top_p": 0.9,
        "top_k": 5, "stream": True, "stream_options": {"include_usage": True},
        "tools": [{"type": "function", "function": function}], "tool_choice": "required", "parallel_tool_calls": False,
        "user": "u",
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    }  # fmt: skip
    assert chat(BEDROCK, tools=[tool])["tools"][0]["cache_control"] == MARK["cache_control"]
    for choice, chosen in (
        ({"type": "auto"}, "auto"), ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ):  # fmt: skip
        assert chat(tools=[tool], tool_choice=choice)["tool_choice"] == chosen
    assert "user" not in chat(metadata={"user_id": "u" * 65})


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, "high"),
        ({"output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
    ],
)
def test_thinking_is_an_effort_where_the_model_is_known_to_reason(fields: dict[str, Any], effort: str | None) -> None:
    assert chat(THINKS, **fields).get("reasoning_effort") == effort
    assert "reasoning_effort" not in chat(PLAIN, **fields)
    if "thinking" in fields:
        assert chat(BEDROCK, **fields)["thinking"] == fields["thinking"]


def test_no_more_is_asked_for_than_the_model_can_make() -> None:
    assert chat(THINKS)["max_tokens"] == 100


def test_documents_are_text_or_files() -> None:
    pdf = {"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}}
    note = {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "note"}}
    blocks = {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]}}
    found = {"type": "search_result", "title": "S", "source": "http://s", "content": [{"type": "text", "text": "hit"}]}
    [message] = chat(messages=[{"role": "user", "content": [pdf, note, blocks, found]}])["messages"]
    file = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}
    texts = ["T", "C", "note", "inner", "S (http://s)", "hit"]
    assert message["content"] == [
        {"type": "text", "text": "a.pdf"}, {"type": "file", "file": file}, *[{"type": "text", "text": text} for text in texts],
    ]  # fmt: skip


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"new_field": 1}, "new_field"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "a", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{"name": "a", "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{"name": "a"}], "tool_choice": {"type": "some"}}, "tool_choice"),
        ({"tools": [{"name": "a"}], "tool_choice": {"type": ["auto"]}}, "tool_choice"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"output_config": {"effort": ["low"]}}, "output_config.effort"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        ({"output_config": 5}, "output_config"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management.edits[0]"),
        ({"messages": [*HI, {"role": "assistant", "content": "It is"}]}, "messages[1]"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        (user({"type": "server_tool_use"}), "messages[0].content[0]"),
        (user("text"), "messages[0].content[0]"),
        (user({"type": ["text"]}), "messages[0].content[0]"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
        (user({"type": "document", "source": {"type": "url", "url": "u"}}), "messages[0].content[0].source"),
        (user({"type": "document", "citations": {"enabled": True}, "source": {}}), "messages[0].content[0].citations"),
        (user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "new"}]}), "messages[0].content[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}, *HI]}, "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        chat(PLAIN, **{"messages": HI, **fields})
    assert refused.value.param == param
    assert param in str(refused.value) or param.startswith("messages")


def test_anthropics_own_models_go_on_with_an_answer() -> None:
    assert chat(BEDROCK, [*HI, {"role": "assistant", "content": "It is"}])["messages"][-1] == {
        "role": "assistant", "content": "It is",
    }  # fmt: skip
