"""Rules that build balanced transactions. Pure: values in, values out; nothing here reads or writes.

    grant, paid         stripe_clearing -> user.available (a lot)
      of other money    stripe_clearing -> exchange, of what was paid; exchange -> user.available (a lot), of what is granted
      partly given      of it, expense.promo -> user.available (the same lot) for what a discount gave on top
    grant, overage      receivable.overage -> user.available (a lot): lent, it pays no debt
    grant, the others   expense.promo -> user.available (a lot)
      owner in debt     user.available (that lot) -> receivable.clawback, up to the debt
      repays overage    user.available (that lot) -> receivable.overage, or where it was given up to: all of it
      the app's fees    expense.platform_fee -> due_to_platform, expense.processing -> stripe_clearing
    usage               user.available (lots in burn order), the uncovered rest receivable.clawback -> revenue.usage
    provider cost       expense.llm_cost -> provider_payable

What ends lots and takes grants back is in `endings`.

Lots burn by priority (lowest first), then earliest expiry, then given before paid, then oldest. A lot
whose expiry has passed still burns while it stands: the hot store spends it until its expiry is posted,
and taking it out of order would leave its owner with a debt for money that was there. A lot that is
not in effect yet does not burn.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.core.words import LotSource
from gateway.ledger.model import (
    AVAILABLE,
    BAD_DEBT,
    BOOK,
    COST,
    DEBT,
    DUE_TO_PLATFORM,
    EXCHANGE,
    FEE_EXPENSE,
    GRANT,
    OVERAGE,
    PAYABLE,
    PLATFORM_ASSET,
    PROCESSING,
    PROMO,
    REVENUE,
    STRIPE,
    USAGE,
    AccountKey,
    Entry,
    Fees,
    GrantRequest,
    Lot,
    Txn,
)

_NEVER: Final = 2**63
USAGE_ACTOR: Final = "drain"


def burn_order(lot: Lot) -> tuple[int, int, bool, int, str]:
    """Sort key of the order in which a wallet's lots burn."""
    expires = _NEVER if lot.expires_at_ms is None else lot.expires_at_ms
    return (lot.priority, expires, lot.source == LotSource.PAID, lot.created_at_ms, lot.id)


class Purse:
    """One wallet's open lots while a batch of usage is taken from them. `spent` is what each lot gave."""

    __slots__ = ("_at", "_left", "_lots", "account", "debt", "spent")

    def __init__(self, owner: str, asset: str, lots: Iterable[Lot], now_ms: int) -> None:
        self.account = AccountKey(owner, AVAILABLE, asset)
        self.debt = AccountKey(owner, DEBT, asset)
        # A lot that took effect when it was made is in effect, whatever this machine's clock says beside the other's.
        open_now = [lot for lot in lots if lot.left_micro > 0 and lot.effective_at_ms <= max(now_ms, lot.created_at_ms)]
        self._lots = sorted(open_now, key=burn_order)
        self._at = 0
        self._left = self._lots[0].left_micro if self._lots else 0
        self.spent: dict[str, int] = {}

    def burn(self, amount_micro: int) -> list[Entry]:
        """Take `amount_micro` from the lots in order; what they do not cover becomes debt."""
        assert 0 < amount_micro <= AMOUNT_MICRO_MAX
        entries = []
        rest = amount_micro
        while rest and self._at < len(self._lots):
            lot_id = self._lots[self._at].id
            part = min(rest, self._left)
            rest -= part
            self._left -= part
            self.spent[lot_id] = self.spent.get(lot_id, 0) + part
            entries.append(Entry(self.account, -part, lot_id))
            if not self._left:
                self._at += 1
                self._left = self._lots[self._at].left_micro if self._at < len(self._lots) else 0
        if rest:
            entries.append(Entry(self.debt, -rest))
        return entries


def usage(
    txn_id: str, request_id: str, about: str, at_ms: int, purse: Purse | None, amount_micro: int, cost_micro: int = 0
) -> Txn:
    """What one request moves in one book: the charge on a wallet, and the provider's cost. Either may be zero."""
    assert amount_micro >= 0
    assert cost_micro >= 0
    entries: list[Entry] = []
    if amount_micro:
        assert purse is not None
        entries = purse.burn(amount_micro)
        entries.append(Entry(AccountKey(BOOK, REVENUE, purse.account.asset), amount_micro))
    if cost_micro:
        entries.append(Entry(_COST, -cost_micro))
        entries.append(Entry(_PAYABLE, cost_micro))
    return balanced(Txn(txn_id, usage_op(request_id), USAGE, USAGE_ACTOR, about, at_ms, tuple(entries)))


_COST: Final = AccountKey(BOOK, COST, PLATFORM_ASSET)
_PAYABLE: Final = AccountKey(BOOK, PAYABLE, PLATFORM_ASSET)


def usage_op(request_id: str) -> str:
    """`op_id` of a request's transaction, in both books."""
    return f"usage:{request_id}"


def grant(txn_id: str, lot_id: str, request: GrantRequest, fingerprint: str, debt_micro: int, now_ms: int) -> tuple[Txn, Lot]:
    """A grant, and the lot it makes. A debt is paid from it first, unless it takes effect later."""
    assert 0 < request.amount_micro <= AMOUNT_MICRO_MAX
    assert debt_micro >= 0
    owner, asset = request.wallet.owner, request.asset
    effective_at = now_ms if request.effective_at_ms is None else request.effective_at_ms
    repaid, pays = min(debt_micro, request.amount_micro) if effective_at <= now_ms else 0, AccountKey(owner, DEBT, asset)
    if request.repays:
        repaid, pays = request.amount_micro, repaid_account(owner, asset, request.repays)
    elif request.source == LotSource.OVERAGE:
        repaid = 0
    source = _source(request)
    fees, paid = request.fees or Fees(), request.paid
    available = AccountKey(owner, AVAILABLE, asset)
    entries = []
    if paid is not None:
        entries = moved(paid.asset, STRIPE, EXCHANGE, paid.amount_micro)
        source = AccountKey(BOOK, EXCHANGE, asset)
    assert 0 <= request.given_micro < request.amount_micro
    assert paid is not None or not request.given_micro, "what was paid says what was not"
    if request.given_micro:
        entries.append(Entry(AccountKey(BOOK, PROMO, asset), -request.given_micro))
    bought = request.amount_micro - request.given_micro
    entries += [Entry(source, -bought), Entry(available, request.amount_micro, lot_id)]
    if repaid:
        entries += [Entry(available, -repaid, lot_id), Entry(pays, repaid)]
    money = asset if paid is None else paid.asset
    entries += moved(money, FEE_EXPENSE, DUE_TO_PLATFORM, fees.platform_micro)
    entries += moved(money, PROCESSING, STRIPE, fees.processing_micro)
    lot = Lot(
        id=lot_id,
        source=request.source,
        priority=request.priority,
        effective_at_ms=effective_at,
        expires_at_ms=request.expires_at_ms,
        created_at_ms=now_ms,
        granted_micro=request.amount_micro,
        spent_micro=repaid,
        left_micro=request.amount_micro - repaid,
        external_ref=request.external_ref,
    )
    txn = Txn(txn_id, request.op_id, GRANT, request.actor, request.reason, now_ms, tuple(entries), fingerprint)
    return balanced(txn), lot


def _source(request: GrantRequest) -> AccountKey:
    """Where what is granted comes from, unless it was exchanged for what was paid."""
    if request.source == LotSource.OVERAGE:
        return AccountKey(request.wallet.owner, OVERAGE, request.asset)
    return AccountKey(BOOK, STRIPE if request.source == LotSource.PAID else PROMO, request.asset)


def repaid_account(owner: str, asset: str, kind: str) -> AccountKey:
    """The account that a grant pays off: the owner's overage, or what it was given up to."""
    assert kind in (OVERAGE, BAD_DEBT, PROMO)
    return AccountKey(owner if kind == OVERAGE else BOOK, kind, asset)


def changes(txns: Sequence[Txn]) -> dict[AccountKey, int]:
    """What a batch of transactions adds to each account."""
    sums: dict[AccountKey, int] = {}
    for txn in txns:
        for entry in txn.entries:
            sums[entry.account] = sums.get(entry.account, 0) + entry.amount_micro
    return sums


def moved(asset: str, debit: str, credit: str, amount_micro: int) -> list[Entry]:
    """An amount from one of the book's own accounts to another; below zero, the other way; nothing for 0."""
    if not amount_micro:
        return []
    return [Entry(AccountKey(BOOK, debit, asset), -amount_micro), Entry(AccountKey(BOOK, credit, asset), amount_micro)]


def balanced(txn: Txn) -> Txn:
    """The transaction, which must sum to zero per asset."""
    sums: dict[str, int] = {}
    for entry in txn.entries:
        assert entry.amount_micro, "an entry moves something"
        sums[entry.account.asset] = sums.get(entry.account.asset, 0) + entry.amount_micro
    assert not any(sums.values()), f"{txn.op_id} does not balance"
    return txn
