"""Subscriptions: where each stands, and what a paid invoice of one grants.

An invoice grants once, one lot: what the plans of its lines grant for their periods; of a change of plans in mid-period
(proration) the difference, in proportion to what each part cost of its plan's price, and in one period no more than its plan
grants for all of it; one micro-unit at least where money paid, so that the payment and its share are in the books. What was
paid by a gift of the seller's (a coupon, credit) alone is granted as promo, a trial's period as trial, once for each buyer;
what a discount took off of an invoice that money paid is booked as given, with the rest of its lot as bought.

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
from typing import Final

import msgspec

from gateway.balance.wallets import Wallets
from gateway.billing.admission import ENDED, Admission
from gateway.billing.believed import check_lines, check_share
from gateway.billing.model import Plan, Subscription, SubscriptionState
from gateway.billing.ports import InvoiceFacts, InvoiceLine, PaymentFacts, Payments, PaymentsDown, SubscriptionFacts
from gateway.billing.redeeming import Redeeming, given_with
from gateway.billing.sellers import NotOurs, Rejected, Sellers, micro, paid_for
from gateway.billing.store import Store
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger.model import Fees, GrantRequest, RenewalRequest, WalletKey
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
            raise NotOurs("no line of it is of a plan")
        ends = max(line.period_end_ms for line, _ in ours)
        op_id = allowance_op(facts.subscription_id, begins, ends, facts.invoice_id)
        is_platforms_cost = await self._sellers.is_platforms_cost(wallet)
        value = paid_worth if is_platforms_cost else worth
        granted, payment = value(facts, ours, 0), await self._payment(account_id, wallet, facts)
        if await self._ledger.payments.posted_as(wallet.enterprise_id, op_id) is None:
            await self._admission.check(account_id, wallet, facts.subscription_id, payment)
            granted = value(facts, ours, await self._left_over(account_id, facts))
            if not whole:
                granted = min(granted, await self._room(wallet, facts.subscription_id, ends, ours))
        if payment is not None:
            granted = max(granted, 1)  # what money paid is in the books, with its share, whatever it grants
        if granted <= 0:
            raise NotOurs("it grants nothing")
        plan = max(ours, key=lambda each: each[0].period_end_ms)[1]
        source = _source(facts, whole)
        grace_ms = LATE_MS if source == LotSource.TRIAL else self._grace_ms  # nobody paid for a longer trial
        until = ends + grace_ms if plan.lot_days is None else begins + plan.lot_days * _DAY_MS
        until = max(until, now_ms(self._clock) + LATE_MS)  # heard of too late: a day all the same
        is_paid = payment is not None
        given = granted if not is_paid else 0 if is_platforms_cost else given_with(facts, granted)
        await self._redeeming.invoice(account_id, wallet, facts, plan, given)
        if whole:
            await self._ledger.payments.renew(
                RenewalRequest(wallet, facts.subscription_id, begins, plan.rollover_max_micro, until, _ACTOR)
            )
        asset = await self._sellers.asset_of(wallet)
        # By its name a trial is the buyer's only one.
        unpaid_ref = f"trial:{wallet.owner}" if source == LotSource.TRIAL else facts.invoice_id
        request = GrantRequest(
            wallet=wallet,
            amount_micro=granted,
            asset=asset,
            source=source,
            op_id=op_id,
            actor=_ACTOR,
            reason=f"subscription {facts.subscription_id}, invoice {facts.invoice_id}",
            expires_at_ms=until,
            external_ref=facts.payment_id if is_paid else unpaid_ref,
            role="system",
            fees=Fees(platform_micro=micro(payment.fee_minor, facts.currency)) if payment is not None else None,
            paid=paid_for(facts.amount_paid_minor, facts.currency, asset, granted, given) if is_paid else None,
            given_micro=given if is_paid else 0,
        )
        try:
            is_first = (await self._wallets.grant(request, fingerprint=op_id)).first
        except Conflict as had:
            if source != LotSource.TRIAL:
                raise
            raise NotOurs("this buyer has had a trial: it is granted once") from had
        if payment is not None and payment.stripe_fee_minor:
            kept = micro(payment.stripe_fee_minor, facts.currency)
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

    async def _room(self, wallet: WalletKey, series: str, ends_ms: int, lines: list[tuple[InvoiceLine, Plan]]) -> int:
        """What a change of plans may grant: all that its plan grants for a period, less what this period was granted."""
        most = max((plan.grant_micro for line, plan in lines if line.amount_minor > 0), default=0)
        return most - await self._ledger.payments.granted_until(wallet, series, ends_ms)

    async def _payment(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts) -> PaymentFacts | None:
        """What paid it; None where no money did."""
        if not facts.amount_paid_minor or facts.payment_id is None:
            return None
        payment = await self._payments.payment(account_id, facts.payment_id)
        if wallet.enterprise_id is not None:
            check_share(facts, payment, await self._least_share(account_id, wallet.enterprise_id, facts))
        await self._sellers.bind(account_id, payment.payment_id, wallet, now_ms(self._clock))
        return payment

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
        """Where a subscription stands. `facts` as seen just now spare a look at Stripe where they say nothing new."""
        seen = await self._payments.subscription(account_id, subscription_id) if facts is None else facts
        for _ in range(_LOOKS):
            wallet = await self._sellers.wallet_of(account_id, seen.metadata)
            held = await self._rows.subscription(wallet.enterprise_id, subscription_id)
            if held is not None and held.state in ENDED:
                return
            if held is not None and facts is not None:
                now = await self._row(account_id, wallet, held, facts, 0)
                if msgspec.structs.replace(now, as_of_ms=held.as_of_ms) == held:
                    return
            facts = None
            seen = await self._payments.subscription(account_id, subscription_id)
            if await self._rows.put_subscription(held, await self._row(account_id, wallet, held, seen, as_of_ms)):
                await self._wallets.subscription_changed(wallet)
                return
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


def paid_worth(facts: InvoiceFacts, lines: list[tuple[InvoiceLine, Plan]], left_over_minor: int) -> int:
    """The same where the platform pays for what is granted: by money alone, of the price before any discount.

    On its own account a creator can give anybody a coupon, credit or a trial, of what would be somebody else's.
    """
    listed_minor = sum(line.amount_minor for line, _ in lines)
    if listed_minor <= 0:
        return 0
    gifts = {"total_minor": listed_minor, "credit_minor": 0, "amount_paid_minor": min(facts.amount_paid_minor, listed_minor)}
    return worth(msgspec.structs.replace(facts, **gifts), lines, 0)


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


def _source(facts: InvoiceFacts, whole: list[tuple[InvoiceLine, Plan]]) -> LotSource:
    if facts.amount_paid_minor and facts.payment_id is not None:
        return LotSource.PAID
    return LotSource.TRIAL if whole and not any(line.amount_minor for line, _ in whole) else LotSource.PROMO
