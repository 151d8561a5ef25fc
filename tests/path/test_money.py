"""Wallets, levels, limits and prices over the wire."""

import threading
import time
from typing import Any

import httpx
import pytest

from tests.path.conftest import Stack

BODY = {"model": "ok:tokens=10", "messages": [{"role": "user", "content": "one two three"}]}
# A short body's strict bound and the real cost, both at 1 micro an input and 10 micro an output token.


def post(stack: Stack, key: str, end_user: str | None = "ann", path: str = "/chat/completions", **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} | ({"x-platform-user-id": end_user} if end_user else {})
    return httpx.post(stack.url + "/v1" + path, json={**BODY, **fields}, headers=headers, timeout=60)


def test_level_1_is_paid_by_the_creator_and_has_no_end_user(stack: Stack) -> None:
    app = stack.app()
    creator = app.replace("app", "creator")
    key = stack.key(app, "platform")
    assert post(stack, key, None).status_code == 402
    stack.grant({"user_id": creator}, 1_000_000)
    answer = post(stack, key, None)
    assert answer.status_code == 200, answer.text
    [event] = stack.events(app, 1)
    assert (event["level"], event["billing_target"], event["platform_user_id"]) == ("platform", "mozaiks_user", None)
    wallet = stack.get(f"/wallets/{creator}")
    assert wallet["available_micro"] == 1_000_000 - event["amount_micro"]


def test_creator_pays_takes_from_both_wallets_or_from_none(stack: Stack) -> None:
    app = stack.app(cost_policy="creator_pays", markup_percent="50")
    creator = app.replace("app", "creator")
    key = stack.key(app)
    stack.fund(app, "ann", 1_000_000)
    refused = post(stack, key)
    assert refused.status_code == 402
    assert refused.json()["error"]["limit_source"] == "creator"
    assert "balance" not in refused.json()["error"]
    assert "app's creator" in refused.json()["error"]["message"]
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000
    stack.grant({"user_id": creator}, 1_000_000)
    assert post(stack, key).status_code == 200
    [event] = stack.events(app, 1)
    provider = event["input_tokens"] + 10 * event["output_tokens"]
    assert event["amount_micro"] == -(-provider * 150 // 100)
    assert event["provider_cost_micro"] == provider
    assert stack.get(f"/wallets/{creator}")["available_micro"] == 1_000_000 - provider
    assert stack.wallet(app, "ann")["available_micro"] == 1_000_000 - event["amount_micro"]


def test_an_analytics_only_app_is_measured_and_never_refused_for_money(stack: Stack) -> None:
    app = stack.app(enforcement="analytics_only")
    answer = post(stack, stack.key(app))
    assert answer.status_code == 200
    assert "x-mozaiks-cost" not in answer.headers
    [event] = stack.events(app, 1)
    assert event["amount_micro"] == 0
    assert event["provider_cost_micro"] > 0
    assert event["output_tokens"] == 10


def test_app_tokens_are_an_asset_of_their_own(stack: Stack) -> None:
    app = stack.app(asset="TOK")
    stack.fund(app, "ann", 2_000 * 1_000_000)
    answer = post(stack, stack.key(app), max_tokens=10)
    assert answer.status_code == 200, answer.text
    [event] = stack.events(app, 1)
    assert event["asset"] == "TOK"
    assert event["amount_micro"] == event["tokens_used"] * 1_000_000


def test_own_prices_of_an_app_count_from_their_date(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app)
    assert post(stack, key).status_code == 200
    stack.post(f"/apps/{app}/price-books", {"model": "*", "prices": {"input": "2", "output": "40"}})
    deadline = time.monotonic() + 60
    while True:
        answer = post(stack, key)
        micro = round(float(answer.headers["x-mozaiks-cost"]) * 1e6)
        usage = answer.json()["usage"]
        if micro == 2 * usage["prompt_tokens"] + 40 * usage["completion_tokens"]:
            break
        assert time.monotonic() < deadline, answer.headers
    while len(events := stack.get(f"/apps/{app}/usage-events", limit=200)["data"]) < 2:
        assert time.monotonic() < deadline, "they are not in the books"
    first = events[-1]
    assert first["amount_micro"] == first["input_tokens"] + 10 * first["output_tokens"]


def test_a_poor_wallet_gets_the_output_that_it_covers(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 200)
    answer = post(stack, stack.key(app), model="ok:tokens=500")
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert 0 < answer.json()["usage"]["completion_tokens"] < 20
    assert stack.wallet(app, "ann")["available_micro"] >= 0


def test_strict_refuses_and_clamp_lowers_a_cap_that_is_not_covered(stack: Stack) -> None:
    strict, clamp = stack.app(hold_policy="strict"), stack.app(hold_policy="clamp")
    for app in (strict, clamp):
        stack.fund(app, "ann", 300)
    refused = post(stack, stack.key(strict), max_tokens=500)
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert error["balance"] == "0.0003"
    assert float(error["required"]) > 0.005
    lowered = post(stack, stack.key(clamp), model="ok:tokens=500", max_tokens=500)
    assert lowered.status_code == 200, lowered.text
    assert lowered.json()["usage"]["completion_tokens"] == int(lowered.headers["x-mozaiks-output-cap"]) < 30


def test_a_revoked_key_ends_at_once(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    made = stack.post(f"/apps/{app}/keys", {"name": "k", "level": "app_usage"})
    assert post(stack, made["secret"]).status_code == 200
    assert stack.admin.delete(f"/apps/{app}/keys/{made['id']}").status_code == 200
    refused = post(stack, made["secret"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "revoked_api_key")


def test_an_end_user_token_spends_for_its_own_user_only(stack: Stack) -> None:
    app = stack.app(cors_origins=["https://app.example"])
    stack.fund(app, "ann", 1_000_000)
    stack.key(app)
    made = stack.post(
        f"/apps/{app}/end-user-tokens", {"platform_user_id": "ann", "expires_in_seconds": 600, "spend_micro_max": 1200}
    )
    token = made["token"]
    answer = httpx.post(
        stack.url + "/v1/chat/completions",
        json={**BODY, "max_tokens": 10},
        headers={"authorization": f"Bearer {token}", "origin": "https://app.example"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    wrong = post(stack, token, "bob")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (403, "end_user_mismatch")
    capped = post(stack, token, None, max_tokens=500)
    assert (capped.status_code, capped.json()["error"]["code"]) == (402, "spend_limit_reached")
    balance = httpx.get(stack.url + "/v1/balance", headers={"authorization": f"Bearer {token}"}, timeout=60).json()
    assert balance["platform_user_id"] == "ann"
    assert balance["wallet"]["available_micro"] == stack.wallet(app, "ann")["available_micro"]


def test_a_request_can_be_looked_up_by_its_own_app_only(stack: Stack) -> None:
    app, other = stack.app(), stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app)
    request_id = post(stack, key).headers["x-request-id"]
    found = httpx.get(f"{stack.url}/v1/usage/{request_id}", headers={"authorization": f"Bearer {key}"}, timeout=60)
    assert found.status_code == 200, found.text
    assert found.json()["request_id"] == request_id
    hidden = httpx.get(f"{stack.url}/v1/usage/{request_id}", headers={"authorization": f"Bearer {stack.key(other)}"}, timeout=60)
    assert hidden.status_code == 404


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        ({"rpm": 2}, 429, "rate_limit_exceeded"),
        ({"spend_micro_per_day": 1300}, 402, "spend_limit_reached"),
        ({"tpm": 60}, 429, "rate_limit_exceeded"),
    ],
)
def test_limits_of_a_key_hold(stack: Stack, limits: dict[str, int], status: int, code: str) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app, limits=limits)
    answers = [post(stack, key, max_tokens=100) for _ in range(8)]
    assert answers[0].status_code == 200, answers[0].text
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    assert refused.json()["error"]["limit_source"] == "key"
    if "rpm" in limits:
        assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
        assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"


def test_a_grant_is_made_once_under_one_idempotency_key(stack: Stack) -> None:
    app = stack.app()
    wallet = {"enterprise_id": app, "platform_user_id": "ann"}
    first = stack.grant(wallet, 500, key="same-" + app)
    again = stack.grant(wallet, 500, key="same-" + app)
    assert first == again
    assert stack.wallet(app, "ann")["available_micro"] == 500
    body = {"wallet": wallet, "amount_micro": 501, "source": "promo", "reason": "test"}
    stack.post("/grants", body, 409, idempotency_key="same-" + app)
    assert stack.wallet(app, "ann")["available_micro"] == 500


CHEAP = "word " * 3000  # some 3,000 tokens: 3,000 micro-units


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embeddings", {"model": "ok", "input": CHEAP, "prompt": [1]}),
        ("/embeddings", {"model": "ok", "input": [{"text": CHEAP}]}),
        ("/completions", {"model": "ok", "prompt": CHEAP, "messages": []}),
        ("/completions", {"model": "ok", "prompt": ["a", [1] * 3000]}),
        ("/completions", {"model": "ok", "prompt": [1, *["a"] * 100], "max_tokens": 1000}),
        ("/chat/completions", {"model": "ok", "messages": [{"role": "user", "content": [CHEAP]}]}),
        ("/chat/completions", {"model": "ok", "messages": BODY["messages"], "documents": [{"t": CHEAP}]}),
    ],
)
def test_a_prompt_cannot_hide_from_its_price(stack: Stack, path: str, body: dict[str, Any]) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1000)
    headers = {"authorization": f"Bearer {stack.key(app)}", "x-platform-user-id": "ann"}
    answer = httpx.post(stack.url + "/v1" + path, json=body, headers=headers, timeout=60)
    assert answer.status_code in (400, 402), answer.text
    wallet = stack.wallet(app, "ann")
    assert (wallet["available_micro"], wallet["held_micro"], wallet["debt_micro"]) == (1000, 0, 0)


def test_the_upstream_is_told_the_cap_that_the_hold_covers(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    answer = post(stack, stack.key(app), model="echo")
    assert '"max_tokens": 1000' in answer.json()["choices"][0]["message"]["content"].replace('":', '": ').replace(":  ", ": ")


def test_a_spend_cap_lowers_the_output_of_a_request_without_a_cap(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app, limits={"spend_micro_total": 900})
    answer = post(stack, key)
    assert answer.status_code == 200, answer.text
    refused = [post(stack, key, max_tokens=200) for _ in range(2)][-1]
    assert refused.json()["error"]["code"] == "spend_limit_reached"
    assert float(refused.json()["error"]["required"]) > 0.002


@pytest.mark.parametrize("model", ["x\n/s-long", "x\r\nset-cookie: a", "modèle", "x\u0000"])
def test_a_model_name_cannot_break_a_header_and_leaves_no_hold(stack: Stack, model: str) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    answer = post(stack, stack.key(app), model=model, stream=True)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
    assert stack.wallet(app, "ann")["held_micro"] == 0


def test_a_balance_says_what_is_left_of_each_limit(stack: Stack) -> None:
    app = stack.app(end_user_limits={"rpm": 9, "spend_micro_per_day": 50_000})
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app, limits={"rpm": 100, "tpm": 5000, "concurrency": 3})
    answer = post(stack, key, max_tokens=10)
    # Of two limits of a kind the headers tell the one that ends first.
    told = [(name, value) for name, value in answer.headers.multi_items() if name.endswith("-requests")]
    assert sorted(told) == [("x-ratelimit-limit-requests", "9"), ("x-ratelimit-remaining-requests", "8")]
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "ann"}
    balance = httpx.get(stack.url + "/v1/balance", headers=headers, timeout=60).json()
    spent = 1_000_000 - balance["wallet"]["available_micro"]
    tokens = answer.json()["usage"]["total_tokens"]
    assert balance["remaining"] == {
        "limits": {"rpm": 98, "tpm": 5000 - tokens, "concurrency": 3},  # the question is a request, too
        "end_user_limits": {"rpm": 7, "spend_micro_per_day": 50_000 - spent},
    }


@pytest.mark.parametrize("path", ["balance", "usage/req_unknown"])
def test_questions_about_oneself_count_as_requests_and_leave_nothing_behind(stack: Stack, path: str) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app, limits={"rpm": 2})
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "ann"}
    answers = [httpx.get(f"{stack.url}/v1/{path}", headers=headers, timeout=60) for _ in range(3)]
    while answers[-1].status_code != 429 and len(answers) < 8:  # a minute may have passed in between
        answers.append(httpx.get(f"{stack.url}/v1/{path}", headers=headers, timeout=60))
    refused = answers[-1]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers[:2]] == [200 if path == "balance" else 404] * 2
    assert post(stack, key).status_code == 429
    assert post(stack, stack.key(app)).status_code == 200  # one without a limit; and nothing is held
    assert len(stack.events(app, 1)) == 1
    assert stack.wallet(app, "ann")["held_micro"] == 0


def test_a_rate_that_is_used_up_is_told_with_its_figures(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 1_000_000)
    key = stack.key(app, limits={"tpm": 300})
    assert post(stack, key, max_tokens=200).status_code == 200
    for _ in range(20):
        refused = post(stack, key, max_tokens=280)
        if refused.status_code == 429:
            break
    error = refused.json()["error"]
    assert (error["code"], error["limit"]) == ("rate_limit_exceeded", 300)
    assert 280 < error["required"] <= 300
    assert 0 < error["used"] <= 300


def test_asking_for_a_balance_grants_the_trial_of_a_new_end_user(stack: Stack) -> None:
    app = stack.app(cost_policy="creator_pays", trial={"amount_micro": 7000, "days": 3})
    headers = {"authorization": f"Bearer {stack.key(app)}", "x-platform-user-id": "new-here"}
    for _ in range(2):
        balance = httpx.get(stack.url + "/v1/balance", headers=headers, timeout=60).json()
        assert balance["wallet"]["available_micro"] == 7000
    assert [lot["source"] for lot in stack.wallet(app, "new-here")["lots"]] == ["trial"]


def test_asking_for_a_balance_makes_no_wallet(stack: Stack) -> None:
    app = stack.app()
    key = stack.key(app)
    headers = {"authorization": f"Bearer {key}", "x-platform-user-id": "nobody-yet"}
    balance = httpx.get(stack.url + "/v1/balance", headers=headers, timeout=60).json()
    assert balance["wallet"]["available_micro"] == 0
    assert stack.get("/ledger/accounts", enterprise_id=app)["data"] == []


def test_what_the_gateway_keeps_is_for_its_user_alone(stack: Stack) -> None:
    files = [path for path in stack.data_dir.rglob("*") if path.is_file()]
    assert any(path.name == "platform.sqlite" for path in files)
    assert [path for path in [stack.data_dir, *files] if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/batches"), ("GET", "/v1/"), ("POST", "/v1/chat/completions/")])
def test_an_unknown_path_is_not_found(stack: Stack, method: str, path: str) -> None:
    assert httpx.request(method, stack.url + path, timeout=60).status_code == 404


def test_a_browser_may_ask_first(stack: Stack) -> None:
    answer = httpx.options(stack.url + "/v1/chat/completions", headers={"origin": "https://app.example"}, timeout=60)
    assert answer.status_code == 204
    assert "authorization" in answer.headers["access-control-allow-headers"]


def test_an_audit_under_traffic_tells_motion_from_a_difference(stack: Stack) -> None:
    app = stack.app()
    stack.fund(app, "ann", 10_000_000)
    key = stack.key(app)
    busy = threading.Event()

    def keep_asking() -> None:
        while not busy.is_set():
            post(stack, key)
            busy.wait(0.02)  # motion is wanted, not load

    askers = [threading.Thread(target=keep_asking) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        assert '"ok": true' in stack.cli("audit", "--json")
    finally:
        busy.set()
        for asker in askers:
            asker.join()


def test_a_newcomer_spends_the_trial_of_the_app_and_no_more(stack: Stack) -> None:
    app = stack.app(cost_policy="platform_pays", trial={"amount_micro": 550, "days": 7})
    key = stack.key(app)

    def ask() -> httpx.Response:
        return httpx.post(
            stack.url + "/v1/chat/completions",
            headers={"authorization": f"Bearer {key}", "x-platform-user-id": "newcomer"},
            json={"model": "flat-model", "messages": [{"role": "user", "content": "hi"}]},
            timeout=60,
        )

    assert [ask().status_code for _ in range(3)] == [200, 200, 402]  # 250 each
    stack.events(app, 2)
    wallet = stack.wallet(app, "newcomer")
    assert wallet["available_micro"] == 50
    (lot,) = wallet["lots"]
    assert (lot["source"], lot["granted_micro"], lot["left_micro"]) == ("trial", 550, 50)
    assert lot["expires_at"] is not None
