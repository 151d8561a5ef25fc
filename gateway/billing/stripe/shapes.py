"""Stripe's objects, as far as this room reads them, and what becomes of each in our words. It does not know the SDK.

Fields are those of the API version that `client` pins. What is not named here is passed over; what is named and
missing or of another type is PaymentsRefused `unexpected_answer`.
"""

from typing import Any, Final, TypeVar

import msgspec

from gateway.billing.ports import (
    AccountFacts,
    CheckoutFacts,
    DisputeFacts,
    Metadata,
    PaymentFacts,
    PaymentsRefused,
    RefundFacts,
)

_APP: Final = "mozaiks_app"
_OWNER: Final = "mozaiks_owner"
_PLAN: Final = "mozaiks_plan"
_PURCHASE: Final = "mozaiks_purchase"
_BILL: Final = "mozaiks_bill"
_REFUND: Final = "mozaiks_refund"
_ASKED: Final = "mozaiks_asked"
_MS: Final = 1000

T = TypeVar("T")


class Object(msgspec.Struct, frozen=True):
    """Anything that has an id and may be there as its id alone."""

    id: str


Reference = str | Object | None


class FeeDetail(msgspec.Struct, frozen=True):
    """A part of what was kept from an amount: `stripe_fee`, `application_fee`, `tax`, ..."""

    type: str
    amount: int


class BalanceTransaction(Object, frozen=True):
    """A movement of an account's balance."""

    amount: int
    currency: str = ""
    created: int = 0
    fee_details: list[FeeDetail] = []


class Charge(Object, frozen=True):
    """An attempt to take money that a payment intent stands for."""

    amount_refunded: int = 0
    disputed: bool = False
    application_fee: Reference = None
    balance_transaction: BalanceTransaction | str | None = None


class FeeRefund(Object, frozen=True):
    """A part of the platform's share that went back."""

    amount: int
    metadata: dict[str, str] | None = None


class PaymentError(msgspec.Struct, frozen=True):
    """Why the last attempt failed."""

    code: str | None = None
    decline_code: str | None = None


class PaymentIntent(Object, frozen=True):
    """See docs.stripe.com/api/payment_intents."""

    status: str
    amount_received: int
    currency: str
    created: int
    metadata: dict[str, str] = {}
    application_fee_amount: int | None = None
    latest_charge: Charge | str | None = None
    customer: Reference = None
    payment_method: Reference = None
    last_payment_error: PaymentError | None = None


class CheckoutSession(Object, frozen=True):
    """See docs.stripe.com/api/checkout/sessions."""

    payment_status: str
    amount_total: int | None = None
    status: str | None = None
    url: str | None = None
    payment_intent: Reference = None
    subscription: Reference = None
    customer: Reference = None
    metadata: dict[str, str] | None = None


class Refund(Object, frozen=True):
    """See docs.stripe.com/api/refunds."""

    amount: int
    currency: str
    status: str | None = None
    payment_intent: Reference = None
    balance_transaction: BalanceTransaction | str | None = None
    metadata: dict[str, str] | None = None


class Dispute(Object, frozen=True):
    """See docs.stripe.com/api/disputes."""

    amount: int
    currency: str
    status: str
    payment_intent: Reference = None
    balance_transactions: list[BalanceTransaction] = []


class InvoiceSettings(msgspec.Struct, frozen=True):
    """What a customer's invoices are paid with."""

    default_payment_method: Reference = None


class Customer(Object, frozen=True):
    """See docs.stripe.com/api/customers; one that was deleted has no settings."""

    invoice_settings: InvoiceSettings | None = None


class Capability(msgspec.Struct, frozen=True):
    """Whether an account can do something."""

    status: str


class Capabilities(msgspec.Struct, frozen=True):
    """Likewise."""

    card_payments: Capability | None = None


class Merchant(msgspec.Struct, frozen=True):
    """What makes an account one that sells."""

    capabilities: Capabilities | None = None


class Configuration(msgspec.Struct, frozen=True):
    """Likewise."""

    merchant: Merchant | None = None


class Requirement(msgspec.Struct, frozen=True):
    """Something that is still wanted, from the `user` or from `stripe`."""

    description: str
    awaiting_action_from: str


class Requirements(msgspec.Struct, frozen=True):
    """All of it."""

    entries: list[Requirement] | None = None


class Identity(msgspec.Struct, frozen=True):
    """Whose an account is."""

    country: str | None = None


class Account(Object, frozen=True):
    """See docs.stripe.com/api/v2/core/accounts; `configuration`, `identity` and `requirements` only where they were asked for."""

    contact_email: str | None = None
    configuration: Configuration | None = None
    identity: Identity | None = None
    requirements: Requirements | None = None


# ---- our words ---------------------------------------------------------------------------------


def written(metadata: Metadata) -> dict[str, str]:
    """What stands on Stripe's objects."""
    fields = {
        _APP: metadata.enterprise_id or "",
        _OWNER: metadata.owner,
        _PLAN: metadata.plan_id,
        _PURCHASE: metadata.purchase_id,
        _BILL: metadata.bill_id,
    }
    return {name: value for name, value in fields.items() if value}


def read(metadata: dict[str, str] | None) -> Metadata | None:
    """The same, found again; None on what is not ours."""
    if not metadata or _OWNER not in metadata:
        return None
    return Metadata(
        enterprise_id=metadata.get(_APP),
        owner=metadata[_OWNER],
        plan_id=metadata.get(_PLAN, ""),
        purchase_id=metadata.get(_PURCHASE, ""),
        bill_id=metadata.get(_BILL, ""),
    )


def id_of(reference: Reference) -> str | None:
    """The id of what is there whole, or as its id."""
    return reference.id if isinstance(reference, Object) else reference


def account(raw: dict[str, Any]) -> AccountFacts:
    """An account of API v2."""
    found = as_shape(raw, Account)
    merchant = found.configuration.merchant if found.configuration else None
    cards = merchant.capabilities.card_payments if merchant and merchant.capabilities else None
    entries = (found.requirements.entries if found.requirements else None) or []
    wanted = tuple(dict.fromkeys(entry.description for entry in entries if entry.awaiting_action_from == "user"))
    country = (found.identity.country if found.identity else None) or ""
    can_charge = cards is not None and cards.status == "active"
    return AccountFacts(found.id, can_charge, wanted, found.contact_email or "", country.upper())


def checkout(raw: dict[str, Any]) -> CheckoutFacts:
    """A checkout session."""
    found = as_shape(raw, CheckoutSession)
    return CheckoutFacts(
        session_id=found.id,
        url=found.url,
        status=found.status or "",
        payment_status=found.payment_status,
        payment_id=id_of(found.payment_intent),
        subscription_id=id_of(found.subscription),
        customer_id=id_of(found.customer),
        metadata=read(found.metadata),
        amount_minor=found.amount_total,
    )


def payment(raw: dict[str, Any], invoice_id: str | None = None) -> PaymentFacts:
    """A payment intent, with its charge and the charge's balance transaction where they were expanded."""
    found = as_shape(raw, PaymentIntent)
    charge = found.latest_charge if isinstance(found.latest_charge, Charge) else None
    moved = charge.balance_transaction if charge else None
    error = found.last_payment_error
    fee_minor = found.application_fee_amount or 0
    if found.status == "succeeded":
        fee_minor = min(fee_minor, found.amount_received)  # what is taken of what was asked for
    return PaymentFacts(
        payment_id=found.id,
        status=found.status,
        amount_minor=found.amount_received,
        currency=found.currency.upper(),
        created_at_ms=found.created * _MS,
        fee_minor=fee_minor,
        fee_id=id_of(charge.application_fee) if charge else None,
        stripe_fee_minor=_kept(moved, "stripe_fee") if isinstance(moved, BalanceTransaction) and _same(moved, found) else None,
        refunded_minor=charge.amount_refunded if charge else 0,
        invoice_id=invoice_id,
        customer_id=id_of(found.customer),
        method_id=id_of(found.payment_method),
        failure=(error.decline_code or error.code or "failed") if error else "",
        metadata=read(found.metadata),
        is_disputed=charge.disputed if charge else False,
    )


def chosen_method(raw: dict[str, Any]) -> str | None:
    """The payment method that a customer has chosen for invoices."""
    settings = as_shape(raw, Customer).invoice_settings
    return id_of(settings.default_payment_method) if settings else None


def refund(raw: dict[str, Any]) -> RefundFacts:
    """A refund, with its balance transaction, from which is read what of the platform's share came back."""
    found = as_shape(raw, Refund)
    moved = found.balance_transaction
    returned = -_kept(moved, "application_fee") if isinstance(moved, BalanceTransaction) else 0
    return RefundFacts(
        refund_id=found.id,
        payment_id=id_of(found.payment_intent) or "",
        amount_minor=found.amount,
        currency=found.currency.upper(),
        status=found.status or "",
        fee_returned_minor=returned,
        asked=(found.metadata or {}).get(_ASKED, ""),
    )


def asked_as(asked: str) -> dict[str, str]:
    """What stands on a refund of ours."""
    return {_ASKED: asked}


def fee_refund(raw: dict[str, Any], refund_id: str) -> tuple[int, bool]:
    """What of the platform's share went back, and whether that was given back by us for this refund."""
    found = as_shape(raw, FeeRefund)
    return found.amount, (found.metadata or {}).get(_REFUND) == refund_id


def of_refund(refund_id: str) -> dict[str, str]:
    """What stands on it."""
    return {_REFUND: refund_id}


def dispute(raw: dict[str, Any]) -> DisputeFacts:
    """A dispute; what was withdrawn and given back again counts as nothing."""
    found = as_shape(raw, Dispute)
    oldest_first = sorted(found.balance_transactions, key=lambda moved: (moved.created, moved.id))
    return DisputeFacts(
        dispute_id=found.id,
        payment_id=id_of(found.payment_intent) or "",
        amount_minor=found.amount,
        currency=found.currency.upper(),
        status=found.status,
        withdrawn_minor=max(0, -sum(moved.amount for moved in found.balance_transactions)),
        fees=tuple((moved.id, kept) for moved in oldest_first if _same(moved, found) and (kept := _kept(moved, "stripe_fee"))),
    )


def _same(moved: BalanceTransaction, of: PaymentIntent | Dispute) -> bool:
    """Whether it was settled in its own currency: what was kept of it is not ours to convert."""
    return moved.currency.upper() in ("", of.currency.upper())


def _kept(moved: BalanceTransaction, kind: str) -> int:
    return sum(detail.amount for detail in moved.fee_details if detail.type == kind)


def as_shape(raw: Any, kind: type[T]) -> T:
    """What Stripe answered, as one of these. PaymentsRefused `unexpected_answer`."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as odd:
        raise PaymentsRefused(f"Stripe's answer is not as expected: {odd}", "unexpected_answer") from odd
