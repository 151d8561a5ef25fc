"""The first deployment of three dies, throttles, hangs or breaks its answers off: what clients see, what the books say, what
the metrics show, and how it comes back.

All faults are played at once, because a rest takes five seconds; then each test looks at one of them. The session's gateway is
audited at its end.
"""

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from gateway.providers.health import FAILURES, REST_S
from tests.path.conftest import OPERATOR, Stack

# The one that throttles asks for as long a rest as the others get.
MOODS = {"dies": "die-before-byte", "throttles": f"status:429,after={REST_S:.0f}", "hangs": "hang", "breaks": "die-midstream"}
WELL = "ok:tokens=20,ms=50"  # a stream of a second, so that another request meets the probe
FUNDS_MICRO = 1_000_000
WAIT_S = 120  # longer than a client waits for an answer
MESSAGES = [{"role": "user", "content": "one two three"}]
TEXT = "".join(f" tok{number}" for number in range(9))
PROMPT_TOKENS, OUTPUT_TOKENS = 9, 9  # as the scripted provider counts
STAND_IN_MICRO = PROMPT_TOKENS * 2 + OUTPUT_TOKENS * 20  # at the second deployment's own prices
PATHS = {"chat": "/chat/completions", "messages": "/messages", "responses": "/responses"}


@dataclass
class Seen:
    """What a client got."""

    surface: str
    status: int
    headers: httpx.Headers
    text: str
    error: dict[str, Any] | None


@dataclass
class Play:
    """One fault: its app, and what was seen while the first deployment was in trouble, rested, and came back."""

    fault: str
    app: str
    sick: list[Seen] = field(default_factory=list)
    resting: list[Seen] = field(default_factory=list)
    probing: list[Seen] = field(default_factory=list)
    well: list[Seen] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    wallet: dict[str, Any] = field(default_factory=dict)


@dataclass
class Plays:
    by_fault: dict[str, Play]
    metrics: list[dict[str, float]]  # before, while they rest, and in the end

    def grown(self, fault: str, family: str, place: int, since: int, until: int, **labels: str) -> float:
        told = "".join(f',{name}="{value}"' for name, value in labels.items())
        sample = f'mozaiks_{family}{{deployment="three-{fault}/openai/{place}"{told}}}'
        return self.metrics[until].get(sample, 0) - self.metrics[since].get(sample, 0)


def read(surface: str, answer: httpx.Response) -> Seen:
    """The text of an answer, whole or streamed, of any of the three surfaces, and its error."""
    text, error = "", None
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = re.findall(r"^data: (\{.*\})$", answer.text, re.MULTILINE)
        for event in map(json.loads, lines):
            error = event.get("error") or error
            if event.get("type") == "response.output_text.delta":
                text += event["delta"]
            elif event.get("type") == "content_block_delta":
                text += event["delta"].get("text", "")
            elif event.get("choices"):
                text += event["choices"][0].get("delta", {}).get("content") or ""
    else:
        body = answer.json()
        error = body.get("error")
        if "choices" in body:
            text = body["choices"][0]["message"]["content"]
        elif error is None:
            parts = body["content"] if surface == "messages" else body["output"][0]["content"]
            text = parts[0]["text"]
    return Seen(surface, answer.status_code, answer.headers, text, error)


class Caller:
    def __init__(self, stack: Stack, app: str) -> None:
        headers = {"authorization": f"Bearer {stack.key(app)}", "x-platform-user-id": "ann"}
        self.http = httpx.Client(base_url=stack.url + "/v1", headers=headers, timeout=60)

    def ask(self, surface: str, model: str, *, stream: bool = False) -> Seen:
        body: dict[str, Any] = {"model": model, "stream": stream}
        body |= {"input": "one two three"} if surface == "responses" else {"messages": MESSAGES}
        body |= {"max_tokens": 100} if surface == "messages" else {}
        return read(surface, self.http.post(PATHS[surface], json=body))


def played(fault: str, stack: Stack, caller: Caller, app: str, together: threading.Barrier) -> Play:
    """One fault from its beginning to its end. Whoever fails ends the wait of the others at once."""
    try:
        return _played(Play(fault, app), stack, caller, together)
    except BaseException:
        together.abort()
        raise


def _played(play: Play, stack: Stack, caller: Caller, together: threading.Barrier) -> Play:
    app, first, other = play.app, f"three-{play.fault}", f"other-{play.fault}"
    play.sick = [caller.ask("chat", first), caller.ask("chat", first, stream=True), caller.ask("chat", first)]
    play.resting = [caller.ask("chat", first, stream=True)]
    together.wait(WAIT_S)  # all rest
    play.sick += [caller.ask("messages", other, stream=True), caller.ask("responses", other)]
    together.wait(WAIT_S)  # all have been asked enough
    together.wait(WAIT_S)  # the rest is over, and they are well again
    with caller.http.stream("POST", PATHS["chat"], json={"model": first, "messages": MESSAGES, "stream": True}) as probe:
        lines = probe.iter_lines()
        next(lines)
        meanwhile = caller.ask("chat", first)  # the probe's answer has begun, and goes on for a while
        assert "[DONE]" in "".join(lines)
        play.probing = [Seen("chat", probe.status_code, probe.headers, "", None), meanwhile]
    play.well = [caller.ask("chat", first), caller.ask("messages", other), caller.ask("responses", other, stream=True)]
    play.events = sorted(stack.events(app, 11), key=lambda event: str(event["request_id"]))
    play.wallet = stack.wallet(app, "ann")
    return play


def scraped(stack: Stack) -> dict[str, float]:
    answer = httpx.get(stack.url + "/metrics", headers={"authorization": f"Bearer {OPERATOR}"})
    rows = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
    return {sample: float(value) for sample, value in rows}


@pytest.fixture(scope="module")
def plays(stack: Stack) -> Plays:
    mood_url = stack.upstream_url.removesuffix("/v1") + "/mood"
    names = [(set_of, fault) for set_of in ("three", "other") for fault in MOODS]
    httpx.put(mood_url, json={f"{set_of}-{fault}": MOODS[fault] for set_of, fault in names}).raise_for_status()
    apps = {fault: stack.app() for fault in MOODS}
    for app in apps.values():
        stack.fund(app, "ann", FUNDS_MICRO)
    callers = {fault: Caller(stack, apps[fault]) for fault in MOODS}
    metrics = [scraped(stack)]
    together = threading.Barrier(len(MOODS) + 1)
    with ThreadPoolExecutor(len(MOODS)) as pool:
        found = [pool.submit(played, fault, stack, callers[fault], apps[fault], together) for fault in MOODS]
        try:
            together.wait(WAIT_S)
            metrics.append(scraped(stack))
            together.wait(WAIT_S)
            time.sleep(REST_S)
            httpx.put(mood_url, json={f"{set_of}-{fault}": WELL for set_of, fault in names}).raise_for_status()
            together.wait(WAIT_S)
            by_fault = {play.fault: play for play in (each.result() for each in found)}
        except BaseException:
            together.abort()
            # The first failure says why; that the others waited in vain says nothing.
            for failure in [each.exception() for each in found]:
                if failure is not None and not isinstance(failure, threading.BrokenBarrierError):
                    raise failure from None
            raise
    metrics.append(scraped(stack))
    return Plays(by_fault, metrics)


def served_by(seen: Seen) -> tuple[int, int]:
    """The place of the deployment that answered, and how many were asked."""
    return int(seen.headers["x-mozaiks-model"].rpartition("/")[2]), int(seen.headers["x-mozaiks-attempts"])


def event_of(play: Play, seen: Seen) -> dict[str, Any]:
    [event] = [event for event in play.events if event["request_id"] == seen.headers["x-request-id"]]
    return event


@pytest.mark.parametrize("fault", ["dies", "throttles", "hangs"])
def test_clients_see_answers_and_the_books_bill_what_was_delivered(plays: Plays, fault: str) -> None:
    play = plays.by_fault[fault]
    for seen in (*play.sick, *play.resting):
        assert (seen.status, seen.text, seen.error) == (200, TEXT, None)
        place, attempts = served_by(seen)
        assert place == 1
        event = event_of(play, seen)
        assert (event["status"], event["usage_source"], event["attempts"]) == ("served", "upstream", attempts)
        assert (event["input_tokens"], event["output_tokens"]) == (PROMPT_TOKENS, OUTPUT_TOKENS)
        assert event["deployment"] == seen.headers["x-mozaiks-model"]
        assert event["amount_micro"] == STAND_IN_MICRO
        failed = [f"failed:{event['model']}/openai/0"] if attempts == 2 else []
        if fault == "throttles":  # nothing was read there, so nothing was billed there
            assert (event["flags"], event["provider_cost_micro"]) == (failed, STAND_IN_MICRO)
        else:
            assert event["flags"] == (["cost_estimated"] if failed else []) + failed
            assert 0 < event["provider_cost_micro"] - STAND_IN_MICRO < 100 or not failed
    # Three failures, or one that says how long to wait, and it is left alone.
    assert [served_by(seen)[1] for seen in play.sick] == ([2, 1, 1, 2, 1] if fault == "throttles" else [2] * 5)
    assert served_by(play.resting[0]) == (1, 1)


def test_an_answer_that_broke_off_is_made_anew_unless_it_was_seen(plays: Plays) -> None:
    play = plays.by_fault["breaks"]
    whole, stream, third, messages, responses = play.sick
    for seen in (whole, third, responses, *play.resting):
        assert (seen.status, seen.text, seen.error) == (200, TEXT, None)
        event = event_of(play, seen)
        assert (event["status"], event["amount_micro"]) == ("served", STAND_IN_MICRO)
    assert [served_by(seen) for seen in (whole, third, responses, *play.resting)] == [(1, 2), (1, 2), (1, 2), (1, 1)]
    for seen in (stream, messages):
        assert (seen.status, seen.text, served_by(seen)) == (200, " tok0 tok1", (0, 1))
        assert seen.error is not None
        assert (seen.error["code"], seen.error["attempts"]) == ("upstream_error", 1)
        event = event_of(play, seen)
        assert (event["status"], event["usage_source"], event["flags"]) == ("upstream_broke", "counted", [])
        assert event["deployment"].endswith("/openai/0")
        assert 2 <= event["output_tokens"] <= 8  # two of the scripted tokens, by the tokenizer
        assert event["amount_micro"] == event["provider_cost_micro"] == event["input_tokens"] + 10 * event["output_tokens"]


@pytest.mark.parametrize("fault", MOODS)
def test_each_wallet_paid_its_requests_and_holds_nothing(plays: Plays, fault: str) -> None:
    play = plays.by_fault[fault]
    assert len({event["request_id"] for event in play.events}) == 11
    assert play.wallet["available_micro"] == FUNDS_MICRO - sum(event["amount_micro"] for event in play.events)
    assert play.wallet["held_micro"] == play.wallet["debt_micro"] == 0


@pytest.mark.parametrize("fault", MOODS)
def test_the_first_one_comes_back_when_its_rest_is_over(plays: Plays, fault: str) -> None:
    play = plays.by_fault[fault]
    probe, meanwhile = play.probing
    assert served_by(probe) == (0, 1)
    # Of one that broke its answers off only a whole one is a sign of recovery.
    assert served_by(meanwhile) == ((1, 1) if fault == "breaks" else (0, 1))
    assert [(seen.status, served_by(seen), seen.error) for seen in play.well] == [(200, (0, 1), None)] * 3
    for seen in play.well:
        event = event_of(play, seen)
        assert (event["output_tokens"], event["amount_micro"], event["flags"]) == (20, PROMPT_TOKENS + 20 * 10, [])


@pytest.mark.parametrize("fault", MOODS)
def test_failures_rests_and_recoveries_are_in_the_metrics(plays: Plays, fault: str) -> None:
    failures = 1 if fault == "throttles" else FAILURES
    served = 1 if fault == "breaks" else 0  # the stream that began
    before, resting, after = 0, 1, 2
    assert plays.grown(fault, "attempts_total", 0, before, resting, outcome="failed") == failures
    assert plays.grown(fault, "attempts_total", 0, before, resting, outcome="served") == served
    assert plays.grown(fault, "attempts_total", 1, before, resting, outcome="served") == 4 - served
    assert plays.grown(fault, "deployment_rests_total", 0, before, resting) == 1
    assert plays.grown(fault, "deployment_recoveries_total", 0, before, resting) == 0
    assert plays.grown(fault, "deployment_resting", 0, before, resting) == 1
    assert plays.grown(fault, "deployment_resting", 0, before, after) == 0
    assert plays.grown(fault, "deployment_recoveries_total", 0, before, after) == 1
    assert plays.grown(fault, "attempts_total", 0, resting, after, outcome="failed") == 0
    assert plays.grown(fault, "attempts_total", 0, resting, after, outcome="served") == (2 if fault == "breaks" else 3)
    stand_in = f'mozaiks_deployment_resting{{deployment="three-{fault}/openai/1"}}'
    assert [metrics[stand_in] for metrics in plays.metrics] == [0, 0, 0]
