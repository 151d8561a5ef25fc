"""`gateway`: the entry point of every command."""

import os
import sys

import click

from gateway import __version__
from gateway.balance.embedded_redis import EmbeddedRedisFailed
from gateway.balance.model import BalanceUnavailable
from gateway.cli import manage, server
from gateway.core.errors import GatewayError
from gateway.db.faults import SqlDown
from gateway.settings import SettingsError


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
    os.umask(0o077)  # databases and secrets are for this user alone
    try:
        gateway()
    except GatewayError as error:
        _end(error.message)
    except (SqlDown, BalanceUnavailable, EmbeddedRedisFailed, SettingsError) as down:
        _end(f"{_STORES[type(down)]}{down}")
    except OSError as failed:
        where = f" ({failed.filename})" if failed.filename else ""
        _end(f"{failed.strerror or failed}{where}")


_STORES = {
    SqlDown: "The database does not serve: ",
    BalanceUnavailable: "The balance store does not serve: ",
    EmbeddedRedisFailed: "",
    SettingsError: "",
}


def _end(sentence: str) -> None:
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
