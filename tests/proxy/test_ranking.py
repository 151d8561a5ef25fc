"""What moderations and ranking have counted: no more than was sent, and not where everybody waits for it."""

import json
from typing import Any

import pytest

from gateway.core.units import Usage
from gateway.metering.counting import input_tokens, text_tokens
from gateway.pricing.rates import rates_from
from gateway.proxy.ranking import Moderations, Rerank
from gateway.proxy.surface import Request
from tests.proxy.test_messages import DEPLOYMENT

BY_THE_TOKEN = rates_from("USD", {"input": 20_000, "output": 0})


def rerank(query: str, documents: list[Any]) -> Request:
    body = json.dumps({"model": "m", "query": query, "documents": documents}).encode()
    return Rerank(lambda deployment: BY_THE_TOKEN, bool).parse(body, b"application/json")


def test_a_query_before_ten_thousand_documents_is_counted_once_and_not_written_out() -> None:
    request = rerank("hello world " * 5_000, ["d"] * 10_000)
    prompt, field = request.surface.prompt(request.body)
    assert sum(len(each if isinstance(each, str) else each.text) for each in prompt[field]) <= request.body_bytes
    each = text_tokens("gpt-4o", "hello world " * 5_000)
    assert 10_000 * (each + 1) <= input_tokens("gpt-4o", prompt, field) <= 10_000 * (each + 2)
    assert Rerank(lambda deployment: BY_THE_TOKEN, bool).text_bytes(request.body) >= input_tokens("gpt-4o", prompt, field)


def test_what_each_document_counts_is_the_query_and_itself() -> None:
    request = rerank("hello world", ["hello", {"text": "hello"}, "hello world"])
    prompt, field = request.surface.prompt(request.body)
    apart = input_tokens("gpt-4o", {"prompt": ["hello", '{"text":"hello"}', "hello world"]}, "prompt")
    assert 3 * 2 + apart <= input_tokens("gpt-4o", prompt, field) <= 3 * 2 + apart + 3


@pytest.mark.parametrize(
    ("surface", "body", "answer"),
    [
        (Rerank, {"query": "q", "documents": ["d"]}, b'{"results": []}'),
        (Moderations, {"input": "text"}, b'{"results": []}'),
    ],
)
def test_tokens_that_are_sold_and_were_not_told_are_left_to_the_counter(surface: Any, body: Any, answer: bytes) -> None:
    made = surface(lambda deployment: BY_THE_TOKEN, bool)
    request = made.parse(json.dumps({"model": "m", **body}).encode(), b"application/json")
    told = made.told(answer)
    assert made.measured(told, request, DEPLOYMENT) is None
    usage, flags = request.completed(told, request, DEPLOYMENT, Usage(input=7))
    assert (usage.input, flags) == (7, ("estimated",))
