"""What a business fact at Stripe changes here: one function for each, on the object as Stripe has it now.

    a package was paid              a grant by payment, with the platform's share; Stripe's own fee once it is known
      a code took all of it off     a grant by purchase, as promo
    a checkout failed, expired      its purchase goes forward
    an invoice, a subscription      see `allowances`; what is used beyond them, `overage`
    a refund, a dispute             see `reversals`
    an account                      whether it can sell

Each happens once, by the name of the fact in the books, in whatever order and however often it is told; so webhooks, their
replay and the reconciler all come here. The books first (the app's, then the platform's share of it), then the hot wallet.
"""

import logging
from typing import Final

from gateway.balance.wallets import Wallets
from gateway.billing.acts import op_of
from gateway.billing.admission import ENDED
from gateway.billing.allowances import Allowances
from gateway.billing.believed import check_payment
from gateway.billing.connect import state_after
from gateway.billing.model import PLATFORM_ACCOUNT, Plan, Purchase, PurchaseState
from gateway.billing.oddities import Oddities
from gateway.billing.overage.lending import Overages
from gateway.billing.overage.model import DISPUTED
from gateway.billing.overage.services import Services
from gateway.billing.ports import (
    AccountFacts,
    CheckoutFacts,
    DisputeFacts,
    InvoiceFacts,
    PaymentFacts,
    Payments,
    PaymentsRefused,
    RefundFacts,
    SubscriptionFacts,
)
from gateway.billing.redeeming import Redeeming, given_of
from gateway.billing.reversals import Reversals
from gateway.billing.sellers import NotOurs as NotOurs
from gateway.billing.sellers import Rejected as Rejected
from gateway.billing.sellers import Sellers, micro, paid_for
from gateway.billing.store import Store
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock, now_ms
from gateway.core.words import LotSource
from gateway.ledger.model import Fees, GrantRequest, WalletKey
from gateway.ledger.service import Ledger
from gateway.trail.model import Act

ACTOR: Final = "stripe"
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000
_log = logging.getLogger(__name__)
_UNPAID: Final = ("requires_payment_method", "canceled")  # of a payment that was tried and has ended, or waits for another try


class Effects:
    """Every fact. Raises NotOurs, Rejected, PaymentsDown, PaymentsRefused, SqlDown, and the books' InvalidRequest, Conflict."""

    def __init__(
        self,
        payments: Payments,
        store: Store,
        rows: InboxStore,
        wallets: Wallets,
        ledger: Ledger,
        clock: Clock,
        grace_days: int = 3,
    ) -> None:
        self.payments = payments
        self._store = store
        self._rows = rows
        self._wallets = wallets
        self._ledger = ledger
        self._clock = clock
        self._sellers = Sellers(payments, store, ledger)
        self._redeeming = Redeeming(store, clock)
        self.overages = Overages(
            Services(payments, store, rows, rows.overages, wallets, ledger, self._sellers, clock), grace_days
        )
        self._allowances = Allowances(payments, store, rows, wallets, ledger, self._sellers, self.overages, clock, grace_days)
        self.oddities = Oddities(payments, store, ledger)
        self._reversals = Reversals(payments, rows, wallets, ledger, self._sellers, self, clock)

    async def checkout(self, account_id: str, session_id: str) -> None:
        """A checkout session ended: with a payment, with a subscription, or with neither."""
        facts = await self.payments.checkout_session(account_id, session_id)
        wallet = await self._sellers.wallet_of(account_id, facts.metadata)
        if facts.subscription_id is not None:
            await self.subscription(account_id, facts.subscription_id, 0)
        elif facts.status == "expired":
            await self._end(wallet, facts, PurchaseState.EXPIRED)
        elif facts.payment_id is not None:
            payment = await self.payments.payment(account_id, facts.payment_id)
            if payment.status in _UNPAID:
                await self._end(wallet, facts, PurchaseState.FAILED)
            else:
                await self.payment(account_id, payment)
        elif facts.status == "complete":
            await self._free(account_id, wallet, facts)

    async def _free(self, account_id: str, wallet: WalletKey, facts: CheckoutFacts) -> None:
        """A page on which nothing was to be paid: only of a purchase whose code took all of it off, and of its own page."""
        purchase_id = facts.metadata.purchase_id if facts.metadata else ""
        purchase = await self._store.purchase(wallet.enterprise_id, purchase_id) if purchase_id else None
        if purchase is None or (purchase.wallet, purchase.account_id) != (wallet, account_id):
            raise NotOurs("nothing was paid on it, and it is of no purchase")
        if purchase.amount_minor or purchase.session_id != facts.session_id:
            raise Rejected(f"nothing was paid on it, and purchase {purchase.id} is not given away on that page")
        try:
            await self._redeeming.purchase(purchase, purchase.grant_micro)
        except Rejected:
            await self._end(wallet, facts, PurchaseState.FAILED)
            raise
        plan = await self._store.plan(purchase.plan_id)
        op_id = f"gift:{purchase.id}"
        request = GrantRequest(
            wallet=wallet,
            amount_micro=purchase.grant_micro,
            asset=await self._sellers.asset_of(wallet),
            source=LotSource.PROMO,
            op_id=op_id,
            actor=ACTOR,
            reason=f"purchase {purchase.id} of plan {purchase.plan_id}, with promo code {purchase.promo_code_id}",
            expires_at_ms=self._ends(plan, purchase.created_at_ms),
            external_ref=purchase.id,
            role="system",
        )
        await self._wallets.grant(request, fingerprint=op_id)
        await self._rows.end_purchase(wallet.enterprise_id, purchase.id, PurchaseState.PAID, now_ms(self._clock))

    def _ends(self, plan: Plan | None, paid_at_ms: int) -> int | None:
        """When what a package grants expires: counted from its payment; of one that is heard of too late, after a day."""
        if plan is None or plan.lot_days is None:
            return None
        return max(paid_at_ms + plan.lot_days * _DAY_MS, now_ms(self._clock) + _DAY_MS)

    async def payment(self, account_id: str, facts: PaymentFacts) -> bool:
        """A payment, as far as it has come: one that succeeded is granted, by its own id. Whether it is only now."""
        if facts.metadata is None and facts.invoice_id is not None:
            return await self.invoice(account_id, await self.payments.invoice(account_id, facts.invoice_id))
        wallet = await self._sellers.wallet_of(account_id, facts.metadata)
        assert facts.metadata is not None
        purchase = await self._store.purchase(wallet.enterprise_id, facts.metadata.purchase_id)
        if purchase is None and await self._store.plan(facts.metadata.plan_id) is None:
            raise NotOurs("neither its purchase nor its plan is of this gateway")
        if purchase is None or (purchase.wallet, purchase.account_id) != (wallet, account_id):
            raise Rejected(f"there is no purchase {facts.metadata.purchase_id or 'behind it'} of that buyer on that account")
        if facts.status != "succeeded":
            if purchase.is_automatic and facts.status in _UNPAID:  # in a checkout, the buyer may try another card
                reason = facts.failure or facts.status
                await self._rows.top_ups.fail(purchase, PurchaseState.FAILED, reason, now_ms(self._clock))
            return False
        at_ms = now_ms(self._clock)
        check_payment(purchase, facts)
        await self._sellers.bind(account_id, facts.payment_id, wallet, at_ms)
        if not await self._rows.bind_purchase(wallet.enterprise_id, purchase.id, facts.payment_id):
            raise Rejected(f"purchase {purchase.id} and this payment are not of each other: one was paid, or pays, by another")
        is_first = await self._grant(wallet, purchase, facts)
        await self._rows.end_purchase(wallet.enterprise_id, purchase.id, PurchaseState.PAID, at_ms, facts.payment_id)
        return is_first

    async def _grant(self, wallet: WalletKey, purchase: Purchase, facts: PaymentFacts) -> bool:
        asset = await self._sellers.asset_of(wallet)
        plan = await self._store.plan(purchase.plan_id)
        given_micro = given_of(purchase, plan)
        op_id = f"payment:{facts.payment_id}"
        request = GrantRequest(
            wallet=wallet,
            amount_micro=purchase.grant_micro,
            asset=asset,
            source=LotSource.PAID,
            op_id=op_id,
            actor=ACTOR,
            reason=f"purchase {purchase.id} of plan {purchase.plan_id}",
            expires_at_ms=self._ends(plan, facts.created_at_ms),
            external_ref=facts.payment_id,
            role="system",
            fees=Fees(platform_micro=micro(facts.fee_minor, facts.currency)),
            paid=paid_for(facts.amount_minor, facts.currency, asset, purchase.grant_micro, given_micro),
            given_micro=given_micro,
        )
        granted = await self._wallets.grant(request, fingerprint=op_id)
        await self._redeeming.purchase(purchase, given_micro)
        if facts.stripe_fee_minor:
            kept = micro(facts.stripe_fee_minor, facts.currency)
            await self._ledger.payments.processing_fee(wallet, facts.payment_id, kept, ACTOR)
        return granted.first

    async def _end(self, wallet: WalletKey, facts: CheckoutFacts, state: PurchaseState) -> None:
        """Only of its own page: one that was made before it was ended when the discount was another at Stripe."""
        assert facts.metadata is not None
        purchase = await self._store.purchase(wallet.enterprise_id, facts.metadata.purchase_id)
        if purchase is not None and purchase.session_id == facts.session_id:
            await self._rows.end_purchase(wallet.enterprise_id, purchase.id, state, now_ms(self._clock))

    async def invoice(self, account_id: str, facts: InvoiceFacts) -> bool:
        """An invoice, as far as it has come: one that is paid grants its period's allowance, or is a bill of what was used beyond
        one. Whether it is only now."""
        if facts.metadata is not None and facts.metadata.bill_id:
            return await self.overages.invoice(account_id, facts)
        return await self._allowances.invoice(account_id, facts)

    async def subscription(
        self, account_id: str, subscription_id: str, as_of_ms: int, facts: SubscriptionFacts | None = None
    ) -> None:
        """Where a subscription stands. `as_of_ms`: by Stripe's clock. `facts`: as it was seen just now."""
        await self._allowances.subscription(account_id, subscription_id, as_of_ms, facts)

    async def share(self, account_id: str, facts: SubscriptionFacts) -> None:
        """The platform's share of a subscription's next invoices is what the terms say now."""
        wallet = await self._sellers.wallet_of(account_id, facts.metadata)
        if wallet.enterprise_id is None or facts.status in ENDED:
            return
        user_id = (await self._ledger.apps([wallet.enterprise_id]))[wallet.enterprise_id].user_id
        at_ms = now_ms(self._clock)
        fee_bp = await self._store.fee_bp(user_id, wallet.enterprise_id, at_ms)
        if fee_bp != facts.fee_bp:
            # The hour is part of the name: to and fro within a day are two changes.
            op_id = op_of("share", facts.subscription_id, str(facts.fee_bp), str(fee_bp), str(at_ms // _HOUR_MS))
            await self.payments.change_subscription(op_id, account_id, facts.subscription_id, fee_bp=fee_bp)
            _log.info("subscription %s: the share becomes %d basis points", facts.subscription_id, fee_bp)

    async def refund(self, account_id: str, facts: RefundFacts) -> None:
        """Money that went back, or did not after all."""
        await self._reversals.refund(account_id, facts)

    async def dispute(self, account_id: str, facts: DisputeFacts) -> None:
        """A dispute, wherever it stands."""
        await self._reversals.dispute(account_id, facts)

    async def disputed(self, wallet: WalletKey) -> None:
        """Whoever disputes a payment is not charged by itself for what that takes, and lent nothing."""
        await self.overages.stop(wallet, DISPUTED)
        await self._rows.top_ups.pause_wallet(wallet, "payment_disputed", now_ms(self._clock))

    async def undone(self, wallet: WalletKey, payment_id: str) -> None:
        """What was bought by itself and is given back is not bought by itself again."""
        await self.overages.refunded(wallet, payment_id)
        if await self._rows.top_ups.bought(wallet, payment_id):
            await self._rows.top_ups.pause_wallet(wallet, "payment_refunded", now_ms(self._clock))

    async def gone_back(self, wallet: WalletKey) -> None:
        """What is lent is lent beside a period that money paid for."""
        await self.overages.follow(wallet)

    async def account(self, account_id: str) -> None:
        """Whether a creator's account can sell: it cannot once its owner has taken our access away."""
        held = None if account_id == PLATFORM_ACCOUNT else await self._store.account_by_id(account_id)
        if held is None:
            raise Rejected(f"no creator has the account {account_id or 'of the platform'}")
        facts: AccountFacts | None = None
        try:
            facts = await self.payments.account(account_id)
        except PaymentsRefused as refused:
            if not refused.is_revoked:
                raise
        state, wanted = state_after(held.state, facts), facts.wanted if facts else ()
        line = Act("billing_account.update", "system", ACTOR, account_id, user_id=held.user_id)
        await self._store.set_account(account_id, state, wanted, now_ms(self._clock), line)
