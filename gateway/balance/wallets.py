"""Wallets over both stores: the books in SQL, which are right, and the hot balances, which decide.

Money out by an expiry goes the other way round, for the reason that `ledger.expiry` gives. Money in, and what
refunds and disputes take, goes through the books first: a grant is committed there together with a waiting credit, then
the credit is applied to the hot wallet under the transaction's id, then marked applied. Whatever dies
in between, `apply_waiting_credits` finishes: applying twice changes nothing.

A wallet that was open before and is not there was lost by the hot store. It is rebuilt from the books, by whoever
settles a request again on it (see `keeping`) at once, by everybody else once live gateways have had the time to do so:
what they kept is not in the books, and until it is taken off again the wallet could be spent twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from gateway.balance.model import Balance, BalanceUnavailable, Unfunded, WalletState
from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import NotFound
from gateway.core.limits import DRAIN_BATCH, POSTED_S, REBUILD_AFTER_S
from gateway.core.words import LotSource
from gateway.db.faults import SqlDown, SqlRefused
from gateway.ledger.model import Credit, Granted, GrantRequest, Lot, Posted, WalletKey, wallet_from_name
from gateway.ledger.service import Ledger

_log = logging.getLogger(__name__)

EnterpriseIds = Callable[[], Awaitable[Sequence[str]]]
TRIAL_ACTOR: Final = "trial"
_NOBODIES: Final = 10_000
_NOBODY_MS: Final = 2000  # a grant opens the wallet by itself: this only spares the books the same question
_REBUILDS: Final = 5
_DAY_MS: Final = 86_400_000


class Trial(Protocol):
    """What an app grants each end user on first sight."""

    @property
    def amount_micro(self) -> int:
        """In the app's asset."""
        ...

    @property
    def days(self) -> int:
        """Until it expires."""
        ...


TrialOf = Callable[[str], Awaitable[Trial | None]]


async def no_trials(enterprise_id: str) -> Trial | None:
    """No app has a trial."""
    return None


async def _nobody_else(wallet: str) -> None:
    """There is no other process."""


async def never_lapsed(key: WalletKey, now_ms: int) -> bool:
    """Nobody subscribes."""
    return False


class WalletStatus(msgspec.Struct, frozen=True):
    """A wallet as its owner sees it; micro-units of `asset`.

    `available_micro`, `held_micro` and `debt_micro` (what is available below zero) are the hot store's, to the moment (the
    books' while the wallet has not been used yet). `pending_micro` was granted but cannot be spent yet. `owed_micro`, all of
    the debt, and `lots` are the books' and follow a moment later; `lots` in the order in which they burn.
    """

    asset: str
    available_micro: int
    held_micro: int
    debt_micro: int
    owed_micro: int
    pending_micro: int
    lots: tuple[Lot, ...]


class Wallets:
    """Grants, openings and views. Stateless: any number of processes may have one."""

    def __init__(
        self,
        balance: Balance,
        ledger: Ledger,
        enterprise_ids: EnterpriseIds,
        clock: Clock = SYSTEM_CLOCK,
        trial_of: TrialOf = no_trials,
    ) -> None:
        """`enterprise_ids` lists every app: each has a book of its own whose credits may wait. `trial_of` is an app's policy."""
        self._balance = balance
        self._ledger = ledger
        self._enterprise_ids = enterprise_ids
        self._clock = clock
        self._trial_of = trial_of
        self.lapsed: Callable[[WalletKey, int], Awaitable[bool]] = (
            never_lapsed  # whether a wallet drew on subscriptions alone, and none goes on
        )
        self.tell: Callable[[str], Awaitable[None]] = _nobody_else  # tells the other processes to `forget_lapse` of a wallet
        self._lapsed: dict[str, tuple[int, bool]] = {}
        self._lapse_changes = 0
        self._rebuilding = asyncio.Lock()
        self._nobody: dict[str, int] = {}  # wallets of people unheard of, and until when that is believed (ms)
        self._losses: dict[int, tuple[str, int]] = {}  # by shard: its epoch since, and when it was first seen (ms)

    async def open_missing(self, shard: int, wallets: tuple[str, ...], needed: tuple[str, ...] = ()) -> bool:
        """Open wallets (by name) that the hot store does not know; False when one may not be opened.

        That is so for a wallet of nobody, for one that was lost a moment ago (it is rebuilt when live gateways have had
        REBUILD_AFTER_S to settle again what they kept), and while the database is down. Raises BalanceUnavailable.
        An end user of whom the books never heard is granted the app's trial, once ever. Without one a wallet that is
        `needed` to hold something stays closed, and Unfunded says so: names cost nothing, and each would stay for good.
        """
        for name in wallets:
            if name in needed and self._nobody.get(name, 0) > now_ms(self._clock):
                raise Unfunded(name)
            key = wallet_from_name(name)
            try:
                if key is None or not await self._open(shard, key, first_sight=True, must_hold=name in needed):
                    return False
            except NotFound:
                return False
            except SqlDown as down:
                _log.warning("wallet %s cannot be opened: %s", name, down)
                return False
        return True

    async def is_lapsed(self, wallet: str) -> bool:
        """Why a wallet (by name) that was refused holds nothing: its subscription is not paid for, or has ended.

        Told again for a second without a look, unless it changes meanwhile; False while the database is down.
        """
        now, key = now_ms(self._clock), wallet_from_name(wallet)
        until, said = self._lapsed.get(wallet, (0, False))
        if until > now or key is None:
            return said
        changes = self._lapse_changes
        try:
            said = await self.lapsed(key, now)
        except (NotFound, SqlDown, SqlRefused):
            return False
        if changes != self._lapse_changes:  # what was read may be of before
            return said
        if len(self._lapsed) >= _NOBODIES:
            self._lapsed.clear()
        self._lapsed[wallet] = (now + 1000, said)
        return said

    async def subscription_changed(self, key: WalletKey) -> None:
        """Where a subscription of this wallet stands was committed: every process looks again."""
        self.forget_lapse(key.name)
        await self.tell(key.name)

    def forget_lapse(self, wallet: str) -> None:
        """Look again when it is asked for the next time."""
        self._lapse_changes += 1
        self._lapsed.pop(wallet, None)

    async def rebuild_lost(self, shard: int, wallets: Sequence[str]) -> bool:
        """Make wallets (by name) that the hot store lost, from the books; False when one cannot be. Raises BalanceUnavailable.

        For whoever has a settlement that was lost with them. Race-free: of several, the first one counts, and
        every one of them knows which requests its own amount has.
        """
        for name in wallets:
            key = wallet_from_name(name)
            try:
                if key is None or not await self._rebuild(shard, key):
                    return False
            except NotFound:
                return False
            except SqlDown as down:
                _log.warning("wallet %s cannot be rebuilt: %s", name, down)
                return False
        return True

    async def _rebuild(self, shard: int, key: WalletKey) -> bool:
        """One at a time in this process, as many settlements may miss the same wallet. False when it is lost again and again."""
        async with self._rebuilding:
            for _ in range(_REBUILDS):
                if (await self._balance.read(shard, [key.name]))[0] is not None:
                    return True
                epoch = await self._balance.epoch(shard)
                found = await self._ledger.rebuilding(key, now_ms(self._clock) - 1000 * POSTED_S)
                assert found.shard == shard, "a wallet lies in its creator's shard"
                made = await self._balance.rebuild(shard, found.wallet, found.amount_micro, found.counted, epoch)
                if made is None:
                    continue
                if made:
                    _log.error("wallet %s was lost by the hot store: rebuilt with %d", found.wallet, found.amount_micro)
                if found.may_open:
                    await self._ledger.mark_opened(key)
                return True
        return False

    async def _may_rebuild(self, shard: int) -> bool:
        """Whether live gateways have had the time to settle again what a loss of this shard took.

        A loss is known by the epoch that came after it: one that was seen longer ago than that is over.
        """
        epoch, now = await self._balance.epoch(shard), now_ms(self._clock)
        seen = self._losses.get(shard)
        if seen is None or seen[0] != epoch:
            self._losses[shard] = (epoch, now)
            _log.error("shard %d of the hot store lost wallets; they are rebuilt in %.0f s", shard, REBUILD_AFTER_S)
            return False
        return now - seen[1] >= 1000 * REBUILD_AFTER_S

    async def grant(self, request: GrantRequest, fingerprint: str | None = None) -> Granted:
        """Put money into a wallet, once per `op_id`; errors as `Ledger.grant`.

        When it returns, the books have it. Whether the hot store has it too depends on the hot store:
        if that is down, or lost the wallet, the credit waits and the grant still stands.
        """
        granted = await self._ledger.grant(request, fingerprint)
        if not granted.first:
            if granted.wallet.pending_micro:
                await self._apply_unless_down(await self._waiting(request.wallet.enterprise_id))
        elif granted.credit is not None and granted.credit.due_at_ms <= now_ms(self._clock):
            await self._apply_unless_down([granted.credit])
        return granted

    async def deliver(self, posted: Posted) -> Posted:
        """Tell the hot store of a refund, a dispute or a correction that was posted; if it is down, that waits.

        `wallets.deliver(await ledger.payments.refund(...))`; harmless to repeat.
        """
        if not posted.first:
            await self._apply_unless_down(await self._waiting(posted.enterprise_id))
        elif posted.credit is not None:
            await self._apply_unless_down([posted.credit])
        return posted

    async def expire_lots(self) -> int:
        """End the lots of every book whose time has passed, as far as no request in flight needs them; how many moved.

        What cannot expire now, as in a book that is down, is tried again by the next call. Raises BalanceUnavailable.
        """
        expired = 0
        for book in (None, *await self._enterprise_ids()):
            try:
                expired += await self._expire_lots_of(book)
            except SqlDown as down:
                _log.warning("lots of %s wait to expire: %s", book or "the platform", down)
        return expired

    async def expire(self, wallet: WalletKey, lot: Lot) -> bool:
        """End one lot whose time has passed, now, as far as no request in flight needs it; whether anything moved.

        What cannot be now, as with a hot store that is down, `expire_lots` does later.
        """
        try:
            posted = await self._ledger.expiries.expire(lot, wallet, self._balance)
        except BalanceUnavailable:
            return False
        if posted is not None:
            await self.deliver(posted)
        return posted is not None

    async def next_expiry_ms(self) -> int | None:
        """When the next lot of any book ends; those that have ended are not meant. Raises SqlDown."""
        ends = [await self._ledger.expiries.next_ms(book) for book in (None, *await self._enterprise_ids())]
        return min((at for at in ends if at is not None), default=None)

    async def _expire_lots_of(self, enterprise_id: str | None) -> int:
        expired, after = 0, ""
        while found := await self._ledger.expiries.due(enterprise_id, after, DRAIN_BATCH):
            for lot, wallet in found:
                posted = await self._ledger.expiries.expire(lot, wallet, self._balance)
                if posted is not None:
                    expired += 1
                    await self.deliver(posted)
            after = found[-1][0].id
        return expired

    async def apply_waiting_credits(self) -> int:
        """Apply what crashes, or grants that take effect later, left waiting in any book; how many were applied.

        Raises BalanceUnavailable, SqlDown.
        """
        applied = 0
        for book in (None, *await self._enterprise_ids()):
            applied += await self._apply(await self._waiting(book))
        return applied

    async def view(self, wallet: WalletKey) -> WalletStatus:
        """A wallet; NotFound when there is no such creator or app. Raises BalanceUnavailable, SqlDown."""
        opening = await self._ledger.opening(wallet)
        books = await self._ledger.wallet(wallet)
        hot = (await self._balance.read(opening.shard, [opening.wallet]))[0]
        if hot is None:
            hot = WalletState(available_micro=books.available_micro - books.debt_micro - books.pending_micro, held_micro=0)
        return WalletStatus(
            asset=books.asset,
            available_micro=max(hot.available_micro, 0),
            held_micro=hot.held_micro,
            debt_micro=max(-hot.available_micro, 0),
            owed_micro=books.debt_micro,
            pending_micro=books.pending_micro,
            lots=books.lots,
        )

    async def _waiting(self, enterprise_id: str | None) -> list[Credit]:
        return await self._ledger.waiting_credits(enterprise_id, DRAIN_BATCH)

    async def _apply_unless_down(self, waiting: Sequence[Credit]) -> None:
        try:
            await self._apply(waiting)
        except (BalanceUnavailable, SqlDown) as down:
            _log.warning("%d credits wait: %s", len(waiting), down)

    async def _apply(self, waiting: Sequence[Credit]) -> int:
        """Apply credits of one book, then mark them; those of lost wallets stay. How many were applied."""
        done: list[str] = []
        try:
            for credit in waiting:
                if await self._credited(credit):
                    done.append(credit.txn_id)  # noqa: PERF401  known also when a later one fails
        finally:
            if done:
                await self._ledger.mark_applied(waiting[0].enterprise_id, done)
        return len(done)

    async def _credited(self, credit: Credit) -> bool:
        """Whether the hot wallet has this credit now; a wallet that was never open is opened first."""
        if await self._balance.credit(credit.txn_id, credit.shard, credit.wallet, credit.delta_micro) is not None:
            return True
        key = wallet_from_name(credit.wallet)
        assert key is not None, "the books name no malformed wallet"
        if not await self._open(credit.shard, key):
            _log.error(
                "wallet %s is missing in the hot store though it was open: its credit waits for its rebuild", credit.wallet
            )
            return False
        return await self._balance.credit(credit.txn_id, credit.shard, credit.wallet, credit.delta_micro) is not None

    async def _open(self, shard: int, key: WalletKey, *, first_sight: bool = False, must_hold: bool = False) -> bool:
        """Open a wallet from the books, without the credits that wait. False when it was lost a moment ago."""
        opening = await self._ledger.opening(key)
        assert opening.shard == shard, "a wallet lies in its creator's shard"
        if not opening.may_open:
            # Another process may have opened it between the caller's look and ours.
            if (await self._balance.read(shard, [opening.wallet]))[0] is not None:
                return True
            return await self._may_rebuild(shard) and await self._rebuild(shard, key)
        stranger = key.enterprise_id if first_sight and not opening.is_known else None
        if stranger is not None and not await self._grant_trial(key, stranger) and must_hold:
            if len(self._nobody) >= _NOBODIES:
                self._nobody.clear()
            self._nobody[opening.wallet] = now_ms(self._clock) + _NOBODY_MS
            raise Unfunded(opening.wallet)
        await self._balance.open(shard, opening.wallet, opening.amount_micro)
        await self._ledger.mark_opened(key)
        return True

    async def _grant_trial(self, key: WalletKey, enterprise_id: str) -> bool:
        """The app's trial, in the books before the wallet is opened; False where there is none. Of several, the first counts."""
        trial = await self._trial_of(enterprise_id)
        if trial is None:
            return False
        request = GrantRequest(
            wallet=key,
            amount_micro=trial.amount_micro,
            asset=(await self._ledger.wallet(key)).asset,
            source=LotSource.TRIAL,
            op_id=f"trial:{enterprise_id}:{key.owner}",
            actor=TRIAL_ACTOR,
            role="system",
            expires_at_ms=now_ms(self._clock) + trial.days * _DAY_MS,
        )
        await self.grant(request, fingerprint="trial")
        return True
