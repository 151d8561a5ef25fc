"""What this room asks of Stripe, in our words. The one adapter that imports stripe is `stripe_client`.

Every object is of one account: the platform's own (`PLATFORM_ACCOUNT`), or a creator's. What creates or moves something
takes an `op_id` of ours, which is kept before it is sent and becomes Stripe's idempotency key: the same operation again
returns the first result, also after a crash, for the 24 hours that Stripe remembers; after that the reconciler looks first.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from gateway.billing.model import Plan


class PaymentsDown(Exception):
    """Stripe cannot be reached, or failed in a way that passes; what was asked may have happened."""


class PaymentsRefused(Exception):
    """Stripe says no. `code` is its word for why, the text its sentence, without our keys."""

    def __init__(self, message: str, code: str = "", *, is_revoked: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_revoked = is_revoked  # the account does not let us in any more


class Metadata(msgspec.Struct, frozen=True):
    """What we write on everything that we make at Stripe, and find there again."""

    enterprise_id: str | None
    owner: str  # platform_user_id, or user_id at level 1
    plan_id: str
    purchase_id: str = ""


class AccountFacts(msgspec.Struct, frozen=True):
    """A connected account: whether cards can be charged, and what Stripe wants of its owner."""

    account_id: str
    can_charge: bool
    wanted: tuple[str, ...]


class CheckoutFacts(msgspec.Struct, frozen=True):
    """A checkout session."""

    session_id: str
    url: str | None
    status: str  # open, complete, expired
    payment_status: str  # paid, unpaid, no_payment_required
    payment_id: str | None
    subscription_id: str | None
    customer_id: str | None
    metadata: Metadata | None


class PaymentFacts(msgspec.Struct, frozen=True):
    """A payment intent with its latest charge. `stripe_fee_minor` is None until Stripe knows it."""

    payment_id: str
    status: str
    amount_minor: int  # received
    currency: str
    created_at_ms: int
    fee_minor: int = 0  # the platform's share
    fee_id: str | None = None
    stripe_fee_minor: int | None = None
    refunded_minor: int = 0
    invoice_id: str | None = None
    customer_id: str | None = None
    method_id: str | None = None
    failure: str = ""
    metadata: Metadata | None = None


class InvoiceLine(msgspec.Struct, frozen=True):
    """A line of an invoice. `is_proration`: what a change of plans made of a part of a period."""

    line_id: str
    price_id: str | None
    amount_minor: int
    period_start_ms: int
    period_end_ms: int
    is_proration: bool


class InvoiceFacts(msgspec.Struct, frozen=True):
    """An invoice of a subscription."""

    invoice_id: str
    status: str  # draft, open, paid, void, uncollectible
    reason: str  # subscription_create, subscription_cycle, subscription_update, manual, ...
    subscription_id: str | None
    payment_id: str | None
    amount_paid_minor: int
    currency: str
    created_at_ms: int
    lines: tuple[InvoiceLine, ...]
    hosted_url: str | None = None
    metadata: Metadata | None = None


class SubscriptionFacts(msgspec.Struct, frozen=True):
    """A subscription and its one price."""

    subscription_id: str
    status: str
    price_id: str
    customer_id: str
    period_start_ms: int
    period_end_ms: int
    cancel_at_period_end: bool
    created_at_ms: int
    trial_end_ms: int | None = None
    metadata: Metadata | None = None


class RefundFacts(msgspec.Struct, frozen=True):
    """A refund, also one that was made in Stripe's own dashboard."""

    refund_id: str
    payment_id: str
    amount_minor: int
    currency: str
    status: str  # pending, requires_action, succeeded, failed, canceled
    fee_returned_minor: int = 0


class DisputeFacts(msgspec.Struct, frozen=True):
    """A dispute. `withdrawn_minor`: what Stripe holds of ours for it now, by its balance transactions."""

    dispute_id: str
    payment_id: str
    amount_minor: int
    currency: str
    status: str  # needs_response, under_review, won, lost, warning_..., prevented
    withdrawn_minor: int


class Payments(Protocol):
    """Stripe, or what stands for it. Every method raises PaymentsDown and PaymentsRefused."""

    async def create_account(self, op_id: str, user_id: str, name: str, email: str) -> AccountFacts: ...
    async def account(self, account_id: str) -> AccountFacts: ...
    async def onboarding_link(self, account_id: str, return_url: str, refresh_url: str) -> str: ...
    async def create_price(self, op_id: str, account_id: str, plan: Plan) -> tuple[str, str]: ...
    async def create_customer(self, op_id: str, account_id: str, metadata: Metadata, email: str) -> str: ...
    async def checkout(
        self, op_id: str, account_id: str, *, plan: Plan, price_id: str, customer_id: str, metadata: Metadata,
        fee_minor: int, fee_bp: int, success_url: str, cancel_url: str,
    ) -> CheckoutFacts: ...  # fmt: skip
    async def portal_link(self, account_id: str, customer_id: str, return_url: str) -> str: ...
    async def charge_saved(
        self, op_id: str, account_id: str, *, customer_id: str, method_id: str, amount_minor: int, currency: str,
        fee_minor: int, metadata: Metadata,
    ) -> PaymentFacts: ...  # fmt: skip
    async def change_subscription(
        self, op_id: str, account_id: str, subscription_id: str, *, price_id: str | None = None,
        cancel_at_period_end: bool | None = None, metadata: Metadata | None = None,
    ) -> SubscriptionFacts: ...  # fmt: skip
    async def cancel_subscription(self, op_id: str, account_id: str, subscription_id: str) -> SubscriptionFacts: ...
    async def refund(self, op_id: str, account_id: str, payment_id: str, amount_minor: int, *, return_fee: bool) -> RefundFacts: ...
    async def return_fee(self, op_id: str, fee_id: str, amount_minor: int) -> None: ...

    async def checkout_session(self, account_id: str, session_id: str) -> CheckoutFacts: ...
    async def payment(self, account_id: str, payment_id: str) -> PaymentFacts: ...
    async def invoice(self, account_id: str, invoice_id: str) -> InvoiceFacts: ...
    async def subscription(self, account_id: str, subscription_id: str) -> SubscriptionFacts: ...
    async def refund_of(self, account_id: str, refund_id: str) -> RefundFacts: ...
    async def dispute(self, account_id: str, dispute_id: str) -> DisputeFacts: ...

    def payments_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[PaymentFacts]: ...
    def invoices_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[InvoiceFacts]: ...
    def refunds_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[RefundFacts]: ...
    def disputes_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[DisputeFacts]: ...
    def subscriptions_of(self, account_id: str) -> AsyncIterator[SubscriptionFacts]: ...

    def event(self, endpoint: str, body: bytes, signature: str) -> Mapping[str, object]: ...
