"""What every service over the books shares: whose wallet it is, checks of a request's shape, one posting in one commit."""

import hashlib
from typing import Final

import msgspec

from gateway.core.clock import SYSTEM_CLOCK, Clock, now_ms
from gateway.core.errors import Conflict, InvalidRequest, NotFound
from gateway.core.ids import shard_of
from gateway.core.limits import REASON_CHARS_MAX
from gateway.core.money import AMOUNT_MICRO_MAX
from gateway.db.engines import Databases
from gateway.ledger import journal, store
from gateway.ledger.endings import Posting
from gateway.ledger.model import AVAILABLE, DEBT, PLATFORM_ASSET, AccountKey, AppFacts, Credit, Posted, WalletKey

_TEXT_CHARS_MAX: Final = 300
_LATER_FIELDS: Final[dict[str, object]] = {
    "paid": None,
    "fee_stays": False,
    "given_micro": 0,
    "repays": "",
    "unless_given_up": [],
    "unless_op": "",
}
_PRIORITY_MAX: Final = 1_000_000
_TIME_MAX_MS: Final = 253_402_300_800_000  # the year 10000: beyond it RFC 3339 has no name for it


class Books:
    """The platform's database and the apps'. Methods raise SqlDown while one cannot serve."""

    def __init__(self, databases: Databases, clock: Clock = SYSTEM_CLOCK) -> None:
        self.databases = databases
        self.clock = clock

    async def engine(self, enterprise_id: str | None) -> store.Engine:
        """The database of the platform's book (None) or of an app's."""
        return self.databases.platform if enterprise_id is None else await self.databases.app(enterprise_id)

    async def owner_of(self, wallet: WalletKey) -> AppFacts:
        """Whose shard and which asset a wallet has. NotFound when there is no such creator or app."""
        if not wallet.is_valid:
            raise InvalidRequest("malformed id in the wallet", param="wallet")
        async with store.reading(self.databases.platform) as conn:
            if wallet.enterprise_id is None:
                if not await store.creator_exists(conn, wallet.owner):
                    raise NotFound(f"no creator {wallet.owner}", param="user_id")
                return AppFacts("", wallet.owner, PLATFORM_ASSET)
            facts = (await store.app_facts(conn, [wallet.enterprise_id])).get(wallet.enterprise_id)
        if facts is None:
            raise NotFound(f"no app {wallet.enterprise_id}", param="enterprise_id")
        return facts

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return now_ms(self.clock)


async def repeated(
    conn: store.Connection, enterprise_id: str | None, op_id: str, fingerprint: str, *others: str
) -> Posted | None:
    """The first result of an operation that was posted before; Conflict when that was of another request.

    `others` are fingerprints that pass for this request's, too.
    """
    done = await store.txn_of_op(conn, store.books_of(enterprise_id), op_id)
    if done is None:
        return None
    if done[1] not in (fingerprint, *others):
        raise Conflict("this idempotency key was used for another request", param="op_id")
    return Posted(done[0], enterprise_id, None, first=False)


async def commit(
    conn: store.Connection,
    wallet: WalletKey,
    owner: AppFacts,
    posting: Posting,
    taken_micro: int = 0,
    before: Posting | None = None,
    after: Posting | None = None,
) -> Posted:
    """Write one posting about a wallet, with its line of the outbox. `taken_micro`: what the hot wallet gave for it before.

    `before` is a posting that this one rests on, `after` one that rests on it: one line tells the hot wallet of them all.
    InvalidRequest when the wallet would hold more than can be counted exactly.
    """
    books, txn = store.books_of(wallet.enterprise_id), posting.txn
    account = AccountKey(wallet.owner, AVAILABLE, owner.asset)
    every = [one for one in (before, posting, after) if one is not None]
    txns = [one.txn for one in every]
    sums = journal.changes(txns)
    ids = await store.account_ids(conn, books, {account, *sums})
    if sums.get(account, 0) > 0:
        stands = await store.balances(conn, books, wallet.owner, owner.asset)
        if stands.get(AVAILABLE, 0) + sums[account] > AMOUNT_MICRO_MAX:
            raise InvalidRequest("the wallet cannot hold that much", param="amount_micro")
    if posting.made is not None:
        await store.add_lot(conn, books, posting.made, ids[account])
    await store.save_lots(conn, books, [lot for one in every for lot in one.lots])
    await store.post(conn, books, txns, ids)
    await store.add_balances(conn, books, sums, ids)
    delta = sum(one.delta_micro(wallet.owner) for one in every)
    if not delta and not taken_micro:
        return Posted(txn.id, wallet.enterprise_id, None, first=True)
    credit = Credit(txn.id, wallet.enterprise_id, shard_of(owner.user_id), wallet.name, delta + taken_micro, txn.at_ms)
    await store.add_credit(conn, books, credit, ids[account], taken_micro)
    return Posted(txn.id, wallet.enterprise_id, credit if credit.delta_micro else None, first=True)


async def debt_of(conn: store.Connection, wallet: WalletKey, asset: str) -> int:
    """What a wallet's owner owes, at or above zero."""
    return -(await store.balances(conn, store.books_of(wallet.enterprise_id), wallet.owner, asset)).get(DEBT, 0)


def fingerprint_of(request: msgspec.Struct) -> str:
    """A digest of a whole request, by which a repeat is told from another one."""
    told = msgspec.to_builtins(request)
    for name, default in _LATER_FIELDS.items():  # requests from before there was such a field keep their digest
        if told.get(name, ...) == default:
            del told[name]
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def check_amount(amount_micro: int, param: str = "amount_micro", minimum: int = 1) -> None:
    """InvalidRequest for an amount out of range."""
    if not minimum <= amount_micro <= AMOUNT_MICRO_MAX:
        raise InvalidRequest(f"{param} must be from {minimum} to {AMOUNT_MICRO_MAX}", param=param)


def check_texts(reason: str, **names: str) -> None:
    """InvalidRequest for a reason that is too long, or a name (1 to 300 characters) that no column holds."""
    for name, text in names.items():
        if not 0 < len(text) <= _TEXT_CHARS_MAX:
            raise InvalidRequest(f"{name} has 1 to {_TEXT_CHARS_MAX} characters", param=name)
    if len(reason) > REASON_CHARS_MAX:
        raise InvalidRequest(f"reason has at most {REASON_CHARS_MAX} characters", param="reason")
    if "\0" in reason + "".join(names.values()):
        raise InvalidRequest("a text cannot hold a NUL character", param="reason")


def check_priority(priority: int) -> None:
    """InvalidRequest for a priority out of range."""
    if abs(priority) > _PRIORITY_MAX:
        raise InvalidRequest(f"priority must be from -{_PRIORITY_MAX} to {_PRIORITY_MAX}", param="priority")


def check_moment(moment_ms: int | None, param: str) -> None:
    """InvalidRequest for a time that RFC 3339 cannot write."""
    if moment_ms is not None and not 0 <= moment_ms < _TIME_MAX_MS:
        raise InvalidRequest(f"{param} is out of range", param=param)
