"""The load looks at answers: what is not the upstream's answer is counted, and no figure is made of it."""

import json

import msgspec
import pytest

from bench import plain_load
from bench.cases import CHAT, EMBEDDINGS
from bench.plain_load import Manner
from bench.processes import Ground
from bench.programs import program
from bench.upstreams import start_upstreams

LINE = {"requests": 100, "refused": 4, "broken": 1, "p50_us": 5, "p95_us": 8, "p99_us": 9, "max_us": 9, "bytes": 70_000,
        "wrong": 2, "body_bytes": 600, "took_s": 4.0}  # fmt: skip


def test_a_slow_contestant_is_counted_over_the_time_until_its_last_answer() -> None:
    line = json.dumps(LINE)
    assert plain_load.read(line, seconds=2.0, max_seconds=True).requests_per_s == 25
    load = plain_load.read(line, seconds=2.0, max_seconds=False)
    assert (load.requests_per_s, load.served, load.failed, load.wire_bytes) == (50, 96, 7, 700)


@pytest.mark.skipif(not (program("nginx") and program("wrk")), reason="the benchmark's own programs are not installed")
def test_every_answer_of_the_upstreams_is_right_and_another_one_would_be_seen() -> None:
    manner = Manner(4, 0.2, checked=True)
    with Ground() as ground:
        direct = start_upstreams(ground).direct()
        for case in (CHAT, EMBEDDINGS):
            load = plain_load.run(ground, direct.doors[case.door], case, manner)
            assert load.served > 0, load
            assert (load.failed, load.body_bytes) == (0, case.answer_bytes), load
        for other in ({"proof": '"total_tokens":87'}, {"answer_bytes": 601}):
            load = plain_load.run(ground, direct.doors["plain"], msgspec.structs.replace(CHAT, **other), manner)
            assert load.wrong == load.served > 0, load
