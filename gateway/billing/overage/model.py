"""Values of overage. Units as in `billing.model`."""

from enum import StrEnum
from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.ledger.model import WalletKey

# Why an agreement is off that its seller alone turns on again: a bill that nobody paid, a payment that is disputed. The buyer
# would otherwise use as much again, and pay as little.
UNPAID: Final = "unpaid"
DISPUTED: Final = "payment_disputed"
HELD: Final = (UNPAID, DISPUTED)
_BILL: Final = "bill"


class Idle(StrEnum):
    """Why who has agreed can use nothing now."""

    NO_SUBSCRIPTION = "no_subscription"
    PLAN_WITHOUT_OVERAGE = "plan_without_overage"
    NOT_PAID_FOR = "not_paid_for"  # the period: a trial, a gift, past due, or paid back
    IN_DEBT = "in_debt"  # the wallet
    LIMIT_REACHED = "limit_reached"  # what was used and is not paid takes all of it


class LineState(StrEnum):
    """Of what was lent once. It only goes forward."""

    OPEN = "open"  # it can be used
    ENDING = "ending"  # its time has passed; requests in flight may still use it
    ENDED = "ended"  # what was used of it is known, and unpaid
    DONE = "done"  # nothing was used, or that is paid or given up


class BillState(StrEnum):
    """Of a bill. It only goes forward, but for one that was lost and is paid after all."""

    OPEN = "open"
    PAID = "paid"
    GIVEN = "given"  # its seller took it back, or a gift of the seller's paid it
    LOST = "lost"  # nobody pays it


class Agreement(msgspec.Struct, frozen=True):
    """What a buyer is ready to use beyond allowances and pay later, at most: in the wallet's asset.

    `reason` is why it is off, in our word, where the buyer did not turn it off.
    """

    wallet: WalletKey
    limit_micro: int
    is_enabled: bool
    reason: str
    updated_at_ms: int


class Line(msgspec.Struct, frozen=True):
    """What was lent once: a lot of the books that burns after all others, until `ends_at_ms` at the latest.

    `number` counts a wallet's lines from 1. `period_end_ms`: of the period that it was lent in. `used_micro` is known once the
    line has ended; `due_at_ms` is when it is looked at then, to be billed.
    """

    id: str
    wallet: WalletKey
    number: int
    subscription_id: str
    account_id: str
    plan_id: str
    state: str
    lent_micro: int
    period_end_ms: int
    ends_at_ms: int
    created_at_ms: int
    lot_id: str | None = None  # None: the books may not have it yet
    used_micro: int | None = None
    bill_id: str | None = None
    due_at_ms: int = 0

    @property
    def op_id(self) -> str:
        """Of the grant that lends it."""
        return f"overage:{self.id}"

    @property
    def is_lent(self) -> bool:
        """Whether it can still be used, or requests in flight may use it."""
        return self.state in (LineState.OPEN, LineState.ENDING)

    @property
    def owed_micro(self) -> int:
        """What of it may be unpaid: all of it until it is known what was used."""
        if self.state == LineState.DONE:
            return 0
        return self.lent_micro if self.used_micro is None else self.used_micro


class OverageBill(msgspec.Struct, frozen=True):
    """What lines of one subscription come to: one invoice of its own at Stripe.

    `due_at_ms` is when it is looked at next, `reason` why it has not gone out, in Stripe's word.
    """

    id: str
    wallet: WalletKey
    subscription_id: str
    account_id: str
    state: str
    currency: str
    used_micro: int
    amount_minor: int
    fee_minor: int
    due_at_ms: int
    attempts: int
    reason: str
    created_at_ms: int
    invoice_id: str | None = None
    payment_id: str | None = None
    ended_at_ms: int | None = None

    @property
    def op_id(self) -> str:
        """Of the grant that its first payment is; with its id behind, of each further one; with a word, of its being given up."""
        return f"{_BILL}:{self.id}"


def asked_minor(cost_micro: int, currency: str) -> int:
    """What a bill of lines that cost so much together asks for, in minor units: rounded down, once, to what can be charged."""
    return min(minor_units.floor_from_micro(cost_micro, currency), minor_units.bounds(currency)[1])


def bill_of(op_id: str) -> str | None:
    """The id of the bill that an operation is of; None: it is of none."""
    kind, _, rest = op_id.partition(":")
    return rest.partition(":")[0] if kind == _BILL else None
