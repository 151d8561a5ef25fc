"""What journeys do at Stripe, besides what the gateway does: a port, on the fake (here) and in a sandbox (`sandbox`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import stripe

from tests.fake_stripe.control import KEY, Control
from tests.fake_stripe.spec import Obj

SECRETS = {"platform": "whsec_made_up_platform", "connect": "whsec_made_up_connect"}
PATHS = {"platform": "/webhooks/stripe", "connect": "/webhooks/stripe/connect"}


class AtStripe(Protocol):
    """Buyers, issuers, owners of accounts and time. An empty account is the platform's; amounts are minor units."""

    key: str
    api_base: str  # what the gateway is told to ask
    patience_s: float  # within which a buyer has what was paid for

    def listen(self, gateway: str) -> None:
        """That gateway is told what happens, at both of its endpoints."""

    def client(self) -> stripe.StripeClient:
        """Stripe's own API, with the platform's key."""

    def onboard(self, account: str) -> None:
        """The account takes cards, or this raises."""

    def clock(self, account: str) -> None:
        """Time is the test's for those who buy of this account from now on; three buyers at most."""

    def advance(self, account: str, seconds: int) -> None:
        """Time goes on for them, by two of their periods at most."""

    def pay(self, account: str, session: str, card: str = "pm_card_visa") -> Obj:
        """The buyer submits Stripe's page with a test card: {"session": ..., "refused": the error, or None}."""

    def abandon(self, account: str, session: str) -> None:
        """The page runs out now."""

    def refund(self, account: str, intent: str, amount: int | None = None) -> Obj:
        """The account's owner gives money back, without our doing."""

    def dispute_of(self, account: str, intent: str) -> str:
        """The dispute of a payment with `pm_card_createDispute`."""

    def close_dispute(self, account: str, dispute: str, won: bool) -> None:
        """The issuer decides."""

    def deliver(self, senders: int = 6, **how: Any) -> None:
        """What has happened is told. `how`: of the fake alone, as `Control.deliver` has it."""

    def listening(self) -> Any:
        """A context in which everything is told by itself, soon."""

    def checked(self) -> None:
        """At the end: nothing was asked wrongly."""


def fees(at: AtStripe, account: str) -> int:
    """What the platform has of an account's sales, by Stripe's fee objects."""
    api: Any = at.client().v1
    charges = api.charges.list({"limit": 100}, {"stripe_account": account}).data
    rows = [api.application_fees.retrieve(str(charge.application_fee)) for charge in charges if charge.application_fee]
    return sum(row.amount - row.amount_refunded for row in rows)


def processing(at: AtStripe, account: str) -> int:
    """What Stripe has kept of an account's sales."""
    api: Any = at.client().v1
    rows = api.balance_transactions.list({"limit": 100, "type": "charge"}, {"stripe_account": account}).data
    return sum(fee.amount for row in rows for fee in row.fee_details if fee.type == "stripe_fee")


class OnFake:
    """The fake's controls; its one clock is everybody's."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.key, self.api_base, self.patience_s = KEY, control.base, 5.0

    def listen(self, gateway: str) -> None:
        """A connected account's events go to both endpoints: each is told twice."""
        self.control.endpoint(gateway + PATHS["connect"], connect=True, secret=SECRETS["connect"])
        for is_connect in (True, False):
            self.control.endpoint(gateway + PATHS["platform"], connect=is_connect, secret=SECRETS["platform"])

    def client(self) -> stripe.StripeClient:
        return self.control.client()

    def onboard(self, account: str) -> None:
        self.control.onboard(account)

    def clock(self, account: str) -> None:
        del account

    def advance(self, account: str, seconds: int) -> None:
        del account
        self.control.advance(seconds)

    def pay(self, account: str, session: str, card: str = "pm_card_visa") -> Obj:
        return self.control.pay(account, session, card)

    def abandon(self, account: str, session: str) -> None:
        self.control.abandon(account, session)

    def refund(self, account: str, intent: str, amount: int | None = None) -> Obj:
        return self.control.refund_in_dashboard(account, intent, amount)

    def dispute_of(self, account: str, intent: str) -> str:
        rows: Any = self.client().v1.disputes.list({"payment_intent": intent}, {"stripe_account": account}).data
        return str(rows[0].id)

    def close_dispute(self, account: str, dispute: str, won: bool) -> None:
        self.control.close_dispute(account, dispute, won=won)

    def deliver(self, senders: int = 6, **how: Any) -> None:
        assert all(each["status"] == 200 for each in self.control.deliver(senders=senders, **how)), self.control.tries()[-5:]

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.control.deliver_at_once()
        try:
            yield
        finally:
            self.control.deliver_at_once(False)

    def checked(self) -> None:
        assert self.control.audit() == []
        assert self.control.violations() == []
        assert self.control.shape_faults() == []
