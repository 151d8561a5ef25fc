"""What the fake is held to on the wire: the checker, keys, cursors, accounts, faults, webhooks in every order."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe

from tests.fake_stripe import server
from tests.fake_stripe.checker import decoded, reply_faults, typed
from tests.fake_stripe.control import Control, running
from tests.fake_stripe.routes import HANDLERS
from tests.fake_stripe.spec import Operation, description, operation_of

LINE = "line_items[0][price_data]"


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    with running() as fake:
        yield fake
        assert fake.audit() == []
        assert fake.shape_faults() == []


def operation(method: str, path: str) -> Operation:
    found = operation_of(method, path)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("path", "form", "code", "param"),
    [
        ("/v1/refunds", "payment_intent=pi_1&amount=ten", "parameter_invalid_integer", "amount"),
        ("/v1/refunds", "payment_intent=pi_1&refund_application_fee=yes", "parameter_invalid_boolean", "refund_application_fee"),
        ("/v1/refunds", "payment_intent=pi_1&reason=bored", "parameter_invalid_enum", "reason"),
        ("/v1/refunds", "payment_intent=pi_1&refund_aplication_fee=true", "parameter_unknown", "refund_aplication_fee"),
        ("/v1/payment_intents", "currency=usd", "parameter_missing", "amount"),
        ("/v1/checkout/sessions", f"mode=payment&{LINE}[unit_amount]=5", "parameter_missing", f"{LINE}[currency]"),
        ("/v1/checkout/sessions", f"{LINE}[currency]=usd&{LINE}[unit_amonut]=5", "parameter_unknown", f"{LINE}[unit_amonut]"),
        ("/v1/checkout/sessions", "payment_intent_data[application_fee_percent]=5", "parameter_unknown",
            "payment_intent_data[application_fee_percent]"),
        ("/v1/checkout/sessions", "subscription_data[application_fee_percent]=5%25", "parameter_invalid_number",
            "subscription_data[application_fee_percent]"),
        ("/v1/checkout/sessions", "metadata[a][b]=c", "parameter_invalid_string", "metadata[a]"),
        ("/v1/prices", "currency=usd&recurring[interval]=fortnight", "parameter_invalid_enum", "recurring[interval]"),
        ("/v1/customers", "name=" + "x" * 300, "parameter_invalid_string", "name"),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_named(path: str, form: str, code: str, param: str) -> None:
    _, wrong = typed(operation("POST", path), decoded(form))
    assert [(v.param, v.code) for v in wrong] == [(param, code)]


def test_a_right_request_has_no_violation_and_gets_its_types() -> None:
    form = f"mode=payment&{LINE}[currency]=usd&{LINE}[unit_amount]=5&metadata[1]=x&allow_promotion_codes=true"
    values, wrong = typed(operation("POST", "/v1/checkout/sessions"), decoded(form))
    assert wrong == []
    assert values["line_items"] == [{"price_data": {"currency": "usd", "unit_amount": 5}}]
    assert (values["metadata"], values["allow_promotion_codes"]) == ({"1": "x"}, True)


def test_a_reply_that_is_not_as_stripe_describes_it_is_told() -> None:
    reply = operation("GET", "/v1/events/evt_1").reply
    fine = {"id": "evt_1", "object": "event", "created": 1, "data": {"object": {}}, "livemode": False, "pending_webhooks": 0,
        "type": "x"}
    assert reply_faults(reply, fine) == []
    assert reply_faults(reply, {**fine, "created": "1"}) == [".created: not a integer: 1"]
    assert reply_faults(reply, {**fine, "colour": 1}) == [".colour: unknown"]
    assert reply_faults(reply, {k: v for k, v in fine.items() if k != "type"}) == [".type: missing"]


def test_everything_the_fake_plays_is_an_operation_of_stripes() -> None:
    assert len(server.OBJECT_FILES) > 10
    assert [key for key in HANDLERS if key[0].lower() not in description()["paths"].get(key[1], {})] == []


def test_the_server_refuses_what_the_checker_refuses_and_keeps_it(control: Control) -> None:
    api: Any = control.client()
    before = len(control.violations())
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.v1.customers.create({"emial": "a@example.com"})
    assert (caught.value.param, caught.value.code) == ("emial", "parameter_unknown")
    assert [v["param"] for v in control.violations()[before:]] == ["emial"]


def test_the_same_key_gives_the_same_answer_for_a_day_and_other_parameters_are_an_error(control: Control) -> None:
    api: Any = control.client()
    key = {"idempotency_key": "one"}
    first = api.v1.customers.create({"email": "a@example.com"}, key).id
    assert api.v1.customers.create({"email": "a@example.com"}, key).id == first
    with pytest.raises(stripe.IdempotencyError):
        api.v1.customers.create({"email": "b@example.com"}, key)
    declined = {"amount": 5, "currency": "usd", "confirm": True, "payment_method": "pm_card_chargeDeclined"}
    for _ in range(2):
        with pytest.raises(stripe.CardError):
            api.v1.payment_intents.create(declined, {"idempotency_key": "two"})
    assert [r["replayed"] for r in control.requests() if r["idempotency_key"] == "two"] == [False, True]
    control.advance(86_401)
    assert api.v1.customers.create({"email": "b@example.com"}, key).id != first


def test_cursors_walk_a_list_without_gaps_and_filters_hold(control: Control) -> None:
    api, at = control.client().v1, {"stripe_account": control.connected()}
    made = []
    for number in range(7):
        made.append(api.customers.create({"email": f"{number % 2}@example.com"}, at).id)  # type: ignore[arg-type]
        control.advance(10)
    rows = api.customers.list({"limit": 3}, at)  # type: ignore[arg-type]
    assert (rows.has_more, len(rows.data)) == (True, 3)
    assert [row.id for row in rows.auto_paging_iter()] == made[::-1]
    assert len(api.customers.list({"email": "1@example.com"}, at).data) == 3  # type: ignore[arg-type]
    since = control.now() - 20
    assert [row.id for row in api.customers.list({"created": {"gte": since}}, at).data] == made[:-3:-1]  # type: ignore[arg-type]
    with pytest.raises(stripe.InvalidRequestError):
        api.customers.list({"limit": 101}, at)  # type: ignore[arg-type]


def test_an_account_sees_only_its_own_and_a_revoked_one_nothing(control: Control) -> None:
    api: Any = control.client()
    one, two = control.connected(), control.connected()
    customer = api.v1.customers.create({"email": "a@example.com"}, {"stripe_account": one}).id
    for options in ({}, {"stripe_account": two}):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            api.v1.customers.retrieve(customer, None, options)
        assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    control.deauthorize(one)
    with pytest.raises(stripe.PermissionError):
        api.v1.customers.retrieve(customer, None, {"stripe_account": one})
    assert control.events()[-1]["type"] == "account.application.deauthorized"
    with pytest.raises(stripe.AuthenticationError):
        control.client("sk_test_invalid").v1.customers.list()
    with pytest.raises(stripe.PermissionError):
        control.client("rk_test_reader").v1.customers.create({})


def test_an_account_is_made_onboarded_and_only_then_charges(control: Control) -> None:
    api: Any = control.client()
    wish = {
        "contact_email": "c@example.com", "dashboard": "full", "identity": {"country": "us"}, "metadata": {"creator": "1"},
        "configuration": {"merchant": {"capabilities": {"card_payments": {"requested": True}}}},
        "defaults": {"currency": "usd", "responsibilities": {"fees_collector": "stripe", "losses_collector": "stripe"}},
    }  # fmt: skip
    account = api.v2.core.accounts.create({**wish, "include": ["configuration.merchant", "requirements"]})
    assert account.configuration.merchant.capabilities.card_payments.status == "restricted"
    use = {"type": "account_onboarding",
        "account_onboarding": {"configurations": ["merchant"], "refresh_url": "https://a.invalid",
            "return_url": "https://b.invalid"}}
    assert api.v2.core.account_links.create({"account": account.id, "use_case": use}).url.startswith("https://")
    line = {"price_data": {"currency": "usd", "unit_amount": 5, "product_data": {"name": "x"}}, "quantity": 1}
    with pytest.raises(stripe.InvalidRequestError):
        api.v1.checkout.sessions.create({"mode": "payment", "line_items": [line], "success_url": "https://a.invalid"},
            {"stripe_account": account.id})
    control.onboard(account.id)
    assert api.v2.core.accounts.retrieve(account.id).configuration is None
    seen = api.v2.core.accounts.retrieve(account.id, {"include": ["configuration.merchant"]})
    assert seen.configuration.merchant.capabilities.card_payments.status == "active"
    assert api.v1.accounts.retrieve(account.id).charges_enabled


@pytest.mark.parametrize(("kind", "made"),
    [("drop_before", 1), ("drop_after", 1), ("rate_limit", 1), ("error_500", 1), ("timeout_after", 1)])
def test_a_request_that_went_wrong_is_repeated_by_the_sdk_with_one_effect(control: Control, kind: str, made: int) -> None:
    api: Any = control.client(retries=2)
    mail = f"{kind}@example.com"
    control.fault(kind, method="POST", path="/v1/customers", seconds=0.05)
    if kind == "rate_limit":  # the SDK does not repeat a 429 by itself
        with pytest.raises(stripe.RateLimitError):
            api.v1.customers.create({"email": mail})
    api.v1.customers.create({"email": mail})
    assert len(api.v1.customers.list({"email": mail}).data) == made


class Inbox:
    """A receiver of webhooks that verifies each with the SDK; the first `refuse` are answered 500."""

    def __init__(self, secret: str, refuse: int = 0) -> None:
        self.got: list[Any] = []
        self.refuse, self.threads = refuse, set[int]()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(0.002)
                stripe.Webhook.construct_event(body, self.headers["Stripe-Signature"], secret)
                inbox.refuse -= 1
                if inbox.refuse < 0:
                    inbox.got.append(json.loads(body))
                self.send_response(500 if inbox.refuse >= 0 else 200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def inboxes(control: Control) -> Iterator[tuple[Inbox, Inbox]]:
    own, connect = Inbox("whsec_own"), Inbox("whsec_connect", refuse=1)
    api: Any = control.client()
    names = [control.endpoint(own.url, connect=False, secret="whsec_own"),
        control.endpoint(connect.url, connect=True, secret="whsec_connect")]
    yield own, connect
    for name, inbox in zip(names, (own, connect), strict=True):
        api.v1.webhook_endpoints.delete(name)
        inbox.server.shutdown()
        inbox.server.server_close()
    control.drop_waiting()
    control.deliver_at_once(False)


def paid(control: Control, account: str) -> None:
    line = {"price_data": {"currency": "usd", "unit_amount": 500, "product_data": {"name": "x"}}, "quantity": 1}
    data = {"application_fee_amount": 50}
    wish: Any = {"mode": "payment", "line_items": [line], "success_url": "https://a.invalid", "payment_intent_data": data}
    control.pay(account, control.client().v1.checkout.sessions.create(wish, {"stripe_account": account}).id)


def test_webhooks_go_to_the_right_endpoint_doubled_shuffled_and_again_after_a_refusal(control: Control,
    inboxes: tuple[Inbox, Inbox]) -> None:
    own, connect = inboxes
    account = control.connected()
    control.drop_waiting()
    paid(control, account)
    made = [e for e in control.events() if e.get("account") == account][1:]
    tries = control.deliver(order="shuffle", seed=3, copies=2, senders=4)
    assert [t["status"] for t in tries].count(500) == 1
    assert [e["type"] for e in own.got] == ["application_fee.created"] * 2
    assert {e["account"] for e in connect.got} == {account}
    assert [e["id"] for e in connect.got][: len(made)] != [e["id"] for e in made]
    control.deliver()
    assert {e["id"] for e in connect.got} == {e["id"] for e in made}
    api: Any = control.client()
    assert api.v1.events.retrieve(made[0]["id"], None, {"stripe_account": account}).type == made[0]["type"]


def test_webhooks_come_in_the_order_that_the_seed_says(control: Control, inboxes: tuple[Inbox, Inbox]) -> None:
    connect = inboxes[1]
    connect.refuse = 0
    orders: list[list[str]] = []
    for order, seed in (("fifo", 1), ("reverse", 1), ("shuffle", 7), ("shuffle", 7), ("shuffle", 8)):
        control.drop_waiting()
        paid(control, control.connected())
        connect.got.clear()
        control.deliver(order=order, seed=seed)
        orders.append([e["type"] for e in connect.got])
    fifo, back, one, same, other = orders
    assert back == fifo[::-1]
    assert one == same
    assert len({str(order) for order in (fifo, back, one, other)}) == 4
    assert sorted(one) == sorted(other) == sorted(fifo)


def test_webhooks_can_be_lost_or_sent_at_once_and_carry_every_valid_signature(control: Control,
    inboxes: tuple[Inbox, Inbox]) -> None:
    connect = inboxes[1]
    connect.refuse = 0
    account = control.connected()
    assert control.deliver(drop=1.0) == []
    control.deliver_at_once(True)
    paid(control, account)
    assert control.settled()
    kinds = [e["type"] for e in connect.got]
    assert kinds[-1] == "checkout.session.completed"
    assert kinds == [e["type"] for e in control.events() if e.get("account") == account][-len(kinds) :]
    endpoint: Any = control.client().v1.webhook_endpoints.list().data[0].id
    control.endpoint_secrets(endpoint, "whsec_new", "whsec_own", "whsec_connect")
    paid(control, account)
    assert control.settled()
    assert len(connect.got) == 2 * len(kinds)
