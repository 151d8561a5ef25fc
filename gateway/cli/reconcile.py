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
        outcomes, waiting = run(_reconciled(fix))
    left = [each for each in outcomes if each.repaired_micro is None]
    if as_json:
        found = [{**msgspec.to_builtins(each.difference), **_but_difference(each)} for each in outcomes]
        told = {"ok": not left, "differences": found}
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    else:
        for each in outcomes:
            click.echo(each)
        if not outcomes:
            click.echo("The hot balances are those of the books.")
        elif left:
            click.echo(_why_left(waiting, fix=fix))
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
            why = services.settings.stripe_fault or "MOZAIKS_STRIPE_SECRET_KEY is not set where this command runs."
            raise CouldNotLook(f"Stripe cannot be asked: {why}")
        return await services.receiving.reconciler.run(since_ms)


async def _reconciled(fix: bool) -> tuple[list[Outcome], int]:
    """What was found, and how many usage events wait for a worker."""
    async with stores() as services:
        outcomes = await services.reconciler.run(rebuild=fix, repair=fix, actor="gateway reconcile")
        return outcomes, await services.events.depth()


def _but_difference(outcome: Outcome) -> dict[str, str | int | None]:
    return {"asset": outcome.asset, "repaired_micro": outcome.repaired_micro}


def _why_left(waiting: int, *, fix: bool) -> str:
    if waiting:
        text = f"{waiting} usage events wait for a worker, so hot balances are ahead of the books by what was used"
        return f"{text}: look again when `gateway serve` or `gateway worker` has run."
    if fix:
        return "What is left was in use all the time: look again."
    return "`gateway reconcile --fix` puts them right."
