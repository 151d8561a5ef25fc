"""Two kinds of SQL failure: the database cannot serve now, or it refuses these very values.

The first is waited out; the second comes back however often it is repeated. Drivers tell them apart
in their own ways, which is why one file knows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError


class SqlDown(Exception):
    """The database did not answer, or cannot serve now. Nothing was committed; repeat later."""


class SqlRefused(Exception):
    """The database refuses these values (out of range, a broken rule). Repeating cannot help."""


_FAULTS: Final = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, OverflowError)
_VALUE_FAULTS: Final = (OverflowError, UnicodeError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


@contextmanager
def named_faults() -> Iterator[None]:
    """Turns whatever the drivers raise inside the block into SqlDown or SqlRefused."""
    try:
        yield
    except _FAULTS as fault:
        if is_refusal(fault):
            raise SqlRefused(str(fault)[:500]) from fault
        raise SqlDown(f"{type(fault).__name__}: {str(fault)[:500]}") from fault


def is_refusal(fault: BaseException) -> bool:
    """True when the values are at fault: SQLSTATE class 22 or 23, SQLite's constraint and range errors."""
    seen: BaseException | None = fault
    while seen is not None:
        if isinstance(seen, _VALUE_FAULTS):
            return True
        # sqlite3 has these two classes for values only; asyncpg reports a value it cannot encode as its DataError.
        if isinstance(seen, DBAPIError) and type(seen.orig).__name__ in ("IntegrityError", "DataError"):
            return True
        seen = seen.orig if isinstance(seen, DBAPIError) and seen.orig is not None else seen.__cause__
    return False
