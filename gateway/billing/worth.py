"""What a paid invoice of a subscription is worth, in the wallet's asset, and which of its payments bought what of that. Pure.

What covers an invoice is money that came through Stripe (its payment intents), or a gift of the seller's: a coupon, credit, and
what the seller says was paid out of band, as by bank transfer. Of that nobody here sees any money, Stripe takes no share of it
for the platform, and any seller can say it of any invoice. So it is a gift like the others: booked as given, as promo where
nothing else was paid; and nothing where the platform pays for what is granted. So it is on the platform's own account too: the
books have as sold what Stripe took, and no other money.
"""

from collections.abc import Sequence

import msgspec

from gateway.billing.model import Plan
from gateway.billing.ports import InvoiceFacts, InvoiceLine, PaymentFacts
from gateway.billing.redeeming import given_with
from gateway.core.words import LotSource


class Taken(msgspec.Struct, frozen=True):
    """A payment intent of an invoice, and what of the invoice it really paid: never more than it took."""

    payment: PaymentFacts
    minor: int


class Part(msgspec.Struct, frozen=True):
    """What one payment of an invoice grants, `given_micro` of it as a gift. Without `payment`: all that a gift alone grants."""

    payment: PaymentFacts | None
    amount_micro: int
    given_micro: int


def paid_worth(facts: InvoiceFacts, lines: list[tuple[InvoiceLine, Plan]], taken: Sequence[Taken]) -> int:
    """What it grants where the platform pays for that: by money alone that Stripe took, of the price before any discount.

    On its own account a creator can give anybody a coupon, credit or a trial, or call an invoice paid, of what would be
    somebody else's.
    """
    listed_minor = sum(line.amount_minor for line, _ in lines)
    if listed_minor <= 0:
        return 0
    paid_minor = min(sum(each.minor for each in taken), listed_minor)
    by_money = msgspec.structs.replace(facts, total_minor=listed_minor, credit_minor=0, amount_paid_minor=paid_minor)
    return worth(by_money, lines, 0)


def worth(facts: InvoiceFacts, lines: list[tuple[InvoiceLine, Plan]], left_over_minor: int) -> int:
    """What a paid invoice grants, in the wallet's asset: 0 where nothing, or less than nothing, is left of it.

    Whole periods grant what their plan does; a part of one in proportion to its plan's price, what was given up taken off, and
    only where money is due for it all. Of that goes as much as money paid, or a gift of the seller's: not `left_over_minor`,
    which paid by what was granted before, nor what Stripe put off, being too little to charge.
    """
    total = 0
    for line, plan in lines:
        part = plan.grant_micro
        if line.is_proration:
            part = plan.grant_micro * abs(line.amount_minor) // plan.price_minor
        total += part if line.amount_minor >= 0 or not line.is_proration else -part
    if facts.total_minor > 0:
        covered = min(facts.total_minor, facts.amount_paid_minor + facts.credit_minor - left_over_minor)
        return max(total * covered // facts.total_minor, 0)
    return 0 if any(line.is_proration for line, _ in lines) else max(total, 0)


def source_of(whole: list[tuple[InvoiceLine, Plan]], taken: Sequence[Taken]) -> LotSource:
    """As what it is granted; `whole` are its lines of whole periods."""
    if taken:
        return LotSource.PAID
    return LotSource.TRIAL if whole and not any(line.amount_minor for line, _ in whole) else LotSource.PROMO


def parts_of(facts: InvoiceFacts, granted_micro: int, taken: Sequence[Taken], *, by_money: bool) -> list[Part]:
    """A grant, by the payments that paid it, each with what it took of them all; `by_money`: nothing of it is given.

    Each payment has one micro-unit at least, and one that is not given: what money paid is in the books, with its share.
    """
    if not taken:
        return [Part(None, granted_micro, granted_micro)]
    given_micro = 0 if by_money else given_with(facts, granted_micro) + _out_of_band(facts, granted_micro)
    whole_minor, so_far, parts = sum(each.minor for each in taken), 0, []
    for each in taken:
        before, so_far = so_far, so_far + each.minor
        amount, given = [
            micro * so_far // whole_minor - micro * before // whole_minor for micro in (granted_micro, given_micro)
        ]
        amount = max(amount, 1)
        parts.append(Part(each.payment, amount, min(given, amount - 1)))
    return parts


def given_by_codes(facts: InvoiceFacts, granted_micro: int, taken: Sequence[Taken], *, by_money: bool) -> int:
    """What of a grant the discounts gave: all of it where nothing was left to pay."""
    if by_money:
        return 0
    return given_with(facts, granted_micro) if taken or facts.out_of_band_minor else granted_micro


def _out_of_band(facts: InvoiceFacts, granted_micro: int) -> int:
    """What of a grant was paid out of band: in proportion, as what its discounts gave."""
    price_minor = facts.total_minor + sum(amount for _, amount in facts.discounts)
    return granted_micro * min(facts.out_of_band_minor, price_minor) // price_minor if price_minor > 0 else 0
