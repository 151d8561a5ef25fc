"""A statement as a table for bookkeepers: one line an amount, in decimals of its currency, with the balance before and after.

Texts that others chose (an app's name begins as its creator likes) are written so that no spreadsheet takes them for a
formula. Nothing here asks anybody.
"""

import csv
import io
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

from gateway.billing.minor_units import decimals
from gateway.billing.revenue.book import Outline
from gateway.billing.revenue.statements import Line, Section
from gateway.core.clock import rfc3339

COLUMNS: Final = (
    "month", "currency", "time", "kind", "enterprise_id", "app", "amount", "payment_id", "source_id", "balance_transaction_id",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@")
_UNSEEN: Final = ("C", "Z")  # Unicode's classes of what shows nothing: control and format characters, separators


Parts = Callable[[str], AsyncIterator[Section]]  # of one currency, oldest first


async def written(of: Outline, parts: Parts) -> AsyncIterator[str]:
    """Comma-separated, with a head line; of each currency `opening`, the lines, `closing` and `difference`. Piece by piece."""
    begins, ends = rfc3339(of.month.from_ms), rfc3339(of.until_ms)
    yield _text([COLUMNS])
    for currency in of.walked.currencies:
        opening, closing, total = of.walked.opening_minor(currency), of.walked.closing[currency], 0
        yield _text([_row(of, currency, begins, "opening", opening)])
        async for part in parts(currency):
            total += sum(line.amount_minor for line in part.lines)
            yield _text(_line(of, currency, line) for line in part.lines)
        differs = _row(of, currency, ends, "difference", closing - opening - total)
        yield _text([_row(of, currency, ends, "closing", closing), differs])


def _text(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _line(of: Outline, currency: str, line: Line) -> list[str]:
    ids = (line.payment_id or "", line.source_id, line.movement_id)
    return _row(of, currency, rfc3339(line.at_ms), line.kind.value, line.amount_minor, line.enterprise_id or "", ids)


def _row(
    of: Outline, currency: str, time: str, kind: str, amount_minor: int, app: str = "", ids: Sequence[str] = ("", "", "")
) -> list[str]:
    texts = [app, of.app_names.get(app, "")]
    return [of.month.name, currency, time, kind, *map(safe, texts), decimal(amount_minor, currency), *map(safe, ids)]


def decimal(amount_minor: int, currency: str) -> str:
    """Minor units as a decimal with all the currency's digits: -12.50, 1250 (JPY), 1.250 (KWD)."""
    digits = decimals(currency)
    sign, text = "-" if amount_minor < 0 else "", str(abs(amount_minor)).rjust(digits + 1, "0")
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else f"{sign}{text}"


def safe(text: str) -> str:
    """A text that a spreadsheet shows and does not compute: an apostrophe before what would begin a formula.

    Spreadsheets skip what shows nothing before a sign, take a full-width sign for it, and split a cell at a tab or line end.
    """
    first = next((each for each in text if unicodedata.category(each)[0] not in _UNSEEN), "")
    is_formula = unicodedata.normalize("NFKC", first).startswith(_FORMULA)
    return f"'{text}" if is_formula or text.startswith(("\t", "\r", "\n")) else text
