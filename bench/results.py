"""What a run measured, as plain values. CPU is microseconds of user and system time of the measured process."""

import statistics

import msgspec

from bench.plain_load import PlainLoad
from bench.stream_load import StreamLoad
from bench.subject import Books


class PlainRound(msgspec.Struct, frozen=True):
    """One load of plain requests on one contestant.

    `strangers`: the share of the machine that others used meanwhile. `pace_ms`: see `Ground.pace_ms`, just before.
    """

    contestant: str
    cpu_us: float
    redis_cpu_us: float
    load: PlainLoad
    strangers: float = 0.0
    pace_ms: float = 0.0


class StreamRound(msgspec.Struct, frozen=True):
    """One load of streams. `late_s` is how much longer it took than its rate says."""

    contestant: str
    rate: int
    cpu_us: float
    rss_mb: float
    late_s: float
    load: StreamLoad
    strangers: float = 0.0
    pace_ms: float = 0.0


class Memory(msgspec.Struct, frozen=True):
    """Resident memory of the web process in MB."""

    idle_mb: float
    after_load_mb: float
    streams: int
    at_streams_mb: float


class Stand(msgspec.Struct, frozen=True):
    """One contestant as a process: seconds to its first healthy answer, resident memory in MB of its whole tree."""

    start_s: float
    idle_mb: float
    after_load_mb: float


class Drain(msgspec.Struct, frozen=True):
    """A backlog of events written into the books by one worker."""

    store: str
    events: int
    per_s: float
    cpu_us: float


class Results(msgspec.Struct):
    """Everything of one run."""

    machine: dict[str, str]
    settings: dict[str, float]
    skipped: list[str] = []
    full_load: list[PlainRound] = []
    one_connection: list[PlainRound] = []
    half_load: list[PlainRound] = []
    streams: list[StreamRound] = []
    many_streams: list[StreamRound] = []
    further: dict[str, list[PlainRound]] = {}  # by title: other kinds of requests at full load
    two_workers: list[PlainRound] = []
    stands: dict[str, Stand] = {}
    notes: dict[str, str] = {}  # by contestant: what its figures hold and what they do not
    start_up_s: dict[str, list[float]] = {}
    memory: Memory | None = None
    drains: list[Drain] = []
    worker_cpu_us: float = 0.0
    books: list[Books] = []


def spread(results: Results, field: str) -> tuple[float, float, float]:
    """Least, median and most of `strangers` or `pace_ms` over all rounds."""
    plain = [*results.full_load, *results.one_connection, *results.half_load, *results.two_workers]
    plain += [each for rounds in results.further.values() for each in rounds]
    rounds: list[PlainRound | StreamRound] = [*plain, *results.streams, *results.many_streams]
    values = [getattr(each, field) for each in rounds]
    return (min(values), statistics.median(values), max(values)) if values else (0.0, 0.0, 0.0)


def contestants(rounds: list[PlainRound] | list[StreamRound]) -> list[str]:
    """Their names, in the order of their first turn."""
    return list(dict.fromkeys(each.contestant for each in rounds))


def of(rounds: list[PlainRound], contestant: str) -> list[PlainRound]:
    """The rounds of one contestant."""
    return [each for each in rounds if each.contestant == contestant]


def plain_cpu_us(rounds: list[PlainRound], contestant: str) -> float | None:
    """Median CPU a served request; None where it did not take part."""
    values = [each.cpu_us for each in of(rounds, contestant)]
    return statistics.median(values) if values else None


def plain_ms(rounds: list[PlainRound], contestant: str, field: str) -> float | None:
    """Median of `p50_us`, `p95_us` or `p99_us`, in milliseconds."""
    values = [getattr(each.load, field) for each in of(rounds, contestant)]
    return statistics.median(values) / 1000 if values else None


def added_ms(rounds: list[PlainRound], contestant: str, field: str) -> float | None:
    """What the contestant adds to the upstream asked directly."""
    whole, direct = plain_ms(rounds, contestant, field), plain_ms(rounds, "direct", field)
    return None if whole is None or direct is None else whole - direct


def stream_cpu_us(rounds: list[StreamRound], contestant: str) -> float | None:
    """Median CPU a relayed chunk."""
    values = [each.cpu_us for each in rounds if each.contestant == contestant]
    return statistics.median(values) if values else None
