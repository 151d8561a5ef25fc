"""A creator's statement of a month: Stripe's movements of its account's balance, each explained by an app's book or not. Pure.

A movement of a sale made here is a line where the app's book has the very same fact: the payment with its amount and the
platform's share, the refund with its amount, the dispute. Stripe's own fee is taken from the movement, as are payouts and
whatever the account does besides (`other`: sales of the creator's that were not made here). What was sold here and is not in
a book, or is there as another amount, is no line: it is the difference between what the lines come to and what the balance
did, and is listed by Stripe's id.

Amounts are minor units of the currency of the balance; Stripe converts what was paid in another before it is there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from gateway.billing.minor_units import micro_from_minor
from gateway.billing.revenue.reports import Movement
from gateway.billing.revenue.store import Booked, Month
from gateway.core.money import decimal_from_micro


class LineKind(StrEnum):
    """What a line of a statement is of. Those of `OF_THE_ACCOUNT` are of no sale of an app."""

    PAYMENT = "payment"
    PROCESSING_FEE = "processing_fee"  # Stripe's, with tax on it
    PLATFORM_SHARE = "platform_share"
    SHARE_RETURNED = "platform_share_returned"
    REFUND = "refund"
    REFUND_PENDING = "refund_pending"  # taken from the balance, and not yet with the buyer: it may fail
    REFUND_FAILURE = "refund_failure"
    DISPUTE = "dispute"
    DISPUTE_REVERSAL = "dispute_reversal"
    DISPUTE_FEE = "dispute_fee"
    PAYOUT = "payout"  # and what came back of one
    STRIPE_FEE = "stripe_fee"  # of the account itself
    OTHER = "other"


OF_THE_ACCOUNT: Final = (LineKind.PAYOUT, LineKind.STRIPE_FEE, LineKind.OTHER)
CHARGES: Final = ("charge", "payment")
_REFUNDS: Final = ("refund", "payment_refund")
_STRIPES_OWN: Final = ("stripe_fee", "stripe_fx_fee", "tax_fee")
_SUCCEEDED: Final = "succeeded"
_FAILED: Final = ("failed", "canceled")


class Line(msgspec.Struct, frozen=True):
    """One line. `movement_id` is Stripe's balance transaction, `source_id` what it is of; the app is None outside of sales."""

    at_ms: int
    kind: LineKind
    amount_minor: int
    movement_id: str
    source_id: str
    payment_id: str | None = None
    enterprise_id: str | None = None


class Unexplained(msgspec.Struct, frozen=True):
    """A movement of something that was sold here, and that the books do not have as Stripe does."""

    at_ms: int
    type: str
    amount_minor: int  # what it did to the balance
    movement_id: str
    source_id: str
    payment_id: str | None
    reason: str


class Total(msgspec.Struct, frozen=True):
    """Lines of one kind and app, added up."""

    enterprise_id: str | None
    kind: LineKind
    count: int
    amount_minor: int


class Section(msgspec.Struct, frozen=True):
    """The part of a statement that is in one currency. `net_minor`: what the apps' sales came to, all fees taken off.

    `totals` are of all lines; the lines themselves are there where they were asked for, and of what is unexplained the first.
    """

    currency: str
    opening_minor: int
    closing_minor: int
    lines: tuple[Line, ...]
    totals: tuple[Total, ...]
    unexplained: tuple[Unexplained, ...]

    @property
    def net_minor(self) -> int:
        """What the apps' sales came to."""
        return sum(each.amount_minor for each in self.totals if each.kind not in OF_THE_ACCOUNT)

    @property
    def difference_minor(self) -> int:
        """What the balance did beyond the lines: 0 where the books explain all that was sold here."""
        return self.closing_minor - self.opening_minor - sum(each.amount_minor for each in self.totals)


class Statement(msgspec.Struct, frozen=True):
    """A creator's account in a month, until its end, or now while it is not over: `closing` is the balance of then."""

    user_id: str
    account_id: str
    month: Month
    until_ms: int
    sections: tuple[Section, ...]
    app_names: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether the month is."""
        return self.until_ms == self.month.until_ms


class Known(msgspec.Struct, frozen=True):
    """What the books have: payments by Stripe's id, and by app and operation what it moved, in micro-units.

    `ours` are payments that were made here, whether or not a book has them.
    """

    payments: Mapping[str, Booked]
    moved: Mapping[str, Mapping[str, int]]
    ours: frozenset[str]


def ops_of(moved: Movement) -> list[str]:
    """The operations under which a movement would be in a book, beside its payment."""
    source = moved.source
    if source.kind == "refund":
        return [f"refund:{source.source_id}", f"refund:{source.source_id}:failed"]
    if source.kind == "dispute":
        return [f"dispute:{source.source_id}:{state}" for state in ("opened", "closed")]
    return []


def section(currency: str, opening_minor: int, closing_minor: int, movements: Sequence[Movement], known: Known) -> Section:
    """The lines of a currency, oldest first."""
    lines: list[Line] = []
    unexplained: list[Unexplained] = []
    for moved in sorted(movements, key=lambda each: (each.created_at_ms, each.movement_id)):
        found = _lines(moved, known)
        if isinstance(found, str):
            at = moved.source
            unexplained.append(
                Unexplained(
                    *(moved.created_at_ms, moved.type, moved.net_minor, moved.movement_id, at.source_id, at.payment_id, found)
                )
            )
        else:
            assert sum(line.amount_minor for line in found) == moved.net_minor
            lines += found
    return Section(currency, opening_minor, closing_minor, tuple(lines), _totals(lines), tuple(unexplained))


def _totals(lines: Sequence[Line]) -> tuple[Total, ...]:
    return added(Total(line.enterprise_id, line.kind, 1, line.amount_minor) for line in lines)


def added(totals: Iterable[Total]) -> tuple[Total, ...]:
    """Totals of parts of a statement, together."""
    sums: dict[tuple[str, LineKind], tuple[int, int]] = {}
    for each in totals:
        key = (each.enterprise_id or "", each.kind)
        count, amount = sums.get(key, (0, 0))
        sums[key] = (count + each.count, amount + each.amount_minor)
    order = list(LineKind)
    # Sales first, app by app; what is of the account alone at the end.
    keys = sorted(sums, key=lambda key: (key[1] in OF_THE_ACCOUNT, key[0], order.index(key[1])))
    return tuple(Total(key[0] or None, key[1], *sums[key]) for key in keys)


def _lines(moved: Movement, known: Known) -> list[Line] | str:
    """The lines of a movement that are not 0; or why it is unexplained."""
    source, booked = moved.source, known.payments.get(moved.source.payment_id or "")

    def line(kind: LineKind, amount_minor: int) -> Line:
        app = None if kind in OF_THE_ACCOUNT or booked is None else booked.enterprise_id
        at = (moved.created_at_ms, kind, amount_minor, moved.movement_id)
        return Line(*at, source_id=source.source_id, payment_id=source.payment_id, enterprise_id=app)

    if booked is None:
        if source.payment_id in known.ours:
            return "no book has its payment"
        made = [line(_of_the_account(moved), moved.net_minor)]
    elif moved.type in CHARGES and source.kind == "charge":
        if (booked.paid_micro, booked.currency) != (_micro(source.amount_minor, source.currency), source.currency):
            return f"the book has {decimal_from_micro(booked.paid_micro)} {booked.currency} paid"
        if booked.share_micro != _micro(source.share_minor, source.currency):
            return f"the book has {decimal_from_micro(booked.share_micro)} {booked.currency} for the platform"
        made = [line(LineKind.PAYMENT, moved.amount_minor), *_fees(moved, line, LineKind.PROCESSING_FEE)]
    elif source.kind == "refund":
        ops = known.moved.get(booked.enterprise_id, {})
        wrong = _wrong_refund(moved, ops)
        if wrong:
            return wrong
        made = [line(_refund_kind(moved), moved.amount_minor), *_fees(moved, line, LineKind.PROCESSING_FEE)]
    elif source.kind == "dispute":
        if not any(op_id in known.moved.get(booked.enterprise_id, {}) for op_id in ops_of(moved)):
            return "the book does not have the dispute"
        kind = LineKind.DISPUTE if moved.amount_minor < 0 else LineKind.DISPUTE_REVERSAL
        made = [line(kind, moved.amount_minor), *_fees(moved, line, LineKind.DISPUTE_FEE)]
    elif moved.type in _STRIPES_OWN:
        made = [line(LineKind.STRIPE_FEE, moved.net_minor)]
    elif moved.category == "fee" and moved.net_minor > 0:  # the platform returned a part of its share by itself
        made = [line(LineKind.SHARE_RETURNED, moved.net_minor)]
    else:  # as a debit that its bank took back after it had succeeded
        return f"the book has no {moved.category} of that payment"
    return [each for each in made if each.amount_minor]


def _fees(moved: Movement, line: Callable[[LineKind, int], Line], kept: LineKind) -> list[Line]:
    """What was kept of an amount: by Stripe (`kept`), and the platform's share."""
    share = LineKind.PLATFORM_SHARE if moved.share_minor > 0 else LineKind.SHARE_RETURNED
    return [line(kept, moved.share_minor - moved.fee_minor), line(share, -moved.share_minor)]


def _wrong_refund(moved: Movement, ops: Mapping[str, int]) -> str:
    """Why the book does not bear a refund out; "" where it does.

    A book has a refund once it has succeeded, and its failure if it had it by then.
    """
    source = moved.source
    refunded, failed = [ops.get(op_id) for op_id in ops_of(moved)]
    if refunded is not None and refunded != _micro(source.amount_minor, source.currency):
        return f"the book has {decimal_from_micro(refunded)} {source.currency} refunded"
    if source.status == _SUCCEEDED and refunded is None:
        return "the book does not have the refund"
    if source.status in _FAILED and refunded is not None and failed is None:
        return "the book does not have the refund's failure"
    return ""


def _refund_kind(moved: Movement) -> LineKind:
    if moved.type not in _REFUNDS:
        return LineKind.REFUND_FAILURE
    return LineKind.REFUND if moved.source.status in (_SUCCEEDED, *_FAILED) else LineKind.REFUND_PENDING


def _of_the_account(moved: Movement) -> LineKind:
    if moved.type.startswith("payout"):
        return LineKind.PAYOUT
    return LineKind.STRIPE_FEE if moved.type in _STRIPES_OWN else LineKind.OTHER


def _micro(amount_minor: int, currency: str) -> int:
    return micro_from_minor(amount_minor, currency)
