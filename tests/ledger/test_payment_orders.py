"""Every order in which a payment can be paid, spent, refunded, disputed, won, lost and reinstated, to six steps.

Each order has an end user of its own in one app's book, and a model of it, with which the book is compared after its last step;
then all of the books are audited. Half of the orders buy tokens with another money.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import pytest

from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.ledger.audit import audit
from gateway.ledger.model import DisputeRequest, Paid, Posted, RefundRequest, WalletKey
from gateway.ledger.service import Ledger
from tests.ledger.conftest import APPS
from tests.ledger.values import grant_request, posting

STEPS: Final = 6
PAID: Final = 1000
SPENT, REFUNDED = 300, 400  # so that a second refund reaches what was spent, and a third one is too much
APP: Final = "shop"


class Model(msgspec.Struct, frozen=True):
    """A payment of 1000 for 1000, and its dispute: "", open, won, lost, reinstated."""

    left: int = PAID
    debt: int = 0
    frozen: int = 0
    spent: int = 0
    gone: int = 0
    excess: int = 0
    dispute: str = ""
    before: "Model | None" = None  # the loss

    def taken(self, amount: int) -> "Model":
        """An amount goes back to the payer: of what is left, the rest is a debt."""
        part = min(amount, self.left)
        return msgspec.structs.replace(self, left=self.left - part, debt=self.debt + amount - part, gone=self.gone + amount)

    def after(self, step: str) -> "Model | None":
        """None where it cannot happen."""
        change = msgspec.structs.replace
        if step == "spend":
            return None if self.left - self.debt < SPENT else change(self, left=self.left - SPENT, spent=self.spent + SPENT)
        if step == "refund":
            may = self.dispute in ("", "won", "reinstated") and self.gone + REFUNDED <= PAID
            return self.taken(REFUNDED) if may else None
        if step == "open":
            may = self.dispute == ""
            return change(self, left=0, frozen=self.left, dispute="open") if may else None
        if step in ("won", "lost"):
            if self.dispute != "open":
                return None
            thawed = change(self, left=self.left + self.frozen, frozen=0, dispute=step)
            return thawed if step == "won" else change(thawed.taken(PAID - self.gone), excess=self.gone, before=thawed)
        if self.dispute != "lost" or self.before is None:
            return None
        return change(self.before, dispute="reinstated")


def orders(model: Model, so_far: tuple[str, ...] = ("pay",)) -> Iterator[tuple[tuple[str, ...], Model]]:
    """Those that end, or are STEPS long."""
    nexts = [(step, model.after(step)) for step in ("spend", "refund", "open", "won", "lost", "reinstate")]
    possible = [(step, then) for step, then in nexts if then is not None]
    if len(so_far) == STEPS or not possible:
        yield so_far, model
        return
    for step, then in possible:
        yield from orders(then, (*so_far, step))


class Played:
    """One order, in the books."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self.ledger, self.number, self.owed = ledger, number, 0
        self.wallet = WalletKey(f"u{number}", APP)
        self.other = number % 2 == 1

    async def step(self, name: str, place: int) -> None:
        payments, ref, op_id = self.ledger.payments, f"pi_{self.number}", f"{self.number}_{place}"
        unit = 7 if self.other else 1  # euros a dollar's worth
        dispute = DisputeRequest(self.wallet, ref, f"dp_{self.number}", PAID * unit, "tester")
        if name == "pay":
            paid = Paid("EUR", PAID * unit) if self.other else None
            request = grant_request(f"g_{op_id}", PAID, self.wallet, source=LotSource.PAID, external_ref=ref, paid=paid)
            credit = (await self.ledger.grant(request)).credit
            assert credit is not None
            self.owed += credit.delta_micro
        elif name == "spend":
            row = posting(f"req_{op_id}", end_user=self.wallet.owner, amount_micro=SPENT, held_micro=SPENT, creator_held_micro=0)
            await self.ledger.post_app_usage(APP, [row])
            await self.ledger.post_platform_usage([row])
            self.owed -= SPENT
        elif name == "refund":
            self.hear(await payments.refund(RefundRequest(self.wallet, ref, f"re_{op_id}", REFUNDED * unit, "tester")))
        elif name == "open":
            self.hear(await payments.dispute_opened(dispute))
        elif name == "reinstate":
            self.hear(await payments.reinstate(dispute))
        else:
            self.hear(await payments.dispute_closed(dispute, won=name == "won"))

    def hear(self, posted: Posted) -> None:
        self.owed += 0 if posted.credit is None else posted.credit.delta_micro


@pytest.mark.parametrize("urls", ["sqlite"], indirect=True)  # the rules are the same, and the orders many
async def test_after_every_order_a_wallet_is_what_its_model_says_and_the_books_are_clean(
    databases: Databases, ledger: Ledger
) -> None:
    all_orders = list(orders(Model()))
    assert len(all_orders) >= 50, len(all_orders)
    seen = set()
    for number, (steps, model) in enumerate(all_orders):
        played = Played(ledger, number)
        for place, name in enumerate(steps):
            await played.step(name, place)
        view = await ledger.wallet(played.wallet)
        assert (view.available_micro, view.debt_micro) == (model.left, model.debt), steps
        assert played.owed == model.left - model.debt, steps  # what the hot store was told of
        seen.add(steps[-1])
    assert seen >= {"spend", "refund", "won", "reinstate"}
    report = await audit(databases, list(APPS), None)
    assert report.ok, [check.violations for check in report.checks if not check.ok]
