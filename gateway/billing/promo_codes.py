"""Promo codes: what a seller takes off its prices for whoever says the code when buying. An ended one is replaced, never changed.

A code is said with the request for a page to pay on, or stands in a signed link, and not on Stripe's page: the platform's share
of a package is a sum that Stripe is told beforehand, and is to be of what will be paid. Its Coupon and PromotionCode at Stripe
are made on the account that sells, when it is said there first; from then on Stripe counts how often it is redeemed and takes
it no more when it has expired, also on a page that was open before. Where nothing was paid, that is counted here as well
(`redeeming`). A code for first purchases has one page open for a buyer at a time (`first_purchases`).

What is granted stays what the plan grants. The books have what was paid as paid, and what the code took off as given by the
seller (`expense.promo`), as what any discount of an invoice takes off; the platform's share is of what was paid. In an app whose
usage the platform pays for there is nothing of its creator's to give: a purchase grants what was paid of its price.
"""

import re
from typing import Final

import msgspec

from gateway.billing import minor_units
from gateway.billing.acts import act, currency_fits, managed_seller, op_of, told
from gateway.billing.catalogue import Catalogue, check_currency
from gateway.billing.model import Plan, PromoCode, PromoDuration, Redemption
from gateway.billing.ports import Payments, PaymentsRefused
from gateway.billing.promo_store import CodeTaken, PromoStore
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.core.words import CostPolicy
from gateway.identity import rules
from gateway.identity.model import Actor, App, Page, Role
from gateway.identity.registry import Registry
from gateway.ledger.model import WalletKey

_CODE: Final = re.compile(r"[A-Z0-9-]{3,40}")  # of what Stripe takes; it tells no cases apart, and names have 40 characters
_BP: Final = 10_000
_MONTHS_MAX: Final = 36  # Stripe's longest period
_REDEMPTIONS_MAX: Final = 1_000_000
_PLANS_MAX: Final = 50
_AHEAD_MS: Final = 5 * 365 * 86_400_000  # Stripe's, of what expires
_CHOICES_MAX: Final = 20  # of codes of the same letters, where a refusal names them


class NewPromoCode(msgspec.Struct, frozen=True):
    """What the making of a code asks for; as `model.PromoCode`, an amount in micro-units of its currency."""

    code: str
    enterprise_id: str | None = None
    percent_bp: int | None = None
    amount_off_micro: int | None = None
    currency: str | None = None
    duration: PromoDuration = PromoDuration.ONCE
    duration_months: int | None = None
    redemptions_max: int | None = None
    first_purchase_only: bool = False
    plan_ids: tuple[str, ...] = ()
    expires_at_ms: int | None = None


class Discount(msgspec.Struct, frozen=True):
    """What a code takes off the price of one plan, and its id at Stripe, on the account that sells."""

    promo_code_id: str
    promotion_id: str
    off_minor: int
    first_purchase_only: bool = False


class PromoCodeRefused(InvalidRequest):
    """400: this code takes nothing off this purchase; the text says why."""

    code = "promo_code_refused"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="promo_code")


class PromoCodes:
    """Makes, lists and ends codes, and says what one takes off. Raises PaymentsDown, PaymentsRefused besides what is said."""

    def __init__(
        self, store: PromoStore, registry: Registry, payments: Payments, catalogue: Catalogue, clock: Clock
    ) -> None:
        self._store = store
        self._registry = registry
        self._payments = payments
        self._catalogue = catalogue
        self._clock = clock

    async def create(self, actor: Actor, new: NewPromoCode) -> PromoCode:
        """A new code of an app, or (operator only) of the platform. InvalidRequest, NotFound, Forbidden; Conflict when taken."""
        seller = await managed_seller(self._registry, actor, new.enterprise_id)
        at_ms = now_ms(self._clock)
        amount_off_minor = _taken_off(new)
        _check_terms(new, at_ms)
        made = PromoCode(
            id=new_id("promo"),
            enterprise_id=new.enterprise_id,
            user_id="" if seller is None else seller.user_id,
            code=letters(new.code),
            duration=new.duration,
            created_at_ms=at_ms,
            percent_bp=new.percent_bp,
            amount_off_minor=amount_off_minor,
            currency=new.currency,
            duration_months=new.duration_months,
            redemptions_max=new.redemptions_max,
            first_purchase_only=new.first_purchase_only,
            plan_ids=tuple(dict.fromkeys(new.plan_ids)),
            expires_at_ms=new.expires_at_ms,
        )
        await self._check_plans(actor, seller, made)
        line = act(actor, "promo_code.create", made.id, seller, after=told(msgspec.to_builtins(made)))
        try:
            await self._store.add(made, line)
        except CodeTaken as taken:
            other = await self._store.live(made.user_id, made.code)
            whose = "" if other is None else f", {_named(other)}"
            where = "at the platform" if seller is None else "among this creator's apps, which sell on one account at Stripe"
            raise Conflict(f"There is such a code {where}{whose}: end it first, or take another.", param="code") from taken
        return made

    async def _check_plans(self, actor: Actor, seller: App | None, made: PromoCode) -> None:
        """And that it takes something off of each plan that it names, and may: who says it later is not the one to be told."""
        if len(made.plan_ids) > _PLANS_MAX:
            raise InvalidRequest(f"A code is of at most {_PLANS_MAX} plans, or of all.", param="plan_ids")
        if made.currency is not None and not currency_fits(made.currency, seller):
            raise InvalidRequest(f"Nothing is sold here for {made.currency}.", param="currency")
        if made.percent_bp == _BP and _is_paid_only(seller):
            raise InvalidRequest(f"`percent_off` must be less than 100: {_UNPAID}", param="percent_off")
        for plan_id in made.plan_ids:
            plan = await self._catalogue.plan(actor, plan_id, param="plan_ids")
            if plan.enterprise_id != made.enterprise_id:
                raise InvalidRequest("A code is of plans of its own seller.", param="plan_ids")
            if made.currency not in (None, plan.currency):
                raise InvalidRequest(f"Plan {plan.id} is sold for {plan.currency}.", param="currency")
            try:
                _left(made, plan, seller)
            except ValueError as wrong:
                raise InvalidRequest(f"This code could never be used for plan {plan.id}: {wrong}", param="plan_ids") from wrong

    async def code(self, actor: Actor, said: str) -> tuple[PromoCode, App | None]:
        """One code that the actor may manage, by its id or its letters, ended or not, and its seller. NotFound, Forbidden.

        Letters are of the code that has not ended; where all have, of the one that has. InvalidRequest where they are of several.
        """
        code = await self._store.code(said) or await self._lettered(actor, said.strip().upper())
        if code is None:
            raise NotFound(_UNKNOWN, param="promo_code_id")
        try:
            return code, await managed_seller(self._registry, actor, code.enterprise_id)
        except NotFound as others:
            raise NotFound(_UNKNOWN, param="promo_code_id") from others

    async def _lettered(self, actor: Actor, upper: str) -> PromoCode | None:
        if not _CODE.fullmatch(upper):
            return None
        found = await self._store.lettered(None if actor.role == Role.OPERATOR else actor.user_id or "", upper, _CHOICES_MAX)
        found = [code for code in found if code.ended_at_ms is None] or found
        if len(found) > 1:
            which = "; ".join(_named(code) for code in found)
            raise InvalidRequest(f"{upper} is of several codes. Say one of them by its id: {which}.", param="promo_code_id")
        return found[0] if found else None

    async def listed(
        self, actor: Actor, enterprise_id: str | None, after: str | None, count: int, *, ended: bool = False
    ) -> Page[tuple[PromoCode, int]]:
        """A seller's codes, newest first, each with how often it was redeemed. NotFound, Forbidden."""
        await managed_seller(self._registry, actor, enterprise_id)
        count = rules.page(after, count)
        found = await self._store.codes(enterprise_id, after, count + 1, ended=ended)
        rows = [(code, await self._store.redeemed(enterprise_id, code.id)) for code in found[:count]]
        return Page(tuple(rows), found[count - 1].id if len(found) > count else None)

    async def redemptions(
        self, actor: Actor, said: str, after: str | None, count: int
    ) -> tuple[PromoCode, Page[Redemption]]:
        """What a code took off, the latest first. As `code`."""
        code, _ = await self.code(actor, said)
        count = rules.page(after, count)
        found = await self._store.redemptions(code.enterprise_id, code.id, after, count + 1)
        return code, Page(tuple(found[:count]), found[count - 1].id if len(found) > count else None)

    async def end(self, actor: Actor, said: str) -> PromoCode:
        """Nobody redeems it any more; subscriptions that have keep what it takes off. As `code`.

        Here at once, and at Stripe before this returns: where Stripe does not answer, the same again does the rest.
        """
        code, seller = await self.code(actor, said)
        await self._store.end(code.id, now_ms(self._clock), act(actor, "promo_code.end", code.id, seller))
        for account_id, promotion_id in (await self._store.promotions(code.id)).items():
            try:
                await self._payments.promotions.end(account_id, promotion_id)
            except PaymentsRefused as refused:  # of an account that the creator sells with no more
                if not (refused.is_revoked or refused.code == "resource_missing"):
                    raise
        return (await self.code(actor, code.id))[0]

    # ---- redeeming -----------------------------------------------------------------------------

    async def discount(self, said: str, plan: Plan, seller: App | None, wallet: WalletKey, account_id: str) -> Discount:
        """What a code takes off a plan for a buyer; it is at Stripe then. As `terms`; Conflict: other such letters are there."""
        code, left_minor = await self.terms(said, plan, seller, wallet)
        off_minor = plan.price_minor - left_minor
        return Discount(code.id, await self._promotion(code, account_id), off_minor, code.first_purchase_only)

    async def terms(self, said: str, plan: Plan, seller: App | None, wallet: WalletKey) -> tuple[PromoCode, int]:
        """A code, and what it leaves of a plan's price for a buyer, in minor units. Asks nothing of Stripe. PromoCodeRefused."""
        code = await self._live(said, plan, seller)
        if code.first_purchase_only:
            first = await self._store.first_purchase(wallet)
            if (first is not None and first.redeemed_at_ms is not None) or await self._store.has_bought(wallet):
                raise PromoCodeRefused("This code is for a first purchase.")
        most = code.redemptions_max
        if most is not None and await self._store.redeemed(code.enterprise_id, code.id) >= most:
            raise PromoCodeRefused("This code was redeemed as often as it can be.")
        try:
            return code, _left(code, plan, seller)
        except ValueError as wrong:
            raise PromoCodeRefused(f"This code cannot be used here: {wrong}") from wrong

    async def _live(self, said: str, plan: Plan, seller: App | None) -> PromoCode:
        upper, user_id = said.strip().upper(), "" if seller is None else seller.user_id
        code = await self._store.live(user_id, upper) if _CODE.fullmatch(upper) else None
        if code is None or code.enterprise_id != plan.enterprise_id:
            raise PromoCodeRefused("There is no such code.")
        if code.expires_at_ms is not None and code.expires_at_ms <= now_ms(self._clock):
            raise PromoCodeRefused("This code has expired.")
        if code.plan_ids and plan.id not in code.plan_ids:
            raise PromoCodeRefused("This code is not for this plan.")
        if code.currency not in (None, plan.currency):
            raise PromoCodeRefused(f"This code takes {code.currency} off, and the plan is sold for {plan.currency}.")
        return code

    async def _promotion(self, code: PromoCode, account_id: str) -> str:
        """The code's id on an account, made there when it has none."""
        promotion_id = (await self._store.promotions(code.id)).get(account_id)
        if promotion_id is not None:
            return promotion_id
        coupon_id, promotion_id = await self._made(code, account_id)
        await self._store.add_coupon(code.id, account_id, coupon_id, promotion_id)
        now = await self._store.code(code.id)
        if now is None or now.ended_at_ms is not None:  # meanwhile, by who did not see that it is at Stripe
            await self._payments.promotions.end(account_id, promotion_id)
            raise PromoCodeRefused("There is no such code.")
        return promotion_id

    async def _made(self, code: PromoCode, account_id: str) -> tuple[str, str]:
        products = [await self._catalogue.product_id(plan_id, account_id) for plan_id in code.plan_ids]
        op_id = op_of("promo", code.id, account_id)
        for is_last in (False, True):
            try:
                return await self._payments.promotions.create(op_id, account_id, code, products)
            except PaymentsRefused as refused:
                if refused.code != "promo_code_taken":
                    raise
                if is_last or not await self._end_left(code, account_id):
                    text = "The account at Stripe has another code of these letters."
                    raise Conflict(text, param="promo_code") from refused
        raise AssertionError("the last try returns or raises")

    async def _end_left(self, code: PromoCode, account_id: str) -> bool:
        """End what a process that died left at Stripe of another code of these letters, which has ended. Whether there was."""
        promotion_id, name = await self._payments.promotions.named(account_id, code.code)
        other = await self._store.code(name) if name else None
        if other is None or other.ended_at_ms is None or (other.user_id, other.code) != (code.user_id, code.code):
            return False
        await self._payments.promotions.end(account_id, promotion_id)
        return True


def off(code: PromoCode, price_minor: int) -> int:
    """What a code takes off a price, in whole minor units: half a unit is the buyer's, and no more than the price."""
    if code.percent_bp is not None:
        return (2 * price_minor * code.percent_bp + _BP) // (2 * _BP)
    assert code.amount_off_minor is not None
    return min(code.amount_off_minor, price_minor)


def _left(code: PromoCode, plan: Plan, seller: App | None) -> int:
    """What a code leaves of a plan's price, in minor units. ValueError where that cannot be paid, or may not be nothing."""
    left_minor = plan.price_minor - off(code, plan.price_minor)
    if not left_minor and _is_paid_only(seller):
        raise ValueError(_UNPAID)
    if left_minor:
        try:
            minor_units.price(left_minor, plan.currency)
        except ValueError as wrong:
            left = minor_units.shown(left_minor, plan.currency)
            raise ValueError(f"it leaves {left} to pay, and {wrong}.") from wrong
    return left_minor


def _is_paid_only(seller: App | None) -> bool:
    """Whether a seller's grants are what money paid of their price."""
    return seller is not None and seller.cost_policy == CostPolicy.PLATFORM_PAYS


def _named(code: PromoCode) -> str:
    return f"{code.id} ({'the platform' if code.enterprise_id is None else code.enterprise_id})"


_UNPAID: Final = (
    "in an app with cost_policy platform_pays nothing is granted unpaid, and this code would leave nothing to pay."
)
_UNKNOWN: Final = "There is no promo code of this id or these letters."


def letters(said: str, param: str = "code") -> str:
    """A code as it is kept. InvalidRequest for what can be none."""
    code = said.strip().upper()
    if not _CODE.fullmatch(code):
        raise InvalidRequest(f"`{param}` must be 3 to 40 of A-Z 0-9 and -, in any case", param=param)
    return code


def _taken_off(new: NewPromoCode) -> int | None:
    """The amount in minor units, or None for a percentage."""
    if (new.percent_bp is None) == (new.amount_off_micro is None):
        raise InvalidRequest("Say either `percent_off` or `amount_off_micro`.", param="percent_off")
    if new.amount_off_micro is None:
        if new.currency is not None:
            raise InvalidRequest("A percentage is of any currency.", param="currency")
        rules.number(new.percent_bp, "percent_off", _BP, 1)
        return None
    if new.currency is None:
        raise InvalidRequest("Say of which `currency` the amount is.", param="currency")
    check_currency(new.currency)
    try:
        return minor_units.check(minor_units.minor_from_micro(new.amount_off_micro, new.currency), new.currency)
    except ValueError as wrong:
        raise InvalidRequest(f"`amount_off_micro` cannot be taken off: {wrong}", param="amount_off_micro") from wrong


def _check_terms(new: NewPromoCode, at_ms: int) -> None:
    if (new.duration == PromoDuration.REPEATING) != (new.duration_months is not None):
        raise InvalidRequest("`duration_months` goes with the duration repeating.", param="duration_months")
    rules.number(new.duration_months, "duration_months", _MONTHS_MAX, 1)
    rules.number(new.redemptions_max, "max_redemptions", _REDEMPTIONS_MAX, 1)
    if new.expires_at_ms is not None and not at_ms + 1000 <= new.expires_at_ms <= at_ms + _AHEAD_MS:
        raise InvalidRequest("`expires_at` must lie ahead, and within five years", param="expires_at")
