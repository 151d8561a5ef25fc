"""Subscriptions: where each stands, and what a paid invoice of one grants.

An invoice grants once, one lot: what the plans of its lines grant for their periods; of a change of plans in mid-period
(proration) the difference, in proportion to what each part cost of its plan's price. A change to a cheaper plan takes nothing
back: Stripe keeps what is left over as the customer's credit, and the next invoices are that much cheaper. What was paid by
credit or a coupon alone is granted as promo, a trial's period as trial.

Each lot lasts until its period ends and a day longer, as Stripe takes the money for the next an hour after that, and may tell
it late. The invoice that begins a period lets the rest of what came before go on up to the plan's cap, and ends it there. It
looks for paid invoices before it that were not heard of, and grants those first: so the order in which invoices are told
changes nothing.

A subscription's row only follows what Stripe says now: it is written where it still is as it was before Stripe was asked,
else Stripe is asked again; so what one saw earlier never overwrites what another saw later.
"""

import contextlib
from typing import Final

import msgspec

from gateway.balance.wallets import Wallets
from gateway.billing.believed import check_lines, check_share
from gateway.billing.inbox_store import InboxStore
from gateway.billing.model import Plan, Subscription, SubscriptionState
from gateway.billing.ports import InvoiceFacts, InvoiceLine, PaymentFacts, Payments, PaymentsDown, SubscriptionFacts
from gateway.billing.sellers import NotOurs, Rejected, Sellers, micro, paid_for
from gateway.billing.store import Store
from gateway.core.clock import Clock, now_ms
from gateway.core.ids import new_id
from gateway.core.words import LotSource
from gateway.ledger.model import Fees, GrantRequest, RenewalRequest, WalletKey
from gateway.ledger.payments import allowance_op
from gateway.ledger.service import Ledger

_ACTOR: Final = "stripe"
_DAY_MS: Final = 86_400_000
LATE_MS: Final = _DAY_MS  # how long a period's rest outlives it, so that the invoice of the next one finds it
GRACE_MS: Final = 7 * _DAY_MS  # how long a subscription that is past due still counts as one
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
    ) -> None:
        self._payments = payments
        self._store = store
        self._rows = rows
        self._wallets = wallets
        self._ledger = ledger
        self._sellers = sellers
        self._clock = clock

    # ---- invoices ------------------------------------------------------------------------------

    async def invoice(self, account_id: str, facts: InvoiceFacts) -> None:
        """An invoice, as far as it has come: one that is paid is granted, those before it first."""
        if facts.subscription_id is None:
            raise NotOurs("it is of no subscription")
        wallet = await self._sellers.wallet_of(account_id, facts.metadata)
        if facts.status != "paid":
            await self.subscription(account_id, facts.subscription_id, 0)
            return
        await self._make_up(account_id, wallet, facts)
        await self._grant(account_id, wallet, facts)

    async def _make_up(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts) -> None:
        """The paid invoices before this one that the books do not have, oldest first."""
        if facts.subscription_id is None or facts.reason == "subscription_create":
            return
        known = {name for _, _, name in await self._ledger.payments.series(wallet.enterprise_id, facts.subscription_id)}
        earlier = []
        async for each in self._payments.invoices_of(account_id, facts.subscription_id):
            if each.invoice_id in known and _in_order(each) < _in_order(facts):
                break  # it made up for those before it when it was granted
            if each.status == "paid" and _in_order(each) < _in_order(facts):
                earlier.append(each)
        for each in sorted(earlier, key=_in_order):
            with contextlib.suppress(NotOurs):  # one that grants nothing, as of a change to a cheaper plan
                await self._grant(account_id, await self._sellers.wallet_of(account_id, each.metadata), each)

    async def _grant(self, account_id: str, wallet: WalletKey, facts: InvoiceFacts) -> None:
        assert facts.subscription_id is not None
        lines = [(line, await self._plan(account_id, line)) for line in facts.lines]
        ours = [(line, plan) for line, plan in lines if plan is not None]
        if any(plan.enterprise_id != wallet.enterprise_id for _, plan in ours):
            raise Rejected("a line of it is of another seller's plan")
        check_lines(ours)
        whole = [(line, plan) for line, plan in ours if not line.is_proration]
        granted = sum(plan.grant_micro for _, plan in whole) + _prorated(ours)
        begins = _begins(facts)
        if not granted or begins is None:
            raise NotOurs("it grants nothing")
        ends = max(line.period_end_ms for line, _ in ours)
        plan = max(ours, key=lambda each: each[0].period_end_ms)[1]
        until = ends + LATE_MS if plan.lot_days is None else begins + plan.lot_days * _DAY_MS
        until = max(until, now_ms(self._clock) + LATE_MS)  # heard of too late: a day all the same
        if whole:
            await self._ledger.payments.renew(
                RenewalRequest(wallet, facts.subscription_id, begins, plan.rollover_max_micro, until, _ACTOR)
            )
        op_id = allowance_op(facts.subscription_id, begins, ends, facts.invoice_id)
        asset = await self._sellers.asset_of(wallet)
        payment = await self._payment(account_id, wallet, facts)
        source, is_paid = _source(facts, whole), payment is not None
        request = GrantRequest(
            wallet=wallet,
            amount_micro=granted,
            asset=asset,
            source=source,
            op_id=op_id,
            actor=_ACTOR,
            reason=f"subscription {facts.subscription_id}, invoice {facts.invoice_id}",
            expires_at_ms=until,
            external_ref=facts.payment_id if is_paid else facts.invoice_id,
            role="system",
            fees=Fees(platform_micro=micro(payment.fee_minor, facts.currency)) if payment is not None else None,
            paid=paid_for(facts.amount_paid_minor, facts.currency, asset, granted) if is_paid else None,
        )
        await self._wallets.grant(request, fingerprint=op_id)
        if payment is not None and payment.stripe_fee_minor:
            kept = micro(payment.stripe_fee_minor, facts.currency)
            await self._ledger.payments.processing_fee(wallet, payment.payment_id, kept, _ACTOR)

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
            grace = max(as_of_ms, facts.period_start_ms) + GRACE_MS
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


ENDED: Final = (SubscriptionState.CANCELED, SubscriptionState.INCOMPLETE_EXPIRED)  # from which Stripe lets none come back


def _begins(facts: InvoiceFacts) -> int | None:
    """When what an invoice pays for begins: its whole period, or the rest of one that a change of plans is for."""
    whole = [line.period_start_ms for line in facts.lines if not line.is_proration]
    return max(whole or [line.period_start_ms for line in facts.lines], default=None)


def _in_order(facts: InvoiceFacts) -> tuple[int, int, str]:
    return (_begins(facts) or 0, facts.created_at_ms, facts.invoice_id)


def _prorated(lines: list[tuple[InvoiceLine, Plan]]) -> int:
    """What a change of plans grants: each part in proportion to its plan's price, what was given up taken off; not below 0."""
    parts = [
        (1 if line.amount_minor > 0 else -1) * (plan.grant_micro * abs(line.amount_minor) // plan.price_minor)
        for line, plan in lines
        if line.is_proration
    ]
    return max(sum(parts), 0)


def _source(facts: InvoiceFacts, whole: list[tuple[InvoiceLine, Plan]]) -> LotSource:
    if facts.amount_paid_minor and facts.payment_id is not None:
        return LotSource.PAID
    return LotSource.TRIAL if whole and not any(line.amount_minor for line, _ in whole) else LotSource.PROMO
