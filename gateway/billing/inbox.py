"""The inbox of webhooks: verified, stored once, answered; acted upon later, as Stripe has the object then.

What is kept of a webhook is what it is about, so nothing that it says can be believed, and a late or a doubled one does no
harm. `run` is the worker's: it claims what is due with a lease, so that of several workers one acts, and what one that died
had claimed is another's when the lease ends. A web process wakes the worker in it at once; another one looks every half second.
What cannot be done now is put off for longer each time, and fails with its reason after the last.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from gateway.balance.model import BalanceUnavailable
from gateway.billing.effects import Effects, NotOurs, Rejected
from gateway.billing.inbox_store import InboxStore
from gateway.billing.model import PLATFORM_ACCOUNT, InboxEvent, InboxState
from gateway.billing.ports import Payments, PaymentsDown, PaymentsRefused
from gateway.core.clock import Clock, now_ms
from gateway.core.errors import GatewayError, InvalidRequest, NotFound
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
_BATCH: Final = 16
_LOOK_EVERY_S: Final = 0.5
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
    created: int
    livemode: bool
    data: _Data
    account: str | None = None


class Inbox:
    """Webhooks of both endpoints. Any number of processes may receive and work beside each other."""

    def __init__(self, rows: InboxStore, payments: Payments, effects: Effects, endpoints: frozenset[str], clock: Clock) -> None:
        """`endpoints`: those that have a secret; the others do not exist."""
        self._rows = rows
        self._payments = payments
        self._effects = effects
        self._endpoints = endpoints
        self._clock = clock
        self._news = asyncio.Event()

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
        )
        is_first = await self._rows.add(row)
        if is_first and state == InboxState.WAITING:
            self._news.set()
        return is_first

    async def run(self, stop: asyncio.Event) -> None:
        """Act upon what waits until `stop` is set; what is claimed by then is finished."""
        while not stop.is_set():
            self._news.clear()
            try:
                handled = await self.work()
            except SqlDown as down:
                _log.warning("webhooks wait: %s", down)
                handled = 0
            if not handled:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), _LOOK_EVERY_S)

    async def work(self) -> int:
        """Act upon what is due now, a batch at a time; how many it were. Raises SqlDown."""
        claimed = await self._rows.claim(now_ms(self._clock), _LEASE_MS, _BATCH)
        await asyncio.gather(*[self._settle(event) for event in claimed])
        return len(claimed)

    async def _settle(self, event: InboxEvent) -> None:
        try:
            state, reason = await self._outcome(event)
            if state != InboxState.WAITING:
                await self._rows.finish(event, state, reason, now_ms(self._clock))
                if state == InboxState.FAILED:
                    _log.error("webhook %s (%s of %s) failed: %s", event.id, event.type, event.object_id, reason)
                return
            pause_ms = min(_RETRY_MS * 3 ** (event.attempts - 1), _RETRY_MAX_MS)
            _log.warning("webhook %s (%s) is tried again in %d s: %s", event.id, event.type, pause_ms // 1000, reason)
            await self._rows.put_off(event, now_ms(self._clock) + pause_ms, reason)
        except (SqlDown, SqlRefused) as down:
            _log.warning("webhook %s waits until its lease ends: %s", event.id, down)

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
                await self._effects.account(event.account_id)
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

    # ---- for operators -------------------------------------------------------------------------

    async def events(self, state: str | None, after: str | None, count: int) -> list[InboxEvent]:
        """Newest first; one more than `count` where there are more. InvalidRequest for a state that there is not."""
        if state is not None and state not in tuple(InboxState):
            raise InvalidRequest(f"state must be one of {', '.join(InboxState)}", param="state")
        return await self._rows.events(state, after, min(count, PAGE_ROWS_MAX) + 1)

    async def replay(self, event_id: str, act: Act) -> InboxEvent:
        """Act upon one again, whatever became of it. NotFound."""
        event = await self._rows.replay(event_id, now_ms(self._clock), act)
        if event is None:
            raise NotFound(f"There is no webhook {event_id}.", param="webhook_id")
        self._news.set()
        return event


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
    **_types("invoice", "paid payment_failed payment_action_required", _invoice),
    **_types("customer.subscription", "created updated deleted paused resumed trial_will_end", _subscription),
    **_types("refund", "created updated failed", _refund),
    **_types("charge.dispute", "created updated closed funds_withdrawn funds_reinstated", _dispute),
    "charge.refund.updated": _refund,
    "account.updated": _account,
    "account.application.deauthorized": _account,
}
