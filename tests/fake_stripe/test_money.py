"""Money through the fake, driven by Stripe's own SDK: payments, fees, refunds, disputes, payouts; the books always add up."""

from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.fake_stripe.control import Control, Refused, running


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    with running() as fake:
        yield fake
        assert fake.audit() == []
        assert fake.shape_faults() == []
        assert fake.violations() == []


@pytest.fixture
def shop(control: Control) -> tuple[Control, Any, str]:
    """The fake, a client of the real SDK, and a connected account of its own."""
    return control, control.client().v1, control.connected()


def bought(control: Control, api: Any, account: str, amount: int = 1000, fee: int = 100, card: str = "pm_card_visa",
    currency: str = "usd") -> Any:
    data = {"application_fee_amount": fee} if fee else {}
    line = {"price_data": {"currency": currency, "unit_amount": amount, "product_data": {"name": "Tokens"}}, "quantity": 1}
    wish = {"mode": "payment", "line_items": [line], "success_url": "https://app.invalid/ok", "payment_intent_data": data}
    session = api.checkout.sessions.create(wish, {"stripe_account": account})
    paid = control.pay(account, session.id, card)
    assert paid["refused"] is None
    return api.checkout.sessions.retrieve(session.id, {"expand": ["payment_intent.latest_charge.balance_transaction"]},
        {"stripe_account": account})


def test_a_payment_reaches_the_creator_less_both_fees_and_the_fee_reaches_the_platform(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    charge = bought(control, api, account).payment_intent.latest_charge
    assert (charge.balance_transaction.fee, charge.balance_transaction.net) == (159, 841)
    fee = api.application_fees.retrieve(charge.application_fee, {"expand": ["balance_transaction"]})
    assert (fee.amount, fee.account, fee.balance_transaction.net) == (100, account, 100)


@pytest.mark.parametrize(("currency", "amount", "stripe_fee"), [("eur", 1000, 54), ("jpy", 500, 45), ("kwd", 10_000, 380)])
def test_amounts_are_minor_units_of_each_currency(shop: tuple[Control, Any, str], currency: str, amount: int,
    stripe_fee: int) -> None:
    control, api, account = shop
    charge = bought(control, api, account, amount, 0, currency=currency).payment_intent.latest_charge
    assert (charge.amount, charge.currency, charge.balance_transaction.net) == (amount, currency, amount - stripe_fee)


def test_partial_refunds_return_their_share_of_the_fee_and_the_last_returns_the_rest(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session, at = bought(control, api, account, 1000, 101), {"stripe_account": account}
    fee = session.payment_intent.latest_charge.application_fee
    for amount, returned in ((333, 34), (333, 68), (334, 101)):
        api.refunds.create({"payment_intent": session.payment_intent.id, "amount": amount, "refund_application_fee": True}, at)
        assert api.application_fees.retrieve(fee).amount_refunded == returned
    with pytest.raises(stripe.InvalidRequestError) as caught:
        api.refunds.create({"payment_intent": session.payment_intent.id}, at)
    assert caught.value.code == "charge_already_refunded"
    assert control.audit() == []


def test_a_refund_made_in_the_dashboard_keeps_the_fee_until_the_platform_returns_it(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session = bought(control, api, account)
    control.refund_in_dashboard(account, session.payment_intent.id, 500)
    fee = session.payment_intent.latest_charge.application_fee
    assert api.application_fees.retrieve(fee).amount_refunded == 0
    assert [e["request"]["id"] for e in control.events() if e.get("account") == account and e["type"] == "charge.refunded"] == [
        None]
    api.application_fees.refunds.create(fee, {"amount": 50})
    with pytest.raises(stripe.InvalidRequestError):
        api.application_fees.refunds.create(fee, {"amount": 51})
    assert control.audit() == []


def test_asking_for_a_fee_that_never_was_is_an_error(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session = bought(control, api, account, fee=0)
    with pytest.raises(stripe.InvalidRequestError):
        api.refunds.create({"payment_intent": session.payment_intent.id, "refund_application_fee": True},
            {"stripe_account": account})
    with pytest.raises(stripe.InvalidRequestError):
        api.payment_intents.create({"amount": 100, "currency": "usd", "application_fee_amount": 1})


def test_pending_refunds_succeed_or_fail_later(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session, at = bought(control, api, account, card="pm_card_pendingRefund"), {"stripe_account": account}
    first = api.refunds.create({"payment_intent": session.payment_intent.id, "amount": 400}, at)
    second = api.refunds.create({"payment_intent": session.payment_intent.id, "amount": 600}, at)
    assert (first.status, second.status) == ("pending", "pending")
    control.finish_refund(account, first.id)
    control.finish_refund(account, second.id, "failed")
    charge = api.charges.retrieve(session.payment_intent.latest_charge.id, {"expand": ["refunds"]}, at)
    assert (charge.amount_refunded, charge.refunded, len(charge.refunds.data)) == (400, False, 2)


def test_a_refund_that_the_bank_sends_back_fails_a_day_later(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session, at = bought(control, api, account, card="pm_card_refundFail"), {"stripe_account": account}
    refund = api.refunds.create({"payment_intent": session.payment_intent.id}, at)
    control.advance(86_400)
    failed = api.refunds.retrieve(refund.id, {"expand": ["failure_balance_transaction"]}, at)
    assert (refund.status, failed.status, failed.failure_balance_transaction.net) == ("succeeded", "failed", 1000)
    assert not api.charges.retrieve(refund.charge, None, at).refunded


def test_refunds_over_the_balance_wait_for_funds(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    session, at = bought(control, api, account), {"stripe_account": account}
    control.strict_balance(True)
    try:
        refund = api.refunds.create({"payment_intent": session.payment_intent.id, "refund_application_fee": True}, at)
        assert (refund.status, refund.pending_reason, refund.balance_transaction) == ("pending", "insufficient_funds", None)
        assert control.audit() == []
    finally:
        control.strict_balance(False)
    assert control.finish_refund(account, refund.id)["balance_transaction"]


def test_a_dispute_takes_the_money_at_once_and_a_win_brings_it_back(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    at = {"stripe_account": account}
    for word, status, events in (
        ("winning_evidence", "won", ["created", "funds_withdrawn", "updated", "funds_reinstated", "closed"]),
        ("losing_evidence", "lost", ["created", "funds_withdrawn", "updated", "closed"]),
    ):
        charge = bought(control, api, account, card="pm_card_createDispute").payment_intent.latest_charge
        dispute = api.disputes.list({"charge": charge.id}, at).data[0]
        assert [t.net for t in dispute.balance_transactions] == [-2500]
        assert api.disputes.update(dispute.id, {"evidence": {"uncategorized_text": word}}, at).status == status
        told = [e["type"].rpartition(".")[2] for e in control.events() if e["data"]["object"]["id"] == dispute.id]
        assert told == events
        with pytest.raises(Refused):
            control.close_dispute(account, dispute.id, won=True)


def test_cards_decline_ask_for_authentication_and_settle_later(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    at = {"stripe_account": account}
    wish = {"amount": 700, "currency": "usd", "confirm": True, "off_session": True}
    customer = api.customers.create({"email": "a@example.com"}, at)
    with pytest.raises(stripe.CardError) as declined:
        api.payment_intents.create({**wish, "customer": customer.id,
            "payment_method": "pm_card_chargeDeclinedInsufficientFunds"}, at)
    assert declined.value.code == "card_declined"
    assert declined.value.error is not None
    assert declined.value.error.decline_code == "insufficient_funds"
    with pytest.raises(stripe.CardError) as asked:
        api.payment_intents.create({**wish, "payment_method": "pm_card_threeDSecure2Required"}, at)
    assert asked.value.code == "authentication_required"
    here = {"amount": 700, "currency": "usd", "confirm": True, "payment_method": "pm_card_threeDSecure2Required"}
    intent = api.payment_intents.create(here, at)
    assert intent.status == "requires_action"
    assert control.settle(account, intent.id)["status"] == "succeeded"
    for ok, status in ((True, "succeeded"), (False, "requires_payment_method")):
        later = api.payment_intents.create({**wish, "payment_method": "pm_usBankAccount_success"}, at)
        assert later.status == "processing"
        assert control.settle(account, later.id, ok)["status"] == status


def test_checkout_stays_open_when_refused_and_tells_what_the_bank_says_later(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    line = {"price_data": {"currency": "usd", "unit_amount": 500, "product_data": {"name": "Tokens"}}, "quantity": 2}
    wish = {"mode": "payment", "line_items": [line], "success_url": "https://app.invalid/ok", "client_reference_id": "user-1"}
    session = api.checkout.sessions.create(wish, {"stripe_account": account})
    assert control.pay(account, session.id, "pm_card_chargeDeclined")["refused"]["code"] == "card_declined"
    assert control.pay(account, session.id, "pm_card_threeDSecure2Required", authenticates=False)["refused"]
    done = control.pay(account, session.id, "pm_usBankAccount_success")["session"]
    assert (done["status"], done["payment_status"], done["amount_total"]) == ("complete", "unpaid", 1000)
    control.settle(account, done["payment_intent"])
    told = [e["type"] for e in control.events() if e["data"]["object"]["id"] == session.id]
    assert told == ["checkout.session.completed", "checkout.session.async_payment_succeeded"]


def test_a_card_that_was_set_up_pays_later_without_its_owner(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    at = {"stripe_account": account}
    session = api.checkout.sessions.create({"mode": "setup", "currency": "usd", "success_url": "https://app.invalid/ok"}, at)
    done = control.pay(account, session.id, "pm_card_authenticationRequiredOnSetup")["session"]
    method = api.setup_intents.retrieve(done["setup_intent"], None, at).payment_method
    wish = {"amount": 900, "currency": "usd", "customer": done["customer"], "payment_method": method, "off_session": True,
        "confirm": True}
    assert api.payment_intents.create({**wish, "application_fee_amount": 9}, at).status == "succeeded"


def test_payouts_take_what_is_available_and_bring_it_back_when_the_bank_refuses(shop: tuple[Control, Any, str]) -> None:
    control, api, account = shop
    at = {"stripe_account": account}
    bought(control, api, account)
    with pytest.raises(stripe.InvalidRequestError) as early:
        api.payouts.create({"amount": 841, "currency": "usd"}, at)
    assert early.value.code == "balance_insufficient"
    control.advance(2 * 86_400)
    payout = api.payouts.create({"amount": 841, "currency": "usd"}, at)
    assert api.balance.retrieve(None, at).available[0].amount == 0
    control.advance(3 * 86_400)
    assert api.payouts.retrieve(payout.id, None, at).status == "paid"
    control.finish_payout(account, payout.id, paid=False)
    assert api.balance.retrieve(None, at).available[0].amount == 841
