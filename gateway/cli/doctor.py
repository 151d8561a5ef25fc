"""`gateway doctor`: what is wrong with an installation, in a sentence each."""

import sys

import click
import msgspec

from gateway.cli.local import looking, run, stores
from gateway.doctor import Finding, Verdict, examine
from gateway.settings import Makes, Part


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(as_json: bool) -> None:
    """Look at stores, clocks, web processes, worker, prices, providers and their keys; nothing is changed.

    Of a configuration file that is broken it looks at what can be read.

    Exit status 0: no problem (there may be warnings). 1: a problem, which stops requests. 2: not everything could be looked at.
    """
    with looking():
        found = run(_examined())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        width = max(len(finding.about) for finding in found)
        for finding in found:
            click.echo(f"{finding.verdict.upper():8}  {finding.about:{width}}  {finding.says}")
    sys.exit(1 if any(finding.verdict == Verdict.PROBLEM for finding in found) else 0)


async def _examined() -> list[Finding]:
    async with stores(Part.ANY, Makes.WHERE_NAMED) as services:
        return await examine(services)
