"""What was used beyond allowances is billed: after its period, by an invoice of its own, to what the subscription is paid with.

Not on the renewal's invoice: a payment is of one thing then, so that its refund, its dispute and the platform's share each have
one meaning, and a bill that is not paid takes nothing of the allowance that is.

    lines have ended, their period is over -> a bill, committed with them -> an invoice at Stripe in its name -> sent
      paid             what was used is repaid (`ledger.lending`), with the platform's share; the buyer has the limit again
      by credit        that part of it is a gift of the seller's, as of any invoice
      void             all of it is
      uncollectible    a loss; nothing more is lent until its seller agrees to it
    less than Stripe charges is put off to the next bill; after the subscription's end, given

Whoever goes on after a crash asks under the same name, and after a day looks for the invoice first. Stripe's own retries go on
meanwhile; until a bill is decided it counts against the limit.
"""

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.billing.admission import ENDED
from gateway.billing.believed import check_attached
from gateway.billing.fees import fee_minor
from gateway.billing.model import Subscription
from gateway.billing.overage.lines import ACTOR
from gateway.billing.overage.model import UNPAID, BillState, Line, LineState, OverageBill, asked_minor, bill_of
from gateway.billing.overage.services import Services
from gateway.billing.overage.store import Changed
from gateway.billing.ports import Bill, InvoiceFacts, Metadata, PaymentFacts, PaymentsDown, PaymentsRefused
from gateway.billing.sellers import NotOurs, Rejected, micro, paid_for
from gateway.core.clock import now_ms
from gateway.core.errors import Conflict, GatewayError
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger.lending import WriteOffRequest
from gateway.ledger.model import OVERAGE, Fees, GrantRequest, WalletKey

_HOUR_MS: Final = 3_600_000
_REMEMBERED_MS: Final = 23 * _HOUR_MS  # Stripe forgets the name of an operation after a day
_LOOK_AGAIN_MS: Final = 6 * _HOUR_MS  # at what is not to be billed yet, where nobody tells that it is
_AGAIN_MS: Final = 60_000  # and twice as long each time
_AGAIN_MAX_MS: Final = 24 * _HOUR_MS
_log = logging.getLogger(__name__)


class OverageBills:
    """Makes bills, sends them, and follows what becomes of them. Raises as `Effects`."""

    def __init__(self, services: Services) -> None:
        self._with = services

    # ---- making --------------------------------------------------------------------------------

    async def make(self, wallet: WalletKey, lines: list[Line]) -> None:
        """A bill of each subscription's lines that have ended and whose time to be billed has come; the others wait."""
        waiting = unbilled(lines)
        await self._with.rows.put_lines_off(waiting, now_ms(self._with.clock) + _LOOK_AGAIN_MS)
        for subscription_id in sorted({line.subscription_id for line in waiting}):
            held = await self._with.sold.subscription(wallet.enterprise_id, subscription_id)
            due = [line for line in waiting if line.subscription_id == subscription_id and self._is_due(line, held)]
            for currency, of_it in (await self._by_currency(due)).items():
                try:
                    await self._bill(wallet, currency, of_it, is_last=held is None or held.state in ENDED)
                except Changed:
                    _log.info("lines of %s are on a bill of another process", subscription_id)

    def _is_due(self, line: Line, held: Subscription | None) -> bool:
        """Whether its period is over, by Stripe's word, or by ours where nobody has heard of the next."""
        if held is None or held.state in ENDED or line.ends_at_ms <= now_ms(self._with.clock):
            return True
        return line.period_end_ms <= held.period_start_ms

    async def _by_currency(self, lines: list[Line]) -> dict[str, list[tuple[Line, int]]]:
        """Lines with what each costs, in micro-units of its plan's currency."""
        found: dict[str, list[tuple[Line, int]]] = {}
        for line in lines:
            plan = await self._with.store.plan(line.plan_id)
            assert plan is not None, "plans stay"
            assert plan.overage is not None
            found.setdefault(plan.currency, []).append((line, plan.overage.cost_micro(line.used_micro or 0)))
        return found

    async def _bill(self, wallet: WalletKey, currency: str, lines: list[tuple[Line, int]], *, is_last: bool) -> None:
        amount_minor = asked_minor(sum(cost for _, cost in lines), currency)
        is_too_little = amount_minor < minor_units.least_charged(currency)
        if is_too_little and not is_last:
            return
        now, line = now_ms(self._with.clock), lines[0][0]
        bill = OverageBill(
            id=new_id("bill"),
            wallet=wallet,
            subscription_id=line.subscription_id,
            account_id=line.account_id,
            state=BillState.OPEN,
            currency=currency,
            used_micro=sum(each.used_micro or 0 for each, _ in lines),
            amount_minor=0 if is_too_little else amount_minor,
            fee_minor=fee_minor(amount_minor, await self._share(wallet)),
            due_at_ms=now,
            attempts=0,
            reason="",
            created_at_ms=now,
        )
        await self._with.rows.add_bill(bill, [each for each, _ in lines])

    async def _share(self, wallet: WalletKey) -> int:
        """Basis points of what is billed now."""
        if wallet.enterprise_id is None:
            return 0
        user_id = (await self._with.ledger.apps([wallet.enterprise_id]))[wallet.enterprise_id].user_id
        return await self._with.store.fee_bp(user_id, wallet.enterprise_id, now_ms(self._with.clock))

    # ---- asking --------------------------------------------------------------------------------

    async def send(self, wallet: WalletKey) -> None:
        """A wallet's open bills that are due to be looked at: sent where they are not, else looked at."""
        for bill in await self._with.rows.open_bills(wallet, now_ms(self._with.clock)):
            reason, again_ms = "", min(_AGAIN_MS << min(bill.attempts, 20), _AGAIN_MAX_MS)
            try:
                facts = await self._asked(bill)
                if facts is not None:
                    await self._follow(msgspec.structs.replace(bill, invoice_id=facts.invoice_id), facts)
                    again_ms = _HOUR_MS if bill.attempts < 24 else _AGAIN_MAX_MS  # Stripe tells; this is for what is lost
            except PaymentsDown as down:
                _log.warning("bill %s waits: %s", bill.id, down)
            except (PaymentsRefused, Rejected, NotOurs, GatewayError) as refused:  # it keeps no other bill waiting
                reason = str(refused)
                _log.warning("bill %s: %s", bill.id, refused)
            await self._with.rows.put_off(bill, reason, now_ms(self._with.clock) + again_ms)

    async def _asked(self, bill: OverageBill) -> InvoiceFacts | None:
        """The bill's invoice, sent. None where there is none to send."""
        if not bill.amount_minor:
            await self._give_up(bill, BillState.GIVEN, bill.used_micro, "less than Stripe charges")
            return None
        invoice_id = bill.invoice_id
        if invoice_id is None:
            customer_id = await self._with.store.customer(bill.wallet, bill.account_id)
            subscription = await self._with.payments.subscription(bill.account_id, bill.subscription_id)
            facts = None
            if now_ms(self._with.clock) - bill.created_at_ms > _REMEMBERED_MS:
                facts = await self._with.payments.bills.find(
                    bill.account_id, customer_id or subscription.customer_id, bill.id, bill.created_at_ms
                )
            if facts is None:
                line = (await self._with.rows.lines_of_bill(bill))[0]
                wish = Bill(
                    bill_id=bill.id,
                    customer_id=subscription.customer_id,
                    method_id=subscription.method_id,
                    amount_minor=bill.amount_minor,
                    currency=bill.currency,
                    fee_minor=bill.fee_minor,
                    text="Usage beyond the subscription's allowance",
                    metadata=Metadata(bill.wallet.enterprise_id, bill.wallet.owner, line.plan_id, bill_id=bill.id),
                )
                facts = await self._with.payments.bills.draft(bill.id, bill.account_id, wish)
            invoice_id = facts.invoice_id
            await self._with.rows.set_invoice(bill, invoice_id)
            bill = msgspec.structs.replace(bill, invoice_id=invoice_id)
        try:
            facts = await self._with.payments.invoice(bill.account_id, invoice_id)
        except PaymentsRefused as refused:
            if refused.code != "resource_missing" or refused.is_revoked:
                raise
            await self._give_up(bill, BillState.GIVEN, bill.used_micro, "its invoice was deleted")
            return None
        if facts.status in ("draft", "open"):
            facts = await self._with.payments.bills.send(bill.id, bill.account_id, invoice_id)
        return facts

    # ---- what becomes of it --------------------------------------------------------------------

    async def invoice(self, account_id: str, facts: InvoiceFacts) -> bool:
        """An invoice that carries the name of a bill, as far as it has come. Whether it is paid only now."""
        wallet = await self._with.sellers.wallet_of(account_id, facts.metadata)
        assert facts.metadata is not None
        bill = await self._with.rows.bill(wallet.enterprise_id, facts.metadata.bill_id)
        if bill is None or (bill.wallet, bill.account_id) != (wallet, account_id):
            raise Rejected(f"there is no bill {facts.metadata.bill_id} of that buyer on that account")
        if facts.status in ("draft", "open"):
            return False
        if bill.invoice_id is None:
            raise PaymentsDown("its bill does not know of it yet")
        return await self._follow(bill, facts)

    async def of_payment(self, wallet: WalletKey, payment_id: str) -> OverageBill | None:
        """The bill that a payment paid, alone or beside others: by the books, which have a grant for each."""
        op_id = await self._with.ledger.payments.granted_as(wallet.enterprise_id, payment_id)
        bill_id = None if op_id is None else bill_of(op_id)
        bill = None if bill_id is None else await self._with.rows.bill(wallet.enterprise_id, bill_id)
        return bill if bill is not None and bill.wallet == wallet else None

    async def _follow(self, bill: OverageBill, facts: InvoiceFacts) -> bool:
        if facts.invoice_id != bill.invoice_id:
            raise Rejected(f"bill {bill.id} is another invoice, {bill.invoice_id}")
        if facts.status == "void":
            await self._give_up(bill, BillState.GIVEN, bill.used_micro, "its invoice is void")
        elif facts.status == "uncollectible":
            await self._give_up(bill, BillState.LOST, bill.used_micro, "its invoice is uncollectible")
        elif facts.status == "paid":
            return await self._paid(bill, facts)
        return False

    async def _paid(self, bill: OverageBill, facts: InvoiceFacts) -> bool:
        if bill.state not in (BillState.OPEN, BillState.LOST):
            return False
        if (facts.total_minor, facts.currency) != (bill.amount_minor, bill.currency):
            raise Rejected(f"it is of {facts.total_minor} {facts.currency}, and bill {bill.id} of {bill.amount_minor}")
        payments = self._with.payments
        taken = [(await payments.payment(bill.account_id, part.payment_id), part.amount_minor) for part in facts.payments]
        if not taken:
            await self._give_up(bill, BillState.GIVEN, bill.used_micro, "no money paid it")
            return False
        check_attached(facts, [payment for payment, _ in taken])
        await self._check_free(bill, [payment for payment, _ in taken])
        share = sum(payment.fee_minor for payment, _ in taken)
        least = bill.fee_minor * sum(minor for _, minor in taken) // bill.amount_minor - len(taken)  # Stripe rounds as it likes
        if share < least:
            raise Rejected(f"the platform's share of it is {share} {bill.currency}, and bill {bill.id} has {least} at least")
        is_first = [await self._repaid(bill, place, *each) for place, each in enumerate(_shares(bill, taken))]
        await self._with.rows.end_bill(bill, BillState.PAID, now_ms(self._with.clock), taken[0][0].payment_id)
        return any(is_first)

    async def _check_free(self, bill: OverageBill, payments: list[PaymentFacts]) -> None:
        """Each payment took money, in the bill's currency, and has bought nothing else. Rejected."""
        books, seller = self._with.ledger.payments, bill.wallet.enterprise_id
        for place, payment in enumerate(payments):
            if payment.status != "succeeded" or payment.currency != bill.currency:
                raise Rejected(f"its payment {payment.payment_id} is {payment.status}, in {payment.currency}")
            is_new = await books.posted_as(seller, _paid_as(bill, place, payment)) is None
            if is_new and await books.payer(seller, payment.payment_id) is not None:
                raise Rejected(f"its payment {payment.payment_id} has bought something else")

    async def _repaid(
        self, bill: OverageBill, place: int, payment: PaymentFacts, amount_micro: int, given_micro: int
    ) -> bool:
        """One payment of it: what was used and is paid by that, some of it given."""
        wallet, asset = bill.wallet, await self._with.sellers.asset_of(bill.wallet)
        await self._with.sellers.bind(bill.account_id, payment.payment_id, wallet, now_ms(self._with.clock))
        op_id = _paid_as(bill, place, payment)
        granted = await self._with.wallets.grant(
            GrantRequest(
                wallet=wallet,
                amount_micro=amount_micro,
                asset=asset,
                source=LotSource.PAID,
                op_id=op_id,
                actor=ACTOR,
                reason=f"overage of subscription {bill.subscription_id}, invoice {bill.invoice_id}",
                external_ref=payment.payment_id,
                role="system",
                fees=Fees(platform_micro=micro(payment.fee_minor, bill.currency)),
                paid=paid_for(payment.amount_minor, bill.currency, asset, amount_micro, given_micro),
                given_micro=given_micro,
                repays=OVERAGE,
                unless_given_up=(_given_up(bill, BillState.LOST), _given_up(bill, BillState.GIVEN)),
            ),
            fingerprint=op_id,
        )
        if payment.stripe_fee_minor:
            kept = micro(payment.stripe_fee_minor, bill.currency)
            await self._with.ledger.payments.processing_fee(wallet, payment.payment_id, kept, ACTOR)
        return granted.first

    async def _give_up(self, bill: OverageBill, state: BillState, amount_micro: int, reason: str) -> None:
        if bill.state != BillState.OPEN:
            return
        request = WriteOffRequest(
            wallet=bill.wallet,
            amount_micro=amount_micro,
            op_id=_given_up(bill, state),
            actor=ACTOR,
            reason=f"bill {bill.id}: {reason}",
            is_gift=state == BillState.GIVEN,
            unless_op=bill.op_id,
        )
        try:
            await self._with.wallets.deliver(await self._with.ledger.lending.write_off(request))
        except Conflict:
            return  # another process has seen it paid, and ends it
        if state == BillState.LOST:  # before it has ended: whoever goes on after a crash pauses it too
            await self._with.rows.pause(bill.wallet, UNPAID, now_ms(self._with.clock))
        await self._with.rows.end_bill(bill, state, now_ms(self._with.clock), reason=reason)


def unbilled(lines: Sequence[Line]) -> list[Line]:
    """Those of which it is known what was used, and that are on no bill."""
    return [line for line in lines if line.state == LineState.ENDED and line.bill_id is None]


def _shares(bill: OverageBill, taken: list[tuple[PaymentFacts, int]]) -> list[tuple[PaymentFacts, int, int]]:
    """(payment, what was used and is paid by it, what of this was given) of each payment: what no money paid comes with the
    first. Each pays for a micro-unit at least.
    """
    shares = [max(bill.used_micro * minor // bill.amount_minor, 1) for _, minor in taken]
    rest = bill.used_micro - sum(shares)
    given = rest if rest > 0 and sum(minor for _, minor in taken) < bill.amount_minor else 0
    shares[0] += rest
    gifts = [given, *[0] * (len(taken) - 1)]
    return [(payment, share, gift) for (payment, _), share, gift in zip(taken, shares, gifts, strict=True)]


def _paid_as(bill: OverageBill, place: int, payment: PaymentFacts) -> str:
    """`op_id` of what one payment of a bill repays."""
    return bill.op_id if not place else f"{bill.op_id}:{payment.payment_id}"


def _given_up(bill: OverageBill, state: BillState) -> str:
    """`op_id` of what gives a bill up."""
    return f"{bill.op_id}:{state}"
