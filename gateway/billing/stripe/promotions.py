"""Promo codes at Stripe, asked for through `client`: what `ports.Promotions` promises.

A code is a Coupon, which says what is taken off, and a PromotionCode, which says who redeems it how often and until when.
Stripe lets neither's terms be changed, so nothing here is: a code is made, and ended. What has a code's name there and other
terms is none of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from gateway.billing.model import PromoCode, PromoDuration
from gateway.billing.ports import PaymentsRefused
from gateway.billing.stripe.shapes import Object, Reference, as_shape, id_of

Ask = Callable[..., Awaitable[dict[str, Any]]]
_OURS: Final = "mozaiks_promo_code"


class Promotion(msgspec.Struct, frozen=True):
    """What a promotion code promises."""

    coupon: Reference = None


class Restrictions(msgspec.Struct, frozen=True):
    """Who may redeem it."""

    first_time_transaction: bool = False
    minimum_amount: int | None = None


class PromotionCode(Object, frozen=True):
    """See docs.stripe.com/api/promotion_codes."""

    promotion: Promotion
    restrictions: Restrictions = Restrictions()
    customer: Reference = None
    max_redemptions: int | None = None
    expires_at: int | None = None
    metadata: dict[str, str] | None = None


class Products(msgspec.Struct, frozen=True):
    """Of which it takes something off."""

    products: tuple[str, ...] = ()


class Coupon(Object, frozen=True):
    """See docs.stripe.com/api/coupons; `applies_to` only where it was asked for."""

    duration: str
    duration_in_months: int | None = None
    percent_off: Decimal | None = None
    amount_off: int | None = None
    currency: str | None = None
    max_redemptions: int | None = None
    redeem_by: int | None = None
    applies_to: Products | None = None


class PromotionCodes(msgspec.Struct, frozen=True):
    """Those of one code."""

    data: list[PromotionCode]


class StripePromotions:
    """`ports.Promotions`, by Stripe."""

    def __init__(self, api: Any, ask: Ask) -> None:
        """`ask` is the one way to Stripe, with the account and our words for what goes wrong."""
        self._api = api
        self._ask = ask

    async def create(self, op_id: str, account_id: str, code: PromoCode, product_ids: Sequence[str]) -> tuple[str, str]:
        """GET /v1/promotion_codes by the code, or POST /v1/coupons and /v1/promotion_codes."""
        for found in await self._active(account_id, code.code):
            coupon_id = id_of(found.promotion.coupon)
            if (found.metadata or {}).get(_OURS) == code.id and coupon_id is not None:
                retrieve, wish = self._api.v1.coupons.retrieve_async, {"expand": ["applies_to"]}
                raw = await self._ask(retrieve, coupon_id, account_id=account_id, params=wish)
                if _is_of(code, product_ids, found, as_shape(raw, Coupon)):
                    return coupon_id, found.id
            raise PaymentsRefused(f"The account has another active promotion code {code.code}.", "promo_code_taken")
        coupon = await self._ask(
            self._api.v1.coupons.create_async,
            account_id=account_id,
            params=_coupon(code, product_ids),
            op_id=f"{op_id}:coupon",
        )
        made = await self._ask(
            self._api.v1.promotion_codes.create_async,
            account_id=account_id,
            params=_promotion(code, str(coupon["id"])),
            op_id=f"{op_id}:code",
        )
        return str(coupon["id"]), str(made["id"])

    async def named(self, account_id: str, letters: str) -> tuple[str, str]:
        """GET /v1/promotion_codes by the code."""
        for found in await self._active(account_id, letters):
            return found.id, (found.metadata or {}).get(_OURS, "")
        return "", ""

    async def _active(self, account_id: str, letters: str) -> list[PromotionCode]:
        """At most one."""
        wish = {"code": letters, "active": True, "limit": 1}
        listed = await self._ask(self._api.v1.promotion_codes.list_async, account_id=account_id, params=wish)
        return as_shape(listed, PromotionCodes).data

    async def end(self, account_id: str, promotion_id: str) -> None:
        """POST /v1/promotion_codes/{id}."""
        update = self._api.v1.promotion_codes.update_async
        await self._ask(update, promotion_id, account_id=account_id, params={"active": False})


def _is_of(code: PromoCode, product_ids: Sequence[str], found: PromotionCode, coupon: Coupon) -> bool:
    """Whether both say what the code says. An account's owner writes our metadata on whatever it likes."""
    percent_bp = None if coupon.percent_off is None else coupon.percent_off * 100
    takes_off = (percent_bp, coupon.amount_off, coupon.currency, coupon.duration, coupon.duration_in_months)
    products = () if coupon.applies_to is None else coupon.applies_to.products
    limits = (coupon.max_redemptions, coupon.redeem_by, found.customer, found.restrictions.minimum_amount)
    terms = (found.restrictions.first_time_transaction, found.max_redemptions, found.expires_at)
    currency = None if code.currency is None else code.currency.lower()
    expires_at = None if code.expires_at_ms is None else code.expires_at_ms // 1000
    return (
        takes_off == (code.percent_bp, code.amount_off_minor, currency, code.duration, code.duration_months)
        and set(products) == set(product_ids)
        and limits == (None, None, None, None)
        and terms == (code.first_purchase_only, code.redemptions_max, expires_at)
    )


def _coupon(code: PromoCode, product_ids: Sequence[str]) -> dict[str, Any]:
    wish: dict[str, Any] = {"name": code.code, "duration": code.duration, "metadata": {_OURS: code.id}}
    if code.percent_bp is not None:
        wish["percent_off"] = f"{code.percent_bp // 100}.{code.percent_bp % 100:02d}"
    if code.amount_off_minor is not None:
        assert code.currency is not None
        wish |= {"amount_off": code.amount_off_minor, "currency": code.currency.lower()}
    if code.duration == PromoDuration.REPEATING:
        wish["duration_in_months"] = code.duration_months
    if product_ids:
        wish["applies_to"] = {"products": list(product_ids)}
    return wish


def _promotion(code: PromoCode, coupon_id: str) -> dict[str, Any]:
    wish: dict[str, Any] = {
        "code": code.code,
        "promotion": {"type": "coupon", "coupon": coupon_id},
        "metadata": {_OURS: code.id},
    }
    if code.first_purchase_only:
        wish["restrictions"] = {"first_time_transaction": True}
    if code.redemptions_max is not None:
        wish["max_redemptions"] = code.redemptions_max
    if code.expires_at_ms is not None:
        wish["expires_at"] = code.expires_at_ms // 1000
    return wish
