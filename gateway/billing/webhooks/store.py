"""Webhooks, how far the reconciler has looked, and what became of sales, as rows. Raises SqlDown, SqlRefused.

The platform's database has the first two, without a word of what a webhook says. Sales are in their seller's database.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from gateway.billing.model import AccountState, Claim, InboxEvent, InboxState, PurchaseState, Subscription
from gateway.billing.overage.store import OverageStore
from gateway.billing.rows import Rows, sales_of
from gateway.billing.subscriber_store import SubscriberStore
from gateway.billing.top_ups.store import TopUpStore
from gateway.db.engines import Databases
from gateway.db.faults import SqlRefused
from gateway.db.tables import billing_accounts, billing_leases, billing_marks, past_accounts, webhooks
from gateway.ledger.model import WalletKey
from gateway.trail import store as trail
from gateway.trail.model import Act

_REASON_CHARS_MAX: Final = 500
_AT_ONCE: Final = 500  # ids in a statement
_FORGOTTEN_AT_ONCE: Final = 5000
_TIMES: Final = ("created_at", "received_at", "due_at", "handled_at", "period_start", "period_end", "as_of", "grace_until")


class OpenPurchase(msgspec.Struct, frozen=True):
    """One that nobody has paid yet; without a session where its page was never made."""

    id: str
    account_id: str
    session_id: str | None


class InboxStore(Rows):
    """Reads and writes of the inbox and of what it changes. Stateless."""

    def __init__(self, databases: Databases) -> None:
        super().__init__(databases)
        self.top_ups = TopUpStore(databases)
        self.subscribers = SubscriberStore(databases)
        self.overages = OverageStore(databases)

    # ---- webhooks ------------------------------------------------------------------------------

    async def add(self, event: InboxEvent) -> bool:
        """Insert, and commit; False when this endpoint was told of this event before."""
        if await self._has(event):
            return False
        try:
            async with self._writing(None) as conn:
                await conn.execute(sa.insert(webhooks).values(**_columns(event)))
        except SqlRefused:
            if not await self._has(event):
                raise  # it was something else that was refused
            return False
        return True

    async def _has(self, event: InboxEvent) -> bool:
        rule = sa.and_(webhooks.c.endpoint == event.endpoint, webhooks.c.event_id == event.event_id)
        async with self._reading(None) as conn:
            return (await conn.execute(sa.select(webhooks.c.id).where(rule))).first() is not None

    async def waiting(self, now_ms: int, but: Collection[str], count: int) -> list[InboxEvent]:
        """Of each account but those, the first that is due: by rank, then the longest due.

        It walks from account to account by the index, so a long queue of one makes it no longer.
        """
        first, other, own = webhooks.alias(), webhooks.alias(), webhooks.alias()
        is_waiting = InboxState.WAITING.value
        accounts = (
            sa.select(sa.func.min(first.c.account_id).label("account_id"))
            .where(first.c.state == is_waiting)
            .cte("accounts", recursive=True)
        )
        beyond = sa.select(sa.func.min(other.c.account_id)).where(
            other.c.state == is_waiting, other.c.account_id > accounts.c.account_id
        )
        accounts = accounts.union_all(sa.select(beyond.scalar_subquery()).where(accounts.c.account_id.is_not(None)))
        due = (
            sa.select(own.c.id)
            .where(own.c.state == is_waiting, own.c.account_id == accounts.c.account_id, own.c.due_at <= now_ms)
            .order_by(own.c.rank, own.c.due_at, own.c.id)
            .limit(1)
            .scalar_subquery()
        )
        chosen = sa.select(due).where(accounts.c.account_id.is_not(None), accounts.c.account_id.not_in(list(but)))
        query = sa.select(*webhooks.c).where(webhooks.c.id.in_(chosen)).order_by(webhooks.c.rank, webhooks.c.due_at).limit(count)
        async with self._reading(None) as conn:
            return [_event(row) for row in (await conn.execute(query)).mappings()]

    async def claim(self, event: InboxEvent, now_ms: int, lease_ms: int) -> Claim | None:
        """That one and all that are due with it, of the same object and tried as often, for this caller alone until the lease
        ends; None when another has them. `attempts` counts this one.
        """
        of = webhooks.c
        due = (
            sa.select(of.id)
            .where(of.account_id == event.account_id, of.object_id == event.object_id)
            .where(of.state == InboxState.WAITING.value, of.attempts == event.attempts, of.due_at <= now_ms)
            .with_for_update(skip_locked=True)
        )
        values = {"attempts": event.attempts + 1, "due_at": now_ms + lease_ms}
        taking = sa.update(webhooks).where(of.id.in_(due)).values(**values).returning(of.id, of.created_at)
        async with self._writing(None) as conn:
            rows = [(row[0], int(row[1])) for row in await conn.execute(taking)]
        if not rows:
            return None
        ids = sorted(row[0] for row in rows)
        first = msgspec.structs.replace(
            event,
            id=event.id if event.id in ids else ids[0],
            created_at_ms=max(row[1] for row in rows),
            attempts=event.attempts + 1,
            due_at_ms=now_ms + lease_ms,
        )
        return Claim(first, (first.id, *[each for each in ids if each != first.id]))

    async def finish(self, claim: Claim, state: InboxState, reason: str, now_ms: int) -> None:
        """What became of them; nothing when another has claimed them since, and they are not done. One of them failed for all."""
        await self._end(claim, claim.ids[:1], state, reason, now_ms)
        others = claim.ids[1:]
        if state == InboxState.FAILED:
            state, reason = InboxState.IGNORED, f"it says no more than {claim.ids[0]}, which failed"
        for start in range(0, len(others), _AT_ONCE):
            await self._end(claim, others[start : start + _AT_ONCE], state, reason, now_ms)

    async def _end(self, claim: Claim, ids: Sequence[str], state: InboxState, reason: str, now_ms: int) -> None:
        rule = sa.and_(webhooks.c.id.in_(ids), webhooks.c.state == InboxState.WAITING.value)
        if state != InboxState.DONE:
            rule = sa.and_(rule, webhooks.c.attempts == claim.event.attempts)
        values = {"state": state.value, "reason": _short(reason), "handled_at": now_ms}
        async with self._writing(None) as conn:
            await conn.execute(sa.update(webhooks).where(rule).values(**values))

    async def put_off(self, claim: Claim, due_at_ms: int, reason: str) -> None:
        """Claimed ones are tried again then, unless another has claimed them since."""
        for start in range(0, len(claim.ids), _AT_ONCE):
            rule = sa.and_(
                webhooks.c.id.in_(claim.ids[start : start + _AT_ONCE]),
                webhooks.c.attempts == claim.event.attempts,
                webhooks.c.state == InboxState.WAITING.value,
            )
            async with self._writing(None) as conn:
                await conn.execute(sa.update(webhooks).where(rule).values(due_at=due_at_ms, reason=_short(reason)))

    async def replay(self, name: str, now_ms: int, act: Act) -> InboxEvent | None:
        """Whatever became of it, it is acted upon again; None when there is none. `name` is our id, or Stripe's of the event."""
        values = {"state": InboxState.WAITING.value, "attempts": 0, "due_at": now_ms, "reason": "", "handled_at": None}
        rule = sa.or_(webhooks.c.id == name, webhooks.c.event_id == name)  # Stripe's is there once for each endpoint
        async with self._writing(None) as conn:
            rows = (await conn.execute(sa.select(*webhooks.c).where(rule).order_by(webhooks.c.id))).mappings().all()
            if not rows:
                return None
            await conn.execute(sa.update(webhooks).where(rule).values(**values))
            before = {"state": rows[0]["state"], "reason": rows[0]["reason"]}
            line = msgspec.structs.replace(act, subject=rows[0]["id"], before=before)
            await trail.append(conn, trail.trail_of(None), line, now_ms)
        return _event({**rows[0], **values})

    async def ignore(self, name: str, now_ms: int, act: Act) -> list[InboxEvent]:
        """Those of this name, as `replay` has it, that failed count as failed no more, and keep their reason. Gives
        all of this name, as they were before.
        """
        rule = sa.or_(webhooks.c.id == name, webhooks.c.event_id == name)
        failed = sa.and_(rule, webhooks.c.state == InboxState.FAILED.value)
        async with self._writing(None) as conn:
            query = sa.select(*webhooks.c).where(rule).order_by(webhooks.c.id).with_for_update()
            found = (await conn.execute(query)).mappings().all()
            values = {"state": InboxState.IGNORED.value, "handled_at": now_ms, "due_at": now_ms}
            changed = (await conn.execute(sa.update(webhooks).where(failed).values(**values).returning(webhooks.c.id))).scalars()
            for webhook_id in sorted(changed):
                before = {"state": InboxState.FAILED.value}
                line = msgspec.structs.replace(act, subject=webhook_id, before=before)
                await trail.append(conn, trail.trail_of(None), line, now_ms)
        return [_event(row) for row in found]

    async def events(self, state: str | None, after: str | None, count: int) -> list[InboxEvent]:
        """Newest first, by our id; of one state, or all."""
        query = sa.select(*webhooks.c).order_by(webhooks.c.id.desc()).limit(count)
        if state is not None:
            query = query.where(webhooks.c.state == state)
        if after is not None:
            query = query.where(webhooks.c.id < after)
        async with self._reading(None) as conn:
            return [_event(row) for row in (await conn.execute(query)).mappings()]

    async def counts(self) -> dict[InboxState, int]:
        """How many failed, and how many wait."""
        counted = (InboxState.FAILED, InboxState.WAITING)
        query = sa.select(webhooks.c.state, sa.func.count()).where(webhooks.c.state.in_([state.value for state in counted]))
        async with self._reading(None) as conn:
            found = {InboxState(state): int(count) for state, count in await conn.execute(query.group_by(webhooks.c.state))}
        return dict.fromkeys(counted, 0) | found

    async def forget(self, before_ms: int) -> int:
        """Drop what was done, or ignored, and due before then; how many it were. What failed stays for an operator."""
        over = webhooks.c.state.in_((InboxState.DONE.value, InboxState.IGNORED.value))
        old = sa.select(webhooks.c.id).where(over, webhooks.c.due_at < before_ms).limit(_FORGOTTEN_AT_ONCE)
        forgotten = 0
        while True:  # a part at a time: webhooks arrive meanwhile
            async with self._writing(None) as conn:
                dropped = int((await conn.execute(sa.delete(webhooks).where(webhooks.c.id.in_(old)))).rowcount)
            forgotten += dropped
            if dropped < _FORGOTTEN_AT_ONCE:
                return forgotten

    # ---- the reconciler's marks ----------------------------------------------------------------

    async def mark(self, account_id: str) -> int | None:
        """How far an account was looked at; None: never."""
        query = sa.select(billing_marks.c.looked_until).where(billing_marks.c.account_id == account_id)
        async with self._reading(None) as conn:
            looked: int | None = await conn.scalar(query)
        return looked

    async def set_mark(self, account_id: str, until_ms: int) -> None:
        """It was looked at until then; a later mark stays."""
        of = billing_marks.c
        async with self._writing(None) as conn:
            stands = await conn.scalar(sa.select(of.looked_until).where(of.account_id == account_id).with_for_update())
            if stands is None:
                await conn.execute(sa.insert(billing_marks).values(account_id=account_id, looked_until=until_ms))
            elif stands < until_ms:
                await conn.execute(sa.update(billing_marks).where(of.account_id == account_id).values(looked_until=until_ms))

    async def accounts(self) -> list[str]:
        """Stripe's ids of the creators' accounts that let us in, those of before too."""
        shut = AccountState.DEAUTHORIZED.value
        found = [sa.select(table.c.account_id).where(table.c.state != shut) for table in (billing_accounts, past_accounts)]
        async with self._reading(None) as conn:
            return sorted((await conn.execute(sa.union(*found))).scalars())

    # ---- one at a time -------------------------------------------------------------------------

    async def lease(self, name: str, holder: str, now_ms: int, until_ms: int) -> bool:
        """Whether `name` is this holder's alone until then, of all processes."""
        of = billing_leases.c
        free = sa.and_(of.name == name, sa.or_(of.until <= now_ms, of.holder == holder))
        async with self._writing(None) as conn:
            if (await conn.execute(sa.update(billing_leases).where(free).values(holder=holder, until=until_ms))).rowcount:
                return True
        try:
            async with self._writing(None) as conn:
                await conn.execute(sa.insert(billing_leases).values(name=name, holder=holder, until=until_ms))
        except SqlRefused:
            return False
        return True

    async def release(self, name: str, holder: str) -> None:
        """It is free again, unless it has become another's."""
        rule = sa.and_(billing_leases.c.name == name, billing_leases.c.holder == holder)
        async with self._writing(None) as conn:
            await conn.execute(sa.delete(billing_leases).where(rule))

    # ---- sales ---------------------------------------------------------------------------------

    async def end_purchase(
        self, enterprise_id: str | None, purchase_id: str, state: PurchaseState, at_ms: int, payment_id: str | None = None
    ) -> bool:
        """A purchase goes forward: paid whatever it was, failed or expired only while it is open. False: it stays."""
        table = sales_of(enterprise_id)["purchases"]
        may = table.c.state != PurchaseState.PAID.value
        values: dict[str, Any] = {"state": state.value, "ended_at": at_ms}
        if state == PurchaseState.PAID:
            values["payment_id"] = payment_id
        else:
            may = table.c.state == PurchaseState.OPEN.value
        async with self._writing(enterprise_id) as conn:
            done = await conn.execute(sa.update(table).where(table.c.id == purchase_id, may).values(**values))
            return bool(done.rowcount)

    async def bind_purchase(self, enterprise_id: str | None, purchase_id: str, payment_id: str) -> bool:
        """A purchase has this payment, and this payment no other purchase. False: one of them has another."""
        table = sales_of(enterprise_id)["purchases"]
        fits = sa.or_(table.c.payment_id.is_(None), table.c.payment_id == payment_id)
        binding = sa.update(table).where(table.c.id == purchase_id, fits).values(payment_id=payment_id)
        try:
            async with self._writing(enterprise_id) as conn:
                return bool((await conn.execute(binding)).rowcount)
        except SqlRefused:
            return False

    async def subscription(self, enterprise_id: str | None, subscription_id: str) -> Subscription | None:
        """One, by Stripe's id."""
        table = sales_of(enterprise_id)["subscriptions"]
        query = sa.select(*table.c).where(table.c.subscription_id == subscription_id)
        async with self._reading(enterprise_id) as conn:
            row = (await conn.execute(query)).mappings().first()
        return None if row is None else _subscription(enterprise_id, row)

    async def subscriptions_of(self, enterprise_id: str | None, owners: Collection[str]) -> dict[str, Subscription]:
        """Each buyer's one subscription, by owner; also when it has ended, until another takes its place."""
        theirs, held = (sales_of(enterprise_id)[name] for name in ("subscribers", "subscriptions"))
        query = sa.select(theirs.c.owner.label("buyer"), *held.c).join(held, held.c.subscription_id == theirs.c.subscription_id)
        async with self._reading(enterprise_id) as conn:
            rows = (await conn.execute(query.where(theirs.c.owner.in_(owners)))).mappings().all()
        return {row["buyer"]: _subscription(enterprise_id, {each.name: row[each.name] for each in held.c}) for row in rows}

    async def put_subscription(self, held: Subscription | None, now: Subscription) -> bool:
        """Insert or change; False when the row is not what `held` says: somebody looked at Stripe in between."""
        table, values = sales_of(now.wallet.enterprise_id)["subscriptions"], _columns(now)
        values["owner"] = values.pop("wallet")["owner"]
        values["cancel_at_period_end"] = int(now.cancel_at_period_end)
        if held is None:
            try:
                async with self._writing(now.wallet.enterprise_id) as conn:
                    await conn.execute(sa.insert(table).values(**values))
            except SqlRefused:
                if await self.subscription(now.wallet.enterprise_id, now.subscription_id) is None:
                    raise
                return False
            return True
        known = _columns(held)
        same = [table.c[name].is_not_distinct_from(known[name]) for name in ("state", "plan_id", "as_of", "period_end")]
        same.append(table.c.cancel_at_period_end == int(held.cancel_at_period_end))
        rule = sa.and_(table.c.subscription_id == held.subscription_id, *same)
        async with self._writing(now.wallet.enterprise_id) as conn:
            return bool((await conn.execute(sa.update(table).where(rule).values(**values))).rowcount)

    async def open_purchases(self, enterprise_id: str | None, before_ms: int, after: str, count: int) -> list[OpenPurchase]:
        """Purchases that are still open since before then; by id, beyond `after`."""
        of = sales_of(enterprise_id)["purchases"].c
        query = (
            sa.select(of.id, of.account_id, of.session_id)
            .where(of.state == PurchaseState.OPEN.value, of.created_at < before_ms, of.id > after)
            .order_by(of.id)
            .limit(count)
        )
        async with self._reading(enterprise_id) as conn:
            return [OpenPurchase(*row) for row in await conn.execute(query)]


def _columns(value: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return {name.removesuffix("_ms") if name.removesuffix("_ms") in _TIMES else name: each for name, each in fields.items()}


def _event(row: Mapping[Any, Any]) -> InboxEvent:
    return InboxEvent(**{f"{name}_ms" if name in _TIMES else name: each for name, each in row.items()})


def _subscription(enterprise_id: str | None, row: Mapping[Any, Any]) -> Subscription:
    fields = {f"{name}_ms" if name in _TIMES else name: each for name, each in row.items() if name != "owner"}
    fields["cancel_at_period_end"] = bool(row["cancel_at_period_end"])
    return Subscription(**fields, wallet=WalletKey(row["owner"], enterprise_id))


def _short(reason: str) -> str:
    return reason.replace("\0", "")[:_REASON_CHARS_MAX]
