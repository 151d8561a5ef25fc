"""Options that several commands share."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from gateway.cli.values import AMOUNT, AMOUNT_OR_NONE, COUNT, COUNT_OR_NONE

F = TypeVar("F", bound=Callable[..., Any])
_RATES: Final = (("rpm", "Requests a minute"), ("tpm", "Tokens a minute"), ("concurrency", "Requests in flight"))
_SPENDS: Final = (("per-day", "Spend a day (UTC)"), ("per-month", "Spend a month (UTC)"), ("total", "Spend in all"))


def json_option(command: F) -> F:
    """`--json`: the API's own answer."""
    return click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")(command)


def page_options(command: F) -> F:
    """`--limit` and `--cursor` of a list."""
    command = click.option("--limit", type=int, help="Rows at most.")(command)
    return click.option("--cursor", help="Go on after this row of an earlier list.")(command)


def limit_options(*, of: str = "", end: str = "", change: bool = False) -> Callable[[F], F]:
    """The limits of a key, or under names that begin with `of`; where they are a `change`, `none` takes one away."""
    none = "; none takes it away" if change else ""

    def decorated(command: F) -> F:
        for name, what in reversed(_SPENDS):
            command = click.option(
                f"--{of}spend-{name}",
                _field(of, f"spend_micro_{name}"),
                type=AMOUNT_OR_NONE if change else AMOUNT,
                help=f"{what}{end}, in the asset of the wallet that pays, such as 5 or 0.25{none}.",
            )(command)
        for name, what in reversed(_RATES):
            kind = COUNT_OR_NONE if change else COUNT
            command = click.option(f"--{of}{name}", _field(of, name), type=kind, help=f"{what}{end}{none}.")(command)
        return command

    return decorated


def taken_limits(options: dict[str, Any], of: str = "") -> Mapping[str, Any] | None:
    """The limits among the options, which they are taken out of; None when none was said."""
    names = [name.replace("-", "_") for name in ("rpm", "tpm", "concurrency", *[f"spend-micro-{name}" for name, _ in _SPENDS])]
    said = {name: options.pop(_field(of, name)) for name in names}
    return {name: value for name, value in said.items() if value is not None} or None


def _field(of: str, name: str) -> str:
    return f"{of}{name}".replace("-", "_")


def wallet_options(command: F) -> F:
    """Which wallet: a creator's, or an end user's in an app."""
    command = click.option("--end-user", "platform_user_id", help="The end user whose wallet in --app it is.")(command)
    command = click.option("--app", "enterprise_id", help="The app of --end-user.")(command)
    return click.option("--user-id", help="The creator whose wallet towards the platform it is.")(command)


def named_wallet(user_id: str | None, enterprise_id: str | None, platform_user_id: str | None) -> dict[str, str]:
    """The wallet that the options name, or a usage error."""
    if user_id and not (enterprise_id or platform_user_id):
        return {"user_id": user_id}
    if enterprise_id and platform_user_id and not user_id:
        return {"enterprise_id": enterprise_id, "platform_user_id": platform_user_id}
    raise click.UsageError("Name a wallet: --user-id, or --app and --end-user.")
