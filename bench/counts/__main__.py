"""`python -m bench.counts`: count, print the table, and say what has grown. `--write` keeps what was counted.

Exit status: 0 nothing has grown beyond its bound (or it was written), 1 something has.
"""

import argparse
import sys
from typing import Final

import msgspec

from bench.counts import table
from bench.counts.run import count
from bench.counts.values import Counts, problems
from bench.postgres import start_postgres
from bench.processes import Ground

_DRAIN: Final = "drain"


def main() -> int:
    """See the module."""
    arguments = argparse.ArgumentParser(prog="python -m bench.counts", description=__doc__)
    arguments.add_argument("what", nargs="?", choices=("all", _DRAIN), default="all")
    arguments.add_argument("--write", action="store_true", help="keep the counts of this version of Python as the guard's table")
    arguments.add_argument("--json", action="store_true", help="print the counts as JSON, compare nothing")
    arguments.add_argument("--databases", nargs=2, metavar=("PLATFORM", "APPS"), help="where the books are, and nowhere else")
    given = arguments.parse_args()
    requests = given.what != _DRAIN
    counts = count(tuple(given.databases), requests=requests) if given.databases else _everywhere(requests)
    if given.json:
        print(msgspec.json.encode(counts).decode())
        return 0
    if given.write:
        stale = table.keep(counts)
        print(table.told(counts))
        print("".join(f"\nDropped: the counts on Python {version} were of other code; count there again." for version in stale))
        return 0
    print(table.told(counts))
    found = problems(counts, table.kept())
    print("\nGrown beyond its bound:\n" + "\n".join(found) if found else "\nNothing has grown beyond its bound.")
    return 1 if found else 0


def _everywhere(requests: bool) -> Counts:
    """On SQLite; the drain also on Postgres, where its wheel is."""
    counts = count(requests=requests)
    with Ground() as ground:
        settings = start_postgres(ground)
        if settings is None:
            return counts
        urls = settings["MOZAIKS_DATABASE_URL"], settings["MOZAIKS_APP_DATABASE_URL"]
        more = count(urls, requests=False)
    return msgspec.structs.replace(counts, drains={**counts.drains, **more.drains})


if __name__ == "__main__":
    sys.exit(main())
