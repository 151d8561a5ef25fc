"""`python -m bench`: measure everything. `python -m bench profile`: where the gateway's CPU time goes.

`python -m bench draw` writes tables, picture and the README's table once more from the results that are there.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from bench import profile, readme, report
from bench.measure import Plan, Run
from bench.processes import BenchError, Ground
from bench.results import Results

_RESULTS: Final = Path(__file__).parent / "results"
_QUICK_RESULTS: Final = Path(__file__).parent / ".quick"
_README: Final = Path(__file__).parent.parent / "README.md"
_QUICK: Final = Plan(
    patience_s=0, seconds=1.0, rounds=1, peer_rounds=1, further_rounds=1, stream_seconds=2.0, drain_events=3000, postgres=False,
    peers=False, two_workers=False,
)  # fmt: skip


def main() -> int:
    """Exit status: 0 all figures inside their must, 1 some outside, 2 the run could not be made, 130 interrupted."""
    given = _arguments()
    out = Path(given.out) if given.out else _QUICK_RESULTS if given.quick else _RESULTS
    try:
        if given.what == "draw":
            results = report.read(out)
            report.draw(results, out)
            _keep(results, out)
            return 0
        with Ground() as ground:
            if given.what == "profile":
                print(profile.run(ground, given.seconds or 5.0, given.case, out))
                return 0
            run = Run(ground, _plan(given), _say)
            results = run.everything()
        print()
        print(report.write(results, out))
        _keep(results, out)
    except BenchError as failed:
        print(f"bench: {failed}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started is stopped", file=sys.stderr)
        return 130
    return 0 if report.good(results) else 1


def _keep(results: Results, out: Path) -> None:
    """Results that the project keeps stand in its README too."""
    if out.resolve() == _RESULTS.resolve():
        readme.fill(_README, results)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("what", nargs="?", choices=("run", "profile", "draw"), default="run")
    arguments.add_argument("--quick", action="store_true", help="one short round: a check that it works, not a figure")
    arguments.add_argument("--seconds", type=float, help="of one load; default 2")
    arguments.add_argument("--rounds", type=int, help="turns of each contestant; default 7")
    waiting = "seconds that turns may wait, in all, for a machine at rest; default 300"
    arguments.add_argument("--patience", type=float, dest="patience_s", help=waiting)
    arguments.add_argument("--no-postgres", action="store_true", help="leave out the drain into Postgres")
    peers = "with LiteLLM's proxy and Portkey's gateway, where they are installed; default yes, in --quick no"
    arguments.add_argument("--peers", action=argparse.BooleanOptionalAction, default=None, help=peers)
    arguments.add_argument("--out", help="where results go; default bench/results, of --quick bench/.quick")
    arguments.add_argument("--case", choices=profile.CASES, default="plain", help="what `profile` drives")
    return arguments.parse_args()


def _plan(given: argparse.Namespace) -> Plan:
    plan = _QUICK if given.quick else Plan()
    names = ("seconds", "rounds", "patience_s", "peers")
    changes = {name: value for name in names if (value := getattr(given, name)) is not None}
    if given.no_postgres:
        changes["postgres"] = False
    return msgspec.structs.replace(plan, **changes)


_BEGAN: Final = time.monotonic()


def _say(line: str) -> None:
    print(f"[{time.monotonic() - _BEGAN:5.0f} s] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
