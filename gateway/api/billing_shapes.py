"""JSON of what is sold and bought. Prices and payments are micro-units of a currency, grants of the wallet's asset.

Whose sales: an app's (`enterprise_id`), whose buyers are its end users (`platform_user_id`), or without one the platform's,
whose buyers are creators (`user_id`).
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from gateway.api.shapes import Answer, Body, Micro, PageQuery, Percent, Stamp, Time, WalletName
from gateway.billing.model import AccountState, Interval, PlanKind, PurchaseState, SubscriptionState

Url = Annotated[str, Meta(extra_json_schema={"format": "uri"})]
Share = Annotated[str, Meta(description="Percentage with at most two decimals.")]


class OverageBody(Body, frozen=True):
    """`max_micro` of the wallet's asset may be used beyond the allowance and be unpaid at any time.

    `per_micro` of it cost `price_micro` of the plan's currency. Where the two are the same money, both may be left out: 1 for 1.
    """

    max_micro: Micro
    price_micro: Micro | None = None
    per_micro: Micro | None = None


class PlanBody(Body, frozen=True):
    """A new plan. `interval` makes a subscription's period, `interval_count` of them; without `lot_days` what a package puts
    there lasts, and a subscription has none: its allowance ends with its period.

    `currency` is one that Stripe charges in, and `price_micro` at least what Stripe charges in it.
    `rollover_max_micro` of a subscription's grant goes on into the next period at most; `overage` is for subscriptions too.
    """

    kind: PlanKind
    name: str
    currency: str
    price_micro: Micro
    grant_micro: Micro
    enterprise_id: str | None = None
    interval: Interval | None = None
    interval_count: int = 1
    trial_days: int = 0
    rollover_max_micro: Micro = 0
    lot_days: int | None = None
    overage: OverageBody | None = None


class OverageAnswer(Answer, frozen=True):
    """What of the wallet's asset may be used beyond the allowance, and what `per_micro` of it cost in the plan's currency."""

    max_micro: Micro
    price_micro: Micro
    per_micro: Micro


class PlanAnswer(Answer, frozen=True):
    """A plan. `asset` is that of the wallets that it fills."""

    id: str
    enterprise_id: str | None
    kind: PlanKind
    name: str
    currency: str
    price_micro: Micro
    asset: str
    grant_micro: Micro
    interval: Interval | None
    interval_count: int
    trial_days: int
    rollover_max_micro: Micro
    lot_days: int | None
    overage: OverageAnswer | None
    created_at: Stamp
    archived_at: Stamp | None


class PlansQuery(PageQuery, frozen=True):
    """Whose plans; `archived`: also those that are not offered any more."""

    enterprise_id: str | None = None
    archived: bool = False


class CheckoutBody(Body, frozen=True):
    """Who wants to buy which plan, and where the browser goes afterwards. An end user's token, and a creator, name nobody.

    Without `success_url` it goes to a page of the gateway's, in the app's colours.
    `save_payment_method`: what a package is paid with may be charged again by automatic top-up, once that is turned on.
    `promo_code` takes something off the price, or the request is refused.
    """

    plan_id: str
    success_url: Url | None = None
    cancel_url: Url | None = None
    platform_user_id: str | None = None
    user_id: str | None = None
    email: str | None = None
    save_payment_method: bool = False
    promo_code: str | None = None


class CheckoutAnswer(Answer, frozen=True):
    """Send the buyer to `url`; null once the page has been used or has run out. `status` is open, complete or expired."""

    id: str
    url: Url | None
    status: str
    plan_id: str
    wallet: WalletName
    purchase_id: str | None


class PortalBody(Body, frozen=True):
    """Whose invoices, payment method and subscription are to be looked after."""

    return_url: Url
    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None


class PortalAnswer(Answer, frozen=True):
    """Send the buyer there within a few minutes."""

    url: Url


class SalesQuery(PageQuery, frozen=True):
    """Whose sales, and of which buyer: end users see their own, creators their own and their apps'."""

    enterprise_id: str | None = None
    platform_user_id: str | None = None
    user_id: str | None = None


class SellerQuery(Body, frozen=True):
    """The app whose sale it is; without it, the credential's own app, else the platform."""

    enterprise_id: str | None = None


class SubscriptionAnswer(Answer, frozen=True):
    """A subscription; `status` is Stripe's word."""

    id: str
    wallet: WalletName
    plan_id: str
    status: SubscriptionState
    period_start: Stamp
    period_end: Stamp
    cancel_at_period_end: bool
    grace_until: Stamp | None
    created_at: Stamp


class SubscriptionPatch(Body, frozen=True, omit_defaults=True):
    """Another plan, or an end with the period (false: it goes on): one of the two."""

    plan_id: str | None = None
    cancel_at_period_end: bool | None = None


class PurchaseAnswer(Answer, frozen=True, omit_defaults=True):
    """A payment for a package; `discount_micro` is what a promo code took off. End users are not shown the platform's share.

    `refunded_micro` is what went back of it, as the books have it: all of it (`full`), a part, or (null) nothing.
    """

    id: str
    wallet: WalletName
    plan_id: str
    status: PurchaseState
    currency: str
    amount_micro: Micro
    grant_micro: Micro
    automatic: bool
    created_at: Stamp
    ended_at: Stamp | None
    refunded_micro: Micro
    refund: Literal["partial", "full"] | None
    promo_code_id: str | UnsetType | None = UNSET
    discount_micro: Micro | UnsetType = UNSET
    fee_micro: Micro | UnsetType = UNSET
    payment_id: str | UnsetType | None = UNSET


class RefundBody(Body, frozen=True):
    """What to give back: a purchase, or any payment by Stripe's id, such as a subscription's.

    Without `amount_micro` it is all that can still go back.
    """

    purchase_id: str | None = None
    payment_id: str | None = None
    enterprise_id: str | None = None
    amount_micro: Micro | None = None
    reason: str = ""


class RefundAnswer(Answer, frozen=True):
    """A refund as Stripe has it: `pending` can stay so for days.

    The wallet's part follows when Stripe tells of it (`applied`). In its `asset`, `taken_micro` goes of what it has, and
    `debt_micro`, which was spent, becomes a debt that stops service until it is paid: as the books have it, or before it is
    applied as they would have it now. Both are null where the books do not know the payment, or the refund has failed.
    """

    id: str
    payment_id: str
    purchase_id: str | None
    status: str
    currency: str
    amount_micro: Micro
    fee_returned_micro: Micro
    asset: str
    taken_micro: Micro | None
    debt_micro: Micro | None
    applied: bool


class AccountBody(Body, frozen=True):
    """Whose account; `user_id` may be left out by a creator. `email` is where Stripe writes to.

    `country` (two letters) is where the creator's business is; without it Stripe asks.
    """

    email: str
    user_id: str | None = None
    country: str | None = None


class BillingAccountAnswer(Answer, frozen=True):
    """A creator's account at Stripe. Its apps sell while it is `active`; `wanted` is what Stripe still asks for."""

    user_id: str
    account_id: str
    status: AccountState
    wanted: tuple[str, ...]
    created_at: Stamp
    updated_at: Stamp


class OnboardingBody(Body, frozen=True):
    """Where the browser goes from Stripe's questions, and where it goes for a fresh link when it came too late."""

    return_url: Url
    refresh_url: Url | None = None


class OnboardingAnswer(Answer, frozen=True):
    """Send the creator there within a few minutes; it works once."""

    url: Url


class FeeTermBody(Body, frozen=True):
    """The platform's share of what a creator's apps sell, or one of them, from a moment on (default: now)."""

    user_id: str
    fee_percent: Percent
    enterprise_id: str | None = None
    effective_at: Time | None = None


class FeeTermAnswer(Answer, frozen=True):
    """A term. An app's own comes before that of all its creator's apps (`enterprise_id` null)."""

    user_id: str
    enterprise_id: str | None
    fee_percent: Share
    effective_at: Stamp
    created_at: Stamp
    actor: str


class FeeTermsQuery(Body, frozen=True):
    """Whose terms; without `user_id`, everybody's latest 200."""

    user_id: str | None = None
