"""What commands print: rows for people, JSON with `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from gateway.core.money import decimal_from_micro


def show(answer: Any, *, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print an answer of the management API; `columns` are those of a table that people want to see.

    What it warns of goes to stderr, so that what reads the answer is not disturbed.
    """
    if isinstance(answer, dict) and "warnings" in answer:
        for warning in answer["warnings"]:
            click.echo(f"Warning: {warning}", err=True)
        answer = answer if as_json else {name: value for name, value in answer.items() if name != "warnings"}
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    elif isinstance(answer, Mapping) and isinstance(answer.get("data"), list):
        data = answer["data"]
        rows([{name: row.get(name) for name in columns} for row in data] if columns else data)
        if answer.get("has_more"):
            click.echo(f"... more: --cursor {answer.get('next_cursor')}")
    elif isinstance(answer, Mapping):
        fields(answer)
    elif isinstance(answer, list):
        rows(answer)
    elif answer is not None:
        click.echo(str(answer))


def rows(data: Sequence[Mapping[str, Any]]) -> None:
    """A table with one column a field; nested values as compact JSON, amounts as decimals, fields that no row fills left out."""
    if not data:
        click.echo("(none)")
        return
    data = _in_decimals(list(data))
    names = [name for name in data[0] if any(row.get(name) not in (None, "", [], {}) for row in data)]
    table = [names, *[[_cell(row.get(name)) for name in names] for row in data]]
    widths = [max(len(line[column]) for line in table) for column in range(len(names))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def fields(answer: Mapping[str, Any]) -> None:
    """One field a line; amounts as decimals."""
    answer = _in_decimals(answer)
    width = max((len(name) for name in answer), default=0)
    for name, value in answer.items():
        click.echo(f"{name.ljust(width)}  {_cell(value)}".rstrip())


def _in_decimals(value: Any) -> Any:
    """Amounts as people write them, wherever they are: `amount_micro` 1500000 is `amount` 1.5."""
    if isinstance(value, list):
        return [_in_decimals(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for name, each in value.items():
        if "_micro" in name and (each is None or isinstance(each, int)):
            found[name.replace("_micro", "")] = None if each is None else decimal_from_micro(each)
        else:
            found[name] = _in_decimals(each)
    return found


_WALLET: Final = {"user_id", "enterprise_id", "platform_user_id"}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping) and set(value) == _WALLET:  # acme, or acme-chat/customer-42: no id has a slash
        app, user_id = value["enterprise_id"], value["user_id"]
        return _cell(user_id) if app is None else f"{app}/{value['platform_user_id']}"
    return msgspec.json.encode(value).decode()
