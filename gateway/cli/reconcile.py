"""`gateway reconcile`: the hot balances held against the books, and repaired where an operator says so; the books against Stripe.

Status 0: no difference is left. 1: one was found, or is left. 2: not everything could be looked at.
"""

import sys
from datetime import datetime

import click
import msgspec

from gateway.api.shapes import ms_of
from gateway.balance.reconcile import Outcome
from gateway.billing.reconciler import Looked
from gateway.cli.local import CouldNotLook, looking, run, stores
from gateway.cli.values import AGO, AGO_HELP


@click.command()
@click.option("--fix", is_flag=True, help="Rebuild lost wallets, put right what differs; each repair has its line in the trail.")
@click.option("--billing", is_flag=True, help="Look at Stripe instead, and post what webhooks never told.")
@click.option("--since", "since", type=AGO, help=f"With --billing, look back to then: {AGO_HELP}.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def reconcile(fix: bool, billing: bool, since: str | None, as_json: bool) -> None:
    """Find hot balances that are not those of the books, or with --billing what Stripe has and the books have not.

    Exit status 0: no difference is left. 1: one was found, or is left. 2: not everything could be looked at.
    """
    if billing:
        _billing(since, as_json)
        return
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


def _billing(since: str | None, as_json: bool) -> None:
    with looking():
        looked = run(_looked(None if since is None else ms_of(msgspec.convert(since, datetime))))
    if looked.unseen and not looked.objects:
        raise CouldNotLook(looked.reasons[0])
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode({"ok": looked.ok, **msgspec.to_builtins(looked)}), indent=2).decode())
    else:
        for reason in looked.reasons:
            click.echo(reason)
        for note in looked.notes:
            click.echo(f"note: {note}")
        made_up = f", {looked.made_up} paid and not in the books until now" if looked.made_up else ""
        noted = f", {looked.noted} odd and their owners' own" if looked.noted else ""
        unseen = f" Not everything could be looked at ({looked.unseen}): look again." if looked.unseen else ""
        seen = f"{looked.objects} objects of {looked.accounts} accounts at Stripe, {looked.wrong} wrong"
        click.echo(f"{seen}{made_up}{noted}.{unseen}")
    sys.exit(1 if looked.wrong else 2 if looked.unseen else 0)


async def _looked(since_ms: int | None) -> Looked:
    async with stores() as services:
        if services.receiving is None:
            raise CouldNotLook("MOZAIKS_STRIPE_SECRET_KEY is not set where this command runs, so it cannot ask Stripe.")
        return await services.receiving.reconciler.run(since_ms)


async def _reconciled(fix: bool) -> list[Outcome]:
    async with stores() as services:
        return await services.reconciler.run(rebuild=fix, repair=fix, actor="gateway reconcile")


def _line(outcome: Outcome) -> str:
    one = outcome.difference
    has = "is lost" if one.hot_micro is None else f"has {one.hot_micro}"
    done = "left as it is" if outcome.repaired_micro is None else f"repaired, {outcome.repaired_micro:+d}"
    return f"{one.wallet}  {has}, the books say {one.books_micro}  ({done})"
