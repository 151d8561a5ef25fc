"""Buying: the pages at Stripe on which a buyer pays, changes and cancels.

Nothing is credited here: what a buyer did, and what Stripe did of what was asked, comes back as a webhook, or is found by the
reconciler. A purchase's row is there before Stripe is asked, so that no payment can come for which there is none.
"""

import hashlib
from typing import Final

import msgspec

from gateway.billing.acts import Named, buyer_of, check_own, missing, op_of, owner_seen, sale_act, seller_of, told, url
from gateway.billing.catalogue import Catalogue
from gateway.billing.connect import Connect, email
from gateway.billing.fees import Fees, fee_minor
from gateway.billing.first_purchases import FirstPurchases
from gateway.billing.model import Plan, PlanKind, Purchase, PurchaseState, Subscription
from gateway.billing.offers import OVER, Offers, check_offered, granted
from gateway.billing.open_pages import SubscriptionPages
from gateway.billing.pages import Outcome, Places
from gateway.billing.ports import CheckoutFacts, Metadata, Payments, PaymentsRefused, SubscriptionFacts
from gateway.billing.promo_codes import Discount, PromoCodeRefused, PromoCodes
from gateway.billing.store import Store, TooMany
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound, RateLimited
from gateway.core.ids import new_id
from gateway.core.limits import OPEN_PURCHASES_MAX
from gateway.identity import rules
from gateway.identity.model import Actor, App, Page
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey

_DAY_MS: Final = 86_400_000  # how long a page is open


class Wish(msgspec.Struct, frozen=True):
    """Who wants to buy what."""

    plan_id: str
    buyer: Named
    success_url: str | None = None  # None: a page of ours
    cancel_url: str | None = None
    email: str | None = None
    save_method: bool = False
    promo_code: str | None = None


class Checkout(msgspec.Struct, frozen=True):
    """Where a buyer is to go. `url` is None once the page has been used or has run out (`status`, in Stripe's words).

    A package has a `purchase_id`; a subscription is there when it has been paid for.
    """

    session_id: str
    url: str | None
    status: str
    plan: Plan
    wallet: WalletKey
    purchase_id: str | None


class Buying:
    """Sales as buyers and sellers start them. Raises PaymentsDown and PaymentsRefused besides what each method says."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        payments: Payments,
        catalogue: Catalogue,
        connect: Connect,
        fees: Fees,
        clock: Clock,
        places: Places,
        promo_codes: PromoCodes,
    ) -> None:
        self._store = store
        self._registry = registry
        self._payments = payments
        self._catalogue = catalogue
        self._connect = connect
        self._fees = fees
        self._places = places
        self._promo_codes = promo_codes
        self._clock = clock
        self.offers = Offers(store, registry, catalogue, connect, promo_codes)
        self._pages = SubscriptionPages(store, payments, clock)
        self._firsts = FirstPurchases(store, payments, clock)

    # ---- pages ---------------------------------------------------------------------------------

    async def checkout(self, actor: Actor, wish: Wish, key: str) -> Checkout:
        """A page to pay on; the same `key` of the same role gives the same page. InvalidRequest, NotFound, Forbidden.

        Conflict: `selling_blocked`, a plan that is archived, a buyer who has a subscription already, or a key used before.
        PromoCodeRefused for a code that takes nothing off this.
        """
        plan = await self._catalogue.plan(actor, wish.plan_id)
        seller = await seller_of(self._registry, actor, plan.enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, wish.buyer)
        success_url, cancel_url = self.urls(seller, wish.success_url, wish.cancel_url, "paid")
        wish = msgspec.structs.replace(
            wish,
            buyer=Named(),  # that is the wallet by now
            success_url=success_url,
            cancel_url=cancel_url,
            email=email(wish.email),
        )
        account_id = await self.offers.account(plan, seller)
        op_id = op_of("checkout", actor.role, plan.enterprise_id or "", wallet.owner, key)
        fee_bp = 0 if seller is None else await self._fees.in_force(seller.user_id, seller.enterprise_id)
        sell = self._package if plan.kind == PlanKind.PACKAGE else self._subscription
        try:
            discount = await self._discount(wish.promo_code, plan, seller, wallet, account_id, op_id)
            return await sell(actor, seller, wallet, plan, account_id, fee_bp, wish, op_id, discount)
        except PaymentsRefused:
            await self._connect.look_again(seller)
            raise

    async def _discount(
        self, said: str | None, plan: Plan, seller: App | None, wallet: WalletKey, account_id: str, op_id: str
    ) -> Discount | None:
        """What a code takes off; None without one, and for a repeated request whose page is there: it may be redeemed by now."""
        if said is None:
            return None
        known = await self._store.asked(wallet.enterprise_id, op_id)
        if known is not None and known.purchase.session_id is not None:
            return None
        return await self._promo_codes.discount(said, plan, seller, wallet, account_id)

    def urls(self, seller: App | None, success_url: str | None, cancel_url: str | None, outcome: Outcome) -> tuple[str, str]:
        """Where a browser goes from a page at Stripe, done or not: where the caller says, else to pages of ours."""
        done = self._places.returned(outcome, seller) if success_url is None else url(success_url, "success_url")
        if cancel_url is not None:
            return done, url(cancel_url, "cancel_url")
        return done, self._places.returned("cancelled", seller) if success_url is None else done

    async def _package(
        self,
        actor: Actor,
        seller: App | None,
        wallet: WalletKey,
        plan: Plan,
        account_id: str,
        fee_bp: int,
        wish: Wish,
        op_id: str,
        discount: Discount | None,
    ) -> Checkout:
        at_ms = now_ms(self._clock)
        off_minor = 0 if discount is None else discount.off_minor
        amount_minor = plan.price_minor - off_minor
        purchase = Purchase(
            id=new_id("pur"),
            wallet=wallet,
            plan_id=plan.id,
            account_id=account_id,
            state=PurchaseState.OPEN,
            amount_minor=amount_minor,
            currency=plan.currency,
            fee_minor=fee_minor(amount_minor, fee_bp),
            grant_micro=granted(plan, seller, amount_minor),
            created_at_ms=at_ms,
            promo_code_id=None if discount is None else discount.promo_code_id,
            discount_minor=off_minor,
        )
        line = sale_act(actor, "purchase.create", purchase.id, seller, wallet, after=_sold(purchase))
        fingerprint = _fingerprint(wish)
        try:
            asked = await self._store.add_purchase(purchase, op_id, fingerprint, line, OPEN_PURCHASES_MAX, at_ms - _DAY_MS)
        except TooMany as full:
            message = f"This buyer has {OPEN_PURCHASES_MAX} pages open that were not paid on."
            raise RateLimited(message, retry_after_s=3600) from full
        if asked.fingerprint != fingerprint:
            raise Conflict("This Idempotency-Key was used for another request.", param="Idempotency-Key")
        purchase = asked.purchase
        if purchase.session_id is None and purchase.state != PurchaseState.OPEN:
            raise Conflict("Stripe refused this request: send another Idempotency-Key.", param="Idempotency-Key")
        if purchase.session_id is not None:
            facts = await self._payments.checkout_session(purchase.account_id, purchase.session_id)
        else:
            try:
                facts = await self._firsts.page(
                    wallet,
                    account_id,
                    discount,
                    purchase.id,
                    lambda: self._package_page(purchase, plan, seller, fee_bp, wish, discount),
                )
            except (PaymentsRefused, PromoCodeRefused, Conflict):
                await self._store.fail_purchase(wallet.enterprise_id, purchase.id, now_ms(self._clock))
                raise
            await self._store.set_session(wallet.enterprise_id, purchase.id, facts.session_id)
        return Checkout(facts.session_id, facts.url, facts.status, plan, wallet, purchase.id)

    async def _subscription(
        self,
        actor: Actor,
        seller: App | None,
        wallet: WalletKey,
        plan: Plan,
        account_id: str,
        fee_bp: int,
        wish: Wish,
        op_id: str,
        discount: Discount | None,
    ) -> Checkout:
        plan, known = await self.offers.subscribable(plan, wallet)
        try:
            facts = await self._firsts.page(
                wallet,
                account_id,
                discount,
                op_id,
                lambda: self._session(op_id, "", account_id, wallet, plan, 0, fee_bp, wish, discount),
            )
        except PaymentsRefused as refused:
            if refused.code == "idempotency_error":
                raise Conflict("This Idempotency-Key was used for another request.", param="Idempotency-Key") from refused
            raise
        after = told(
            {
                "plan_id": plan.id,
                "owner": wallet.owner,
                "fee_bp": fee_bp,
                "promo_code_id": discount.promo_code_id if discount else None,
            }
        )
        line = sale_act(actor, "checkout.create", facts.session_id, seller, wallet, after=after)
        await self._store.note(wallet.enterprise_id, line, now_ms(self._clock))
        facts = await self._pages.opened(wallet, account_id, facts, [each.subscription_id for each in known])
        return Checkout(facts.session_id, facts.url, facts.status, plan, wallet, None)

    async def _package_page(
        self, purchase: Purchase, plan: Plan, seller: App | None, fee_bp: int, wish: Wish, discount: Discount | None
    ) -> CheckoutFacts:
        """Where a purchase is paid. Of a discount Stripe may make a minor unit more or less than we do: its word counts, and
        the share is of that.
        """
        account_id, wallet, fee = purchase.account_id, purchase.wallet, purchase.fee_minor
        if discount is None:
            return await self._session(purchase.id, purchase.id, account_id, wallet, plan, fee, fee_bp, wish)
        name = f"{purchase.id}:{fee}"
        facts = await self._session(name, purchase.id, account_id, wallet, plan, fee, fee_bp, wish, discount)
        asked = purchase.amount_minor if facts.amount_minor is None else facts.amount_minor
        if asked == purchase.amount_minor:
            return facts
        if abs(asked - purchase.amount_minor) > 1 or asked <= 0:
            await self._payments.expire_checkout(account_id, facts.session_id)
            raise PaymentsRefused(
                f"Stripe asks {asked} for what costs {purchase.amount_minor} with this code.", "unexpected_answer"
            )
        right = fee_minor(asked, fee_bp)
        off_minor = purchase.discount_minor + purchase.amount_minor - asked
        await self._store.reprice(
            msgspec.structs.replace(
                purchase, amount_minor=asked, fee_minor=right, discount_minor=off_minor, grant_micro=granted(plan, seller, asked)
            )
        )
        if right == fee:
            return facts
        await self._payments.expire_checkout(account_id, facts.session_id)
        name = f"{purchase.id}:{right}"
        return await self._session(name, purchase.id, account_id, wallet, plan, right, fee_bp, wish, discount)

    async def _session(
        self,
        op_id: str,
        purchase_id: str,
        account_id: str,
        wallet: WalletKey,
        plan: Plan,
        fee: int,
        fee_bp: int,
        wish: Wish,
        discount: Discount | None = None,
    ) -> CheckoutFacts:
        """A page at Stripe; `purchase_id` of a package."""
        return await self._payments.checkout(
            op_id,
            account_id,
            plan=plan,
            price_id=await self._catalogue.price_id(plan, account_id),
            customer_id=await self.customer(wallet, account_id, wish.email or ""),
            metadata=Metadata(wallet.enterprise_id, wallet.owner, plan.id, purchase_id),
            fee_minor=fee,
            fee_bp=fee_bp,
            success_url=wish.success_url or "",
            cancel_url=wish.cancel_url or wish.success_url or "",
            save_method=wish.save_method,
            promotion_id=discount.promotion_id if discount else None,
        )

    async def customer(self, wallet: WalletKey, account_id: str, address: str) -> str:
        """The buyer at Stripe; made with the address of the first purchase."""
        customer_id = await self._store.customer(wallet, account_id)
        if customer_id is None:
            op_id = op_of("customer", account_id, wallet.name, address)
            metadata = Metadata(wallet.enterprise_id, wallet.owner, "")
            customer_id = await self._payments.create_customer(op_id, account_id, metadata, address)
            await self._store.add_customer(wallet, account_id, customer_id, now_ms(self._clock))
            customer_id = await self._store.customer(wallet, account_id) or customer_id  # of two at once, the first
        return customer_id

    async def portal(self, actor: Actor, enterprise_id: str | None, buyer: Named, return_url: str) -> str:
        """Where a buyer sees invoices, changes the payment method and cancels. NotFound when nothing was bought yet."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        wallet = await buyer_of(self._registry, actor, seller, buyer)
        back = url(return_url, "return_url")
        account_id = await self._connect.existing_account(seller)
        customer_id = await self._store.customer(wallet, account_id)
        if customer_id is None:
            raise NotFound("This buyer has bought nothing yet.")
        return await self._payments.portal_link(account_id, customer_id, back)

    # ---- subscriptions -------------------------------------------------------------------------

    async def change(
        self,
        actor: Actor,
        enterprise_id: str | None,
        subscription_id: str,
        key: str,
        *,
        plan_id: str | None = None,
        cancel_at_period_end: bool | None = None,
    ) -> Subscription:
        """Another plan, or an end with the period (False: no end).

        A dearer plan is paid for in proportion at once, and its part granted when that is paid. Any other begins with the
        next period: of this one nothing is charged or given back, and what it granted stays.
        What comes back is as Stripe has it; ours follows with the webhook. InvalidRequest, NotFound, Conflict.
        """
        seller, held = await self._held(actor, enterprise_id, subscription_id)
        if (plan_id is None) == (cancel_at_period_end is None):
            raise InvalidRequest("Say either `plan_id` or `cancel_at_period_end`.", param="plan_id")
        if held.state in OVER:
            raise Conflict("This subscription has ended.", param="subscription_id")
        op_id = op_of("change", actor.role, held.id, key)
        if plan_id is None:
            facts = await self._payments.change_subscription(
                op_id, held.account_id, held.subscription_id, cancel_at_period_end=cancel_at_period_end
            )
            changed: dict[str, object] = {"cancel_at_period_end": cancel_at_period_end}
        else:
            plan = await self._other_plan(actor, held, plan_id)
            fee_bp = None if seller is None else await self._fees.in_force(seller.user_id, seller.enterprise_id)
            facts = await self._switch(held, plan, op_id, fee_bp)
            changed = {"plan_id": plan.id}
        line = sale_act(
            actor, "subscription.change", held.id, seller, held.wallet, before={"plan_id": held.plan_id}, after=changed
        )
        await self._store.note(held.wallet.enterprise_id, line, now_ms(self._clock))
        return _as_told(held, facts)

    async def _switch(self, held: Subscription, plan: Plan, op_id: str, fee_bp: int | None) -> SubscriptionFacts:
        """To `plan`: at once where it is dearer than what this period was paid for, else with the next invoice.

        A change to a cheaper plan that is still to come is taken back first, or Stripe would charge its difference again.
        """
        seen = await self._payments.subscription(held.account_id, held.subscription_id)
        at_stripe = await self._store.plan_of_price(held.account_id, seen.price_id)
        paid = await self._paid_plan(held.account_id, seen)
        before = paid if paid is not None else await self._store.plan(at_stripe or held.plan_id)
        is_dearer = before is not None and plan.price_minor > before.price_minor
        if is_dearer and paid is not None and paid.id != at_stripe:
            await self._payments.change_subscription(
                f"{op_id}:back",
                held.account_id,
                held.subscription_id,
                price_id=await self._catalogue.price_id(paid, held.account_id),
                is_at_once=False,
            )
        return await self._payments.change_subscription(
            f"{op_id}:{'now' if is_dearer else 'next'}",  # a repeat finds the period paid for
            held.account_id,
            held.subscription_id,
            price_id=await self._catalogue.price_id(plan, held.account_id),
            metadata=Metadata(held.wallet.enterprise_id, held.wallet.owner, plan.id),
            fee_bp=fee_bp,
            is_at_once=is_dearer,
        )

    async def _paid_plan(self, account_id: str, seen: SubscriptionFacts) -> Plan | None:
        """The dearest plan that this period was paid for; None in a trial."""
        found: Plan | None = None
        async for invoice in self._payments.invoices_of(account_id, subscription_id=seen.subscription_id):
            for line in invoice.lines if invoice.status == "paid" else ():
                if line.period_end_ms != seen.period_end_ms or line.amount_minor <= 0 or line.price_id is None:
                    continue
                plan_id = await self._store.plan_of_price(account_id, line.price_id)
                plan = None if plan_id is None else await self._store.plan(plan_id)
                if plan is not None and (found is None or plan.price_minor > found.price_minor):
                    found = plan
            if any(line.period_end_ms < seen.period_end_ms for line in invoice.lines if not line.is_proration):
                break  # it is of a period before this one
        return found

    async def _other_plan(self, actor: Actor, held: Subscription, plan_id: str) -> Plan:
        plan, now = await self._catalogue.plan(actor, plan_id), await self._catalogue.plan(actor, held.plan_id)
        if plan.enterprise_id != held.wallet.enterprise_id or plan.kind != PlanKind.SUBSCRIPTION:
            raise InvalidRequest("A subscription changes to another subscription of the same seller.", param="plan_id")
        check_offered(plan)
        if plan.currency != now.currency:
            raise InvalidRequest(f"A subscription keeps its currency, which is {now.currency}.", param="plan_id")
        if (plan.interval, plan.interval_count) != (now.interval, now.interval_count):
            raise InvalidRequest("A subscription keeps its interval: end it, and buy the other with the next.", param="plan_id")
        if plan.id == held.plan_id:
            raise Conflict("That is its plan already.", param="plan_id")
        return plan

    async def _held(self, actor: Actor, enterprise_id: str | None, subscription_id: str) -> tuple[App | None, Subscription]:
        seller = await seller_of(self._registry, actor, enterprise_id)
        held = await self._store.subscription(seller.enterprise_id if seller else None, subscription_id)
        if held is None:
            raise missing(seller, "subscription")
        check_own(actor, held.wallet, "subscription")
        return seller, held

    async def subscriptions(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[Subscription]:
        """Newest first: an end user's or a creator's own, or a seller's of one buyer or all."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        found = await self._store.subscriptions(seller.enterprise_id if seller else None, owner, after, count + 1)
        return Page(tuple(found[:count]), found[count - 1].id if len(found) > count else None)

    # ---- purchases -----------------------------------------------------------------------------

    async def purchases(
        self, actor: Actor, enterprise_id: str | None, buyer: Named, after: str | None, count: int
    ) -> Page[Purchase]:
        """Likewise."""
        seller = await seller_of(self._registry, actor, enterprise_id)
        owner = await owner_seen(self._registry, actor, seller, buyer)
        count = rules.page(after, count)
        found = await self._store.purchases(seller.enterprise_id if seller else None, owner, after, count + 1)
        return Page(tuple(found[:count]), found[count - 1].id if len(found) > count else None)


def _as_told(held: Subscription, facts: SubscriptionFacts) -> Subscription:
    return msgspec.structs.replace(
        held,
        plan_id=facts.metadata.plan_id if facts.metadata else held.plan_id,
        state=facts.status,
        period_start_ms=facts.period_start_ms,
        period_end_ms=facts.period_end_ms,
        cancel_at_period_end=facts.cancel_at_period_end,
    )


def _sold(purchase: Purchase) -> dict[str, object]:
    names = ("plan_id", "amount_minor", "currency", "fee_minor", "promo_code_id", "discount_minor")
    return told({"owner": purchase.wallet.owner, **{name: getattr(purchase, name) for name in names}})


def _fingerprint(wish: Wish) -> str:
    said = msgspec.to_builtins(wish)
    if wish.promo_code is None:  # a request from before there were codes keeps its digest
        del said["promo_code"]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()
