"""The invariants of the books, each a pure function: None when it holds, else the violation in plain words.

Numbered as in the design's list. The random tests run them after every step, the audit on live data.
"""


def txn_sums_to_zero(txn_id: str, asset: str, total_micro: int) -> str | None:
    """1: `total_micro` is the sum of a transaction's entries in one asset."""
    if total_micro == 0:
        return None
    return f"transaction {txn_id} does not balance: its {asset} entries sum to {total_micro}"


def balance_is_sum(account: str, balance_micro: int, entries_micro: int) -> str | None:
    """2: an account's balance is the sum of its entries."""
    if balance_micro == entries_micro:
        return None
    return f"account {account} stands at {balance_micro}, its entries sum to {entries_micro}"


def lot_adds_up(lot_id: str, granted: int, spent: int, expired: int, refunded: int, frozen: int, left: int) -> str | None:
    """3: a lot's parts make up what was granted, and none is negative."""
    if min(granted, spent, expired, refunded, frozen, left) < 0:
        return f"lot {lot_id} has a negative part"
    if granted == spent + expired + refunded + frozen + left:
        return None
    return f"lot {lot_id} was granted {granted}, its parts sum to {spent + expired + refunded + frozen + left}"


def lots_make_available(account: str, available_micro: int, left_micro: int) -> str | None:
    """3: what a wallet's lots have left is its available balance."""
    if available_micro == left_micro:
        return None
    return f"account {account} has {available_micro} available, its lots have {left_micro} left"


def right_side_of_zero(account: str, kind: str, balance_micro: int) -> str | None:
    """4: available is never below zero, and a receivable never above (that would be money of its owner)."""
    if kind == "user.available" and balance_micro < 0:
        return f"account {account} is below zero: {balance_micro}"
    if kind == "receivable.clawback" and balance_micro > 0:
        return f"account {account} is a debt above zero: {balance_micro}"
    return None


def revenue_is_usage(book: str, asset: str, revenue_micro: int, usage_micro: int) -> str | None:
    """11: revenue.usage of a book is what its usage rows charged."""
    if revenue_micro == usage_micro:
        return None
    return f"{book}: revenue.usage is {revenue_micro} {asset}, usage rows sum to {usage_micro}"


def hot_is_sql(wallet: str, hot_micro: int | None, sql_micro: int) -> str | None:
    """12: the hot wallet's available + held is the books' available - debt - credits not applied yet. None: no wallet."""
    if hot_micro == sql_micro:
        return None
    if hot_micro is None:
        return f"wallet {wallet} was opened but is missing in the hot store; the books say {sql_micro}"
    return f"wallet {wallet} has {hot_micro} in the hot store, {sql_micro} in the books"


def owner_is_creator(account: str, owner: str, is_creator: bool) -> str | None:
    """14: an account of the platform's book belongs to the book or to a creator, never to an end user."""
    if owner == "" or is_creator:
        return None
    return f"platform account {account} belongs to {owner!r}, who is no creator"


def database_is_own(enterprise_id: str, place: str, other: str | None) -> str | None:
    """14: an app's database is no other's; `other` names who else has it."""
    if other is None:
        return None
    return f"app {enterprise_id} and {other} share the database {place}"


def posted_request_has_row(enterprise_id: str, request_id: str, has_row: bool) -> str | None:
    """11: every request that the platform's book has of an app is among the app's usage rows."""
    if has_row:
        return None
    return f"request {request_id} of app {enterprise_id} is in the platform's book, but the app has no usage row of it"
