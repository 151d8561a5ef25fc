"""The books that random histories run on: the rules alone over dictionaries, or the services over SQL."""

from collections import Counter
from itertools import count

import msgspec

from gateway.core.errors import InvalidRequest
from gateway.ledger import endings, invariants, journal, recovery
from gateway.ledger.model import (
    AVAILABLE,
    BOOK,
    DEBT,
    DISPUTE_LOST,
    DUE_FROM_APP,
    DUE_TO_PLATFORM,
    EXPIRY,
    FEE_EXPENSE,
    FEE_INCOME,
    FROZEN,
    RECOVERY,
    REFUND,
    REVENUE,
    REVERSING,
    ROLLOVER,
    AccountKey,
    Fees,
    GrantRequest,
    Lot,
    Txn,
    WalletKey,
)

APP, ASSET = "shop", "USD"


class Rules:
    """An app's book and the platform's side of its fees, in memory: `journal` and `endings` without SQL.

    Every posting is checked as it comes; `check_all` adds everything up from the entries.
    """

    def __init__(self) -> None:
        self.balances: dict[AccountKey, int] = {}
        self.lots: dict[str, tuple[str, Lot]] = {}
        self.txns: dict[str, Txn] = {}
        self.reversed: dict[str, int] = {}
        self.refs: dict[str, int] = {}
        self.usage_micro = 0
        self.now = 0
        self._ids = count(1)

    def id(self, kind: str) -> str:
        return f"{kind}_{next(self._ids):08d}"

    @property
    def newest_lot(self) -> str:
        return max(self.lots)

    def head(self, owner: str) -> endings.Head:
        txn_id = self.id("txn")
        return endings.Head(txn_id, txn_id, owner, ASSET, "test", "", self.now)

    def balance(self, owner: str, kind: str) -> int:
        return self.balances.get(AccountKey(owner, kind, ASSET), 0)

    def debt(self, owner: str) -> int:
        return -self.balance(owner, DEBT)

    def lots_of(self, owner: str) -> dict[str, Lot]:
        return {name: lot for name, (who, lot) in self.lots.items() if who == owner}

    # ---- what histories do ---------------------------------------------------------------------

    def grant(self, owner: str, amount: int, source: str, priority: int, ends: int | None, ref: str | None, fee: int) -> str:
        request = GrantRequest(
            WalletKey(owner, APP),
            amount,
            ASSET,
            source,
            self.id("op"),
            "test",
            priority=priority,
            expires_at_ms=ends,
            external_ref=ref,
            fees=Fees(fee, 1) if fee else None,
        )
        txn, lot = journal.grant(self.id("txn"), self.id("lot"), request, "", self.debt(owner), self.now)
        self.post(owner, endings.Posting(txn, made=lot))
        self.fee(txn.id, fee)
        if ref is not None:
            self.refs[ref] = self.refs.get(ref, 0) + 1
        return txn.id

    def spend(self, owner: str, amount: int) -> str:
        purse = journal.Purse(owner, ASSET, self.lots_of(owner).values(), self.now)
        txn = journal.usage(self.id("txn"), self.id("req"), "", self.now, purse, amount)
        changed = []
        for lot_id, part in purse.spent.items():
            lot = self.lots[lot_id][1]
            changed.append(msgspec.structs.replace(lot, spent_micro=lot.spent_micro + part, left_micro=lot.left_micro - part))
        self.usage_micro += amount
        self.post(owner, endings.Posting(txn, tuple(changed)))
        return txn.id

    def expire(self, owner: str, lot_id: str, available: int) -> tuple[str | None, int, int]:
        """(the transaction, what the hot wallet gave, what paid a debt) of one lot, as `ledger.expiry` does it."""
        lot = self.lots[lot_id][1]
        stands = self.balance(owner, AVAILABLE) - self.debt(owner)
        most = endings.expirable(lot, self.lots_of(owner).values(), stands - available, self.now)
        paid = min(most, self.debt(owner))
        if paid:
            self.post(owner, endings.netting(self.head(owner), lot, paid))
        taken = max(0, min(available, most - paid))
        if not taken:
            return None, 0, paid
        posting = endings.expiry(self.head(owner), self.lots[lot_id][1], taken)
        self.post(owner, posting)
        return posting.txn.id, taken, paid

    def refund(self, owner: str, lot_id: str, amount: int, fee: int) -> str:
        head = self.head(owner)
        lot = self.recover(head, lot_id, endings.share(self.lots[lot_id][1], amount, None, "refunded"))
        posting = endings.refund(head, lot, amount, fee)
        self.post(owner, posting)
        self.fee(posting.txn.id, -fee)
        return posting.txn.id

    def family(self, owner: str) -> recovery.Family:
        expired: Counter[str] = Counter()
        onward: dict[str, list[str]] = {}
        for txn in self.txns.values():
            if txn.kind == ROLLOVER:
                gave, made = (str(one.lot_id) for one in sorted(txn.entries, key=lambda one: one.amount_micro))
                onward.setdefault(gave, []).append(made)
            elif txn.id in self.reversed or txn.kind not in (EXPIRY, RECOVERY):
                continue
            for one in txn.entries:
                if txn.kind == EXPIRY and one.lot_id is not None:
                    expired[one.lot_id] -= one.amount_micro
                elif txn.kind != EXPIRY and one.account.owner == BOOK:
                    expired[str(one.lot_id)] += one.amount_micro
        lost = {name: max(part, 0) for name, part in expired.items()}
        return recovery.Family(self.lots_of(owner), lost, onward, {})

    def recover(self, head: endings.Head, lot_id: str, amount: int, frozen: int = 0) -> Lot:
        """What a lot is short of comes back of what ended of it unspent, as `ledger.payments` does it."""
        lot = self.lots[lot_id][1]
        short = amount - lot.left_micro - frozen
        if short <= 0:
            return lot
        before = msgspec.structs.replace(head, txn_id=self.id("txn"), op_id=head.txn_id)
        posting, lot = recovery.recovery(before, self.family(head.owner), lot_id, short)
        if posting is not None:
            self.post(head.owner, posting)
        return lot

    def go_on_again(
        self, owner: str, undone: list[str], lot_id: str, skip: int = 0, most: int | None = None, as_long: bool = False
    ) -> None:
        ops = [recovery.op_id(each) for each in undone]
        there = sorted((txn for txn in self.txns.values() if txn.op_id in ops), key=lambda txn: ops.index(txn.op_id))
        given = recovery.given(there, lot_id, self.lots_of(owner), skip, most)
        if given:
            debts = self.clawed_back_since(owner, there[0], undone)
            again = recovery.expired_again(self.head(owner), self.family(owner), self.lots[lot_id][1], given, debts)
            if again is not None:
                self.post(owner, again)
        for gave in [one for one in given if one.is_spendable]:
            lot, ends, priority = self.lots[lot_id][1], gave.lot.expires_at_ms, gave.lot.priority
            if as_long and ends is not None and gave.lasted_ms is not None and ends <= self.now:
                ends = self.now + gave.lasted_ms
            new, head = self.id("lot"), self.head(owner)
            made = endings.rollover(head, lot, new, amount_micro=gave.amount_micro, expires_at_ms=ends, priority=priority)
            self.post(owner, made)

    def clawed_back_since(self, owner: str, recovered: Txn, undone: list[str]) -> dict[str, int]:
        """By lot, of what is a debt: what refunds and losses made one since."""
        names, debts, owed = list(self.txns), dict[str, int](), self.debt(owner)
        for name in names[names.index(recovered.id) + 1 :]:
            if name in undone or name in self.reversed or self.txns[name].kind not in (REFUND, DISPUTE_LOST):
                continue
            for one in self.txns[name].entries:
                if one.account.kind == DEBT and one.account.owner == owner and one.lot_id and one.amount_micro < 0:
                    debts[one.lot_id] = debts.get(one.lot_id, 0) - one.amount_micro
        for name, amount in debts.items():
            debts[name] = min(amount, owed)
            owed -= debts[name]
        return debts

    def dispute(self, owner: str, lot_id: str, amount: int) -> str:
        head = self.head(owner)
        return self.post(owner, endings.dispute_opened(head, self.recover(head, lot_id, amount), amount))

    def close(self, owner: str, lot_id: str, opened: str, amount: int, won: bool) -> str:
        lot, there, head = self.lots[lot_id][1], self.txns[opened], self.head(owner)
        if won:
            done = self.post(owner, endings.dispute_won(head, lot, there))
        else:
            lot = self.recover(head, lot_id, amount, _frozen(there))
            done = self.post(owner, endings.dispute_lost(head, lot, there, amount))
        self.go_on_again(owner, [opened], lot_id, most=_freed(self.txns[done]), as_long=True)
        return done

    def close_unopened(self, owner: str, lot_id: str, amount: int, won: bool) -> str:
        return self.close(owner, lot_id, self.post(owner, endings.dispute_implied(self.head(owner))), amount, won)

    def reinstate(self, owner: str, lot_id: str, lost: str) -> str:
        lot = self.lots[lot_id][1]
        done = self.post(owner, endings.reinstated(self.head(owner), lot, self.txns[lost], self.id("lot"), self.debt(owner)))
        opened = str(self.txns[lost].reverses)
        self.go_on_again(owner, [opened, lost], lot_id, skip=_freed(self.txns[lost]))
        return done

    def correct(self, owner: str, txn_id: str) -> str:
        wrong = self.txns[txn_id]
        if txn_id in self.reversed:
            raise InvalidRequest("reversed already")
        lots = {entry.lot_id: self.lots[entry.lot_id][1] for entry in wrong.entries if entry.lot_id is not None}
        if wrong.kind == EXPIRY and any(
            self.family(owner).expired_micro[one.lot_id] < -one.amount_micro for one in wrong.entries if one.lot_id is not None
        ):
            raise InvalidRequest("gone back since")
        posting = endings.correction(self.head(owner), wrong, lots, self.id("lot"), self.debt(owner))
        self.post(owner, posting)
        self.fee(posting.txn.id, -sum(one.amount_micro for one in wrong.entries if one.account.kind == DUE_TO_PLATFORM))
        if wrong.kind == REFUND:
            self.go_on_again(owner, [txn_id], posting.lots[0].id)
        return posting.txn.id

    def rollover(self, owner: str, lot_id: str, amount: int, ends: int | None) -> str:
        lot = self.lots[lot_id][1]
        new = self.id("lot")
        return self.post(owner, endings.rollover(self.head(owner), lot, new, amount_micro=amount, expires_at_ms=ends, priority=1))

    def settle(self, amount: int) -> str:
        for app in (None, APP):
            txn = endings.settled(self.head(BOOK), amount, app)
            self.post(BOOK, endings.Posting(txn))
        return txn.id

    def fee(self, txn_id: str, amount: int) -> None:
        if amount:
            self.post(BOOK, endings.Posting(endings.fee(self.id("txn"), f"fee:{txn_id}", APP, ASSET, amount, self.now)))

    # ---- checks --------------------------------------------------------------------------------

    def post(self, owner: str, posting: endings.Posting) -> str:
        """Apply and check what the posting touched."""
        txn = posting.txn
        assert txn.id not in self.txns
        self.txns[txn.id] = txn
        said = [invariants.txn_sums_to_zero(txn.id, ASSET, sum(one.amount_micro for one in txn.entries))]
        for key, delta in journal.changes([txn]).items():
            self.balances[key] = self.balances.get(key, 0) + delta
            said.append(invariants.right_side_of_zero(key.owner, key.kind, self.balances[key]))
        for lot in (*posting.lots, *([posting.made] if posting.made else [])):
            self.lots[lot.id] = (owner, lot)
        if txn.reverses is not None:
            self.reversed[txn.reverses] = self.reversed.get(txn.reverses, 0) + 1
            said.append(invariants.reversed_once(txn.reverses, self.reversed[txn.reverses]))
        there = None if txn.reverses is None else self.txns[txn.reverses]
        said.append(invariants.reverses_what_it_may(txn.id, txn.kind, None if there is None else there.kind))
        if txn.kind in REVERSING[:2] and there is not None:
            said.append(invariants.thawed_what_was_frozen(txn.id, _frozen(there), -_frozen(txn)))
        said += self.violations(owner)
        assert not any(said), [one for one in said if one]
        return txn.id

    def violations(self, owner: str) -> list[str | None]:
        """Of one wallet, and of the sums that every posting can change."""
        lots = list(self.lots_of(owner).values())
        said = [
            invariants.lots_make_available(owner, self.balance(owner, AVAILABLE), sum(lot.left_micro for lot in lots)),
            invariants.lots_make_frozen(owner, self.balance(owner, FROZEN), sum(lot.frozen_micro for lot in lots)),
            invariants.revenue_is_usage(APP, ASSET, self.balance(BOOK, REVENUE), self.usage_micro),
        ]
        for lot in lots:
            parts = (lot.spent_micro, lot.expired_micro, lot.refunded_micro, lot.frozen_micro, lot.left_micro)
            said.append(invariants.lot_adds_up(lot.id, lot.granted_micro, *parts))
            said.append(invariants.clawback_within_lot(lot.id, lot.spent_micro, lot.expired_micro, lot.clawback_micro))
        return said

    def check_books(self) -> None:
        """What holds once both books have an operation."""
        expense, due = -self.balance(BOOK, FEE_EXPENSE), self.balance(BOOK, DUE_TO_PLATFORM)
        assert not invariants.fee_is_income(APP, ASSET, expense, self.balance(BOOK, FEE_INCOME))
        assert not invariants.dues_agree(APP, ASSET, due, -self.balance(APP, DUE_FROM_APP))

    def check_all(self) -> None:
        """Every balance and every lot, added up from all the entries there are."""
        self.check_books()
        sums: dict[AccountKey, int] = {}
        for txn in self.txns.values():
            for one in txn.entries:
                sums[one.account] = sums.get(one.account, 0) + one.amount_micro
        said = [invariants.balance_is_sum(str(key), self.balances[key], total) for key, total in sums.items()]
        said += [invariants.one_grant_a_payment(ref, times) for ref, times in self.refs.items()]
        for owner in {who for who, _ in self.lots.values()}:
            said += self.violations(owner)
        assert sums.keys() == self.balances.keys()
        assert not any(said), [one for one in said if one]


def _freed(txn: Txn) -> int:
    return max(sum(one.amount_micro for one in txn.entries if one.account.kind == AVAILABLE), 0)


def _frozen(txn: Txn) -> int:
    return sum(one.amount_micro for one in txn.entries if one.account.kind == FROZEN)
