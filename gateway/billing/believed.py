"""What is believed of an object at Stripe: only what agrees with what was offered here.

A creator writes on its own account whatever it likes, our metadata too, so a payment or an invoice that carries it may be one
that the creator made by itself. Money is granted for what was asked for at our page, at the price and with the platform's
share that were asked for there, and for nothing else.
"""

from collections.abc import Sequence
from typing import Final

from gateway.billing.model import Plan, Purchase
from gateway.billing.ports import InvoiceFacts, InvoiceLine, PaymentFacts
from gateway.billing.sellers import Rejected

_DAY_MS: Final = 86_400_000
_BP: Final = 10_000


def check_payment(purchase: Purchase, facts: PaymentFacts) -> None:
    """A payment is the one that its purchase asked for. Rejected."""
    asked, paid = (purchase.amount_minor, purchase.currency), (facts.amount_minor, facts.currency)
    if paid != asked:
        raise Rejected(f"it paid {_words(*paid)}, and purchase {purchase.id} is of {_words(*asked)}")
    if facts.fee_minor != purchase.fee_minor:
        shares = f"{_words(facts.fee_minor, facts.currency)}, and purchase {purchase.id} has {purchase.fee_minor}"
        raise Rejected(f"the platform's share of it is {shares}")


def check_lines(lines: list[tuple[InvoiceLine, Plan]]) -> None:
    """Whole periods are one of each plan, at its price, or its trial. Rejected."""
    for line, plan in lines:
        if line.is_proration or line.amount_minor == plan.price_minor:
            continue
        days = -(-(line.period_end_ms - line.period_start_ms) // _DAY_MS)
        if line.amount_minor:
            asked = f"and plan {plan.id} costs {_words(plan.price_minor, plan.currency)}"
            raise Rejected(f"a line of it is {_words(line.amount_minor, plan.currency)}, {asked}")
        if days > plan.trial_days + 1:  # Stripe ends a trial by the second, or moves it to the hour of the billing cycle
            raise Rejected(f"it is a trial of {days} days, and plan {plan.id} has one of {plan.trial_days}")


def check_share(facts: InvoiceFacts, payments: Sequence[PaymentFacts], least_bp: int) -> None:
    """The platform's share of the payments of an invoice is not less than the terms of its time say. Rejected."""
    paid_minor, fee_minor = sum(part.amount_minor for part in facts.payments), sum(each.fee_minor for each in payments)
    least = paid_minor * least_bp // _BP - len(payments)  # Stripe rounds as it likes
    if fee_minor < least:
        shares = f"{_words(fee_minor, facts.currency)} of {paid_minor}"
        raise Rejected(f"the platform's share of it is {shares}, and the terms say {least_bp / 100:g} %")


def check_attached(facts: InvoiceFacts, payments: Sequence[PaymentFacts]) -> None:
    """No payment that was made by itself and attached to an invoice was given back, or disputed, before it was granted. Rejected.

    Its refund or dispute was told while it was nobody's: what it would buy would be had for nothing.
    """
    default = {part.payment_id for part in facts.payments if part.is_default}
    for payment in payments:
        if payment.payment_id in default:
            continue
        if payment.refunded_minor:
            refunded = _words(payment.refunded_minor, payment.currency)
            raise Rejected(f"of its payment {payment.payment_id} {refunded} had been given back")
        if payment.is_disputed:
            raise Rejected(f"its payment {payment.payment_id} had been disputed")


def _words(amount_minor: int, currency: str) -> str:
    return f"{amount_minor} {currency}" if amount_minor else f"no {currency}"
