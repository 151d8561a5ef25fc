"""Stripe's objects that tell what became of money, as far as this room reads them. Conventions as in `shapes`."""

from typing import Any, Final

import msgspec

from gateway.billing.revenue import reports
from gateway.billing.stripe.shapes import FeeDetail, Object, Reference, as_shape, id_of, read

_MS: Final = 1000
PAYMENTS: Final = "payments"  # the balance that sales go to and payouts come from


class Funds(msgspec.Struct, frozen=True):
    """A part of a balance, of one currency."""

    amount: int
    currency: str


class Balance(msgspec.Struct, frozen=True):
    """See docs.stripe.com/api/balance; the other parts of it are parts of these."""

    available: list[Funds]
    pending: list[Funds]


class Source(msgspec.Struct, frozen=True):
    """What a balance transaction is of, where it was expanded: a charge, a refund, a dispute, a payout, a fee."""

    id: str
    object: str
    amount: int = 0
    currency: str = ""
    status: str | None = None
    payment_intent: Reference = None
    customer: Reference = None
    application_fee_amount: int | None = None
    metadata: dict[str, str] | None = None
    account: Reference = None  # of an application fee
    fee: Any = None  # of a refund of one: that fee, where it was expanded


class Movement(Object, frozen=True):
    """See docs.stripe.com/api/balance_transactions."""

    type: str
    reporting_category: str
    amount: int
    fee: int
    fee_details: list[FeeDetail]
    currency: str
    created: int
    source: Source | str | None = None
    balance_type: str = PAYMENTS


class Payout(Object, frozen=True):
    """See docs.stripe.com/api/payouts."""

    amount: int
    currency: str
    status: str
    arrival_date: int
    created: int
    automatic: bool
    method: str
    failure_code: str | None = None


class Invoice(Object, frozen=True):
    """See docs.stripe.com/api/invoices."""

    amount_due: int
    amount_paid: int
    currency: str
    created: int
    status: str | None = None
    number: str | None = None
    customer: Reference = None
    hosted_invoice_url: str | None = None
    invoice_pdf: str | None = None


class Charge(Object, frozen=True):
    """See docs.stripe.com/api/charges."""

    amount: int
    amount_refunded: int
    currency: str
    created: int
    status: str
    payment_intent: Reference = None
    customer: Reference = None
    receipt_url: str | None = None


def balance(raw: dict[str, Any]) -> dict[str, int]:
    """What there is by currency."""
    found = as_shape(raw, Balance)
    sums: dict[str, int] = {}
    for part in (*found.available, *found.pending):
        name = part.currency.upper()
        sums[name] = sums.get(name, 0) + part.amount
    return sums


def movement(raw: dict[str, Any]) -> reports.Movement | None:
    """A balance transaction with its source expanded; None for one of another balance, such as that of issued cards."""
    found = as_shape(raw, Movement)
    if found.balance_type != PAYMENTS:
        return None
    return reports.Movement(
        movement_id=found.id,
        type=found.type,
        category=found.reporting_category,
        amount_minor=found.amount,
        fee_minor=found.fee,
        share_minor=sum(detail.amount for detail in found.fee_details if detail.type == "application_fee"),
        currency=found.currency.upper(),
        created_at_ms=found.created * _MS,
        source=_source(found.source),
    )


def _source(found: Source | str | None) -> reports.Source:
    if not isinstance(found, Source):
        return reports.Source("", found or "")
    return reports.Source(
        kind=found.object,
        source_id=found.id,
        payment_id=id_of(found.payment_intent),
        amount_minor=found.amount,
        currency=found.currency.upper(),
        share_minor=found.application_fee_amount or 0,
        status=found.status or "",
        customer_id=id_of(found.customer),
        metadata=read(found.metadata),
    )


def fee_movement(raw: dict[str, Any]) -> reports.FeeMovement:
    """A balance transaction of the platform's for a fee or a refund of one, in the currency in which the buyer paid."""
    found = as_shape(raw, Movement)
    source = found.source if isinstance(found.source, Source) else as_shape(found.source, Source)
    fee = source if source.fee is None else as_shape(source.fee, Source)
    return reports.FeeMovement(
        account_id=id_of(fee.account) or "",
        amount_minor=source.amount if source.fee is None else -source.amount,
        currency=source.currency.upper(),
        created_at_ms=found.created * _MS,
    )


def payout(raw: dict[str, Any]) -> reports.Payout:
    """A payout."""
    found = as_shape(raw, Payout)
    return reports.Payout(
        id=found.id,
        amount_minor=found.amount,
        currency=found.currency.upper(),
        status=found.status,
        arrival_at_ms=found.arrival_date * _MS,
        created_at_ms=found.created * _MS,
        is_automatic=found.automatic,
        method=found.method,
        failure=found.failure_code or "",
    )


def invoice(raw: dict[str, Any]) -> reports.Invoice:
    """An invoice, for its buyer."""
    found = as_shape(raw, Invoice)
    return reports.Invoice(
        id=found.id,
        number=found.number,
        status=found.status or "",
        amount_due_minor=found.amount_due,
        amount_paid_minor=found.amount_paid,
        currency=found.currency.upper(),
        created_at_ms=found.created * _MS,
        customer_id=id_of(found.customer),
        hosted_url=found.hosted_invoice_url,
        pdf_url=found.invoice_pdf,
    )


def receipt(raw: dict[str, Any]) -> reports.Receipt | None:
    """A charge; None for one that did not succeed."""
    found = as_shape(raw, Charge)
    if found.status != "succeeded":
        return None
    return reports.Receipt(
        id=found.id,
        payment_id=id_of(found.payment_intent),
        amount_minor=found.amount,
        refunded_minor=found.amount_refunded,
        currency=found.currency.upper(),
        created_at_ms=found.created * _MS,
        customer_id=id_of(found.customer),
        url=found.receipt_url,
    )
