"""The short table of the README: written from a run's results between two marks, and by nothing else."""

from pathlib import Path
from typing import Final

from bench.contestants import DIRECT
from bench.picture import number
from bench.results import Results, added_ms, contestants, of, plain_cpu_us, stream_cpu_us

BEGIN: Final = "<!-- written by `make bench` from bench/results/latest.json -->"
END: Final = "<!-- end of what `make bench` writes -->"
_NOT: Final = "not measured"


def table(results: Results) -> str:
    """A row a contestant: medians."""
    rows = ["| | CPU per request | requests per CPU second | median latency added | CPU per streamed chunk | memory |"]
    rows.append("|---|---|---|---|---|---|")
    for name in contestants(results.full_load):
        if name == DIRECT:
            continue
        cpu = plain_cpu_us(results.full_load, name)
        added = added_ms(results.one_connection, name, "p50_us")
        chunk = stream_cpu_us(results.streams, name)
        memory = max((each.rss_mb for each in results.streams if each.contestant == name), default=0.0)
        failed = sum(each.load.failed for each in of(results.full_load, name))
        cells = [
            _with(cpu, "us") + (f", {failed} failed" if failed else ""),
            f"{1e6 / cpu:,.0f}" if cpu else _NOT,
            _with(added, "ms"),
            _with(chunk, "us"),
            _with(memory or None, "MB"),
        ]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _with(value: float | None, unit: str) -> str:
    return _NOT if value is None else f"{number(value)} {unit}"


def filled(text: str, results: Results) -> str:
    """The README's text with the table of these results; ValueError where the marks are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has no place for the table")
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def fill(readme: Path, results: Results) -> None:
    """Write the table into the file."""
    readme.write_text(filled(readme.read_text(), results))
