"""What was counted, as plain values that are kept as text, and what is wrong with them beside those that are kept."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

HEADROOM: Final = 0.03  # of what may vary with a harmless change: calls, bytecodes, Redis bytes, rows
HEADROOM_ELSEWHERE: Final = 0.10  # on a version of Python that nobody measured
_STEP_HEADROOM: Final = 0.10  # of one step's bytecodes, and no less than a line or two
_STEP_ROOM: Final = 20
_LIBRARY_HEADROOM: Final = 0.10  # asyncio's own change with a patch release; and no less than one
_COPIES_HEADROOM: Final = 0.25  # of a body

Functions = dict[str, tuple[float, float, float]]  # Python calls, calls into C, bytecodes


class Redis(msgspec.Struct, frozen=True):
    """Of one request. `commands` by name, those inside scripts too; bytes as the server counts them."""

    round_trips: float
    commands: dict[str, float]
    bytes_in: float
    bytes_out: float


class Case(msgspec.Struct, frozen=True):
    """One request, or one chunk of a stream. A name that begins with `~` is a library's."""

    functions: Functions
    steps: dict[str, tuple[float, float, float, float]]  # as above, then Python calls in libraries
    json: dict[str, dict[str, float]]  # "decode" and "encode": by whom
    redis: Redis | None = None
    sql: float = 0

    def total(self, column: int) -> float:
        """Of all functions of the package: column 0 Python calls, 1 calls into C, 2 bytecodes."""
        return sum(counts[column] for name, counts in self.functions.items() if name[0] != "~")

    @property
    def library_calls(self) -> float:
        """Python calls in libraries."""
        return sum(counts[0] for name, counts in self.functions.items() if name[0] == "~")

    def coded(self, way: str) -> float:
        """JSON documents decoded or encoded."""
        return sum(self.json.get(way, {}).values())


class Drained(msgspec.Struct, frozen=True):
    """1,000 usage events moved into the books. `statements` by verb and table; `rows` are sets of parameters sent."""

    statements: dict[str, int]
    rows: int
    commits: int
    redis_commands: dict[str, int]
    redis_round_trips: int


class Counts(msgspec.Struct, frozen=True):
    """One run on one version of Python. `body_blocks`: memory taken in blocks of a body's size or more, in bodies, by function.

    `connections` were opened upstream during `requests` requests, one after the other.
    """

    python: str
    cases: dict[str, Case]
    body_blocks: dict[str, float]
    requests: int
    connections: int
    drains: dict[str, Drained]


def problems(now: Counts, kept: Mapping[str, Counts]) -> list[str]:
    """What has grown beyond its bound: one text each, which says by how much and where. Fewer is never a problem."""
    known = now.python in kept
    before = kept[now.python] if known else kept[max(kept, key=_version)]
    found: list[str] = []
    for name, case in now.cases.items():
        found += _of_case(name, case, before.cases[name], HEADROOM if known else HEADROOM_ELSEWHERE, bytecodes=known)
    blocks, bound = sum(now.body_blocks.values()), sum(before.body_blocks.values())
    if blocks > bound + _COPIES_HEADROOM:
        what = "a large request takes more memory in blocks of its body's size (a copy of the body?)"
        found.append(_told(what, blocks, bound, _COPIES_HEADROOM, _grown(now.body_blocks, before.body_blocks)))
    if now.connections > before.connections:
        where = f"{now.requests} requests, one after the other"
        found.append(_told(f"connections opened upstream for {where}", now.connections, before.connections, 0, []))
    drains = {name: drained for each in (*kept.values(), before) for name, drained in each.drains.items()}
    for name, drained in now.drains.items():
        if name in drains:
            found += _of_drain(name, drained, drains[name])
    return found


def step_room(bytecodes: float) -> float:
    """How many more bytecodes a step may take."""
    return max(_STEP_ROOM, bytecodes * _STEP_HEADROOM)


def _of_case(name: str, now: Case, kept: Case, headroom: float, *, bytecodes: bool) -> list[str]:
    found = [] if now.redis is None or kept.redis is None else _of_redis(name, now.redis, kept.redis, headroom)
    if now.sql > kept.sql:
        found.append(_told(f"{name}: SQL statements", now.sql, kept.sql, 0, []))
    for way in ("decode", "encode"):
        if now.coded(way) > kept.coded(way):
            where = _grown(now.json.get(way, {}), kept.json.get(way, {}))
            found.append(_told(f"{name}: JSON documents {way}d", now.coded(way), kept.coded(way), 0, where))
    titles = ("Python calls in the package", "calls into C by the package", "bytecodes in the package")
    for column, title in enumerate(titles[: 3 if bytecodes else 2]):
        is_value, was = now.total(column), kept.total(column)
        if is_value > was * (1 + headroom):
            where = _grown(_column(now, column), _column(kept, column))
            found.append(_told(f"{name}: {title}", is_value, was, was * headroom, where))
    for step, counts in now.steps.items() if bytecodes else ():
        was = kept.steps[step][2] if step in kept.steps else 0
        if counts[2] > was + step_room(was):
            found.append(_told(f"{name}: bytecodes of the step `{step}`", counts[2], was, step_room(was), []))
    is_value, was = now.library_calls, kept.library_calls
    if is_value > max(was * (1 + _LIBRARY_HEADROOM), was + 1):
        where = _grown(_column(now, 0, libraries=True), _column(kept, 0, libraries=True))
        found.append(_told(f"{name}: Python calls in libraries", is_value, was, max(1, was * _LIBRARY_HEADROOM), where))
    return found


def _of_redis(name: str, now: Redis, kept: Redis, headroom: float) -> list[str]:
    found = []
    where = _grown(now.commands, kept.commands)
    if now.round_trips > kept.round_trips:
        found.append(_told(f"{name}: Redis round trips", now.round_trips, kept.round_trips, 0, where))
    found += _sum_of(f"{name}: Redis commands", now.commands, kept.commands)
    for what, is_value, was in (("sent to", now.bytes_in, kept.bytes_in), ("got from", now.bytes_out, kept.bytes_out)):
        if is_value > was * (1 + headroom):
            found.append(_told(f"{name}: bytes {what} Redis", is_value, was, was * headroom, []))
    return found


def _of_drain(name: str, now: Drained, kept: Drained) -> list[str]:
    found = _sum_of(f"{name}: SQL statements per 1,000 events", now.statements, kept.statements)
    if now.rows > kept.rows * (1 + HEADROOM):
        found.append(_told(f"{name}: sets of parameters per 1,000 events", now.rows, kept.rows, kept.rows * HEADROOM, []))
    if now.commits > kept.commits:
        found.append(_told(f"{name}: commits per 1,000 events", now.commits, kept.commits, 0, []))
    return found + _sum_of(f"{name}: Redis commands per 1,000 events", now.redis_commands, kept.redis_commands)


def _sum_of(what: str, now: Mapping[str, float], kept: Mapping[str, float]) -> list[str]:
    """What may not be more in all; one for another is no problem."""
    is_value, was = sum(now.values()), sum(kept.values())
    return [_told(what, is_value, was, 0, _grown(now, kept))] if is_value > was else []


def _column(case: Case, column: int, *, libraries: bool = False) -> dict[str, float]:
    return {name: counts[column] for name, counts in case.functions.items() if (name[0] == "~") is libraries}


def _grown(now: Mapping[str, float], kept: Mapping[str, float]) -> list[str]:
    grown = [(value - kept.get(name, 0), name, kept.get(name, 0), value) for name, value in now.items()]
    return [
        f"{more:+g} {name} ({was:g} -> {value:g})" for more, name, was, value in sorted(grown, reverse=True)[:_SHOWN] if more > 0
    ]


_SHOWN: Final = 12


def _told(what: str, now: float, kept: float, room: float, where: Iterable[str]) -> str:
    share = f", {(now - kept) / kept:+.1%}" if kept else ""
    head = f"{what}: {now:g}, the table says {kept:g} and leaves room for {room:.3g} more ({now - kept:+g}{share})"
    return "\n    ".join([head, *where])


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
