"""Stripe's invoices and subscriptions, as far as this room reads them. Conventions as in `shapes`."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from gateway.billing.ports import InvoiceFacts, InvoiceLine, InvoicePart, SubscriptionFacts
from gateway.billing.stripe.shapes import Object, Reference, as_shape, id_of, read

_MS: Final = 1000


class Period(msgspec.Struct, frozen=True):
    """Unix seconds."""

    start: int
    end: int


class PriceDetails(msgspec.Struct, frozen=True):
    """What a line was made of."""

    price: Reference = None


class Pricing(msgspec.Struct, frozen=True):
    """Likewise."""

    price_details: PriceDetails | None = None


class ItemDetails(msgspec.Struct, frozen=True):
    """Where a line comes from."""

    proration: bool = False


class LineParent(msgspec.Struct, frozen=True):
    """Likewise."""

    subscription_item_details: ItemDetails | None = None
    invoice_item_details: ItemDetails | None = None


class Line(Object, frozen=True):
    """A line of an invoice."""

    amount: int
    period: Period
    pricing: Pricing | None = None
    parent: LineParent | None = None


class Lines(msgspec.Struct, frozen=True):
    """The first of them."""

    data: list[Line]
    has_more: bool = False


class PaidBy(msgspec.Struct, frozen=True):
    """What an invoice was paid with: a `payment_intent`, or a `charge` without one, or out of band, a `payment_record`."""

    type: str
    payment_intent: Reference = None


class InvoicePayment(Object, frozen=True):
    """A payment of an invoice: `open`, `paid` or `canceled`; see docs.stripe.com/api/invoice-payment."""

    invoice: Reference
    payment: PaidBy
    status: str
    amount_paid: int | None = None
    is_default: bool = False


class InvoicePayments(msgspec.Struct, frozen=True):
    """The first of one invoice."""

    data: list[InvoicePayment]
    has_more: bool = False


class SubscriptionDetails(msgspec.Struct, frozen=True):
    """The subscription that an invoice is of, with its metadata of that time."""

    subscription: Reference = None
    metadata: dict[str, str] | None = None


class InvoiceParent(msgspec.Struct, frozen=True):
    """Likewise."""

    subscription_details: SubscriptionDetails | None = None


class Transitions(msgspec.Struct, frozen=True):
    """When an invoice became what it is: Unix seconds."""

    finalized_at: int | None = None


class Discount(Object, frozen=True):
    """What is taken off, and by which promotion code, if any; of one that was deleted only the id is sure."""

    promotion_code: Reference = None


class DiscountAmount(msgspec.Struct, frozen=True):
    """What one of them takes off an invoice."""

    amount: int
    discount: Reference = None


class Invoice(Object, frozen=True):
    """See docs.stripe.com/api/invoices."""

    amount_paid: int
    currency: str
    created: int
    lines: Lines
    total: int
    status: str | None = None
    starting_balance: int = 0
    status_transitions: Transitions = Transitions()
    customer: Reference = None
    billing_reason: str | None = None
    hosted_invoice_url: str | None = None
    parent: InvoiceParent | None = None
    payments: InvoicePayments | None = None
    metadata: dict[str, str] | None = None
    discounts: tuple[str | Discount, ...] = ()
    total_discount_amounts: list[DiscountAmount] | None = None


class SubscriptionItem(Object, frozen=True):
    """The price of a subscription and its period."""

    price: Object
    current_period_start: int
    current_period_end: int


class SubscriptionItems(msgspec.Struct, frozen=True):
    """Of which ours have one."""

    data: list[SubscriptionItem]


class Subscription(Object, frozen=True):
    """See docs.stripe.com/api/subscriptions. An end that is set for the period's may stand in `cancel_at` alone."""

    status: str
    customer: str | Object
    created: int
    items: SubscriptionItems
    metadata: dict[str, str] | None = None
    cancel_at_period_end: bool = False
    cancel_at: int | None = None
    trial_end: int | None = None
    application_fee_percent: Decimal | None = None
    default_payment_method: Reference = None


# ---- our words ---------------------------------------------------------------------------------


def invoice_of(raw: dict[str, Any]) -> str | None:
    """The invoice that a payment of an invoice is of."""
    return id_of(as_shape(raw, InvoicePayment).invoice)


def has_more_lines(raw: dict[str, Any]) -> bool:
    """Whether an invoice has lines that did not come with it."""
    return as_shape(raw, Invoice).lines.has_more


def has_more_payments(raw: dict[str, Any]) -> bool:
    """Likewise of its payments."""
    payments = as_shape(raw, Invoice).payments
    return payments is not None and payments.has_more


def invoice(
    raw: dict[str, Any], more: list[dict[str, Any]] | None = None, more_payments: list[dict[str, Any]] | None = None
) -> InvoiceFacts:
    """An invoice with its payments; `more`: all its lines, `more_payments`: all those, where not all came with it."""
    found = as_shape(raw, Invoice)
    about = found.parent.subscription_details if found.parent else None
    payments = found.payments.data if found.payments else []
    if more_payments is not None:
        payments = as_shape(more_payments, list[InvoicePayment])
    lines = found.lines.data if more is None else as_shape(more, list[Line])
    finalized_at = found.status_transitions.finalized_at
    return InvoiceFacts(
        invoice_id=found.id,
        status=found.status or "",
        reason=found.billing_reason or "",
        subscription_id=id_of(about.subscription) if about else None,
        payments=_parts(payments),
        amount_paid_minor=found.amount_paid,
        currency=found.currency.upper(),
        created_at_ms=found.created * _MS,
        lines=tuple(_line(line) for line in lines),
        total_minor=found.total,
        credit_minor=max(0, min(found.total, -found.starting_balance)),
        customer_id=id_of(found.customer),
        finalized_at_ms=None if finalized_at is None else finalized_at * _MS,
        hosted_url=found.hosted_invoice_url,
        metadata=read(about.metadata if about else found.metadata),
        discounts=_discounts(found),
    )


def _parts(payments: list[InvoicePayment]) -> tuple[InvoicePart, ...]:
    """Those that money came by. One that is canceled may still name the intent that was to pay what was paid out of band."""
    parts = [
        InvoicePart(payment_id, each.amount_paid, each.is_default)
        for each in payments
        if each.status == "paid" and each.payment.type == "payment_intent" and each.amount_paid
        if (payment_id := id_of(each.payment.payment_intent)) is not None
    ]
    return tuple(sorted(parts, key=lambda part: (not part.is_default, part.payment_id)))


def _discounts(found: Invoice) -> tuple[tuple[str, int], ...]:
    """What promotion codes took off, as far as the discounts came with the invoice."""
    by = {each.id: id_of(each.promotion_code) for each in found.discounts if isinstance(each, Discount)}
    amounts = [(by.get(id_of(each.discount) or ""), each.amount) for each in found.total_discount_amounts or []]
    return tuple((promotion_id, amount) for promotion_id, amount in amounts if promotion_id is not None and amount > 0)


def _line(line: Line) -> InvoiceLine:
    parent = line.parent
    details = (parent.subscription_item_details or parent.invoice_item_details) if parent else None
    price = line.pricing.price_details.price if line.pricing and line.pricing.price_details else None
    return InvoiceLine(
        line_id=line.id,
        price_id=id_of(price),
        amount_minor=line.amount,
        period_start_ms=line.period.start * _MS,
        period_end_ms=line.period.end * _MS,
        is_proration=details is not None and details.proration,
    )


def subscription(raw: dict[str, Any]) -> SubscriptionFacts:
    """A subscription of one price."""
    found = as_shape(raw, Subscription)
    item = found.items.data[0]
    customer_id = id_of(found.customer)
    assert customer_id is not None
    return SubscriptionFacts(
        subscription_id=found.id,
        status=found.status,
        price_id=item.price.id,
        customer_id=customer_id,
        period_start_ms=item.current_period_start * _MS,
        period_end_ms=item.current_period_end * _MS,
        cancel_at_period_end=found.cancel_at_period_end or found.cancel_at is not None,
        created_at_ms=found.created * _MS,
        trial_end_ms=None if found.trial_end is None else found.trial_end * _MS,
        metadata=read(found.metadata),
        fee_bp=int(100 * (found.application_fee_percent or 0)),
        method_id=id_of(found.default_payment_method),
    )


def item_of(raw: dict[str, Any]) -> str:
    """The id of a subscription's one item."""
    return as_shape(raw, Subscription).items.data[0].id
