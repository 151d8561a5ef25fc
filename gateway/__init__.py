"""The Mozaiks gateway: a prepaid, metering gateway in front of language-model providers.

Rooms (folders) have ranks; a room imports only from ranks below it. `pyproject.toml` holds the
ranks and the walls as import-linter contracts, and `make test` fails when one is crossed.
"""

__version__ = "0.1.0"
