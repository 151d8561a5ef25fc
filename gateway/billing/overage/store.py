"""Overage as rows, in the seller's database. Raises SqlDown, SqlRefused."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.billing.acts import system_act
from gateway.billing.overage.model import HELD, UNPAID, Agreement, BillState, Line, LineState, OverageBill
from gateway.billing.rows import Rows, sales_of
from gateway.db.faults import SqlRefused
from gateway.db.tables import plans
from gateway.ledger import store as ledger
from gateway.ledger.model import Lot, WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

_TIMES: Final = ("updated_at", "period_end", "ends_at", "created_at", "due_at", "ended_at")
_REASON_CHARS_MAX: Final = 500


class Changed(Exception):
    """Another was faster: look again."""


class OverageStore(Rows):
    """Reads and writes. Stateless."""

    async def sellers(self) -> list[str | None]:
        """Who offers overage, or ever did; None is the platform."""
        query = sa.select(plans.c.enterprise_id).where(plans.c.overage_max_micro.is_not(None)).distinct()
        async with self._reading(None) as conn:
            return [name or None for name in (await conn.execute(query)).scalars()]

    # ---- agreements ----------------------------------------------------------------------------

    async def agreement(self, wallet: WalletKey) -> Agreement | None:
        """A wallet's, also one that is off."""
        table = sales_of(wallet.enterprise_id)["overage_agreements"]
        return next(iter(await self._agreements(wallet.enterprise_id, table.c.owner == wallet.owner, 1)), None)

    async def agreements(self, enterprise_id: str | None, owner: str | None, after: str, count: int) -> list[Agreement]:
        """By owner; of one, or all."""
        of = sales_of(enterprise_id)["overage_agreements"].c
        rule = sa.and_(sa.true() if owner is None else of.owner == owner, of.owner > after)
        return await self._agreements(enterprise_id, rule, count)

    async def _agreements(self, enterprise_id: str | None, rule: sa.ColumnElement[bool], count: int) -> list[Agreement]:
        table = sales_of(enterprise_id)["overage_agreements"]
        query = sa.select(*table.c).where(rule).order_by(table.c.owner).limit(count)
        async with self._reading(enterprise_id) as conn:
            rows = (await conn.execute(query)).mappings().all()
        return [
            Agreement(
                WalletKey(row["owner"], enterprise_id), row["limit_micro"], bool(row["enabled"]), row["reason"], row["updated_at"]
            )
            for row in rows
        ]

    async def agree(self, agreement: Agreement, act: Act, *, lifts: bool) -> bool:
        """Set it; False where it is off for what its seller alone `lifts`. The write decides, whatever was read before it."""
        wallet = agreement.wallet
        table = sales_of(wallet.enterprise_id)["overage_agreements"]
        values = {
            "limit_micro": agreement.limit_micro,
            "enabled": int(agreement.is_enabled),
            "reason": agreement.reason,
            "updated_at": agreement.updated_at_ms,
        }
        may = sa.and_(table.c.owner == wallet.owner, sa.true() if lifts else table.c.reason.not_in(HELD))
        line = trail.trail_of(wallet.enterprise_id)
        async with self._writing(wallet.enterprise_id) as conn:
            if (await conn.execute(sa.update(table).where(may).values(**values))).rowcount:
                await trail.append(conn, line, act, agreement.updated_at_ms)
                return True
        try:
            async with self._writing(wallet.enterprise_id) as conn:
                await conn.execute(sa.insert(table).values(owner=wallet.owner, **values))
                await trail.append(conn, line, act, agreement.updated_at_ms)
        except SqlRefused:
            held = await self.agreement(wallet)
            if held is None:
                raise
            return held.reason not in HELD and await self.agree(agreement, act, lifts=lifts)  # another was faster
        return True

    async def pause(self, wallet: WalletKey, reason: str, at_ms: int) -> bool:
        """It is off, with a reason, if it was on, or if its owner could turn it on again and now cannot: whether it was."""
        table = sales_of(wallet.enterprise_id)["overage_agreements"]
        act = system_act("overage.pause", wallet.owner, wallet, "overage", reason=reason)
        # Who ends it in time is no better off; and what was not paid stays the reason.
        goes_before = sa.and_(sa.literal(reason in HELD), table.c.reason != UNPAID, table.c.reason != reason)
        is_on = sa.and_(table.c.owner == wallet.owner, sa.or_(table.c.enabled == 1, goes_before))
        async with self._writing(wallet.enterprise_id) as conn:
            changed = await conn.execute(sa.update(table).where(is_on).values(enabled=0, reason=reason, updated_at=at_ms))
            if changed.rowcount:
                await trail.append(conn, trail.trail_of(wallet.enterprise_id), act, at_ms)
            return bool(changed.rowcount)

    # ---- lines ---------------------------------------------------------------------------------

    async def lines(self, wallet: WalletKey) -> list[Line]:
        """A wallet's that are not done, and its last one; by their number."""
        of = sales_of(wallet.enterprise_id)["overage_lines"].c
        last = sa.select(sa.func.max(of.number)).where(of.owner == wallet.owner).scalar_subquery()
        rule = sa.and_(of.owner == wallet.owner, sa.or_(of.state != LineState.DONE.value, of.number == last))
        return await self._lines(wallet.enterprise_id, rule)

    async def lines_owed(self, enterprise_id: str | None, owners: Collection[str]) -> dict[str, list[Line]]:
        """Those that are not done, by owner; by their number."""
        of = sales_of(enterprise_id)["overage_lines"].c
        found: dict[str, list[Line]] = {owner: [] for owner in owners}
        for line in await self._lines(enterprise_id, sa.and_(of.owner.in_(owners), of.state != LineState.DONE.value)):
            found[line.wallet.owner].append(line)
        return found

    async def lots(self, enterprise_id: str | None, lines: Iterable[Line]) -> dict[str, Lot]:
        """What the books have of what is lent, by the lot's id; requests that are not drained yet are missing there."""
        wanted = [line.lot_id for line in lines if line.is_lent and line.lot_id is not None]
        if not wanted:
            return {}
        async with self._reading(enterprise_id) as conn:
            found = await ledger.lots_of(conn, ledger.books_of(enterprise_id), wanted)
        return {lot_id: lot for lot_id, (lot, _) in found.items()}

    async def lines_of_bill(self, bill: OverageBill) -> list[Line]:
        """What a bill is made of."""
        of = sales_of(bill.wallet.enterprise_id)["overage_lines"].c
        return await self._lines(bill.wallet.enterprise_id, sa.and_(of.owner == bill.wallet.owner, of.bill_id == bill.id))

    async def restless(self, enterprise_id: str | None, now_ms: int, after: str, count: int) -> list[str]:
        """Owners, beyond one, with lines that something is to be done about."""
        table, agreed = sales_of(enterprise_id)["overage_lines"], sales_of(enterprise_id)["overage_agreements"].c
        of, every = table.c, table.alias().c
        # All that counts against the limit, as `Line.owed_micro` has it.
        owed = sa.select(sa.func.sum(sa.func.coalesce(every.used_micro, every.lent_micro))).correlate(table)
        owed = owed.where(every.owner == of.owner, every.state != LineState.DONE.value)
        # Nobody was told of its end, or of a lower limit, as a process ended at the wrong moment.
        is_less = agreed.limit_micro < owed.scalar_subquery()
        beyond = sa.exists().where(agreed.owner == of.owner, sa.or_(agreed.enabled == 0, is_less))
        over = sa.and_(of.state == LineState.OPEN.value, sa.or_(of.ends_at <= now_ms, of.lot_id.is_(None), beyond))
        unbilled = sa.and_(of.state == LineState.ENDED.value, of.bill_id.is_(None), of.due_at <= now_ms)
        rule = sa.or_(over, of.state == LineState.ENDING.value, unbilled)
        return await self._owners(enterprise_id, of.owner, rule, after, count)

    async def add_line(self, line: Line) -> None:
        """Insert. Changed where the wallet has a line of that number: its lines are to be read again."""
        table = sales_of(line.wallet.enterprise_id)["overage_lines"]
        try:
            async with self._writing(line.wallet.enterprise_id) as conn:
                await conn.execute(sa.insert(table).values(**_columns(line)))
        except SqlRefused as taken:
            if all(each.number < line.number for each in await self.lines(line.wallet)):
                raise
            raise Changed from taken

    async def put_line(self, held: Line, now: Line) -> bool:
        """Change a line, if it is still in the state that it was in."""
        table = sales_of(now.wallet.enterprise_id)["overage_lines"]
        known = [table.c[name].is_not_distinct_from(getattr(held, name)) for name in ("state", "bill_id", "lot_id")]
        rule = sa.and_(table.c.id == held.id, *known)
        async with self._writing(now.wallet.enterprise_id) as conn:
            return bool((await conn.execute(sa.update(table).where(rule).values(**_columns(now)))).rowcount)

    async def put_lines_off(self, lines: Sequence[Line], due_at_ms: int) -> None:
        """They are not billed yet, and looked at again then; of one wallet."""
        if not lines:
            return
        seller = lines[0].wallet.enterprise_id
        table = sales_of(seller)["overage_lines"]
        waits = sa.and_(table.c.id.in_([line.id for line in lines]), table.c.bill_id.is_(None))
        async with self._writing(seller) as conn:
            await conn.execute(sa.update(table).where(waits).values(due_at=due_at_ms))

    # ---- bills ---------------------------------------------------------------------------------

    async def add_bill(self, bill: OverageBill, lines: Sequence[Line]) -> None:
        """A bill with its lines, in one commit. Changed where one of them is on another bill."""
        sales = sales_of(bill.wallet.enterprise_id)
        table, of = sales["overage_lines"], sales["overage_lines"].c
        free = sa.and_(of.id.in_([line.id for line in lines]), of.bill_id.is_(None), of.state == LineState.ENDED.value)
        async with self._writing(bill.wallet.enterprise_id) as conn:
            if (await conn.execute(sa.update(table).where(free).values(bill_id=bill.id))).rowcount != len(lines):
                raise Changed
            await conn.execute(sa.insert(sales["overage_bills"]).values(**_columns(bill)))

    async def bill(self, enterprise_id: str | None, bill_id: str) -> OverageBill | None:
        """One."""
        of = sales_of(enterprise_id)["overage_bills"].c
        return next(iter(await self._bills(enterprise_id, of.id == bill_id, 1)), None)

    async def bills(self, enterprise_id: str | None, owner: str | None, after: str | None, count: int) -> list[OverageBill]:
        """Newest first; of one owner, or all."""
        of = sales_of(enterprise_id)["overage_bills"].c
        rule = sa.and_(sa.true() if owner is None else of.owner == owner, sa.true() if after is None else of.id < after)
        return await self._bills(enterprise_id, rule, count)

    async def plans_of(self, enterprise_id: str | None, owners: Collection[str]) -> dict[str, str]:
        """The plan of each buyer's one subscription, by owner; also when it has ended."""
        theirs, held = (sales_of(enterprise_id)[name].c for name in ("subscribers", "subscriptions"))
        is_theirs = held.subscription_id == theirs.subscription_id
        query = sa.select(theirs.owner, held.plan_id).where(theirs.owner.in_(owners), is_theirs)
        async with self._reading(enterprise_id) as conn:
            return {row.owner: row.plan_id for row in await conn.execute(query)}

    async def our_ids(self, enterprise_id: str | None, subscription_ids: Collection[str]) -> dict[str, str]:
        """Our ids of subscriptions, by Stripe's."""
        of = sales_of(enterprise_id)["subscriptions"].c
        query = sa.select(of.subscription_id, of.id).where(of.subscription_id.in_(subscription_ids))
        async with self._reading(enterprise_id) as conn:
            return {row.subscription_id: row.id for row in await conn.execute(query)}

    async def open_bills(self, wallet: WalletKey, due_ms: int) -> list[OverageBill]:
        """Those of a wallet that are to be looked at by then."""
        of = sales_of(wallet.enterprise_id)["overage_bills"].c
        rule = sa.and_(of.owner == wallet.owner, of.state == BillState.OPEN.value, of.due_at <= due_ms)
        return await self._bills(wallet.enterprise_id, rule, 1000)

    async def owing(self, enterprise_id: str | None, now_ms: int, after: str, count: int) -> list[str]:
        """Owners, beyond one, with bills that are to be looked at."""
        of = sales_of(enterprise_id)["overage_bills"].c
        rule = sa.and_(of.state == BillState.OPEN.value, of.due_at <= now_ms)
        return await self._owners(enterprise_id, of.owner, rule, after, count)

    async def put_off(self, bill: OverageBill, reason: str, due_at_ms: int) -> None:
        """It is looked at again then."""
        values = {"reason": reason.replace("\0", "")[:_REASON_CHARS_MAX], "due_at": due_at_ms, "attempts": bill.attempts + 1}
        await self._change(bill, values, (BillState.OPEN,))

    async def set_invoice(self, bill: OverageBill, invoice_id: str) -> None:
        """What it is at Stripe."""
        await self._change(bill, {"invoice_id": invoice_id}, (BillState.OPEN,))

    async def end_bill(
        self, bill: OverageBill, state: BillState, at_ms: int, payment_id: str | None = None, reason: str = ""
    ) -> None:
        """It is paid, given or lost, and its lines are done. Paid is what stays."""
        sales = sales_of(bill.wallet.enterprise_id)
        table, lines = sales["overage_bills"], sales["overage_lines"]
        may = (BillState.OPEN, BillState.LOST) if state == BillState.PAID else (BillState.OPEN,)
        values = {"state": state.value, "ended_at": at_ms, "payment_id": payment_id, "reason": reason[:_REASON_CHARS_MAX]}
        async with self._writing(bill.wallet.enterprise_id) as conn:
            rule = sa.and_(table.c.id == bill.id, table.c.state.in_([each.value for each in may]))
            await conn.execute(sa.update(table).where(rule).values(**values))
            await conn.execute(sa.update(lines).where(lines.c.bill_id == bill.id).values(state=LineState.DONE.value))

    async def _change(self, bill: OverageBill, values: Mapping[str, Any], states: Collection[BillState]) -> None:
        table = sales_of(bill.wallet.enterprise_id)["overage_bills"]
        rule = sa.and_(table.c.id == bill.id, table.c.state.in_([each.value for each in states]))
        async with self._writing(bill.wallet.enterprise_id) as conn:
            await conn.execute(sa.update(table).where(rule).values(**values))

    # ---- rows ----------------------------------------------------------------------------------

    async def _lines(self, enterprise_id: str | None, rule: sa.ColumnElement[bool]) -> list[Line]:
        table = sales_of(enterprise_id)["overage_lines"]
        async with self._reading(enterprise_id) as conn:
            rows = (await conn.execute(sa.select(*table.c).where(rule).order_by(table.c.number))).mappings().all()
        return [_value(Line, enterprise_id, row) for row in rows]

    async def _bills(self, enterprise_id: str | None, rule: sa.ColumnElement[bool], count: int) -> list[OverageBill]:
        table = sales_of(enterprise_id)["overage_bills"]
        query = sa.select(*table.c).where(rule).order_by(table.c.id.desc()).limit(count)
        async with self._reading(enterprise_id) as conn:
            return [_value(OverageBill, enterprise_id, row) for row in (await conn.execute(query)).mappings().all()]

    async def _owners(
        self, enterprise_id: str | None, owner: sa.ColumnElement[str], rule: sa.ColumnElement[bool], after: str, count: int
    ) -> list[str]:
        query = sa.select(owner).where(rule, owner > after).distinct().order_by(owner).limit(count)
        async with self._reading(enterprise_id) as conn:
            return list((await conn.execute(query)).scalars())


def _columns(value: Line | OverageBill) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    fields["owner"] = fields.pop("wallet")["owner"]
    return {name.removesuffix("_ms") if name.removesuffix("_ms") in _TIMES else name: each for name, each in fields.items()}


def _value(kind: type[Any], enterprise_id: str | None, row: Mapping[Any, Any]) -> Any:
    fields = {f"{name}_ms" if name in _TIMES else name: each for name, each in row.items() if name != "owner"}
    return kind(**fields, wallet=WalletKey(row["owner"], enterprise_id))
