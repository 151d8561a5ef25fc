"""`gateway audit`: every invariant of the books and the hot balances, for people, programs and Prometheus.

Status 0: everything was looked at and holds. 1: something is violated. 2: not everything could be looked
at (a store down, a wrong setting, a file that cannot be written), which is no clean book either.
"""

import os
import sys
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import click
import msgspec

from gateway.cli.local import looking, run, sentence, stores
from gateway.core.clock import now_ms
from gateway.ledger.audit import AuditReport

_PREFIX: Final = "mozaiks_audit"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--metrics",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write the outcome for node_exporter's textfile collector, as FILE (named *.prom).",
)
def audit(as_json: bool, metrics: Path | None) -> None:
    """Check every invariant of the books and the hot balances.

    Exit status 0: all hold. 1: one is violated. 2: not everything could be looked at.
    """
    began = time.monotonic()
    try:
        with looking():
            report, waiting, age_s = run(_audited())
    except click.ClickException:
        if metrics is not None:
            _write(metrics, textfile(None, 0, 0, time.monotonic() - began))
        raise
    _tell(report, waiting, age_s, as_json=as_json)
    status = 0 if report.ok else 1
    if metrics is not None and not _write(metrics, textfile(report, waiting, age_s, time.monotonic() - began)):
        status = status or 2
    sys.exit(status)


async def _audited() -> tuple[AuditReport, int, int]:
    """What was found, how many usage events wait for a worker, and for how many seconds the oldest does."""
    async with stores() as services:
        report, waiting, oldest_ms = await services.audited(), await services.events.depth(), await services.events.oldest_ms()
        return report, waiting, 0 if oldest_ms is None else max(0, now_ms(services.clock) - oldest_ms) // 1000


def _tell(report: AuditReport, waiting: int, age_s: int, *, as_json: bool) -> None:
    if as_json:
        told = {"ok": report.ok, "events_waiting": waiting, "oldest_event_age_s": age_s, "checks": report.checks}
        click.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
        return
    for check in report.checks:
        click.echo(f"{'ok      ' if check.ok else 'VIOLATED'}  {check.name}  ({check.counted} checked)")
        for violation in check.violations:
            click.echo(f"          {violation}")
        if check.violated > len(check.violations):
            click.echo(f"          ... and {check.violated - len(check.violations)} more")
    if waiting:
        events = "1 usage event waits" if waiting == 1 else f"{waiting} usage events wait, the oldest"
        text = f"{events} for {_span(age_s)}, until a worker puts what was used into the books: nothing of it is lost."
        click.echo(f"{text} Workers live in `gateway serve` and `gateway worker`.")


def _span(seconds: int) -> str:
    """As people say it."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{seconds // size} {unit}{'s' * (seconds >= 2 * size)}"
    return f"{seconds} second{'s' * (seconds != 1)}"


def textfile(report: AuditReport | None, waiting: int, age_s: int, duration_s: float) -> str:
    """The outcome in Prometheus' text format; None: not everything could be looked at, so nothing is said of the books.

    Without time stamps, which the textfile collector refuses: the time of the run is a gauge of its own.
    """
    lines = [
        *_gauge("completed", "1 when the last audit looked at everything, 0 when it could not.", int(report is not None)),
        *_gauge("last_run_timestamp_seconds", "When the last audit ended, in Unix time.", now_ms() / 1000),
        *_gauge("duration_seconds", "How long the last audit took.", round(duration_s, 3)),
    ]
    if report is not None:
        lines += _gauge("events_waiting", "Usage events that were not in the books yet.", waiting)
        lines += _gauge("oldest_event_age_seconds", "For how long the oldest of them had waited.", age_s)
        for name, what in (("violated", "Violations of each invariant."), ("counted", "Things looked at for each invariant.")):
            metric = f"{_PREFIX}_{'violations' if name == 'violated' else 'checked'}"
            lines += [f"# HELP {metric} {what}", f"# TYPE {metric} gauge"]
            for check in report.checks:
                number, _, words = check.name.partition(" ")
                lines.append(f'{metric}{{invariant="{_label(number)}",check="{_label(words)}"}} {getattr(check, name)}')
    return "\n".join(lines) + "\n"


def _gauge(name: str, what: str, value: int | float) -> list[str]:
    return [f"# HELP {_PREFIX}_{name} {what}", f"# TYPE {_PREFIX}_{name} gauge", f"{_PREFIX}_{name} {value}"]


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _write(path: Path, text: str) -> bool:
    """Put `text` at `path` at once: a collector reads the old file or the new one, never half of one."""
    unfinished: str | None = None
    try:
        # Not named *.prom, which the collector would read; readable by it, whatever user it runs as.
        with NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False
        ) as file:
            unfinished = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
        os.replace(unfinished, path)
    except OSError as failed:
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)
        click.echo(f"Error: the metrics could not be written: {sentence(failed)}", err=True)
        return False
    return True
