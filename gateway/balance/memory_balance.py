"""Hot balances in this process: the port's meaning in plain Python, for unit tests of other rooms.

One dictionary a shard, no awaiting inside an operation, so each is atomic. Keeps everything it is told
except results, which it forgets after RESULT_TTL_S as Redis does. Not for production: it dies with the process.
"""

import calendar
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from gateway.balance.model import (
    BY_TOKENS,
    Admitted,
    BalanceUnavailable,
    Extended,
    Hold,
    HoldRequest,
    Limit,
    LimitKind,
    RefusedByLimit,
    RefusedByWallet,
    Settled,
    WalletMissing,
    WalletState,
)
from gateway.balance.rules import check_amounts, check_credit, check_extension, check_limits, check_request
from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.limits import EVENT_BACKLOG_MAX, RESULT_TTL_S
from gateway.core.money import AMOUNT_MICRO_MAX, ceil_div

_MINUTE_MS: Final = 60_000
_DAY_MS: Final = 86_400_000
_PER_MINUTE: Final = (LimitKind.REQUESTS_PER_MINUTE, LimitKind.TOKENS_PER_MINUTE)

_Answer = Admitted | RefusedByWallet | RefusedByLimit | WalletMissing
_Wallet = tuple[int, str]
_Counter = tuple[int, str, LimitKind, int]  # shard, subject, kind, window (0 where there is none)


class _Live(msgspec.Struct):
    """A hold in flight: what was asked and admitted, what it holds and what was added to each counter by now."""

    request: HoldRequest
    admitted: Admitted
    granted: tuple[int, ...]
    counted: tuple[tuple[_Counter, int], ...]
    deadline_ms: int
    owed: tuple[int, ...] = ()
    event: bytes = b""


class _Ended(msgspec.Struct):
    """A hold that ended; `settled` is None unless it was settled."""

    admitted: Admitted
    settled: tuple[int, ...] | None
    forget_ms: int


class MemoryBalance:
    """`Balance` without a server. `events` is what settle and sweep appended: (shard, data), oldest first."""

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, event_backlog_max: int = EVENT_BACKLOG_MAX, *, abandoned: bytes = b"{}"
    ) -> None:
        """`abandoned` is the rest of the event of a hold that nobody ended."""
        self.events: list[tuple[int, bytes]] = []
        self._clock = clock
        self._event_backlog_max = event_backlog_max
        self._abandoned = abandoned
        self._wallets: dict[_Wallet, WalletState] = {}
        self._holds: dict[tuple[int, str], _Live | _Ended] = {}
        self._counts: dict[_Counter, int] = {}
        self._credited: set[tuple[int, str]] = set()
        self._taken: dict[tuple[int, str], int] = {}

    async def reserve(self, request: HoldRequest) -> _Answer:
        """See the port."""
        check_request(request)
        check_limits(request.limits)
        now = now_ms(self._clock)
        known = self._find(request.shard, request.request_id, now)
        if known is not None:
            return known.admitted
        if sum(shard == request.shard for shard, _ in self.events) >= self._event_backlog_max:
            raise BalanceUnavailable(f"{self._event_backlog_max} usage events of shard {request.shard} wait to be drained")
        states = [self._wallets.get((request.shard, charge.wallet)) for charge in request.charges]
        missing = tuple(charge.wallet for charge, state in zip(request.charges, states, strict=True) if state is None)
        if missing:
            return WalletMissing(missing)
        present = [state for state in states if state is not None]
        granted: list[int] = []
        for number, (charge, state) in enumerate(zip(request.charges, present, strict=True)):
            if state.available_micro < charge.floor_micro:
                return RefusedByWallet(number, state.available_micro, state.held_micro)
            granted.append(min(charge.ceiling_micro, state.available_micro))
        for number, limit in enumerate(request.limits):
            refused = self._check(request, number, limit, granted, now)
            if refused is not None:
                return refused
        return self._admit(request, present, granted, now)

    def _admit(self, request: HoldRequest, states: list[WalletState], granted: list[int], now: int) -> Admitted:
        counted: list[tuple[_Counter, int]] = []
        remaining: list[int] = []
        for limit in request.limits:
            counter = _counter(request.shard, limit, now)
            amount = _amount(request, limit)
            if _is_spend(limit):
                amount = granted[limit.charge] if limit.charge < len(granted) else 0
            remaining.append(limit.maximum - self._used(counter, now) - amount)
            counted.append((counter, amount))
        moved = [_moved(state, -grant, grant) for state, grant in zip(states, granted, strict=True)]
        for charge, state in zip(request.charges, moved, strict=True):
            self._wallets[request.shard, charge.wallet] = state
        for counter, amount in counted:
            self._counts[counter] = self._counts.get(counter, 0) + amount
        admitted = Admitted(tuple(granted), tuple(state.available_micro for state in moved), tuple(remaining))
        live = _Live(request, admitted, admitted.granted, tuple(counted), now + request.ttl_ms)
        self._holds[request.shard, request.request_id] = live
        return admitted

    async def settle(self, hold: Hold, amounts_micro: Sequence[int], tokens: int, event: bytes) -> Settled:
        """See the port."""
        check_amounts(hold.wallets, amounts_micro, tokens)
        live = self._find(hold.shard, hold.request_id, now_ms(self._clock))
        if not isinstance(live, _Live):
            if live is not None and live.settled is not None:
                return Settled(live.settled, False)
            states = [self._wallets.get((hold.shard, wallet), WalletState(0, 0)) for wallet in hold.wallets]
            return Settled(tuple(state.available_micro for state in states), False, stands=False)
        after = self._end(live, amounts_micro)
        for (counter, amount), limit in zip(live.counted, live.request.limits, strict=True):
            delta = 0
            if limit.kind is LimitKind.CONCURRENCY:
                delta = -amount
            elif limit.kind is LimitKind.TOKENS_PER_MINUTE:
                delta = tokens - amount
            elif _is_spend(limit) and limit.charge < len(amounts_micro):
                delta = amounts_micro[limit.charge] - amount
            self._counts[counter] += delta
        self.events.append((hold.shard, _joined(live.request.context, b"", event)))
        self._remember(live, after)
        return Settled(after, True)

    async def extend(
        self,
        hold: Hold,
        ceilings_micro: Sequence[int],
        ttl_ms: int,
        owed_micro: Sequence[int] = (),
        event: bytes = b"",
        tokens: int = 0,
    ) -> Extended | None:
        """See the port."""
        check_extension(hold.wallets, ceilings_micro, owed_micro, ttl_ms, tokens)
        now = now_ms(self._clock)
        live = self._find(hold.shard, hold.request_id, now)
        if not isinstance(live, _Live):
            return None
        states = [self._wallets[hold.shard, wallet] for wallet in hold.wallets]
        more = [
            max(0, min(ceiling - granted, state.available_micro))
            for ceiling, granted, state in zip(ceilings_micro, live.granted, states, strict=True)
        ]
        spends = [
            (number, limit)
            for number, (limit, (counter, _)) in enumerate(zip(live.request.limits, live.counted, strict=True))
            if _is_spend(limit) and limit.charge < len(more) and more[limit.charge] and not self._is_over(counter, limit, now)
        ]
        for number, limit in spends:
            room = limit.maximum - self._counts.get(live.counted[number][0], 0)
            more[limit.charge] = max(0, min(more[limit.charge], room))
        counted = list(live.counted)
        for number, limit in spends:
            counter, amount = counted[number]
            self._counts[counter] = self._counts.get(counter, 0) + more[limit.charge]
            counted[number] = (counter, amount + more[limit.charge])
        for number, limit in enumerate(live.request.limits):
            counter, amount = counted[number]
            if limit.kind is LimitKind.TOKENS_PER_MINUTE and amount < tokens:
                self._counts[counter] += tokens - amount
                counted[number] = (counter, tokens)
        moved = [_moved(state, -added, added) for state, added in zip(states, more, strict=True)]
        self._wallets.update(zip([(hold.shard, wallet) for wallet in hold.wallets], moved, strict=True))
        live.counted = tuple(counted)
        live.granted = tuple(granted + added for granted, added in zip(live.granted, more, strict=True))
        live.deadline_ms = max(live.deadline_ms, now + ttl_ms)
        live.owed, live.event = tuple(owed_micro) or live.owed, event or live.event
        return Extended(live.granted, tuple(state.available_micro for state in moved))

    async def release(self, hold: Hold, *, asked: bool = False) -> bool:
        """See the port."""
        live = self._find(hold.shard, hold.request_id, now_ms(self._clock))
        if not isinstance(live, _Live):
            return False
        self._give_back(live, asked=asked)
        return True

    async def credit(self, op_id: str, shard: int, wallet: str, delta_micro: int) -> WalletState | None:
        """See the port; a repeat answers with the wallet as it is now."""
        check_credit(delta_micro)
        state = self._wallets.get((shard, wallet))
        if state is None or (shard, op_id) in self._credited:
            return state
        moved = _moved(state, delta_micro, 0)
        if moved.available_micro + moved.held_micro > AMOUNT_MICRO_MAX:  # a hold that is given back must find room
            raise BalanceUnavailable("amount out of range")
        self._credited.add((shard, op_id))
        self._wallets[shard, wallet] = moved
        return moved

    async def take(self, op_id: str, shard: int, wallet: str, most_micro: int) -> int | None:
        """See the port."""
        check_credit(most_micro)
        assert most_micro >= 0
        state = self._wallets.get((shard, wallet))
        if state is None:
            return None
        known = self._taken.get((shard, op_id))
        if known is not None:
            return known
        taken = max(0, min(state.available_micro, most_micro))
        if taken or not most_micro:
            self._taken[shard, op_id] = taken
        self._wallets[shard, wallet] = _moved(state, -taken, 0)
        return taken

    async def open(self, shard: int, wallet: str, available_micro: int) -> bool:
        """See the port."""
        check_credit(available_micro)
        if (shard, wallet) in self._wallets:
            return False
        self._wallets[shard, wallet] = WalletState(available_micro, 0)
        return True

    async def rebuild(self, shard: int, wallet: str, available_micro: int, counted: Sequence[str], epoch: str) -> bool:
        """See the port; what this process holds is lost with the process, and nobody settles again then."""
        return await self.open(shard, wallet, available_micro)

    async def epoch(self, shard: int) -> str:
        """See the port."""
        return "of this process"

    async def read(self, shard: int, wallets: Sequence[str]) -> list[WalletState | None]:
        """See the port."""
        return [self._wallets.get((shard, wallet)) for wallet in wallets]

    async def used(self, shard: int, limits: Sequence[Limit]) -> list[int]:
        """See the port."""
        now = now_ms(self._clock)
        return [self._used(_counter(shard, limit, now), now) for limit in limits]

    async def sweep(self, shard: int) -> int:
        """See the port."""
        now = now_ms(self._clock)
        expired = [
            hold
            for (of_shard, _), hold in self._holds.items()
            if of_shard == shard and isinstance(hold, _Live) and hold.deadline_ms <= now
        ]
        expired.sort(key=lambda hold: (hold.deadline_ms, hold.request.request_id))
        for hold in expired:
            owed = hold.owed or (0,) * len(hold.granted)
            if hold.event:
                self._end_at_checkpoint(hold, owed)
            else:
                self._give_back(hold)
            amounts, granted = ",".join(map(str, owed)), ",".join(map(str, hold.granted))
            ended = f'"at_ms":{now},"amounts_micro":[{amounts}],"held_micro":[{granted}],'.encode()
            self.events.append((shard, _joined(hold.request.context, ended, hold.event or self._abandoned)))
        return len(expired)

    async def ping(self) -> None:
        """Always serves."""

    def _find(self, shard: int, request_id: str, now: int) -> _Live | _Ended | None:
        hold = self._holds.get((shard, request_id))
        if isinstance(hold, _Ended) and hold.forget_ms <= now:
            del self._holds[shard, request_id]
            return None
        return hold

    def _used(self, counter: _Counter, now: int) -> int:
        """What counts against the limit now: of the minute before, the share still inside the last 60 s."""
        shard, subject, kind, window = counter
        used = self._counts.get(counter, 0)
        if kind in _PER_MINUTE:
            previous = self._counts.get((shard, subject, kind, window - 1), 0)
            used += ceil_div(previous * (_MINUTE_MS - now % _MINUTE_MS), _MINUTE_MS)
        return used

    def _is_over(self, counter: _Counter, limit: Limit, now: int) -> bool:
        """Whether a later window has been counted in, which Redis' one field a kind then speaks of."""
        newest = _counter(counter[0], limit, now)[3]
        return any((*counter[:3], window) in self._counts for window in range(counter[3] + 1, newest + 1))

    def _check(self, request: HoldRequest, number: int, limit: Limit, granted: list[int], now: int) -> RefusedByLimit | None:
        """Refuse, or lower the grant of a spend limit's charge to what the limit leaves."""
        counter = _counter(request.shard, limit, now)
        used = self._used(counter, now)
        if not _is_spend(limit):
            amount = _amount(request, limit)
            if used + amount <= limit.maximum:
                return None
            wait = 0 if limit.kind is LimitKind.CONCURRENCY else self._wait_ms(counter, amount, limit.maximum, now)
            return RefusedByLimit(number, used, wait)
        if limit.charge >= len(granted):
            return None
        room = limit.maximum - used
        if room < request.charges[limit.charge].floor_micro:
            return RefusedByLimit(number, used, _window_left_ms(limit.kind, now))
        granted[limit.charge] = min(granted[limit.charge], room)
        return None

    def _wait_ms(self, counter: _Counter, amount: int, maximum: int, now: int) -> int:
        """Milliseconds until the request would fit if nobody else came; 0 when it never would."""
        shard, subject, kind, window = counter
        current = self._counts.get(counter, 0)
        previous = self._counts.get((shard, subject, kind, window - 1), 0)
        left = _MINUTE_MS - now % _MINUTE_MS
        if amount > maximum:
            return 0
        room = maximum - amount - current
        if room >= 0:
            return left - room * _MINUTE_MS // previous
        return left + max(0, _MINUTE_MS - (maximum - amount) * _MINUTE_MS // current)

    def _end(self, live: _Live, amounts_micro: Sequence[int]) -> tuple[int, ...]:
        wallets = [(live.request.shard, charge.wallet) for charge in live.request.charges]
        moved = [
            _moved(self._wallets[wallet], granted - amount, -granted)
            for wallet, granted, amount in zip(wallets, live.granted, amounts_micro, strict=True)
        ]
        self._wallets.update(zip(wallets, moved, strict=True))
        return tuple(state.available_micro for state in moved)

    def _give_back(self, live: _Live, *, asked: bool = False) -> None:
        self._end(live, [0] * len(live.request.charges))
        for (counter, amount), limit in zip(live.counted, live.request.limits, strict=True):
            if not asked or limit.kind is not LimitKind.REQUESTS_PER_MINUTE:
                self._counts[counter] -= amount
        self._remember(live, None)

    def _end_at_checkpoint(self, live: _Live, owed: tuple[int, ...]) -> None:
        self._end(live, owed)
        for (counter, amount), limit in zip(live.counted, live.request.limits, strict=True):
            if limit.kind is LimitKind.CONCURRENCY:
                self._counts[counter] -= amount
            elif _is_spend(limit) and limit.charge < len(owed):
                self._counts[counter] += owed[limit.charge] - amount
        self._remember(live, None)

    def _remember(self, live: _Live, settled: tuple[int, ...] | None) -> None:
        forget_ms = now_ms(self._clock) + RESULT_TTL_S * 1000
        self._holds[live.request.shard, live.request.request_id] = _Ended(live.admitted, settled, forget_ms)


def _joined(front: bytes, between: bytes, rest: bytes) -> bytes:
    """Two JSON objects and what stands between, as one."""
    return b"%b,%b%b" % (front[:-1], between, rest[1:])


def _moved(state: WalletState, available_micro: int, held_micro: int) -> WalletState:
    """The wallet after adding to both sides; refuses, as Redis does, what doubles would not hold exactly."""
    moved = WalletState(state.available_micro + available_micro, state.held_micro + held_micro)
    if abs(moved.available_micro) > AMOUNT_MICRO_MAX or moved.held_micro > AMOUNT_MICRO_MAX:
        raise BalanceUnavailable("amount out of range")
    return moved


def _amount(request: HoldRequest, limit: Limit) -> int:
    return min(request.tokens, limit.maximum) if limit.amount == BY_TOKENS else limit.amount


def _is_spend(limit: Limit) -> bool:
    return limit.kind in (LimitKind.SPEND_PER_DAY, LimitKind.SPEND_PER_MONTH, LimitKind.SPEND_TOTAL)


def _counter(shard: int, limit: Limit, now: int) -> _Counter:
    window = 0
    if limit.kind in _PER_MINUTE:
        window = now // _MINUTE_MS
    elif limit.kind is LimitKind.SPEND_PER_DAY:
        window = now // _DAY_MS
    elif limit.kind is LimitKind.SPEND_PER_MONTH:
        moment = datetime.fromtimestamp(now / 1000, UTC)
        window = moment.year * 12 + moment.month
    return (shard, limit.subject, limit.kind, window)


def _window_left_ms(kind: LimitKind, now: int) -> int:
    """Milliseconds until the day or month ends, in UTC; 0 for a total."""
    day_left = _DAY_MS - now % _DAY_MS
    if kind is LimitKind.SPEND_PER_DAY:
        return day_left
    if kind is LimitKind.SPEND_PER_MONTH:
        moment = datetime.fromtimestamp(now / 1000, UTC)
        return day_left + (calendar.monthrange(moment.year, moment.month)[1] - moment.day) * _DAY_MS
    return 0
