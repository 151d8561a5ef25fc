"""The ledger's rules over its two kinds of book: grants, the outbox of credits, opening wallets, posting usage.

Money enters the books first and the hot store second: a grant commits its transaction, its lot and a
line of the outbox (`credits`) together, and its line in the trail; whoever drives the hot store applies the line under the
transaction's id, which makes a repeat harmless, and marks it applied.

All methods raise SqlDown while a database cannot serve; nothing was committed then.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import msgspec

from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest
from gateway.core.ids import new_id, shard_of
from gateway.core.limits import DRAIN_BATCH
from gateway.core.money import AMOUNT_MICRO_MAX, is_asset
from gateway.core.words import LotSource
from gateway.db.engines import Databases
from gateway.db.faults import SqlRefused
from gateway.ledger import audit_queries, journal, lending, queries, store
from gateway.ledger.books import Books, check_amount, check_moment, check_priority, check_texts, fingerprint_of
from gateway.ledger.expiry import Expiries
from gateway.ledger.lending import Lending
from gateway.ledger.model import (
    AVAILABLE,
    DEBT,
    OVERAGE,
    PLATFORM_ASSET,
    AccountKey,
    AppFacts,
    Credit,
    DeadEvent,
    Granted,
    GrantRequest,
    Lot,
    Opening,
    Reconciled,
    Txn,
    UsagePosting,
    WalletKey,
    WalletView,
)
from gateway.ledger.payments import Payments
from gateway.ledger.refunds import Refunds
from gateway.trail import store as trail
from gateway.trail.model import Act


class Ledger(Books):
    """The books. Stateless: any number of processes may have one.

    `payments` gives back and corrects what was granted; `expiries` ends lots whose time has passed; `lending` is overage.
    """

    def __init__(self, databases: Databases, clock: Clock = SYSTEM_CLOCK) -> None:
        """`clock` gives the time of postings."""
        super().__init__(databases, clock)
        self.payments = Payments(databases, clock)
        self.refunds = Refunds(databases, clock)
        self.expiries = Expiries(databases, clock)
        self.lending = Lending(databases, clock)

    async def grant(self, request: GrantRequest, fingerprint: str | None = None) -> Granted:
        """Put money into a wallet, once per `op_id` and book; a debt is paid from it first.

        Repeating an `op_id` with the same `fingerprint` (default: a digest of the request) returns the first result.
        Raises InvalidRequest, NotFound (no such creator or app), Conflict (the `op_id` was another request's, or the
        payment `external_ref` has its grant already). The platform's side of a fee is posted after the app's: a
        crash in between is repaired by the repeat.
        """
        granted = await self._grant(request, fingerprint or fingerprint_of(request))
        if request.fees is not None and request.wallet.enterprise_id is not None:
            money = request.asset if request.paid is None else request.paid.asset
            await self.payments.post_fee(request.wallet.enterprise_id, request.op_id, money, request.fees.platform_micro)
        return granted

    async def _grant(self, request: GrantRequest, fingerprint: str) -> Granted:
        _check_shape(request)
        owner = await self.owner_of(request.wallet)
        if request.asset != owner.asset:
            raise InvalidRequest(f"the wallet holds {owner.asset}, not {request.asset}", param="asset")
        books = store.books_of(request.wallet.enterprise_id)
        async with store.writing(await self.engine(request.wallet.enterprise_id)) as conn:
            done = await store.txn_of_op(conn, books, request.op_id)
            if done is not None:
                if done[1] != fingerprint:
                    raise Conflict("this idempotency key was used for another request", param="op_id")
                return await self._granted(conn, done[0], request.wallet, owner, request.repays, first=False)
            now = now_ms(self.clock)
            for op_id in request.unless_given_up:
                if (given_up := await lending.given_up_to(conn, request.wallet, op_id)) is not None:
                    request = msgspec.structs.replace(request, repays=given_up)
            await self._check_state(conn, request, now)
            txn_id = new_id("txn")
            stands = await store.balances(conn, books, request.wallet.owner, request.asset)
            txn, lot = journal.grant(txn_id, new_id("lot"), request, fingerprint, -stands.get(DEBT, 0), now)
            ids = await store.account_ids(conn, books, {entry.account for entry in txn.entries})
            account_id = ids[AccountKey(request.wallet.owner, AVAILABLE, request.asset)]
            await store.add_lot(conn, books, lot, account_id)
            await store.post(conn, books, [txn], ids)
            await store.add_balances(conn, books, journal.changes([txn]), ids)
            due = lot.effective_at_ms
            if not request.repays:  # its amount was lent, and is in the hot wallet since
                shard, name = shard_of(owner.user_id), request.wallet.name
                credit = Credit(txn_id, request.wallet.enterprise_id, shard, name, request.amount_micro, due)
                await store.add_credit(conn, books, credit, account_id)
            act = _granted_act(request, owner, txn, lot, stands)
            await trail.append(conn, trail.trail_of(request.wallet.enterprise_id), act, now)
            return await self._granted(conn, txn_id, request.wallet, owner, request.repays, first=True)

    async def waiting_credits(self, enterprise_id: str | None, limit: int = DRAIN_BATCH) -> list[Credit]:
        """Credits of one book that are due and not marked applied, oldest first. Applying one again is harmless."""
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await queries.waiting_credits(conn, enterprise_id, now_ms(self.clock), limit)

    async def mark_applied(self, enterprise_id: str | None, txn_ids: Sequence[str]) -> None:
        """The hot store has these credits of one book."""
        async with store.writing(await self.engine(enterprise_id)) as conn:
            await store.mark_applied(conn, store.books_of(enterprise_id), txn_ids, now_ms(self.clock))

    async def opening(self, wallet: WalletKey) -> Opening:
        """With which amount a wallet that the hot store does not have may be opened, from one SQL snapshot.

        The amount leaves out credits that are not marked applied: each is still applied on its own, and the order
        of the two does not matter. A wallet that was open before (`may_open` False) was lost by the hot store:
        usage that is not drained yet is missing from the amount, so it is not for a request to open it again.
        NotFound when there is no such creator or app.
        """
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            available, debt, waiting, opened_at, is_known = await store.owed(conn, wallet, owner.asset)
        # A debt stands below zero, so adding it takes it off.
        return Opening(wallet.name, shard_of(owner.user_id), available + debt - waiting, opened_at, is_known)

    async def rebuilding(self, wallet: WalletKey, posted_since_ms: int) -> Opening:
        """As `opening`, of a wallet that was lost, with the requests posted to it since then: from the same snapshot.

        Usage that is in the books is in the amount, and `counted` names it; usage that is not there yet is in neither.
        """
        owner = await self.owner_of(wallet)
        async with store.snapshot(await self.engine(wallet.enterprise_id)) as conn:
            available, debt, waiting, opened_at, is_known = await store.owed(conn, wallet, owner.asset)
            posted = await store.posted_to(conn, wallet, owner.asset, posted_since_ms)
        counted = tuple(op_id.removeprefix(journal.usage_op("")) for op_id in posted)
        return Opening(wallet.name, shard_of(owner.user_id), available + debt - waiting, opened_at, is_known, counted)

    async def wallets_owed(self, enterprise_id: str | None) -> AsyncIterator[tuple[int, WalletKey, int]]:
        """(shard, wallet, what the hot store should have of it) for every wallet of a book that was opened, in one snapshot."""
        creator = "" if enterprise_id is None else (await self.apps([enterprise_id]))[enterprise_id].user_id
        async with store.snapshot(await self.engine(enterprise_id)) as conn:
            async for owner, owed_micro in audit_queries.wallets_owed(conn, store.books_of(enterprise_id)):
                yield shard_of(creator or owner), WalletKey(owner, enterprise_id), int(owed_micro)

    async def reconcile(
        self, wallet: WalletKey, actor: str, repair: Callable[[int], Awaitable[Reconciled | None]]
    ) -> Reconciled | None:
        """Let `repair` look at a hot wallet while its book stands still; what it did is written to the trail.

        It is given what the books owe the wallet, as `wallets_owed`. It may act before the line is committed: a crash
        in between leaves a repair without a line, where the other order would repair twice.
        """
        owner = await self.owner_of(wallet)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            available, debt, waiting, _, _ = await store.owed(conn, wallet, owner.asset)
            done = await repair(available + debt - waiting)
            if done is not None:
                act = Act(
                    name="wallet.reconcile",
                    role="operator",
                    actor=actor,
                    subject=wallet.name,
                    user_id=owner.user_id,
                    enterprise_id=wallet.enterprise_id or "",
                    before={"available_micro": done.before_micro, "held_micro": done.held_micro},
                    after={
                        "available_micro": done.after_micro,
                        "held_micro": done.held_micro,
                        "books_micro": done.books_micro,
                        "op_id": done.op_id,
                    },
                )
                await trail.append(conn, trail.trail_of(wallet.enterprise_id), act, now_ms(self.clock))
        return done

    async def mark_opened(self, wallet: WalletKey) -> None:
        """The hot store has this wallet now. Call it after opening, also when the wallet turned out to exist already."""
        owner = await self.owner_of(wallet)
        books = store.books_of(wallet.enterprise_id)
        async with store.writing(await self.engine(wallet.enterprise_id)) as conn:
            await store.mark_opened(conn, books, wallet, owner.asset, now_ms(self.clock))

    async def wallet(self, wallet: WalletKey) -> WalletView:
        """A wallet as the books have it; empty for one never used. NotFound when there is no such creator or app."""
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await queries.wallet_view(conn, wallet, owner.asset)

    async def debts(self, enterprise_id: str | None, owners: Sequence[str]) -> dict[str, int]:
        """Of those of some owners of wallets in a book who are in debt, by how much."""
        asset = PLATFORM_ASSET if enterprise_id is None else (await self.apps([enterprise_id]))[enterprise_id].asset
        async with store.reading(await self.engine(enterprise_id)) as conn:
            return await queries.debts(conn, enterprise_id, owners, asset)

    async def settled(self, wallet: WalletKey) -> int:
        """What a wallet has by the books, in which every grant is before it can be spent, and usage a moment later.

        So it is never less than what is really there. Less its debt, and less what is not due yet. NotFound as `wallet`.
        """
        owner = await self.owner_of(wallet)
        async with store.reading(await self.engine(wallet.enterprise_id)) as conn:
            return await queries.settled(conn, wallet, owner.asset, now_ms(self.clock))

    async def apps(self, enterprise_ids: Sequence[str]) -> dict[str, AppFacts]:
        """Those of the apps that exist."""
        async with store.reading(self.databases.platform) as conn:
            return await store.app_facts(conn, enterprise_ids)

    async def post_app_usage(self, enterprise_id: str, postings: Sequence[UsagePosting]) -> int:
        """Usage rows and end users' charges into one app's book, in one commit; returns how many were new.

        Exactly once by request id: a row that is there already is skipped together with its charge. SqlRefused
        (and nothing posted) when the database refuses one of the values.
        """
        async with store.writing(await self.databases.app(enterprise_id)) as conn:
            known = await store.known_requests(conn, [posting.row.request_id for posting in postings])
            fresh = _fresh(postings, known, str)
            await store.add_usage(conn, [posting.row for posting in fresh])
            await store.add_overruns(conn, [posting.row for posting in fresh])
            charged = [posting for posting in fresh if posting.end_user_micro]
            payers = [(posting.row.platform_user_id, posting.row.asset) for posting in charged]
            purses = await self._purses(conn, enterprise_id, payers)
            now = now_ms(self.clock)
            txns = [
                journal.usage(new_id("txn"), posting.row.request_id, "", now, purses[payer], posting.end_user_micro)
                for posting, payer in zip(charged, payers, strict=True)
            ]
            await self._post(conn, enterprise_id, txns, purses)
        return len(fresh)

    async def post_platform_usage(self, postings: Sequence[UsagePosting]) -> int:
        """Creators' charges, provider cost and the roll-up by hour into the platform's book; returns how many were new.

        Exactly once by request id: a request always leaves a transaction here, be it without entries. No end user's
        id is written. SqlRefused (and nothing posted) when the database refuses one of the values.
        """
        async with store.writing(self.databases.platform) as conn:
            ops = [journal.usage_op(posting.row.request_id) for posting in postings]
            fresh = _fresh(postings, await store.known_ops(conn, store.books_of(None), ops), journal.usage_op)
            await store.add_hours(conn, fresh)
            payers = [(posting.row.user_id, PLATFORM_ASSET) for posting in fresh if posting.row.creator_micro]
            purses = await self._purses(conn, None, payers)
            now = now_ms(self.clock)
            txns = [
                journal.usage(
                    new_id("txn"),
                    posting.row.request_id,
                    posting.enterprise_id,
                    now,
                    purses.get((posting.row.user_id, PLATFORM_ASSET)),
                    posting.row.creator_micro,
                    posting.row.provider_cost_micro if posting.bears_cost else 0,
                )
                for posting in fresh
            ]
            await self._post(conn, None, txns, purses)
        return len(fresh)

    async def set_aside(self, dead: DeadEvent) -> None:
        """Keep an event that cannot be posted where an operator finds it; once, however often it is delivered.

        Its bytes may name an end user, so they go to the app's database, or to the unattributed one when no app can be
        told from them; the platform's `dead_events` says that it exists, where it came from and why.
        """
        digest = hashlib.sha256(dead.data).hexdigest()
        engine = await self._keeper_of(dead)
        now = now_ms(self.clock)
        async with store.writing(engine) as conn:
            await store.add_dead_bytes(conn, dead, digest, now)
        async with store.writing(self.databases.platform) as conn:
            await store.add_dead(conn, dead, digest, now)

    async def _keeper_of(self, dead: DeadEvent) -> store.Engine:
        if dead.enterprise_id is not None:
            with contextlib.suppress(SqlRefused):  # an app that cannot have a database
                return await self.databases.app(dead.enterprise_id)
        return await self.databases.unattributed()

    async def _check_state(self, conn: store.Connection, request: GrantRequest, now: int) -> None:
        """What can be wrong with a new grant only: a repeat of an old one stays right when time has moved on."""
        if request.expires_at_ms is not None and request.expires_at_ms <= max(now, request.effective_at_ms or 0):
            raise InvalidRequest("expires_at must be in the future, and after effective_at", param="expires_at")
        view = await queries.wallet_view(conn, request.wallet, request.asset)
        if not request.repays and view.available_micro + request.amount_micro > AMOUNT_MICRO_MAX:
            raise InvalidRequest("the wallet cannot hold that much", param="amount_micro")
        books = store.books_of(request.wallet.enterprise_id)
        if request.external_ref is not None and await store.lot_of_ref(conn, books, request.external_ref) is not None:
            raise Conflict("this payment has its grant already", param="external_ref")
        if request.repays == OVERAGE:
            lent = await lending.standing(conn, request.wallet, request.asset)
            if request.amount_micro > lent.used_micro:
                raise InvalidRequest(f"of what was lent {lent.used_micro} is unpaid", param="amount_micro")

    async def _granted(
        self, conn: store.Connection, txn_id: str, wallet: WalletKey, owner: AppFacts, repays: str, *, first: bool
    ) -> Granted:
        books = store.books_of(wallet.enterprise_id)
        lot = await store.lot_of_txn(conn, books, txn_id)
        shard = shard_of(owner.user_id)
        credit = None
        if not repays:
            credit = Credit(txn_id, wallet.enterprise_id, shard, wallet.name, lot.granted_micro, lot.effective_at_ms)
        return Granted(txn_id, lot, credit, await queries.wallet_view(conn, wallet, owner.asset), first)

    async def _purses(
        self, conn: store.Connection, enterprise_id: str | None, payers: Sequence[tuple[str, str]]
    ) -> dict[tuple[str, str], journal.Purse]:
        """A purse for each paying (owner, asset)."""
        wanted = set(payers)
        if not wanted:
            return {}
        lots = await store.open_lots(conn, store.books_of(enterprise_id), sorted({owner for owner, _ in wanted}))
        now = now_ms(self.clock)
        return {
            (owner, asset): journal.Purse(owner, asset, lots.get(AccountKey(owner, AVAILABLE, asset), ()), now)
            for owner, asset in wanted
        }

    async def _post(
        self,
        conn: store.Connection,
        enterprise_id: str | None,
        txns: Sequence[Txn],
        purses: dict[tuple[str, str], journal.Purse],
    ) -> None:
        books = store.books_of(enterprise_id)
        sums = journal.changes(txns)
        ids = await store.account_ids(conn, books, sums)
        await store.post(conn, books, txns, ids)
        await store.add_balances(conn, books, sums, ids)
        spent = {lot_id: part for purse in purses.values() for lot_id, part in purse.spent.items()}
        await store.spend_lots(conn, books, spent)


def _fresh(postings: Sequence[UsagePosting], known: set[str], name: Callable[[str], str]) -> list[UsagePosting]:
    """Those whose request the book does not have, each once; `name` makes the book's name of a request id."""
    fresh: dict[str, UsagePosting] = {}
    for posting in postings:
        key = name(posting.row.request_id)
        if key not in known:
            fresh.setdefault(key, posting)
    return list(fresh.values())


def _granted_act(request: GrantRequest, owner: AppFacts, txn: Txn, lot: Lot, stood: Mapping[str, int]) -> Act:
    """The trail's line of a grant; it stands in the book's own database, so it may name the end user."""
    available, debt = stood.get(AVAILABLE, 0), -stood.get(DEBT, 0)
    repaid = lot.spent_micro
    after = {
        "available_micro": available + lot.left_micro,
        "debt_micro": debt - repaid,
        "amount_micro": request.amount_micro,
        "source": lot.source,
        "priority": lot.priority,
        "effective_at_ms": lot.effective_at_ms,
        "expires_at_ms": lot.expires_at_ms,
        "lot_id": lot.id,
    }
    if request.paid is not None:
        after |= {"paid_micro": request.paid.amount_micro, "paid_asset": request.paid.asset}
    return Act(
        name="grant.create",
        role=request.role,
        actor=request.actor,
        subject=request.wallet.name,
        user_id=owner.user_id,
        enterprise_id=request.wallet.enterprise_id or "",
        reason=request.reason,
        before={"available_micro": available, "debt_micro": debt},
        after={**after, "asset": request.asset},
        txn_id=txn.id,
    )


def _check_shape(request: GrantRequest) -> None:
    """What is wrong with a grant whatever the books say."""
    check_amount(request.amount_micro)
    if request.source not in tuple(LotSource):
        raise InvalidRequest("source must be paid, promo, trial, rollover or overage", param="source")
    if request.source == LotSource.OVERAGE and (request.expires_at_ms is None or request.external_ref is not None):
        raise InvalidRequest("what is lent has an end, and is of no payment", param="source")
    if request.repays and (request.repays != OVERAGE or request.source != LotSource.PAID):
        raise InvalidRequest("overage is repaid by a payment", param="repays")
    check_texts(op_id=request.op_id, reason=request.reason, actor=request.actor, external_ref=request.external_ref or "-")
    check_priority(request.priority)
    check_moment(request.effective_at_ms, "effective_at")
    check_moment(request.expires_at_ms, "expires_at")
    paid_micro = request.amount_micro
    if request.paid is not None:
        paid_micro = request.paid.amount_micro
        check_amount(paid_micro, "paid")
        if request.external_ref is None or request.source != LotSource.PAID or not is_asset(request.paid.asset):
            raise InvalidRequest("what was paid is money of a payment", param="paid")
    if request.given_micro and (request.paid is None or not 0 < request.given_micro < request.amount_micro):
        raise InvalidRequest("what is given on top is a part of what was paid for", param="given_micro")
    if request.fees is None:
        return
    if request.external_ref is None:
        raise InvalidRequest("a fee is of a payment", param="fees")
    if request.source != LotSource.PAID or min(request.fees.platform_micro, request.fees.processing_micro) < 0:
        raise InvalidRequest("a fee is of what was paid, and not below zero", param="fees")
    if request.fees.platform_micro + request.fees.processing_micro > paid_micro:
        raise InvalidRequest("the fees are more than what was paid", param="fees")
    if request.wallet.enterprise_id is None and request.fees.platform_micro:
        raise InvalidRequest("a creator's own payment bears no platform fee", param="fees")
