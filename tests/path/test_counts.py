"""The regression guard: what a request costs, in counts that are the same on every machine.

`bench.counts` drives the whole application in a process of its own and counts; `bench/results/counts.json` is what it may
cost. After a change that is meant, `make counts` prints and keeps the new table. docs/performance.md says how to read it,
and lists the bugs that were planted to see this fail.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from bench.counts import steps, table
from bench.counts.values import Case, Counts, Drained, problems
from tests.db.conftest import postgres_urls
from tests.path.conftest import ROOT, plain_env

CHAT, EMBEDDINGS, CHUNK = "chat", "embeddings", "each further chunk"


def counted(*arguments: str) -> Counts:
    done = subprocess.run(
        [sys.executable, "-m", "bench.counts", "--json", *arguments],
        env=plain_env(), cwd=ROOT, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=Counts)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    folder = tmp_path_factory.mktemp("books")
    urls = f"sqlite+aiosqlite:///{folder}/platform.db", f"sqlite+aiosqlite:///{folder}/apps/{{enterprise_id}}.db"
    found = counted("--databases", *urls)
    print("\n" + table.told(found))
    return found


def test_nothing_that_a_request_costs_has_grown(counts: Counts) -> None:
    found = problems(counts, table.kept())
    assert not found, "\n" + "\n".join([*found, "If it is meant: make counts"])


@pytest.mark.parametrize("name", [CHAT, EMBEDDINGS, "stream of 20 chunks"])
def test_a_request_is_two_scripts_in_two_round_trips_and_no_sql(counts: Counts, name: str) -> None:
    case = counts.cases[name]
    assert case.redis is not None
    assert (case.redis.round_trips, case.redis.commands["evalsha"]) == (2, 2)
    assert case.sql == 0


def coded(case: Case) -> dict[str, float]:
    return {way: case.coded(way) for way in ("decode", "encode")}


def test_a_request_and_its_answer_are_parsed_once_each_and_a_chunk_not_at_all(counts: Counts) -> None:
    for name in (CHAT, EMBEDDINGS):  # written are the body for upstream, and the two parts of the usage event
        assert coded(counts.cases[name]) == {"decode": 2, "encode": 3}, counts.cases[name].json
    assert coded(counts.cases[CHUNK]) == {"decode": 0, "encode": 0}


def test_requests_one_after_the_other_take_one_connection_upstream(counts: Counts) -> None:
    assert counts.requests > 100
    assert counts.connections == 1


def assert_few_statements(drains: Mapping[str, Drained]) -> None:
    (drained,) = drains.values()
    assert drained.commits == 6  # two batches, into the books of two apps and the platform's
    assert sum(drained.statements.values()) <= 60


def test_a_thousand_events_are_few_statements_on_sqlite(counts: Counts) -> None:
    assert_few_statements(counts.drains)


async def test_a_thousand_events_are_few_statements_on_postgres(postgres_url: str) -> None:
    found = counted("drain", "--databases", *postgres_urls(postgres_url))
    grown = problems(found, table.kept())
    assert not grown, "\n" + "\n".join(grown)
    assert_few_statements(found.drains)


def test_the_table_of_steps_names_what_is_there_and_every_step_is_met(counts: Counts) -> None:
    assert not steps.stale()
    met = {step for case in counts.cases.values() for step, numbers in case.steps.items() if numbers[2]}
    assert met == set(steps.STEPS)


def test_the_readable_table_is_of_the_kept_counts() -> None:
    told = table.KEPT.with_suffix(".txt").read_text()
    version = told.partition("Python ")[2].partition(";")[0]
    assert told == table.told(table.kept()[version]) + "\n"
    assert Path(ROOT / "docs" / "performance.md").exists()
