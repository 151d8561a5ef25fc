"""Promo codes and what they took off, as rows: SQL of the platform's database, and redemptions in their seller's.

Raises SqlDown, SqlRefused.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
import sqlalchemy as sa

from gateway.billing.model import FirstPurchase, PromoCode, PurchaseState, Redemption, SubscriptionState
from gateway.billing.rows import Rows, sales_of
from gateway.db.faults import SqlRefused, named_faults
from gateway.db.tables import promo_codes, promo_coupons
from gateway.ledger.model import WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

_TIMES: Final = ("created_at", "expires_at", "ended_at", "claimed_at", "redeemed_at")
_TRIES: Final = 20  # each that fails, another redemption has come in
_UNPAID: Final = (SubscriptionState.INCOMPLETE.value, SubscriptionState.INCOMPLETE_EXPIRED.value)


class CodeTaken(Exception):
    """There is a code of these letters that has not ended."""


class PromoStore(Rows):
    """Reads and writes. Stateless."""

    # ---- codes ---------------------------------------------------------------------------------

    async def add(self, code: PromoCode, act: Act) -> None:
        """Insert. CodeTaken."""
        values = _columns(code)
        values |= {"enterprise_id": code.enterprise_id or "", "first_purchase_only": int(code.first_purchase_only)}
        async with self._writing(None) as connection:
            try:
                with named_faults():
                    await connection.execute(sa.insert(promo_codes).values(**values))
            except SqlRefused as taken:
                raise CodeTaken from taken
            await trail.append(connection, trail.trail_of(None), act, code.created_at_ms)

    async def code(self, promo_code_id: str) -> PromoCode | None:
        """One code, ended or not."""
        return await self._one(promo_codes.c.id == promo_code_id)

    async def live(self, user_id: str, code: str) -> PromoCode | None:
        """The code of these letters that has not ended, of whose account sells."""
        of = promo_codes.c
        return await self._one(sa.and_(of.user_id == user_id, of.code == code, of.ended_at.is_(None)))

    async def lettered(self, user_id: str | None, code: str, count: int) -> list[PromoCode]:
        """Codes of these letters, of whose account sells or (None) of all: those that have not ended first, then the newest."""
        of = promo_codes.c
        query = sa.select(*of).where(of.code == code).order_by(of.ended_at.is_not(None), of.id.desc()).limit(count)
        if user_id is not None:
            query = query.where(of.user_id == user_id)
        async with self._reading(None) as connection:
            return [_code(row) for row in (await connection.execute(query)).mappings()]

    async def codes(self, enterprise_id: str | None, after: str | None, count: int, *, ended: bool) -> list[PromoCode]:
        """A seller's codes, newest first; `ended`: those that have ended among them."""
        of = promo_codes.c
        query = sa.select(*of).where(of.enterprise_id == (enterprise_id or ""))
        if not ended:
            query = query.where(of.ended_at.is_(None))
        if after is not None:
            query = query.where(of.id < after)
        async with self._reading(None) as connection:
            return [_code(row) for row in (await connection.execute(query.order_by(of.id.desc()).limit(count))).mappings()]

    async def end(self, promo_code_id: str, at_ms: int, act: Act) -> None:
        """It takes nothing more off; the first time stays."""
        rule = sa.and_(promo_codes.c.id == promo_code_id, promo_codes.c.ended_at.is_(None))
        async with self._writing(None) as connection:
            if (await connection.execute(sa.update(promo_codes).where(rule).values(ended_at=at_ms))).rowcount:
                await trail.append(connection, trail.trail_of(None), act, at_ms)

    async def _one(self, rule: sa.ColumnElement[bool]) -> PromoCode | None:
        async with self._reading(None) as connection:
            row = (await connection.execute(sa.select(*promo_codes.c).where(rule))).mappings().first()
        return None if row is None else _code(row)

    # ---- at Stripe -----------------------------------------------------------------------------

    async def promotions(self, promo_code_id: str) -> dict[str, str]:
        """A code's promotion codes at Stripe, by account."""
        of = promo_coupons.c
        query = sa.select(of.account_id, of.promotion_id).where(of.promo_code_id == promo_code_id)
        async with self._reading(None) as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def add_coupon(self, promo_code_id: str, account_id: str, coupon_id: str, promotion_id: str) -> None:
        """Keep what Stripe made, unless another process has."""
        values = {
            "promo_code_id": promo_code_id, "account_id": account_id, "coupon_id": coupon_id, "promotion_id": promotion_id,
        }  # fmt: skip
        try:
            async with self._writing(None) as connection:
                await connection.execute(sa.insert(promo_coupons).values(**values))
        except SqlRefused:
            if account_id not in await self.promotions(promo_code_id):
                raise

    async def code_of(self, account_id: str, promotion_id: str) -> str | None:
        """The code that a promotion code at Stripe is of."""
        of = promo_coupons.c
        query = sa.select(of.promo_code_id).where(of.account_id == account_id, of.promotion_id == promotion_id)
        async with self._reading(None) as connection:
            found: str | None = await connection.scalar(query)
        return found

    # ---- redemptions ---------------------------------------------------------------------------

    async def redeem(self, enterprise_id: str | None, redemption: Redemption, most: int | None = None) -> bool:
        """Keep what a code took off, once for each payment. False where it was redeemed `most` times, and not by this subject.

        No two subjects of a code have the same number, so that of two at once the second counts the first.
        """
        table = sales_of(enterprise_id)["promo_redemptions"]
        values = _columns(redemption)
        of_subject = sa.select(table.c.ref).where(*[table.c[name] == values[name] for name in ("promo_code_id", "subject")])
        for left in reversed(range(_TRIES)):
            async with self._reading(enterprise_id) as connection:
                refs = set((await connection.execute(of_subject)).scalars())
            if redemption.ref in refs:
                return True
            if not refs:
                values["number"] = await self.redeemed(enterprise_id, redemption.promo_code_id) + 1
                if most is not None and values["number"] > most:
                    return False
            else:
                values["number"] = None
            try:
                async with self._writing(enterprise_id) as connection:
                    await connection.execute(sa.insert(table).values(**values))
            except SqlRefused:
                if not left:
                    raise
            else:
                break
        return True

    async def has_redeemed(self, enterprise_id: str | None, redemption: Redemption) -> bool:
        """Whether the subject of a redemption has redeemed its code."""
        of = sales_of(enterprise_id)["promo_redemptions"].c
        same = sa.and_(of.promo_code_id == redemption.promo_code_id, of.subject == redemption.subject)
        async with self._reading(enterprise_id) as connection:
            return (await connection.execute(sa.select(of.id).where(same).limit(1))).first() is not None

    async def redeemed(self, enterprise_id: str | None, promo_code_id: str) -> int:
        """How often a code was redeemed: a subscription redeems it once, whatever it takes off afterwards."""
        of = sales_of(enterprise_id)["promo_redemptions"].c
        query = sa.select(sa.func.count(sa.distinct(of.subject))).where(of.promo_code_id == promo_code_id)
        async with self._reading(enterprise_id) as connection:
            return int(await connection.scalar(query) or 0)

    async def redemptions(
        self, enterprise_id: str | None, promo_code_id: str, after: str | None, count: int
    ) -> list[Redemption]:
        """What a code took off, the latest first."""
        of = sales_of(enterprise_id)["promo_redemptions"].c
        query = sa.select(*of).where(of.promo_code_id == promo_code_id).order_by(of.id.desc()).limit(count)
        if after is not None:
            query = query.where(of.id < after)
        async with self._reading(enterprise_id) as connection:
            rows = [dict(row) for row in (await connection.execute(query)).mappings()]
        return [_value(Redemption, {name: row[name] for name in row if name != "number"}) for row in rows]

    # ---- first purchases -----------------------------------------------------------------------

    async def first_purchase(self, wallet: WalletKey) -> FirstPurchase | None:
        """A buyer's first purchase with a code that is for such, made or to be made."""
        table = sales_of(wallet.enterprise_id)["first_purchases"]
        async with self._reading(wallet.enterprise_id) as connection:
            row = (await connection.execute(sa.select(*table.c).where(table.c.owner == wallet.owner))).mappings().first()
        return None if row is None else _value(FirstPurchase, row)

    async def claim_first(self, wallet: WalletKey, held: FirstPurchase | None, now: FirstPurchase) -> bool:
        """The buyer's first purchase is `now`; False where it is not `held` any more."""
        table = sales_of(wallet.enterprise_id)["first_purchases"]
        values = _columns(now)
        if held is None:
            try:
                async with self._writing(wallet.enterprise_id) as connection:
                    await connection.execute(sa.insert(table).values(**values))
            except SqlRefused:
                if await self.first_purchase(wallet) is None:
                    raise  # it was something else that was refused
                return False
            return True
        page = table.c.session_id.is_(None) if held.session_id is None else table.c.session_id == held.session_id
        still = sa.and_(table.c.owner == wallet.owner, table.c.ref == held.ref, page, table.c.redeemed_at.is_(None))
        async with self._writing(wallet.enterprise_id) as connection:
            return bool((await connection.execute(sa.update(table).where(still).values(**values))).rowcount)

    async def keep_first(self, wallet: WalletKey, ref: str, session_id: str) -> bool:
        """The page of the buyer's first purchase, by its session; False where that is to be made elsewhere by now."""
        table = sales_of(wallet.enterprise_id)["first_purchases"]
        still = sa.and_(table.c.owner == wallet.owner, table.c.ref == ref, table.c.redeemed_at.is_(None))
        async with self._writing(wallet.enterprise_id) as connection:
            return bool((await connection.execute(sa.update(table).where(still).values(session_id=session_id))).rowcount)

    async def redeem_first(self, wallet: WalletKey, redemption: Redemption, account_id: str) -> bool:
        """The buyer's first purchase is what this redemption is of, unless it was made; whether it is that. For ever."""
        table, at_ms = sales_of(wallet.enterprise_id)["first_purchases"], redemption.created_at_ms
        made = {"promo_code_id": redemption.promo_code_id, "ref": redemption.subject, "account_id": account_id}
        open_ = sa.and_(table.c.owner == wallet.owner, table.c.redeemed_at.is_(None))
        async with self._writing(wallet.enterprise_id) as connection:
            if (await connection.execute(sa.update(table).where(open_).values(**made, redeemed_at=at_ms))).rowcount:
                return True
        now = FirstPurchase(wallet.owner, **made, claimed_at_ms=at_ms, redeemed_at_ms=at_ms)
        held = await self.first_purchase(wallet)
        if held is None and not await self.claim_first(wallet, None, now):
            return await self.redeem_first(wallet, redemption, account_id)  # another was there first
        return held is None or held.ref == redemption.subject

    async def has_bought(self, wallet: WalletKey) -> bool:
        """Whether a buyer has paid its seller before: for a package, or for a subscription, a trial of one too."""
        tables = sales_of(wallet.enterprise_id)
        purchases, subscriptions = tables["purchases"].c, tables["subscriptions"].c
        paid = sa.select(purchases.id).where(purchases.owner == wallet.owner, purchases.state == PurchaseState.PAID.value)
        subscribed = sa.select(subscriptions.id).where(
            subscriptions.owner == wallet.owner, subscriptions.state.not_in(_UNPAID)
        )
        async with self._reading(wallet.enterprise_id) as connection:
            return any([(await connection.execute(query.limit(1))).first() is not None for query in (paid, subscribed)])


T = TypeVar("T")


def _value(kind: type[T], row: Mapping[Any, Any]) -> T:
    return kind(**{f"{name}_ms" if name in _TIMES else name: each for name, each in row.items()})


def _columns(value: msgspec.Struct) -> dict[str, Any]:
    return {name.removesuffix("_ms"): each for name, each in msgspec.to_builtins(value).items()}


def _code(row: Mapping[Any, Any]) -> PromoCode:
    fields = dict(row)
    fields["enterprise_id"] = fields["enterprise_id"] or None
    fields["first_purchase_only"] = bool(fields["first_purchase_only"])
    fields["plan_ids"] = tuple(fields["plan_ids"])
    return _value(PromoCode, fields)
