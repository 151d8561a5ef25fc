"""What this room asks of Stripe to tell what became of money: balances, their movements, payouts, invoices, receipts.

As in `ports`: every object is of one account, amounts are minor units of a currency in capitals, times Unix milliseconds. The
one adapter is `stripe.reports`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Generic, Protocol, TypeVar

import msgspec

from gateway.billing.ports import Metadata, Payments

T = TypeVar("T")


class Source(msgspec.Struct, frozen=True):
    """What moved a balance: a charge, refund, dispute or something else (`kind`, in Stripe's words).

    `amount_minor` is in the currency of the object, which may be another than that of the balance that it moved.
    """

    kind: str
    source_id: str
    payment_id: str | None = None
    amount_minor: int = 0
    currency: str = ""
    share_minor: int = 0  # the platform's share of a charge, as it was asked for
    status: str = ""
    customer_id: str | None = None
    metadata: Metadata | None = None


class Movement(msgspec.Struct, frozen=True):
    """A balance transaction: `amount_minor` less `fee_minor` came to the balance (below zero: left it)."""

    movement_id: str
    type: str
    category: str  # Stripe's reporting category
    amount_minor: int
    fee_minor: int  # everything that was kept, the share among it
    share_minor: int  # the platform's part of it (below zero: returned)
    currency: str
    created_at_ms: int
    source: Source

    @property
    def net_minor(self) -> int:
        """What it did to the balance."""
        return self.amount_minor - self.fee_minor


class FeeMovement(msgspec.Struct, frozen=True):
    """The platform's share as its own balance has it: one that came in, or (below zero) a part of one that went back."""

    account_id: str  # whose sale it was
    amount_minor: int
    currency: str
    created_at_ms: int


class Payout(msgspec.Struct, frozen=True):
    """Money on its way to the account's bank. `status`: pending, in_transit, paid, failed, canceled."""

    id: str
    amount_minor: int
    currency: str
    status: str
    arrival_at_ms: int
    created_at_ms: int
    is_automatic: bool
    method: str
    failure: str = ""


class Invoice(msgspec.Struct, frozen=True):
    """An invoice as its buyer may see it. `number` and the addresses are there once it is final."""

    id: str
    number: str | None
    status: str
    amount_due_minor: int
    amount_paid_minor: int
    currency: str
    created_at_ms: int
    customer_id: str | None
    hosted_url: str | None
    pdf_url: str | None


class Receipt(msgspec.Struct, frozen=True):
    """A charge that succeeded, with the address of its receipt, which follows refunds."""

    id: str
    payment_id: str | None
    amount_minor: int
    refunded_minor: int
    currency: str
    created_at_ms: int
    customer_id: str | None
    url: str | None


class Listed(msgspec.Struct, Generic[T], frozen=True):
    """One page of Stripe's, newest first. `last_id`: what the next goes on after; None where there is no more."""

    rows: tuple[T, ...]
    last_id: str | None


class Reports(Payments, Protocol):
    """Stripe, which also reports. Every method raises PaymentsDown and PaymentsRefused.

    PaymentsRefused `resource_missing` of a list: there is nothing of the id to go on after.
    """

    async def balance(self, account_id: str) -> Mapping[str, int]:
        """What an account has by currency, whether it can be paid out yet or not."""
        ...

    def movements(
        self, account_id: str, from_ms: int, until_ms: int | None, currency: str | None = None
    ) -> AsyncGenerator[Movement, None]:
        """Every movement of its balance, from <= time < until, with what it is of; newest first. In one currency or all."""
        ...

    async def movements_page(
        self, account_id: str, from_ms: int, until_ms: int, after: str | None, count: int
    ) -> Listed[Movement]:
        """The same, a page of it."""
        ...

    def fee_movements(self, from_ms: int, until_ms: int) -> AsyncIterator[FeeMovement]:
        """Every share that came in to the platform, and every part of one that went back."""
        ...

    async def payouts(self, account_id: str, status: str | None, after: str | None, count: int) -> Listed[Payout]:
        """Payouts, of one status or all."""
        ...

    async def invoices(self, account_id: str, customer_id: str | None, after: str | None, count: int) -> Listed[Invoice]:
        """Invoices that are no drafts any more, of one customer or all."""
        ...

    async def receipts(self, account_id: str, customer_id: str | None, after: str | None, count: int) -> Listed[Receipt]:
        """Charges that succeeded, of one customer or all."""
        ...
