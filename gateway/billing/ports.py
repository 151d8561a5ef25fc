"""What this room asks of Stripe, in our words. The one adapter that imports stripe is `stripe.client`.

Every object is of one account: the platform's own (`PLATFORM_ACCOUNT`), or a creator's. What creates or moves something
takes an `op_id` of ours, which is kept before it is sent and becomes Stripe's idempotency key: the same operation again
returns the first result, also after a crash, for the 24 hours that Stripe remembers; after that the reconciler looks first.

Currencies are ISO 4217 codes in capitals, as assets are; amounts are the currency's minor units; times Unix milliseconds,
which Stripe tells in whole seconds.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from gateway.billing.model import Plan, PromoCode


class PaymentsDown(Exception):
    """Stripe cannot be reached, fails in a way that passes, or takes not our key; what was asked may have happened."""


class PaymentsRefused(Exception):
    """Stripe says no. `code` is its word for why, the text its sentence, without our keys.

    Words of ours: `bad_signature` and `bad_payload` of an event, `idempotency_error` where an op_id came back with other
    parameters, `unexpected_answer` where Stripe's answer is not of the shape that its API version has, `promo_code_taken`.
    """

    def __init__(self, message: str, code: str = "", *, is_revoked: bool = False, is_card: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_revoked = is_revoked  # the account does not let us in any more
        self.is_card = is_card  # the buyer's card or bank says no


class Metadata(msgspec.Struct, frozen=True):
    """What we write on everything that we make at Stripe, and find there again."""

    enterprise_id: str | None
    owner: str  # platform_user_id, or user_id at level 1
    plan_id: str
    purchase_id: str = ""
    bill_id: str = ""


class AccountFacts(msgspec.Struct, frozen=True):
    """A connected account: whether cards can be charged, and what Stripe wants of its owner, in its words."""

    account_id: str
    can_charge: bool
    wanted: tuple[str, ...]
    email: str = ""  # where Stripe writes to; "" where it does not say
    country: str = ""  # two capital letters; likewise


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
    amount_minor: int | None = None  # what the buyer is asked for, after discounts


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
    is_disputed: bool = False  # now or ever


class InvoiceLine(msgspec.Struct, frozen=True):
    """A line of an invoice. `is_proration`: what a change of plans made of a part of a period."""

    line_id: str
    price_id: str | None
    amount_minor: int
    period_start_ms: int
    period_end_ms: int
    is_proration: bool


class InvoicePart(msgspec.Struct, frozen=True):
    """What a payment intent that succeeded paid of an invoice; `is_default`: it is the one that Stripe made for it."""

    payment_id: str
    amount_minor: int
    is_default: bool = True


class InvoiceFacts(msgspec.Struct, frozen=True):
    """An invoice: of a subscription, whose metadata it has then, or by itself, with its own.

    `total_minor` is after discounts: below zero it became the customer's credit. `credit_minor` of it was paid by that.
    `amount_paid_minor` is what Stripe counts as paid: by the payment intents of `payments`, which took money, and by what the
    account's owner says was paid elsewhere (out of band), which Stripe believes. What of a paid one neither that nor credit paid
    was less than Stripe charges: it became the customer's debt, which the next invoice asks for.
    """

    invoice_id: str
    status: str  # draft, open, paid, void, uncollectible
    reason: str  # subscription_create, subscription_cycle, subscription_update, manual, ...
    subscription_id: str | None
    payments: tuple[InvoicePart, ...]  # the default one first; in an order that stays
    amount_paid_minor: int
    currency: str
    created_at_ms: int
    lines: tuple[InvoiceLine, ...]
    total_minor: int = 0
    credit_minor: int = 0
    customer_id: str | None = None
    finalized_at_ms: int | None = None
    hosted_url: str | None = None
    metadata: Metadata | None = None
    discounts: tuple[tuple[str, int], ...] = ()  # by promotion codes: (Stripe's id of one, what it took off)

    @property
    def out_of_band_minor(self) -> int:
        """What of it was paid, as the account's owner says, and by no payment intent."""
        return max(self.amount_paid_minor - sum(part.amount_minor for part in self.payments), 0)


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
    fee_bp: int = 0  # the platform's share of each invoice
    method_id: str | None = None  # what its invoices are paid with; None: what the customer has chosen


class RefundFacts(msgspec.Struct, frozen=True):
    """A refund, also one that was made in Stripe's own dashboard."""

    refund_id: str
    payment_id: str
    amount_minor: int
    currency: str
    status: str  # pending, requires_action, succeeded, failed, canceled
    fee_returned_minor: int = 0
    asked: str = ""  # of one of ours: the operation that asked for it, and how much it asked for


class DisputeFacts(msgspec.Struct, frozen=True):
    """A dispute. `withdrawn_minor`: what Stripe holds of ours for it now, by its balance transactions.

    `fees` are what Stripe took for it, and below zero gave back, as it does in some countries once it is won: (balance
    transaction, minor units), the oldest first.
    """

    dispute_id: str
    payment_id: str
    amount_minor: int
    currency: str
    status: str  # needs_response, under_review, won, lost, warning_..., prevented
    withdrawn_minor: int
    fees: tuple[tuple[str, int], ...] = ()


class Bill(msgspec.Struct, frozen=True):
    """What an invoice of ours is to ask for: one amount, for one thing, of a customer, by a method (None: the one it has chosen).

    `fee_minor` is the platform's share of it, 0 for none. Stripe uses the customer's credit first, and takes the whole share of
    what money then pays, as far as that goes: the facts of both tell what was paid and what was taken.
    """

    bill_id: str
    customer_id: str
    method_id: str | None
    amount_minor: int
    currency: str
    fee_minor: int
    text: str
    metadata: Metadata


class Saving(Protocol):
    """Payment methods that may be charged without their owner being there. Raises PaymentsDown and PaymentsRefused."""

    async def page(
        self, account_id: str, *, customer_id: str, metadata: Metadata, success_url: str, cancel_url: str
    ) -> CheckoutFacts:
        """A page on which a buyer saves a card and pays nothing, for a day."""
        ...

    async def method(self, account_id: str, customer_id: str) -> str | None:
        """The method that a customer would pay with: the one chosen for invoices, else the one that was saved last."""
        ...


class Promotions(Protocol):
    """Promo codes as buyers redeem them. Raises PaymentsDown and PaymentsRefused."""

    async def create(self, op_id: str, account_id: str, code: PromoCode, product_ids: Sequence[str]) -> tuple[str, str]:
        """A code's (coupon, promotion code) on an account: those that it has there, or fresh ones; for these products, or all.

        PaymentsRefused `promo_code_taken` where the account has another active code of the same letters, or one of other terms
        that bears this one's name.
        """
        ...

    async def named(self, account_id: str, letters: str) -> tuple[str, str]:
        """The active code of these letters on an account: its id, and that of ours whose name it bears; each may be empty."""
        ...

    async def end(self, account_id: str, promotion_id: str) -> None:
        """Nobody redeems it any more; who has, keeps what it takes off."""
        ...


class Bills(Protocol):
    """Invoices of ours beside those of subscriptions. Raises PaymentsDown and PaymentsRefused."""

    async def draft(self, op_id: str, account_id: str, bill: Bill) -> InvoiceFacts:
        """A draft with its one line, of which nothing is asked for until it is sent."""
        ...

    async def send(self, op_id: str, account_id: str, invoice_id: str) -> InvoiceFacts:
        """Finalised and the money asked for, as far as that has not happened; Stripe then goes on trying, as the account is set.

        One whose method is refused, or wants its owner, stays open: that is no exception.
        """
        ...

    async def find(self, account_id: str, customer_id: str, bill_id: str, since_ms: int) -> InvoiceFacts | None:
        """The invoice of a bill, among those made since: when its operation is forgotten. A draft without its line is none."""
        ...

    async def void(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """Nobody is asked for it any more, and credit that it used is the customer's again. One that is paid is left as it is.

        A draft is deleted, with its line; that, and one that is not there, is told as `void`.
        """
        ...


class Payments(Protocol):
    """Stripe, or what stands for it. Every method raises PaymentsDown and PaymentsRefused.

    PaymentsRefused with `resource_missing` is what a look at something that is not there gives.
    """

    @property
    def is_live(self) -> bool:
        """Whether this is real money: events and objects of the other mode are not ours."""
        ...

    @property
    def saving(self) -> Saving:
        """What buyers save."""
        ...

    @property
    def promotions(self) -> Promotions:
        """What sellers take off."""
        ...

    @property
    def bills(self) -> Bills:
        """Invoices of ours."""
        ...

    # ---- accounts ------------------------------------------------------------------------------

    async def create_account(self, op_id: str, user_id: str, name: str, email: str, country: str = "") -> AccountFacts:
        """A connected account of a creator, that pays its own fees and losses, with a dashboard of its own at Stripe.

        `country` is two letters; without it Stripe asks.
        """
        ...

    async def account(self, account_id: str) -> AccountFacts:
        """How far an account has come. PaymentsRefused with `is_revoked` when its owner took our access away."""
        ...

    async def onboarding_link(self, account_id: str, return_url: str, refresh_url: str) -> str:
        """Where its owner gives Stripe what it wants: for a few minutes, once. `refresh_url` is for who comes too late."""
        ...

    # ---- selling -------------------------------------------------------------------------------

    async def create_price(self, op_id: str, account_id: str, plan: Plan) -> tuple[str, str]:
        """A plan's (product, price) on an account: those that it has there, or fresh ones; never two prices of one plan.

        What has the plan's name there and is not at its price is none of it.
        """
        ...

    async def create_customer(self, op_id: str, account_id: str, metadata: Metadata, email: str) -> str:
        """The buyer on an account; `email` may be empty: then the checkout asks for it."""
        ...

    async def checkout(
        self,
        op_id: str,
        account_id: str,
        *,
        plan: Plan,
        price_id: str,
        customer_id: str,
        metadata: Metadata,
        fee_minor: int,
        fee_bp: int,
        success_url: str,
        cancel_url: str,
        save_method: bool = False,
        promotion_id: str | None = None,
    ) -> CheckoutFacts:
        """A page on which the buyer pays for a plan, for a day; by `promotion_id`, less.

        `metadata` goes onto the session and onto its payment intent or subscription. A package's fee is `fee_minor`, a
        subscription's `fee_bp` of each invoice; 0 is none. `save_method`: a package's payment method may be charged later.
        """
        ...

    async def expire_checkout(self, account_id: str, session_id: str) -> CheckoutFacts:
        """Ends a page that is open; one that was paid on, or has ended, is left as it is."""
        ...

    async def portal_link(self, account_id: str, customer_id: str, return_url: str) -> str:
        """Where a buyer sees invoices, changes the payment method and cancels; for a few minutes."""
        ...

    async def charge_saved(
        self,
        op_id: str,
        account_id: str,
        *,
        customer_id: str,
        method_id: str,
        amount_minor: int,
        currency: str,
        fee_minor: int,
        metadata: Metadata,
    ) -> PaymentFacts:
        """Takes money without the buyer being there. A refused card is a payment with a `failure`, not an exception."""
        ...

    async def change_subscription(
        self,
        op_id: str,
        account_id: str,
        subscription_id: str,
        *,
        price_id: str | None = None,
        cancel_at_period_end: bool | None = None,
        metadata: Metadata | None = None,
        fee_bp: int | None = None,
        is_at_once: bool = True,
    ) -> SubscriptionFacts:
        """Another price, another end, other metadata, another fee (from the next invoice on); what is None stays.

        Another price is invoiced at once in proportion to what is left of the period, and refused when that cannot be paid.
        Not `is_at_once`: it is that of the next invoice, and of this period nothing is charged and nothing given back.
        """
        ...

    async def cancel_subscription(self, op_id: str, account_id: str, subscription_id: str) -> SubscriptionFacts:
        """Ends it now, without money back. One that has ended is left as it is."""
        ...

    async def refund(
        self, op_id: str, account_id: str, payment_id: str, amount_minor: int, *, return_fee: bool, asked: str = ""
    ) -> RefundFacts:
        """Gives money back; `return_fee`: and the platform's share of it. PaymentsRefused when there is no fee to return.

        `asked` stands on it for who looks for it later.
        """
        ...

    async def return_fee(self, op_id: str, fee_id: str, amount_minor: int, refund_id: str) -> None:
        """Gives back a part of the platform's share by itself: for a refund that was made without us, which it is kept with."""
        ...

    async def fee_returned(self, fee_id: str, refund_id: str) -> tuple[int | None, int]:
        """What was given back so for a refund (None: nothing yet), and what of this share was given back in all, however."""
        ...

    # ---- looking -------------------------------------------------------------------------------

    async def checkout_session(self, account_id: str, session_id: str) -> CheckoutFacts:
        """A checkout as it stands."""
        ...

    async def payment(self, account_id: str, payment_id: str) -> PaymentFacts:
        """A payment as it stands, with its invoice where it is of one."""
        ...

    async def invoice(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """An invoice with all its lines and payments."""
        ...

    async def subscription(self, account_id: str, subscription_id: str) -> SubscriptionFacts:
        """A subscription as it stands."""
        ...

    async def refund_of(self, account_id: str, refund_id: str) -> RefundFacts:
        """A refund as it stands."""
        ...

    def refunds_of(self, account_id: str, payment_id: str) -> AsyncIterator[RefundFacts]:
        """Every refund of a payment, the failed ones too."""
        ...

    async def dispute(self, account_id: str, dispute_id: str) -> DisputeFacts:
        """A dispute as it stands."""
        ...

    # ---- walking: by the time of creation, from <= time < until, newest first ------------------

    def payments_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[PaymentFacts]:
        """Every payment, the failed ones too; without its invoice."""
        ...

    def invoices_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[InvoiceFacts]:
        """Every invoice; a renewal's is made an hour before it is paid."""
        ...

    def invoices_of(self, account_id: str, *, subscription_id: str = "", customer_id: str = "") -> AsyncIterator[InvoiceFacts]:
        """Every invoice of a subscription, or of a customer."""
        ...

    def refunds_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[RefundFacts]:
        """Every refund; one of a day can be of a payment of any day before."""
        ...

    def disputes_between(self, account_id: str, from_ms: int, until_ms: int) -> AsyncIterator[DisputeFacts]:
        """Every dispute; likewise."""
        ...

    def subscriptions_of(self, account_id: str) -> AsyncIterator[SubscriptionFacts]:
        """Every subscription, the ended ones too."""
        ...

    # ---- events --------------------------------------------------------------------------------

    def event(self, endpoint: str, body: bytes, signature: str) -> Mapping[str, object]:
        """What a webhook to `platform` or `connect` says, once its signature is proven and at most 300 s old.

        PaymentsRefused `bad_signature` (also where that endpoint has no secret) or `bad_payload`.
        """
        ...

    async def close(self) -> None:
        """Lets go of the connections."""
        ...
