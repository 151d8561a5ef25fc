"""Answers given again to the very same request, over the wire: for whom, at what price, and what the books say of it."""

from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.path.conftest import Stack

MESSAGES: Any = [{"role": "user", "content": "one two three"}]
ASKED: Any = {"model": "flat-model", "messages": MESSAGES, "max_tokens": 20}


def client(stack: Stack, app: str, end_user: str = "ann") -> OpenAI:
    key = stack.key(app)
    return OpenAI(
        base_url=stack.url + "/v1", api_key=key, default_headers={"X-Platform-User-Id": end_user}, max_retries=0
    )  # fmt: skip


def kept(stack: Stack, **policy: Any) -> str:
    """An app that keeps answers, with a funded end user."""
    app = stack.app(answer_cache={"ttl_s": 600, **policy})
    stack.fund(app, "ann", 1_000_000)
    return app


def asked_upstream(stack: Stack) -> int:
    count: int = httpx.get(stack.upstream_url.removesuffix("/v1") + "/journal").json()["count"]
    return count


def said(answer: Any, streamed: bool) -> str:
    if not streamed:
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_same_request_is_answered_the_same_for_nothing_and_the_books_show_it(stack: Stack, streamed: bool) -> None:
    app = kept(stack)
    raw = client(stack, app).chat.completions.with_raw_response
    first = raw.create(**ASKED, stream=streamed, temperature=0.5, user="somebody")
    text = said(first.parse(), streamed)
    [event] = stack.events(app, 1)
    cost, left = event["amount_micro"], stack.wallet(app, "ann")["available_micro"]
    before = asked_upstream(stack)
    again = raw.create(**ASKED, stream=streamed, temperature=0.5, user="somebody else", metadata={"session_id": "s"})
    assert said(again.parse(), streamed) == text
    assert (first.headers["x-mozaiks-cache"], again.headers["x-mozaiks-cache"]) == ("miss", "hit")
    assert int(again.headers["age"]) < 60
    assert again.headers["x-mozaiks-cost"] == "0"
    assert asked_upstream(stack) == before
    assert cost > 0
    assert stack.wallet(app, "ann") == {**stack.wallet(app, "ann"), "available_micro": left, "held_micro": 0}
    hit = next(each for each in stack.events(app, 2) if each["request_id"] != event["request_id"])
    assert hit["flags"] == ["cached"]
    assert (hit["amount_micro"], hit["provider_cost_micro"]) == (0, 0)
    assert hit["units"] == event["units"]
    stack.cli("audit")


def test_another_request_another_app_and_another_end_user_where_that_counts_are_asked_anew(stack: Stack) -> None:
    app, other, own = kept(stack), kept(stack), kept(stack, per_end_user=True)
    for each in (app, own):
        stack.fund(each, "bob", 1_000_000)
    create = client(stack, app).chat.completions.with_raw_response.create
    assert create(**ASKED).headers["x-mozaiks-cache"] == "miss"
    assert create(**{**ASKED, "max_tokens": 19}).headers["x-mozaiks-cache"] == "miss"
    assert create(**ASKED, seed=1).headers["x-mozaiks-cache"] == "miss"
    assert create(**ASKED, stream=True).headers["x-mozaiks-cache"] == "miss"
    assert client(stack, app, "bob").chat.completions.with_raw_response.create(**ASKED).headers["x-mozaiks-cache"] == "hit"
    assert client(stack, other).chat.completions.with_raw_response.create(**ASKED).headers["x-mozaiks-cache"] == "miss"
    assert client(stack, own).chat.completions.with_raw_response.create(**ASKED).headers["x-mozaiks-cache"] == "miss"
    assert client(stack, own, "bob").chat.completions.with_raw_response.create(**ASKED).headers["x-mozaiks-cache"] == "miss"
    assert client(stack, own, "bob").chat.completions.with_raw_response.create(**ASKED).headers["x-mozaiks-cache"] == "hit"


def test_a_kept_answer_costs_the_part_that_the_app_says_and_is_refused_to_a_wallet_without_it(stack: Stack) -> None:
    app = kept(stack, price_percent=25)
    create = client(stack, app).chat.completions.with_raw_response.create
    create(**ASKED)
    [event] = stack.events(app, 1)
    assert create(**ASKED).headers["x-mozaiks-cache"] == "hit"
    hit = next(each for each in stack.events(app, 2) if each["request_id"] != event["request_id"])
    assert event["amount_micro"] // 4 <= hit["amount_micro"] <= event["amount_micro"] // 4 + 1
    assert hit["provider_cost_micro"] == 0
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000 - event["amount_micro"] - hit["amount_micro"]
    stack.grant({"enterprise_id": app, "platform_user_id": "poor"}, 1)
    with pytest.raises(openai.APIStatusError) as refused:
        client(stack, app, "poor").chat.completions.create(**ASKED)
    assert refused.value.status_code == 402
    stack.cli("audit")


def test_what_a_request_says_comes_first(stack: Stack) -> None:
    app, plain = kept(stack), stack.app()
    stack.fund(plain, "ann", 1_000_000)

    def told(of: str, wish: str | None) -> str | None:
        headers = {} if wish is None else {"x-mozaiks-cache": wish}
        raw = client(stack, of).chat.completions.with_raw_response.create(**ASKED, extra_headers=headers)
        found: str | None = raw.headers.get("x-mozaiks-cache")
        return found

    assert [told(app, wish) for wish in ("off", None, "off", "refresh", None, "60")] == [None, "miss", None, "miss", "hit", "hit"]
    assert [told(plain, wish) for wish in (None, "60", None, "60")] == [None, "miss", None, "hit"]
    with pytest.raises(openai.BadRequestError, match="x-mozaiks-cache"):
        told(app, "for ever")


def test_an_end_users_own_wish_is_the_apps_to_allow(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    stack.key(app)
    token = stack.post(f"/apps/{app}/end-user-tokens", {"platform_user_id": "ann"})["token"]
    own = OpenAI(base_url=stack.url + "/v1", api_key=token, default_headers={"x-mozaiks-cache": "60"}, max_retries=0)
    for _ in range(2):
        assert "x-mozaiks-cache" not in own.chat.completions.with_raw_response.create(**ASKED).headers


@pytest.mark.parametrize("model", ["die-midstream", "half-stream", "status:500"])
def test_an_answer_that_was_not_whole_is_not_kept(stack: Stack, model: str) -> None:
    app = kept(stack)
    for _ in range(2):
        with httpx.stream(
            "POST",
            stack.url + "/v1/chat/completions",
            headers={"authorization": f"Bearer {stack.key(app)}", "x-platform-user-id": "ann"},
            json={"model": model, "messages": MESSAGES, "max_tokens": 20, "stream": True},
            timeout=60,
        ) as answer:
            answer.read()
            assert answer.headers.get("x-mozaiks-cache") in (None, "miss")


def test_an_app_forgets_what_it_kept(stack: Stack) -> None:
    app = kept(stack)
    create = client(stack, app).chat.completions.with_raw_response.create
    create(**ASKED)
    assert create(**ASKED).headers["x-mozaiks-cache"] == "hit"
    assert "1" in stack.cli("apps", "forget-answers", app)
    assert create(**ASKED).headers["x-mozaiks-cache"] == "miss"
    stack.cli("apps", "update", app, "--answer-cache", "none")
    assert "x-mozaiks-cache" not in create(**ASKED).headers
    shown = stack.cli("apps", "update", app, "--answer-cache", "10m", "--answer-cache-price", "50", "--json")
    assert '"ttl_s": 600' in shown
    assert '"price_percent": 50' in shown


def test_embeddings_are_kept_as_well(stack: Stack) -> None:
    app = kept(stack)
    create = client(stack, app).embeddings.with_raw_response.create
    first = create(model="ok", input=["a", "b"]).parse()
    raw = create(model="ok", input=["a", "b"])
    assert raw.headers["x-mozaiks-cache"] == "hit"
    assert raw.parse().data[1].embedding == first.data[1].embedding


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_as_short_as_a_wallet_is_for_that_wallet_alone(stack: Stack, streamed: bool) -> None:
    app = kept(stack)
    asked: Any = {"model": "ok:tokens=200", "messages": MESSAGES, "stream": streamed}
    lengths = []
    for who, funds in (("poor", 150), ("rich", 1_000_000)):
        stack.fund(app, who, funds)
        answer = client(stack, app, who).chat.completions.with_raw_response.create(**asked)
        assert answer.headers["x-mozaiks-cache"] == "miss"
        assert ("x-mozaiks-output-cap" in answer.headers) == (who == "poor")
        lengths.append(len(said(answer.parse(), streamed)))
        stack.events(app, len(lengths))
    assert lengths[0] < lengths[1]


def test_exactly_the_price_of_what_is_given_again_is_held_for_it(stack: Stack) -> None:
    app = kept(stack, price_percent=100)
    asked: Any = {"model": "ok:tokens=200", "messages": MESSAGES}
    first = client(stack, app).chat.completions.with_raw_response.create(**asked)
    price = stack.events(app, 1)[0]["amount_micro"]
    for who, funds in (("short", price - 1), ("exact", price)):
        stack.fund(app, who, funds)
    with pytest.raises(openai.APIStatusError) as refused:
        client(stack, app, "short").chat.completions.create(**asked)
    assert refused.value.status_code == 402
    again = client(stack, app, "exact").chat.completions.with_raw_response.create(**asked)
    assert (again.headers["x-mozaiks-cache"], again.parse()) == ("hit", first.parse())
    assert "x-mozaiks-output-cap" not in again.headers
    stack.events(app, 2)
    assert {name: stack.wallet(app, "exact")[name] for name in ("available_micro", "debt_micro")} == {
        "available_micro": 0,
        "debt_micro": 0,
    }
    assert stack.wallet(app, "short")["available_micro"] == price - 1
    stack.cli("audit")
