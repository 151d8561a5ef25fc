"""`gateway`: the entry point of every command."""

import sys

import click

from gateway import __version__
from gateway.cli import manage, server
from gateway.core.errors import GatewayError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def gateway() -> None:
    """A prepaid, metering gateway in front of language-model providers."""


for command in (
    server.serve,
    server.worker,
    server.migrate,
    server.audit,
    manage.creators,
    manage.apps,
    manage.keys,
    manage.management_keys,
    manage.tokens,
    manage.grants,
    manage.wallets,
    manage.usage,
    manage.ledger,
    manage.prices,
):
    gateway.add_command(command)


def main() -> None:
    """Run one command; a failure that we know is one sentence and status 1."""
    try:
        gateway()
    except GatewayError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
