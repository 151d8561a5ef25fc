"""Handlers: plans, checkout and portal pages, subscriptions, purchases and refunds, creators' accounts, the platform's share."""

from decimal import Decimal

import msgspec

from gateway.api.billing_shapes import (
    BillingAccountAnswer,
    CheckoutAnswer,
    CheckoutBody,
    FeeTermAnswer,
    OnboardingAnswer,
    OverageAnswer,
    PlanAnswer,
    PortalAnswer,
    PortalBody,
    PurchaseAnswer,
    RefundAnswer,
    SalesQuery,
    SubscriptionAnswer,
)
from gateway.api.endpoint import ApiContext, Call
from gateway.api.shapes import Listing, WalletName, ms_of
from gateway.api.wire import listing
from gateway.billing.acts import Named
from gateway.billing.buying import Wish
from gateway.billing.catalogue import NewOverage, NewPlan
from gateway.billing.minor_units import micro_from_minor
from gateway.billing.model import (
    Account,
    AccountState,
    FeeTerm,
    Plan,
    Purchase,
    PurchaseState,
    Subscription,
    SubscriptionState,
)
from gateway.core.clock import rfc3339
from gateway.core.errors import InvalidRequest
from gateway.core.limits import PAGE_ROWS_MAX
from gateway.identity.model import Role
from gateway.ledger.model import PLATFORM_ASSET, WalletKey
from gateway.pricing.configured import percent


async def create_plan(context: ApiContext, call: Call) -> PlanAnswer:
    """POST plans."""
    wish = msgspec.structs.asdict(call.body)
    if call.body.overage is not None:
        wish["overage"] = NewOverage(**msgspec.structs.asdict(call.body.overage))
    plan = await context.sales.catalogue.create(call.actor, NewPlan(**wish))
    return _plan(plan, await _asset(context, call, plan))


async def list_plans(context: ApiContext, call: Call) -> Listing[PlanAnswer]:
    """GET plans, newest first."""
    query = call.query
    page = await context.sales.catalogue.listed(
        call.actor, query.enterprise_id, query.cursor, query.limit, archived=query.archived
    )
    asset = await _asset(context, call, page.rows[0]) if page.rows else PLATFORM_ASSET
    return listing(page.rows, page.next_cursor, lambda plan: _plan(plan, asset))


async def archive_plan(context: ApiContext, call: Call) -> PlanAnswer:
    """DELETE plans/{plan_id}: no longer offered."""
    plan = await context.sales.catalogue.archive(call.actor, call.path["plan_id"])
    return _plan(plan, await _asset(context, call, plan))


async def create_checkout(context: ApiContext, call: Call) -> CheckoutAnswer:
    """POST checkout-sessions: the same Idempotency-Key of the same buyer gives the same page."""
    body = call.body
    assert call.idempotency_key is not None
    wish = Wish(
        body.plan_id,
        _buyer(body),
        body.success_url,
        body.cancel_url,
        body.email,
        body.save_payment_method,
        body.promo_code,
    )
    made = await context.sales.buying.checkout(call.actor, wish, call.idempotency_key)
    return CheckoutAnswer(made.session_id, made.url, made.status, made.plan.id, _wallet(made.wallet), made.purchase_id)


async def create_portal(context: ApiContext, call: Call) -> PortalAnswer:
    """POST portal-sessions."""
    body = call.body
    return PortalAnswer(await context.sales.buying.portal(call.actor, body.enterprise_id, _buyer(body), body.return_url))


async def list_subscriptions(context: ApiContext, call: Call) -> Listing[SubscriptionAnswer]:
    """GET subscriptions, newest first."""
    query = call.query
    buying = context.sales.buying
    page = await buying.subscriptions(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    return listing(page.rows, page.next_cursor, _subscription)


async def update_subscription(context: ApiContext, call: Call) -> SubscriptionAnswer:
    """PATCH subscriptions/{subscription_id}."""
    assert call.idempotency_key is not None
    changed = await context.sales.buying.change(
        call.actor,
        call.query.enterprise_id,
        call.path["subscription_id"],
        call.idempotency_key,
        plan_id=call.body.plan_id,
        cancel_at_period_end=call.body.cancel_at_period_end,
    )
    return _subscription(changed)


async def list_purchases(context: ApiContext, call: Call) -> Listing[PurchaseAnswer]:
    """GET purchases, newest first."""
    query = call.query
    buying = context.sales.buying
    page = await buying.purchases(call.actor, query.enterprise_id, _buyer(query), query.cursor, query.limit)
    whole = call.actor.role in (Role.OPERATOR, Role.CREATOR)
    refunded = await context.sales.refunding.refunded(page.rows)
    return listing(
        page.rows, page.next_cursor, lambda each: _purchase(each, refunded.get(each.payment_id or "", 0), whole=whole)
    )


async def create_refund(context: ApiContext, call: Call) -> RefundAnswer:
    """POST refunds."""
    body = call.body
    assert call.idempotency_key is not None
    done = await context.sales.refunding.refund(
        call.actor,
        body.enterprise_id,
        call.idempotency_key,
        purchase_id=body.purchase_id,
        payment_id=body.payment_id,
        amount_micro=body.amount_micro,
        reason=body.reason,
    )
    paid, made, effect = done.paid, done.facts, done.effect
    return RefundAnswer(
        id=made.refund_id,
        payment_id=paid.payment_id,
        purchase_id=paid.purchase_id,
        status=made.status,
        currency=made.currency,
        amount_micro=micro_from_minor(made.amount_minor, made.currency),
        fee_returned_micro=micro_from_minor(made.fee_returned_minor, made.currency),
        asset=done.asset,
        taken_micro=None if effect is None else effect.taken_micro,
        debt_micro=None if effect is None else effect.debt_micro,
        applied=effect is not None and effect.is_posted,
    )


async def create_account(context: ApiContext, call: Call) -> BillingAccountAnswer:
    """POST billing-accounts: the creator's one account, made when it has none."""
    user_id = call.body.user_id or call.actor.user_id
    if user_id is None:
        raise InvalidRequest("Say whose account it is to be.", param="user_id")
    return _account(await context.sales.connect.create(call.actor, user_id, call.body.email, call.body.country))


async def get_account(context: ApiContext, call: Call) -> BillingAccountAnswer:
    """GET billing-accounts/{user_id}, as Stripe has it now."""
    return _account(await context.sales.connect.status(call.actor, call.path["user_id"]))


async def create_onboarding_link(context: ApiContext, call: Call) -> OnboardingAnswer:
    """POST billing-accounts/{user_id}/onboarding-links."""
    body = call.body
    link = await context.sales.connect.onboarding_link(call.actor, call.path["user_id"], body.return_url, body.refresh_url)
    return OnboardingAnswer(link)


async def create_fee_term(context: ApiContext, call: Call) -> FeeTermAnswer:
    """POST fee-terms."""
    body = call.body
    begins_ms = None if body.effective_at is None else ms_of(body.effective_at)
    return _term(await context.sales.fees.add(call.actor, body.user_id, body.enterprise_id, _bp(body.fee_percent), begins_ms))


async def list_fee_terms(context: ApiContext, call: Call) -> Listing[FeeTermAnswer]:
    """GET fee-terms, the latest first."""
    return listing(await context.sales.fees.listed(call.actor, call.query.user_id, PAGE_ROWS_MAX), None, _term)


def _buyer(given: CheckoutBody | PortalBody | SalesQuery) -> Named:
    return Named(given.platform_user_id, given.user_id)


def _bp(given: str | int | float) -> int:
    try:
        points = Decimal(str(given)) * 100
    except ArithmeticError as wrong:
        raise InvalidRequest("`fee_percent` is not a number", param="fee_percent") from wrong
    if not points.is_finite() or points != points.to_integral_value() or not 0 <= points <= 10_000:
        raise InvalidRequest("`fee_percent` must be 0 to 100 with at most two decimals", param="fee_percent")
    return int(points)


async def _asset(context: ApiContext, call: Call, plan: Plan) -> str:
    if plan.enterprise_id is None:
        return PLATFORM_ASSET
    return (await context.registry.app(call.actor, plan.enterprise_id)).asset


def _wallet(key: WalletKey) -> WalletName:
    if key.enterprise_id is None:
        return WalletName(user_id=key.owner)
    return WalletName(enterprise_id=key.enterprise_id, platform_user_id=key.owner)


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)


def _plan(plan: Plan, asset: str) -> PlanAnswer:
    fields = msgspec.structs.asdict(plan)
    created_at, archived_at = rfc3339(fields.pop("created_at_ms")), _time(fields.pop("archived_at_ms"))
    price_micro = micro_from_minor(fields.pop("price_minor"), plan.currency)
    fields["overage"] = None if plan.overage is None else OverageAnswer(**msgspec.structs.asdict(plan.overage))
    return PlanAnswer(**fields, asset=asset, price_micro=price_micro, created_at=created_at, archived_at=archived_at)


def _subscription(held: Subscription) -> SubscriptionAnswer:
    return SubscriptionAnswer(
        id=held.id,
        wallet=_wallet(held.wallet),
        plan_id=held.plan_id,
        status=SubscriptionState(held.state),
        period_start=rfc3339(held.period_start_ms),
        period_end=rfc3339(held.period_end_ms),
        cancel_at_period_end=held.cancel_at_period_end,
        grace_until=_time(held.grace_until_ms),
        created_at=rfc3339(held.created_at_ms),
    )


def _purchase(purchase: Purchase, refunded_micro: int, *, whole: bool) -> PurchaseAnswer:
    amount_micro = micro_from_minor(purchase.amount_minor, purchase.currency)
    answer = PurchaseAnswer(
        id=purchase.id,
        wallet=_wallet(purchase.wallet),
        plan_id=purchase.plan_id,
        status=PurchaseState(purchase.state),
        currency=purchase.currency,
        amount_micro=amount_micro,
        grant_micro=purchase.grant_micro,
        automatic=purchase.is_automatic,
        created_at=rfc3339(purchase.created_at_ms),
        ended_at=_time(purchase.ended_at_ms),
        refunded_micro=refunded_micro,
        refund=None if not refunded_micro else "full" if refunded_micro >= amount_micro else "partial",
    )
    if purchase.promo_code_id is not None:
        discount_micro = micro_from_minor(purchase.discount_minor, purchase.currency)
        answer = msgspec.structs.replace(answer, promo_code_id=purchase.promo_code_id, discount_micro=discount_micro)
    if not whole:
        return answer
    fee_micro = micro_from_minor(purchase.fee_minor, purchase.currency)
    return msgspec.structs.replace(answer, fee_micro=fee_micro, payment_id=purchase.payment_id)


def _account(account: Account) -> BillingAccountAnswer:
    return BillingAccountAnswer(
        user_id=account.user_id,
        account_id=account.account_id,
        status=AccountState(account.state),
        wanted=account.wanted,
        created_at=rfc3339(account.created_at_ms),
        updated_at=rfc3339(account.updated_at_ms),
    )


def _term(term: FeeTerm) -> FeeTermAnswer:
    return FeeTermAnswer(
        user_id=term.user_id,
        enterprise_id=term.enterprise_id,
        fee_percent=percent(term.fee_bp),
        effective_at=rfc3339(term.effective_at_ms),
        created_at=rfc3339(term.created_at_ms),
        actor=term.actor,
    )
