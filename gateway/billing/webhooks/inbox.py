"""The inbox of webhooks: verified, stored once, answered; acted upon later, as Stripe has the object then.

What is kept of a webhook is what it is about, so nothing that it says can be believed, and a late or a doubled one does no
harm. `run` is the worker's: it claims what is due with a lease, so that of several workers one acts, and what one that died
had claimed is another's when the lease ends. A web process wakes the worker in it at once, or those of other processes (`tell`);
what nobody told them of they find at a look every half second.
What cannot be done now is put off for longer each time, and fails with its reason after the last.

All that waits about one object is done by one look at it. Accounts take turns, whoever has the least under way being next, and
none ever has all places of a process: so however much one tells, or makes Stripe tell, the others' payments do not wait for it.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Final

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.billing.effects import Effects, NotOurs, Rejected
from gateway.billing.model import PLATFORM_ACCOUNT, Claim, InboxEvent, InboxState
from gateway.billing.ports import Payments, PaymentsDown, PaymentsRefused
from gateway.billing.webhooks.store import InboxStore
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import Conflict, GatewayError, InvalidRequest, NotFound
from gateway.core.ids import new_id
from gateway.core.limits import PAGE_ROWS_MAX
from gateway.db.faults import SqlDown, SqlRefused
from gateway.trail.model import Act

_log = logging.getLogger(__name__)

ENDPOINTS: Final = ("platform", "connect")
ATTEMPTS_MAX: Final = 10
_LEASE_MS: Final = 180_000  # longer than Stripe's slowest answers to all that one webhook asks
_RETRY_MS: Final = 2000  # and three times as long each time: the last after five hours
_RETRY_MAX_MS: Final = 4 * 3_600_000
_WORKERS: Final = 16
_SHARE: Final = 8  # of them, for one account
_CANDIDATES: Final = 64
_SECONDS_MAX: Final = 1 << 40
_LOOK_EVERY_S: Final = 0.5
_COUNT_EVERY_S: Final = 5.0
_ID_CHARS_MAX: Final = 255


class _Object(msgspec.Struct):
    id: str = ""
    object: str = ""
    payment_intent: str | None = None


class _Data(msgspec.Struct):
    object: _Object


class _Event(msgspec.Struct):
    """What is read of an event; see docs.stripe.com/api/events/object."""

    id: str
    type: str
    created: Annotated[int, msgspec.Meta(ge=0, le=_SECONDS_MAX)]
    livemode: bool
    data: _Data
    account: str | None = None


class Inbox:
    """Webhooks of both endpoints. Any number of processes may receive and work beside each other."""

    def __init__(
        self,
        rows: InboxStore,
        payments: Payments,
        effects: Effects,
        endpoints: frozenset[str],
        clock: Clock,
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        """`endpoints`: those that have a secret; the others do not exist. `look_every_s`: for what nobody told of."""
        self.tell: Callable[[], Awaitable[None]] | None = None  # wakes the workers of other processes
        self.look_every_s = look_every_s
        self.counted: Mapping[InboxState, int] | None = None  # as `counts`, a few seconds ago; None: not known
        self._rows = rows
        self._payments = payments
        self._effects = effects
        self._endpoints = endpoints
        self._clock = clock
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._under_way: Counter[str] = Counter()  # by account

    def serves(self, endpoint: str) -> bool:
        """Whether there is such an endpoint."""
        return endpoint in self._endpoints

    async def receive(self, endpoint: str, body: bytes, signature: str) -> bool:
        """Keep a webhook, committed when this returns; False when it was there already.

        PaymentsRefused, and nothing is kept, when its signature does not prove it, or it is no event. Raises SqlDown.
        """
        told = self._payments.event(endpoint, body, signature)
        try:
            event = msgspec.convert(told, _Event)
        except msgspec.ValidationError as odd:
            raise PaymentsRefused(f"This is no event: {odd}", "bad_payload") from odd
        about = event.data.object
        object_id = (about.payment_intent or "") if about.object == "charge" else about.id
        if max(len(event.id), len(event.type), len(event.account or ""), len(object_id)) > _ID_CHARS_MAX:
            raise PaymentsRefused("An id of this event is too long.", "bad_payload")
        state, reason = InboxState.WAITING, ""
        if event.livemode != self._payments.is_live:
            state, reason = InboxState.IGNORED, f"of {'live' if event.livemode else 'test'} mode, which this gateway's key is not"
        elif event.type not in _EFFECTS:
            state, reason = InboxState.IGNORED, "of a type that changes nothing here"
        now = now_ms(self._clock)
        row = InboxEvent(
            id=new_id("whk"),
            endpoint=endpoint,
            event_id=event.id,
            type=event.type,
            account_id=event.account or PLATFORM_ACCOUNT,
            object_id=object_id,
            created_at_ms=event.created * 1000,
            received_at_ms=now,
            state=state,
            due_at_ms=now,
            reason=reason,
            handled_at_ms=now if state == InboxState.IGNORED else None,
            rank=_rank(event.type),
        )
        is_first = await self._rows.add(row)
        if is_first and state == InboxState.WAITING:
            await self._wake()
        return is_first

    def noticed(self) -> None:
        """Something waits, another process says."""
        self._news.set()

    async def _wake(self) -> None:
        self._news.set()
        if self.tell is not None:
            await self.tell()

    async def run(self, stop: asyncio.Event) -> None:
        """Act upon what waits until `stop` is set; what is claimed by then is finished."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_WORKERS):
                workers.create_task(self._worker(stop))

    async def _worker(self, stop: asyncio.Event) -> None:
        while (claim := await self._next(stop)) is not None:
            await self._settle(claim)

    async def _next(self, stop: asyncio.Event) -> Claim | None:
        """What is to be done next, as soon as there is something; None once `stop` is set. One worker at a time looks."""
        async with self._turn:
            while not stop.is_set():
                self._news.clear()
                try:
                    claim = await self._claimed()
                except (SqlDown, SqlRefused) as down:
                    _log.warning("webhooks wait: %s", down)
                    claim = None
                if claim is not None:
                    return claim
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), self.look_every_s)
        return None

    async def work(self) -> int:
        """Act upon all that is due now; how many webhooks it were. Raises SqlDown."""
        handled = 0
        while True:
            claims: list[Claim] = []
            while len(claims) < _WORKERS and (claim := await self._claimed()) is not None:
                claims.append(claim)
            if not claims:
                return handled
            await asyncio.gather(*[self._settle(claim) for claim in claims])
            handled += sum(len(claim.ids) for claim in claims)

    async def _claimed(self) -> Claim | None:
        at_ms = now_ms(self._clock)
        full = [account_id for account_id, count in self._under_way.items() if count >= _SHARE]
        found = await self._rows.waiting(at_ms, full, _CANDIDATES)
        for event in sorted(found, key=lambda each: self._under_way[each.account_id]):
            claim = await self._rows.claim(event, at_ms, _LEASE_MS)
            if claim is not None:
                self._under_way[event.account_id] += 1
                return claim
        return None

    async def _settle(self, claim: Claim) -> None:
        event = claim.event
        try:
            state, reason = await self._outcome(event)
            if state != InboxState.WAITING:
                await self._rows.finish(claim, state, reason, now_ms(self._clock))
                if state == InboxState.FAILED:
                    _log.error("webhook %s (%s of %s) failed: %s", event.id, event.type, event.object_id, reason)
                return
            pause_ms = min(_RETRY_MS * 3 ** (event.attempts - 1), _RETRY_MAX_MS)
            _log.warning("webhook %s (%s) is tried again in %d s: %s", event.id, event.type, pause_ms // 1000, reason)
            await self._rows.put_off(claim, now_ms(self._clock) + pause_ms, reason)
        except (SqlDown, SqlRefused) as down:
            _log.warning("webhook %s waits until its lease ends: %s", event.id, down)
        finally:
            self._under_way[event.account_id] -= 1
            if not self._under_way[event.account_id]:
                del self._under_way[event.account_id]
            self._news.set()  # of a full account there may be more

    async def _outcome(self, event: InboxEvent) -> tuple[InboxState, str]:
        """What becomes of it, and why; WAITING is for what may pass."""
        try:
            await _EFFECTS[event.type](self._effects, event)
        except NotOurs as other:
            return InboxState.IGNORED, str(other)
        except (Rejected, NotFound) as wrong:
            return InboxState.FAILED, str(wrong)
        except PaymentsRefused as refused:
            if refused.is_revoked:
                await self._shut_out(event.account_id)
            reason = f"Stripe: {refused}" + (f" ({refused.code})" if refused.code else "")
            if refused.is_revoked or refused.code == "resource_missing":
                return InboxState.FAILED, reason
        except (PaymentsDown, SqlDown, SqlRefused, BalanceUnavailable, GatewayError) as fault:
            reason = str(fault)
        except Exception as defect:  # noqa: BLE001 - the edge of this process: a defect of ours must not stop the other webhooks
            _log.exception("webhook %s (%s of %s)", event.id, event.type, event.object_id)
            reason = f"{type(defect).__name__}: {defect}"
        else:
            return InboxState.DONE, ""
        return (InboxState.FAILED if event.attempts >= ATTEMPTS_MAX else InboxState.WAITING), reason

    async def _shut_out(self, account_id: str) -> None:
        try:
            await self._effects.account(account_id)
        except Exception as failed:  # noqa: BLE001 - it is noticed at the next look, too; what is told here is why the webhook failed
            _log.warning("account %s: %s", account_id, failed)

    # ---- for operators -------------------------------------------------------------------------

    async def counts(self) -> Mapping[InboxState, int]:
        """How many failed and were not acted upon again since, and how many wait. Raises SqlDown, SqlRefused."""
        return await self._rows.counts()

    async def keep_counted(self) -> None:
        """Keep `counted`, until cancelled: who reads it often asks no database."""
        while True:
            try:
                self.counted = await self.counts()
            except (SqlDown, SqlRefused):
                self.counted = None
            await asyncio.sleep(_COUNT_EVERY_S)

    async def events(self, state: str | None, after: str | None, count: int) -> list[InboxEvent]:
        """Newest first; one more than `count` where there are more. InvalidRequest for a state that there is not."""
        if state is not None and state not in tuple(InboxState):
            raise InvalidRequest(f"state must be one of {', '.join(InboxState)}", param="state")
        return await self._rows.events(state, after, min(count, PAGE_ROWS_MAX) + 1)

    async def replay(self, event_id: str, act: Act) -> InboxEvent:
        """Act upon one again, whatever became of it: by our id, or by Stripe's. NotFound."""
        event = await self._rows.replay(event_id, now_ms(self._clock), act)
        if event is None:
            raise NotFound(f"There is no webhook {event_id}.", param="webhook_id")
        await self._wake()
        return event

    async def ignore(self, event_id: str, act: Act) -> InboxEvent:
        """One that failed needs nobody any more: by our id, or by Stripe's. NotFound; Conflict for one that did not fail."""
        now = now_ms(self._clock)
        found = await self._rows.ignore(event_id, now, act)
        if not found:
            raise NotFound(f"There is no webhook {event_id}.", param="webhook_id")
        failed = [event for event in found if event.state == InboxState.FAILED]
        if not failed:
            raise Conflict(f"This webhook has not failed: it is {found[0].state}.", param="webhook_id")
        return msgspec.structs.replace(failed[0], state=InboxState.IGNORED, handled_at_ms=now, due_at_ms=now)


Effect = Callable[[Effects, InboxEvent], Awaitable[None]]


async def _checkout(effects: Effects, event: InboxEvent) -> None:
    await effects.checkout(event.account_id, event.object_id)


async def _payment(effects: Effects, event: InboxEvent) -> None:
    await effects.payment(event.account_id, await effects.payments.payment(event.account_id, event.object_id))


async def _invoice(effects: Effects, event: InboxEvent) -> None:
    await effects.invoice(event.account_id, await effects.payments.invoice(event.account_id, event.object_id))


async def _subscription(effects: Effects, event: InboxEvent) -> None:
    await effects.subscription(event.account_id, event.object_id, event.created_at_ms)


async def _refund(effects: Effects, event: InboxEvent) -> None:
    await effects.refund(event.account_id, await effects.payments.refund_of(event.account_id, event.object_id))


async def _dispute(effects: Effects, event: InboxEvent) -> None:
    await effects.dispute(event.account_id, await effects.payments.dispute(event.account_id, event.object_id))


async def _account(effects: Effects, event: InboxEvent) -> None:
    await effects.account(event.account_id)


def _types(prefix: str, words: str, effect: Effect) -> dict[str, Effect]:
    return {f"{prefix}.{word}": effect for word in words.split()}


# A type that is not here changes nothing: `charge.refunded`, as `refund.created` says which refund it was.
_EFFECTS: Final[Mapping[str, Effect]] = {
    **_types("checkout.session", "completed async_payment_succeeded async_payment_failed expired", _checkout),
    **_types("payment_intent", "succeeded payment_failed", _payment),
    **_types("invoice", "paid payment_failed payment_action_required voided marked_uncollectible", _invoice),
    **_types("customer.subscription", "created updated deleted paused resumed trial_will_end", _subscription),
    **_types("refund", "created updated failed", _refund),
    **_types("charge.dispute", "created updated closed funds_withdrawn funds_reinstated", _dispute),
    "charge.refund.updated": _refund,
    "account.updated": _account,
    "account.application.deauthorized": _account,
}

# What of an account's is done first: money that came, money that went, the rest.
_RANKS: Final = (("checkout.session.", "payment_intent.", "invoice."), ("refund.", "charge."))


def _rank(kind: str) -> int:
    return next((rank for rank, prefixes in enumerate(_RANKS) if kind.startswith(prefixes)), len(_RANKS))
