"""The results as a table for the terminal, as Markdown, and as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import budget, picture
from bench.contestants import DIRECT, NGINX
from bench.results import PlainRound, Results, added_ms, contestants, of, plain_cpu_us, plain_ms, spread

Rows = list[tuple[str, ...]]
_PLAIN_HEAD: Final = (
    "contestant", "CPU us/request", "requests per CPU second", "times nginx", "requests/s", "p50 ms", "p95 ms", "p99 ms",
    "failed", "Redis us/request", "CPU us, each round",
)  # fmt: skip
_HALF_LOAD: Final = "Plain requests, 64 connections, at half the gateway's full load (peers: at half of their own)"
_LATENCY_HEAD: Final = (
    "contestant", "requests/s", "p50 ms", "p50 added ms", "p95 added ms", "p99 ms", "p99 added ms", "failed", "CPU us/request",
    "p50 us, each round",
)  # fmt: skip
_STREAM_HEAD: Final = (
    "contestant", "streams x chunks/s", "CPU us/chunk", "dropped", "served", "late s", "delay p50 ms", "delay p99 ms", "RSS MB",
    "CPU us, each round",
)  # fmt: skip


def write(results: Results, folder: Path) -> str:
    """Write `latest.json` and what is drawn from it; returns the table for the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {**msgspec.structs.asdict(line), "verdict": line.verdict, "value": _rounded(line.value)} for line in budget.lines(results)
    ]
    whole = {**msgspec.to_builtins(results), "budget": lines}
    (folder / "latest.json").write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    return draw(results, folder)


def draw(results: Results, folder: Path) -> str:
    """Write `latest.md` and `latest.svg`; returns the table for the terminal."""
    sections = _sections(results)
    (folder / "latest.md").write_text(_markdown(results, sections))
    (folder / "latest.svg").write_text(picture.draw(results))
    return "\n\n".join(f"{title}\n{_table(rows)}" for title, rows in sections if len(rows) > 1)


def read(folder: Path) -> Results:
    """What `write` has written."""
    return msgspec.json.decode((folder / "latest.json").read_bytes(), type=Results)


def good(results: Results) -> bool:
    """Whether every figure that was measured is inside its must, and the books agree."""
    return all(line.verdict != "FAIL" for line in budget.lines(results)) and all(books.good for books in results.books)


def _sections(results: Results) -> list[tuple[str, Rows]]:
    return [
        ("Budget (medians)", _budget_rows(results)),
        ("Plain requests, 64 connections, full load", _plain_rows(results.full_load)),
        ("Plain requests, 1 connection", _latency_rows(results.one_connection)),
        (_HALF_LOAD, _latency_rows(results.half_load)),
        ("Streams", _stream_rows(results)),
        *[(f"{title}, 64 connections, full load", _plain_rows(rounds)) for title, rounds in results.further.items()],
        ("Two workers, plain requests, 64 connections, full load" + _shared(results), _plain_rows(results.two_workers)),
        ("Start-up and memory", _stand_rows(results)),
        ("Web process, worker and books", _process_rows(results)),
        ("Requests that the load saw served, and that the books hold", _book_rows(results)),
    ]


def _budget_rows(results: Results) -> Rows:
    rows: Rows = [("figure", "measured", "must", "aim", "verdict")]
    for line in budget.lines(results):
        sign = "<=" if line.at_most else ">="
        measured = "-" if line.value is None else f"{_number(line.value)} {line.unit}".strip()
        rows.append((line.figure, measured, f"{sign} {_number(line.must)}", f"{sign} {_number(line.aim)}", line.verdict))
    wrong = sum(not books.good for books in results.books)
    found = "-" if not results.books else f"{wrong} wrong of {len(results.books)}"
    rows.append(("books: one entry a served request, audit clean", found, "0 wrong", "0 wrong", "FAIL" if wrong else "pass"))
    return rows


def _shared(results: Results) -> str:
    """What is to be known about two workers on a machine where the load has no core of its own beside them."""
    return "" if results.settings.get("second_measured_core_alone") else " (the second core is the load's and Redis' too)"


def _plain_rows(rounds: list[PlainRound]) -> Rows:
    nginx = plain_cpu_us(rounds, NGINX)
    rows: Rows = [_PLAIN_HEAD]
    for name in contestants(rounds):
        mine = of(rounds, name)
        cpu = plain_cpu_us(rounds, name) or 0.0
        rows.append(
            (
                _named(name),
                _number(cpu),
                f"{1e6 / cpu:.0f}" if cpu else "-",
                f"{cpu / nginx:.2f} x" if nginx else "-",
                _number(_median([each.load.requests_per_s for each in mine])),
                _number(plain_ms(rounds, name, "p50_us") or 0.0),
                _told(plain_ms(rounds, name, "p95_us")),
                _number(plain_ms(rounds, name, "p99_us") or 0.0),
                str(sum(each.load.failed for each in mine)),
                _number(_median([each.redis_cpu_us for each in mine])),
                ", ".join(_number(each.cpu_us) for each in mine),
            )
        )
    return rows


def _latency_rows(rounds: list[PlainRound]) -> Rows:
    rows: Rows = [_LATENCY_HEAD]
    for name in contestants(rounds):
        mine = of(rounds, name)
        rows.append(
            (
                name,
                _number(_median([each.load.requests_per_s for each in mine])),
                _number(plain_ms(rounds, name, "p50_us") or 0.0),
                _number(added_ms(rounds, name, "p50_us") or 0.0),
                _told(added_ms(rounds, name, "p95_us") if plain_ms(rounds, name, "p95_us") else None),
                _number(plain_ms(rounds, name, "p99_us") or 0.0),
                _number(added_ms(rounds, name, "p99_us") or 0.0),
                str(sum(each.load.failed for each in mine)),
                _number(_median([each.cpu_us for each in mine])),
                ", ".join(str(each.load.p50_us) for each in mine),
            )
        )
    return rows


def _stream_rows(results: Results) -> Rows:
    rows: Rows = [_STREAM_HEAD]
    for rounds in (results.streams, results.many_streams):
        for name in contestants(rounds):
            mine = [each for each in rounds if each.contestant == name]
            load = mine[0].load
            rows.append(
                (
                    _named(name),
                    f"{load.streams} x {mine[0].rate}",
                    _number(_median([each.cpu_us for each in mine])),
                    str(sum(each.load.dropped for each in mine)),
                    f"{sum(each.load.served for each in mine)} of {sum(each.load.streams for each in mine)}",
                    _number(max(each.late_s for each in mine)),
                    _number(_median([each.load.delay_p50_us / 1000 for each in mine])),
                    _number(_median([each.load.delay_p99_us / 1000 for each in mine])),
                    _number(max(each.rss_mb for each in mine)),
                    ", ".join(_number(each.cpu_us) for each in mine),
                )
            )
    return rows


def _stand_rows(results: Results) -> Rows:
    head = ("contestant", "seconds to the first healthy answer", "resident MB, idle", "after the plain loads", "most in streams")
    rows: Rows = [head]
    for name, stand in results.stands.items():
        streamed = [each.rss_mb for each in results.streams if each.contestant == name]
        most = _number(max(streamed)) if streamed else "-"
        rows.append((name, _number(stand.start_s), _number(stand.idle_mb), _number(stand.after_load_mb), most))
    return rows


def _process_rows(results: Results) -> Rows:
    rows: Rows = [("what", "value")]
    for name, values in results.start_up_s.items():
        rows.append((f"seconds to the first healthy answer, {name}", ", ".join(f"{value:.2f}" for value in values)))
    if results.memory is not None:
        memory = results.memory
        rows.append(("resident memory, idle / after the plain loads", f"{memory.idle_mb} / {memory.after_load_mb} MB"))
        rows.append((f"resident memory with {memory.streams} streams", f"{memory.at_streams_mb} MB"))
    if results.worker_cpu_us:
        rows.append(("worker's CPU an event, while it drained beside the load", f"{results.worker_cpu_us:.0f} us"))
    for drain in results.drains:
        rate = f"{drain.per_s:.0f} events/s, worker {drain.cpu_us:.0f} us CPU an event"
        rows.append((f"backlog of {drain.events} events into {drain.store}", rate))
    others = " / ".join(f"{share:.0%}" for share in spread(results, "strangers"))
    rows.append(("share of the machine that other programs used meanwhile, least / median / most", others))
    pace = " / ".join(_number(value) for value in spread(results, "pace_ms"))
    rows.append(("CPU of a fixed piece of work, before each turn, least / median / most", f"{pace} ms"))
    rows += [("skipped", reason) for reason in results.skipped]
    return rows


def _book_rows(results: Results) -> Rows:
    rows: Rows = [("after", "app", "load served", "books hold", "audit exit")]
    for books in results.books:
        counts = (str(books.served), str(books.in_books), str(books.audit_exit))
        rows.append((books.scenario, books.enterprise_id, *counts))
    return rows


def _markdown(results: Results, sections: Sequence[tuple[str, Rows]]) -> str:
    parts = ["# Benchmark, the latest run", "Written by `make bench`; raw numbers of every round are in `latest.json`."]
    for said, lines in (
        ("What is compared:", [f"- {name}: {note}." for name, note in _notes(results)]),
        ("Left out of this run:", [f"- {reason}" for reason in results.skipped]),
    ):
        parts += [said + "\n\n" + "\n".join(lines)] if lines else []
    parts.append("![CPU per request, added latency, CPU per chunk](latest.svg)")
    machine: Rows = [("what", "value"), *results.machine.items()]
    for title, rows in [("Machine and versions", machine), *sections]:
        table = ["| " + " | ".join(row) + " |" for row in rows]
        table.insert(1, "|" + "---|" * len(rows[0]))
        if len(rows) > 1:
            parts.append(f"## {title}\n\n" + "\n".join(table))
    return "\n\n".join(parts) + "\n"


def _notes(results: Results) -> list[tuple[str, str]]:
    """Of those who took part: what their figures hold and what they do not."""
    there = {each.contestant for each in results.full_load}
    return [(name, note) for name, note in results.notes.items() if name in there]


def _named(name: str) -> str:
    return f"{name} (the upstream's own CPU)" if name == DIRECT else name


def _told(value: float | None) -> str:
    return _number(value) if value else "-"


def _table(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
