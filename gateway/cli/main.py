"""`gateway`: the entry point of every command."""

import os
import sys

import click

from gateway import __version__
from gateway.cli import (
    audit,
    doctor,
    manage,
    money,
    overage,
    prices,
    promo_codes,
    provider_keys,
    reconcile,
    revenue,
    sales,
    server,
    top_ups,
    trail,
    webhooks,
)
from gateway.cli.local import KNOWN, sentence


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def gateway() -> None:
    """A prepaid, metering gateway in front of language-model providers."""


for command in (
    server.serve,
    server.worker,
    server.migrate,
    audit.audit,
    doctor.doctor,
    reconcile.reconcile,
    trail.trail,
    manage.creators,
    manage.apps,
    manage.keys,
    manage.management_keys,
    provider_keys.provider_keys,
    manage.tokens,
    money.grants,
    money.wallets,
    money.usage,
    money.ledger,
    prices.prices,
    sales.plans,
    sales.sales,
    webhooks.webhooks,
):
    gateway.add_command(command)
for of_sales in (*revenue.COMMANDS, *top_ups.COMMANDS, promo_codes.codes, overage.overage):
    sales.sales.add_command(of_sales)


def main() -> None:
    """Run one command; a failure that we know is one sentence and status 1, or 2 where 1 has a meaning of its own."""
    os.umask(0o077)  # databases and secrets are for this user alone
    try:
        gateway()
    except KNOWN as error:
        _end(sentence(error))


def _end(sentence: str) -> None:
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
