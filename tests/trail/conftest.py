"""Chains on both kinds of database; `shop` and `chat` are apps of the creator `carol`."""

from tests.db.conftest import prepared as prepared  # fixtures of both kinds of database
from tests.db.conftest import urls as urls
from tests.ledger.conftest import clock as clock
from tests.ledger.conftest import databases as databases
from tests.ledger.conftest import ledger as ledger
