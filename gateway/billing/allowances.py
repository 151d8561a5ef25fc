"""Subscriptions: where each stands, and what a paid invoice of one grants.

An invoice grants once: what the plans of its lines grant for their periods; of a change of plans in mid-period
(proration) the difference, in proportion to what each part cost of its plan's price, and in one period no more than its plan
grants for all of it; one micro-unit at least where money paid, so that the payment and its share are in the books. What was
paid by a gift of the seller's alone (a coupon, credit, or the seller's word that it was paid out of band: see `worth`) is
granted as promo, a trial's period as trial, once for each buyer; what a discount took off of an invoice that money paid, or was
paid of it out of band, is booked as given, with the rest of its lot as bought. Where several payments paid an invoice, each has
a lot of its own, so that what goes back of one takes what it bought.

Changes that are made here leave no credit: to a dearer plan at once, to any other with the next invoice (`buying`). One that
was made at Stripe, in the portal or in the seller's dashboard, may: then a cheaper plan takes nothing back of what was granted,
and Stripe keeps the difference as the customer's credit. What such credit pays, of whatever invoice of this customer, is
not granted again.

Each lot lasts until its period ends and some days longer (`grace_days`): Stripe takes the money for the next an hour after that,
may tell it late, and tries again for days when it fails. What is left is the buyer's until then, whether the subscription is
past due or was ended, as it was paid for; after that there is nothing of it, and requests are refused within a second. The
invoice that begins a period lets the rest of what came before go on up to the plan's cap, and ends it there. It looks for paid
invoices before it that were not heard of, and grants those first: so the order in which invoices are told changes nothing.

A subscription's row only follows what Stripe says now: it is written where it still is as it was before Stripe was asked,
else Stripe is asked again; so what one saw earlier never overwrites what another saw later.
"""

import contextlib
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.balance.wallets import Wallets
from gateway.billing import minor_units
from gateway.billing.admission import ENDED, Admission
from gateway.billing.believed import check_attached, check_lines, check_share
from gateway.billing.model import Plan, Subscription, SubscriptionState
from gateway.billing.overage.lending import Overages
from gateway.billing.ports import InvoiceFacts, InvoiceLine, Payments, PaymentsDown, SubscriptionFacts
from gateway.billing.redeeming import Redeeming
from gateway.billing.sellers import NotOurs, Rejected, Sellers, Withheld, micro, paid_for
from gateway.billing.store import Store
from gateway.billing.webhooks.store import InboxStore
from gateway.billing.worth import Part, Taken, given_by_codes, paid_worth, parts_of, source_of, worth
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger.model import AVAILABLE, Fees, GrantRequest, RenewalRequest, Txn, WalletKey
from gateway.ledger.payments import allowance_op
from gateway.ledger.service import Ledger

_ACTOR: Final = "stripe"
_DAY_MS: Final = 86_400_000
LATE_MS: Final = _DAY_MS  # how long a grant lasts at least, however late its payment was heard of; and outlives a trial
_LOOKS: Final = 8


class Allowances:
    """Invoices and subscriptions. Raises as `Effects`."""

    def __init__(
        self,
        payments: Payments,
        store: Store,
        rows: InboxStore,
        wallets: Wallets,
        ledger: Ledger,
        sellers: Sellers,
        overages: Overages,
        clock: Clock,
        grace_days: int,
    ) -> None:
        """`grace_days` is how long the rest of a period outlives it where the next is not paid: a day at least."""
        assert grace_days >= 1
        self._payments = payments
        self._store = store
        self._rows = rows
        self._wallets = wallets
        self._ledger = ledger
        self._sellers = sellers
        self._overages = overages
        self._clock = clock
        self._grace_ms = grace_days * _DAY_MS
        self._admission = Admission(payments, rows)
        self._redeeming = Redeeming(store, clock)

    # ---- invoices ------------------------------------------------------------------------------

    async def invoice(self, account_id: str, facts: InvoiceFacts) -> bool:
        """An invoice, as far as it has come: one that is paid is granted, those before it first. Whether it is only now."""
        if facts.subscription_id is None:
            raise NotOurs("it is of no subscription")
        wallet = await self._sellers.wallet_of(account_id, facts.metadata)
        if facts.status != "paid":
            await self.subscription(account_id, facts.subscription_id, 0)
            return False
        await self._make_up(account_id, wallet, facts)
        return await self._grant(account_id, wallet, facts)

    async def _make_up(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts) -> None:
        """The paid invoices before this one that the books do not have, oldest first."""
        if facts.subscription_id is None or facts.reason == "subscription_create":
            return
        known = {name for _, _, name in await self._ledger.payments.series(wallet.enterprise_id, facts.subscription_id)}
        earlier = []
        async for each in self._payments.invoices_of(account_id, subscription_id=facts.subscription_id):
            if each.invoice_id in known and _in_order(each) < _in_order(facts):
                break  # it made up for those before it when it was granted
            if each.status == "paid" and _in_order(each) < _in_order(facts):
                earlier.append(each)
        for each in sorted(earlier, key=_in_order):
            # One that grants nothing, as of a change to a cheaper plan, or is wrong, keeps no other waiting.
            with contextlib.suppress(NotOurs, Rejected):
                await self._grant(account_id, await self._sellers.wallet_of(account_id, each.metadata), each)

    async def _grant(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts) -> bool:
        assert facts.subscription_id is not None
        lines = [(line, await self._plan(account_id, line)) for line in facts.lines]
        ours = [(line, plan) for line, plan in lines if plan is not None]
        if any(plan.enterprise_id != wallet.enterprise_id for _, plan in ours):
            raise Rejected("a line of it is of another seller's plan")
        check_lines(ours)
        whole = [(line, plan) for line, plan in ours if not line.is_proration]
        begins = _begins(facts)
        if not ours or begins is None:
            raise await self._of_no_plan(wallet, facts)
        ends = max(line.period_end_ms for line, _ in ours)
        is_platforms_cost = await self._sellers.is_platforms_cost(wallet)
        taken = await self._taken(account_id, wallet, facts, is_platforms_cost)
        names = [facts.invoice_id, *[f"{facts.invoice_id}:{each.payment.payment_id}" for each in taken[1:]]]
        op_ids = [allowance_op(facts.subscription_id, begins, ends, name) for name in names]
        by_money = paid_worth(facts, ours, taken) if is_platforms_cost else None
        granted = await self._granted(account_id, wallet, facts, ours, taken, op_ids, by_money)
        if granted <= 0:
            if is_platforms_cost and facts.out_of_band_minor:
                raise Withheld("it was paid out of band, and the platform, who pays for this app's usage, has seen nothing of it")
            raise NotOurs("it grants nothing")
        plan = max(ours, key=lambda each: each[0].period_end_ms)[1]
        source = source_of(whole, taken)
        grace_ms = LATE_MS if source == LotSource.TRIAL else self._grace_ms  # nobody paid for a longer trial
        until = ends + grace_ms if plan.lot_days is None else begins + plan.lot_days * _DAY_MS
        until = max(until, now_ms(self._clock) + LATE_MS)  # heard of too late: a day all the same
        given = given_by_codes(facts, granted, taken, by_money=is_platforms_cost)
        await self._redeeming.invoice(account_id, wallet, facts, plan, given)
        if whole:
            await self._ledger.payments.renew(
                RenewalRequest(wallet, facts.subscription_id, begins, plan.rollover_max_micro, until, _ACTOR)
            )
        is_first = False
        parts = parts_of(facts, granted, taken, by_money=is_platforms_cost)
        for op_id, part in zip(op_ids, parts, strict=True):
            if await self._post(wallet, facts, part, op_id, source, until):
                is_first = True
        if taken:
            await self._overages.follow(wallet)
        return is_first

    async def _of_no_plan(self, wallet: WalletKey, facts: InvoiceFacts) -> NotOurs | Rejected:
        """What an invoice without a line of a plan is: of a subscription of ours, as after its price was changed at Stripe, money
        came for which nothing was granted."""
        assert facts.subscription_id is not None
        is_ours = await self._rows.subscription(wallet.enterprise_id, facts.subscription_id) is not None
        if not is_ours and facts.metadata is not None:
            is_ours = await self._store.plan(facts.metadata.plan_id) is not None
        if not is_ours or facts.amount_paid_minor <= 0:
            return NotOurs("no line of it is of a plan")
        paid = minor_units.shown(facts.amount_paid_minor, facts.currency)
        return Rejected(f"{paid} was paid and nothing granted: no line of it is of a plan")

    async def _granted(
        self,
        account_id: str,
        wallet: WalletKey,
        facts: InvoiceFacts,
        lines: list[tuple[InvoiceLine, Plan]],
        taken: Sequence[Taken],
        op_ids: list[str],
        by_money: int | None,
    ) -> int:
        """What it grants in all, `by_money` where that alone counts; of one that is not in the books, once it is let in."""
        books, enterprise_id = self._ledger.payments, wallet.enterprise_id
        payers = [await books.payer(enterprise_id, each.payment.payment_id) for each in taken]
        posted = [await books.posted_as(enterprise_id, op_id) for op_id in op_ids]
        left_over = 0
        if None in posted:
            for each, payer, txn in zip(taken, payers, posted, strict=False):
                if payer is not None and txn is None:
                    raise Rejected(f"its payment {each.payment.payment_id} has bought something else")
            assert facts.subscription_id is not None
            await self._admission.check(account_id, wallet, facts.subscription_id, [each.payment for each in taken])
            left_over = await self._left_over(account_id, facts)
        granted = worth(facts, lines, left_over) if by_money is None else by_money
        if None in posted and all(line.is_proration for line, _ in lines):
            room = await self._room(wallet, facts, lines)
            granted = min(granted, room + sum(_made(txn) for txn in posted if txn is not None))
        return max(granted, len(taken))  # what money paid is in the books, with its share, whatever it grants

    async def _post(
        self, wallet: WalletKey, facts: InvoiceFacts, part: Part, op_id: str, source: LotSource, until_ms: int
    ) -> bool:
        """One lot of an invoice; whether it is there only now. NotOurs for a second trial."""
        asset, payment = await self._sellers.asset_of(wallet), part.payment
        reason = f"subscription {facts.subscription_id}, invoice {facts.invoice_id}"
        if facts.out_of_band_minor:
            reason += f", {minor_units.shown(facts.out_of_band_minor, facts.currency)} of it paid out of band"
        # By its name a trial is the buyer's only one.
        unpaid_ref = f"trial:{wallet.owner}" if source == LotSource.TRIAL else facts.invoice_id
        request = GrantRequest(
            wallet=wallet,
            amount_micro=part.amount_micro,
            asset=asset,
            source=source,
            op_id=op_id,
            actor=_ACTOR,
            reason=reason,
            expires_at_ms=until_ms,
            external_ref=unpaid_ref if payment is None else payment.payment_id,
            role="system",
        )
        if payment is not None:
            request = msgspec.structs.replace(
                request,
                fees=Fees(platform_micro=micro(payment.fee_minor, payment.currency)),
                paid=paid_for(payment.amount_minor, payment.currency, asset, part.amount_micro, part.given_micro),
                given_micro=part.given_micro,
            )
        try:
            is_first = (await self._wallets.grant(request, fingerprint=op_id)).first
        except Conflict as had:
            if source != LotSource.TRIAL:
                raise
            raise NotOurs("this buyer has had a trial: it is granted once") from had
        if payment is not None and payment.stripe_fee_minor:
            kept = micro(payment.stripe_fee_minor, payment.currency)
            await self._ledger.payments.processing_fee(wallet, payment.payment_id, kept, _ACTOR)
        return is_first

    async def _left_over(self, account_id: str, facts: InvoiceFacts) -> int:
        """What of the customer's credit that paid an invoice was left over from others: what it had paid was granted then.

        It is used before any other credit.
        """
        if not facts.credit_minor or facts.customer_id is None:
            return 0
        of_customer = [
            each
            async for each in self._payments.invoices_of(account_id, customer_id=facts.customer_id)
            if each.finalized_at_ms is not None and each.status != "void"
        ]
        left = 0
        for each in sorted(of_customer, key=lambda one: (one.finalized_at_ms or 0, one.total_minor >= 0, one.invoice_id)):
            if each.invoice_id == facts.invoice_id:
                break
            left = max(left - each.credit_minor, 0) + max(-each.total_minor, 0)
        return min(left, facts.credit_minor)

    async def _room(self, wallet: WalletKey, facts: InvoiceFacts, lines: list[tuple[InvoiceLine, Plan]]) -> int:
        """What a change of plans may grant: all that its plan grants for a period, less what this period was granted."""
        assert facts.subscription_id is not None
        most = max((plan.grant_micro for line, plan in lines if line.amount_minor > 0), default=0)
        ends_ms = max(line.period_end_ms for line, _ in lines)
        return most - await self._ledger.payments.granted_until(wallet, facts.subscription_id, ends_ms)

    async def _taken(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts, is_platforms_cost: bool) -> list[Taken]:
        """The payments that paid it; none where no money did. Rejected."""
        taken = []
        for part in facts.payments:
            payment = await self._payments.payment(account_id, part.payment_id)
            if payment.status != "succeeded" or payment.currency != facts.currency:
                raise Rejected(f"its payment {part.payment_id} is {payment.status}, of {payment.amount_minor} {payment.currency}")
            if payment.amount_minor:
                taken.append(Taken(payment, min(part.amount_minor, payment.amount_minor)))
        payments = [each.payment for each in taken]
        if payments and wallet.enterprise_id is not None:
            check_share(facts, payments, await self._least_share(account_id, wallet.enterprise_id, facts))
        if is_platforms_cost:
            check_attached(facts, payments)
        for payment in payments:
            await self._sellers.bind(account_id, payment.payment_id, wallet, now_ms(self._clock))
        return taken

    async def _least_share(self, account_id: str, enterprise_id: str, facts: InvoiceFacts) -> int:
        """The least basis points that were in force since the subscription began."""
        assert facts.subscription_id is not None
        user_id = (await self._ledger.apps([enterprise_id]))[enterprise_id].user_id
        if not await self._store.fee_bps(user_id, enterprise_id, 0, now_ms(self._clock)):
            return 0
        held = await self._rows.subscription(enterprise_id, facts.subscription_id)
        begun_ms = held.created_at_ms if held else None
        if begun_ms is None:
            begun_ms = (await self._payments.subscription(account_id, facts.subscription_id)).created_at_ms
        return min(await self._store.fee_bps(user_id, enterprise_id, begun_ms, now_ms(self._clock)))

    async def _plan(self, account_id: str, line: InvoiceLine) -> Plan | None:
        """The plan that a line is of; None for a line of something else."""
        plan_id = None if line.price_id is None else await self._store.plan_of_price(account_id, line.price_id)
        return None if plan_id is None else await self._store.plan(plan_id)

    # ---- subscriptions -------------------------------------------------------------------------

    async def subscription(
        self, account_id: str, subscription_id: str, as_of_ms: int, facts: SubscriptionFacts | None = None
    ) -> None:
        """Where a subscription stands, and what is lent beside it. `facts` as seen just now spare a look at Stripe where they say
        nothing new."""
        await self._overages.follow(await self._seen(account_id, subscription_id, as_of_ms, facts))

    async def _seen(
        self, account_id: str, subscription_id: str, as_of_ms: int, facts: SubscriptionFacts | None
    ) -> WalletKey:
        """Whose it is."""
        seen = await self._payments.subscription(account_id, subscription_id) if facts is None else facts
        for _ in range(_LOOKS):
            wallet = await self._sellers.wallet_of(account_id, seen.metadata)
            held = await self._rows.subscription(wallet.enterprise_id, subscription_id)
            if held is not None and held.state in ENDED:
                return wallet
            if held is not None and facts is not None:
                now = await self._row(account_id, wallet, held, facts, 0)
                if msgspec.structs.replace(now, as_of_ms=held.as_of_ms) == held:
                    return wallet
            facts = None
            seen = await self._payments.subscription(account_id, subscription_id)
            if await self._rows.put_subscription(held, await self._row(account_id, wallet, held, seen, as_of_ms)):
                await self._wallets.subscription_changed(wallet)
                return wallet
        raise PaymentsDown("the subscription changes faster than it can be followed")

    async def _row(
        self, account_id: str, wallet: WalletKey, held: Subscription | None, facts: SubscriptionFacts, as_of_ms: int
    ) -> Subscription:
        plan_id = await self._store.plan_of_price(account_id, facts.price_id)
        if plan_id is None:
            named = facts.metadata.plan_id if facts.metadata else ""
            if await self._store.plan(named) is None:
                raise NotOurs("neither its price nor its plan is of this gateway")
            raise Rejected(f"its price {facts.price_id} is of no plan")
        grace = held.grace_until_ms if held is not None else None
        if facts.status != SubscriptionState.PAST_DUE:
            grace = None
        elif grace is None:
            grace = facts.period_start_ms + self._grace_ms  # when the lots of the period before it end
        return Subscription(
            id=new_id("sub") if held is None else held.id,
            wallet=wallet,
            plan_id=plan_id,
            account_id=account_id,
            subscription_id=facts.subscription_id,
            state=facts.status,
            period_start_ms=facts.period_start_ms,
            period_end_ms=facts.period_end_ms,
            cancel_at_period_end=facts.cancel_at_period_end,
            created_at_ms=facts.created_at_ms,
            # Each look moves it on, so that one which began before it is told from it.
            as_of_ms=as_of_ms if held is None else max(as_of_ms, held.as_of_ms + 1),
            grace_until_ms=grace,
        )


def _begins(facts: InvoiceFacts) -> int | None:
    """When what an invoice pays for begins: its whole period, or the rest of one that a change of plans is for."""
    whole = [line.period_start_ms for line in facts.lines if not line.is_proration]
    return max(whole or [line.period_start_ms for line in facts.lines], default=None)


def _in_order(facts: InvoiceFacts) -> tuple[int, int, str]:
    return (_begins(facts) or 0, facts.created_at_ms, facts.invoice_id)


def _made(txn: Txn) -> int:
    """What a grant made, in the wallet's asset."""
    return sum(entry.amount_micro for entry in txn.entries if entry.account.kind == AVAILABLE and entry.amount_micro > 0)
