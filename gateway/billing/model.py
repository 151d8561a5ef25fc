"""Values of this room. Amounts of money are integer minor units of a currency (`minor_units`) where they are Stripe's
(`_minor`), micro-units of a wallet's asset where they are ours (`_micro`); times are Unix milliseconds.
"""

from enum import StrEnum
from typing import Final

import msgspec

from gateway.core.money import ceil_div
from gateway.ledger.model import WalletKey

PLATFORM_ACCOUNT: Final = ""  # where an account's id is wanted: the platform's own


class PlanKind(StrEnum):
    """What a buyer pays for: once, or again each period."""

    PACKAGE = "package"
    SUBSCRIPTION = "subscription"


class PurchaseState(StrEnum):
    """Of one payment that a buyer was sent to, or that was taken from a saved method. It only goes forward."""

    OPEN = "open"
    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"


class SubscriptionState(StrEnum):
    """Stripe's words for where a subscription stands."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"


class AccountState(StrEnum):
    """Of a creator's account at Stripe."""

    ONBOARDING = "onboarding"  # Stripe still wants something
    ACTIVE = "active"  # charges can be taken
    RESTRICTED = "restricted"  # they could, and cannot now
    DEAUTHORIZED = "deauthorized"  # the creator took our access away


class InboxState(StrEnum):
    """Of one webhook."""

    WAITING = "waiting"
    DONE = "done"
    IGNORED = "ignored"  # of a type, or about an object, that concerns us not
    FAILED = "failed"  # after the last attempt, or refused for a reason that stays


class PromoDuration(StrEnum):
    """Of which invoices of a subscription a promo code takes something off, as Stripe names it: the first, all, some months'."""

    ONCE = "once"
    FOREVER = "forever"
    REPEATING = "repeating"


class Interval(StrEnum):
    """The unit of a subscription's period, as Stripe names it."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class Overage(msgspec.Struct, frozen=True):
    """What of a subscription may be used beyond its allowance, and what that costs.

    `max_micro` of the wallet's asset at most is used so and unpaid at any time. `price_micro`, in micro-units of the plan's
    currency, is what `per_micro` of the wallet's asset cost: a ratio of integers, so that no price is rounded.
    """

    max_micro: int
    price_micro: int
    per_micro: int

    def cost_micro(self, used_micro: int) -> int:
        """What so much of the wallet's asset costs, in micro-units of the plan's currency; rounded up, once."""
        return ceil_div(used_micro * self.price_micro, self.per_micro)


class Plan(msgspec.Struct, frozen=True):
    """What a seller offers. Its money is never changed in place: a changed plan is another one, and this one is archived.

    `grant_micro` is what a payment puts into the buyer's wallet, in the wallet's asset. `lot_days`: how long that lasts
    (None: for ever; a subscription's allowance without it ends with its period). `rollover_max_micro` of a subscription is
    what of an allowance goes on into the next period at most (0: nothing). Without `overage` its allowance is all there is.
    """

    id: str
    enterprise_id: str | None
    kind: str
    name: str
    currency: str
    price_minor: int
    grant_micro: int
    created_at_ms: int
    interval: str | None = None
    interval_count: int = 1
    trial_days: int = 0
    rollover_max_micro: int = 0
    lot_days: int | None = None
    archived_at_ms: int | None = None
    overage: Overage | None = None


class PromoCode(msgspec.Struct, frozen=True):
    """What a seller takes off its prices for who says the code: basis points, or minor units of a currency.

    It is never changed in place: an ended one makes room for another of the same letters. `user_id` is whose account at Stripe
    sells ("": the platform's). Without `plan_ids` it is for all of the seller's plans.
    """

    id: str
    enterprise_id: str | None
    user_id: str
    code: str
    duration: str
    created_at_ms: int
    percent_bp: int | None = None
    amount_off_minor: int | None = None
    currency: str | None = None  # of `amount_off_minor`
    duration_months: int | None = None
    redemptions_max: int | None = None
    first_purchase_only: bool = False
    plan_ids: tuple[str, ...] = ()
    expires_at_ms: int | None = None
    ended_at_ms: int | None = None


class Redemption(msgspec.Struct, frozen=True):
    """What a promo code took off one payment: of a purchase, or of an invoice of a subscription (Stripe's ids).

    `given_micro`: what of the grant was given for it, in the wallet's asset.
    """

    id: str  # ours, `red_`
    promo_code_id: str
    subject: str
    ref: str
    owner: str
    plan_id: str
    currency: str
    discount_minor: int
    paid_minor: int
    given_micro: int
    created_at_ms: int


class FirstPurchase(msgspec.Struct, frozen=True):
    """A buyer's one first purchase with a promo code that is for such: where it is to be made, until it is (`redeemed_at_ms`).

    `ref`: the purchase; of a subscription the request for its page, and once it is redeemed the subscription, by Stripe's id.
    """

    owner: str
    promo_code_id: str
    ref: str
    account_id: str
    claimed_at_ms: int
    session_id: str | None = None  # None: its page is being made
    redeemed_at_ms: int | None = None


class Branding(msgspec.Struct, frozen=True):
    """How an app's own pages look: what it is called there, an image by its https address, and colours as `#rrggbb`."""

    enterprise_id: str
    name: str
    logo_url: str | None
    accent: str | None
    background: str | None
    updated_at_ms: int


class Account(msgspec.Struct, frozen=True):
    """A creator's account at Stripe. `wanted`: what Stripe still asks for, in its words."""

    user_id: str
    account_id: str
    state: str
    wanted: tuple[str, ...]
    created_at_ms: int
    updated_at_ms: int


class FeeTerm(msgspec.Struct, frozen=True):
    """The platform's share of each payment in basis points, from a moment on; of one app, or of all of a creator's (None)."""

    user_id: str
    enterprise_id: str | None
    effective_at_ms: int
    fee_bp: int
    created_at_ms: int
    actor: str


class Purchase(msgspec.Struct, frozen=True):
    """One payment for a package: of a checkout, or taken from a saved method by automatic top-up.

    `payment_id` is Stripe's payment intent, known once there is one; the lot that it grants has it as `external_ref`.
    """

    id: str
    wallet: WalletKey
    plan_id: str
    account_id: str
    state: str
    amount_minor: int
    currency: str
    fee_minor: int
    grant_micro: int
    created_at_ms: int
    session_id: str | None = None
    payment_id: str | None = None
    is_automatic: bool = False
    ended_at_ms: int | None = None
    method_id: str | None = None  # what an automatic one is taken from
    promo_code_id: str | None = None
    discount_minor: int = 0  # what it took off the price: `amount_minor` is without


class TopUpRule(msgspec.Struct, frozen=True):
    """Buy a package whenever a wallet's balance falls below `below_micro`, at most so much a month and so often a day.

    `reason` is why it is off, in Stripe's word or ours, where nobody turned it off. Until `last_purchase_id` has ended, nothing
    else is bought.
    """

    wallet: WalletKey
    plan_id: str
    below_micro: int
    monthly_max_minor: int
    daily_max: int
    is_enabled: bool
    reason: str
    updated_at_ms: int
    last_purchase_id: str | None = None


class Subscription(msgspec.Struct, frozen=True):
    """A buyer's subscription, as Stripe told of it last (`as_of_ms`, Stripe's clock)."""

    id: str  # ours, `sub_`
    wallet: WalletKey
    plan_id: str
    account_id: str
    subscription_id: str  # Stripe's
    state: str
    period_start_ms: int
    period_end_ms: int
    cancel_at_period_end: bool
    created_at_ms: int
    as_of_ms: int
    grace_until_ms: int | None = None


class InboxEvent(msgspec.Struct, frozen=True):
    """A webhook as it is kept: what it is about, nothing of what it says."""

    id: str  # ours, `whk_`
    endpoint: str  # `platform` or `connect`
    event_id: str
    type: str
    account_id: str  # "": the platform's own
    object_id: str
    created_at_ms: int  # Stripe's clock
    received_at_ms: int
    state: str
    attempts: int = 0
    due_at_ms: int = 0
    reason: str = ""
    handled_at_ms: int | None = None
    rank: int = 0  # of what waits on one account, the lowest is acted upon first


class Claim(msgspec.Struct, frozen=True):
    """Webhooks of one object, for whoever has claimed them: they are acted upon by one look at it.

    `event` is the first of them, with the time of the latest; `ids` are all of theirs.
    """

    event: InboxEvent
    ids: tuple[str, ...]
