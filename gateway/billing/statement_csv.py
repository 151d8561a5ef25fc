"""A statement as a table for bookkeepers: one line an amount, in decimals of its currency, with the balance before and after.

Texts that others chose (an app's name begins as its creator likes) are written so that no spreadsheet takes them for a
formula. Pure.
"""

import csv
import io
import unicodedata
from typing import Final

from gateway.billing.minor_units import decimals
from gateway.billing.statements import Section, Statement
from gateway.core.clock import rfc3339

COLUMNS: Final = (
    "month", "currency", "time", "kind", "enterprise_id", "app", "amount", "payment_id", "source_id", "balance_transaction_id",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@")
_UNSEEN: Final = ("C", "Z")  # Unicode's classes of what shows nothing: control and format characters, separators


def written(statement: Statement) -> str:
    """Comma-separated, with a head line; of each currency `opening`, the lines, `closing` and `difference`."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\r\n")
    out.writerow(COLUMNS)
    for section in statement.sections:
        out.writerows(_rows(statement, section))
    return text.getvalue()


def _rows(statement: Statement, section: Section) -> list[list[str]]:
    begins, ends = rfc3339(statement.month.from_ms), rfc3339(statement.until_ms)

    def row(time: str, kind: str, amount_minor: int, app: str = "", *ids: str) -> list[str]:
        texts = [app, statement.app_names.get(app, "")]
        amount = decimal(amount_minor, section.currency)
        return [statement.month.name, section.currency, time, kind, *map(safe, texts), amount, *map(safe, ids or ("", "", ""))]

    rows = [row(begins, "opening", section.opening_minor)]
    for line in section.lines:
        ids = (line.payment_id or "", line.source_id, line.movement_id)
        rows.append(row(rfc3339(line.at_ms), line.kind.value, line.amount_minor, line.enterprise_id or "", *ids))
    rows.append(row(ends, "closing", section.closing_minor))
    rows.append(row(ends, "difference", section.difference_minor))
    return rows


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
