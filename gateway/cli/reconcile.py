"""`gateway reconcile`: the hot balances held against the books, and repaired where an operator says so.

Status 0: no difference is left. 1: one was found, or is left. 2: not everything could be looked at.
"""

import sys

import click
import msgspec

from gateway.balance.reconcile import Outcome
from gateway.cli.local import looking, run, stores


@click.command()
@click.option("--fix", is_flag=True, help="Rebuild lost wallets, put right what differs; each repair has its line in the trail.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def reconcile(fix: bool, as_json: bool) -> None:
    """Find hot balances that are not those of the books.

    Exit status 0: no difference is left. 1: one was found, or is left. 2: not everything could be looked at.
    """
    with looking():
        outcomes = run(_reconciled(fix))
    left = [each for each in outcomes if each.repaired_micro is None]
    if as_json:
        found = [{**msgspec.to_builtins(each.difference), "repaired_micro": each.repaired_micro} for each in outcomes]
        told = {"ok": not left, "differences": found}
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for each in outcomes:
            click.echo(_line(each))
        if not outcomes:
            click.echo("The hot balances are those of the books.")
    sys.exit(1 if left else 0)


async def _reconciled(fix: bool) -> list[Outcome]:
    async with stores() as services:
        return await services.reconciler.run(rebuild=fix, repair=fix, actor="gateway reconcile")


def _line(outcome: Outcome) -> str:
    one = outcome.difference
    has = "is lost" if one.hot_micro is None else f"has {one.hot_micro}"
    done = "left as it is" if outcome.repaired_micro is None else f"repaired, {outcome.repaired_micro:+d}"
    return f"{one.wallet}  {has}, the books say {one.books_micro}  ({done})"
