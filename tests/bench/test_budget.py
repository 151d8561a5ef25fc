"""Verdicts of the budget: which way each figure must fall, and what spoils a run."""

from pathlib import Path

import msgspec

from bench import budget, report
from bench.measure import GATEWAY
from bench.plain_load import PlainLoad
from bench.results import PlainRound, Results, StreamRound
from bench.rivals import ANSWER_BYTES, fixed_answer
from bench.stream_load import StreamLoad
from bench.subject import Books


def plain(contestant: str, cpu_us: float, p50_us: int) -> PlainRound:
    return PlainRound(contestant, cpu_us, 0.0, PlainLoad(1000, 0, 0, 1000.0, p50_us, 2 * p50_us, 3 * p50_us))


def streams(frames: int, late_s: float) -> StreamRound:
    return StreamRound(GATEWAY, 20, 30.0, 200.0, late_s, StreamLoad(1000, 1000, 0, 0, frames, 104_000, 7.0, 300, 900, 5000))


def verdicts(results: Results) -> dict[str, str]:
    return {line.figure: line.verdict for line in budget.lines(results)}


def test_a_figure_is_the_median_of_its_rounds_and_what_is_added_is_over_the_upstream() -> None:
    full = [plain("nginx", 20, 1), plain("nginx", 24, 1), *[plain(GATEWAY, cpu, 1) for cpu in (100, 200, 900)]]
    results = Results({}, {}, full_load=full, one_connection=[plain("direct", 10, 30), plain(GATEWAY, 200, 430)])
    values = {line.figure: line.value for line in budget.lines(results)}
    assert values["CPU per non-streamed request"] == 200
    assert values["CPU per request, times nginx's"] == 200 / 22
    assert values["p50 added at 1 connection"] == 0.4
    assert verdicts(results)["p50 added at 1 connection"] == "pass, aim"
    assert verdicts(results)["CPU per non-streamed request"] == "pass"


def test_a_figure_outside_its_must_fails_and_one_not_measured_says_so() -> None:
    results = Results({}, {}, full_load=[plain(GATEWAY, 301, 1)])
    assert verdicts(results)["CPU per non-streamed request"] == "FAIL"
    assert verdicts(results)["drain into SQLite"] == "not measured"
    assert not report.good(results)


def test_streams_are_carried_only_when_nothing_is_dropped_and_none_is_late() -> None:
    figure = "streams at 20 chunks/s carried, nothing dropped"
    for round_, verdict in ((streams(104_000, 0.2), "pass"), (streams(103_999, 0.2), "FAIL"), (streams(104_000, 1.5), "FAIL")):
        assert verdicts(Results({}, {}, many_streams=[round_]))[figure] == verdict


def test_books_that_disagree_spoil_the_run() -> None:
    fine = Results({}, {}, books=[Books("plain", "app", 10, 10, 0, "")])
    assert report.good(fine)
    for wrong in (Books("plain", "app", 10, 11, 0, ""), Books("plain", "app", 10, 10, 1, "")):
        assert not report.good(Results({}, {}, books=[wrong]))


def test_the_written_results_hold_the_raw_rounds_and_the_verdicts(tmp_path: Path) -> None:
    table = report.write(Results({"cpu": "x"}, {}, full_load=[plain(GATEWAY, 301, 1)]), tmp_path)
    written = msgspec.json.decode((tmp_path / "latest.json").read_bytes())
    assert written["full_load"][0]["cpu_us"] == 301
    assert written["budget"][0]["verdict"] == "FAIL"
    assert "| CPU per non-streamed request | 301 us | <= 300 | <= 150 | FAIL |" in (tmp_path / "latest.md").read_text()
    assert "CPU per non-streamed request" in table


def test_the_fixed_answer_has_its_size() -> None:
    assert len(fixed_answer()) == ANSWER_BYTES
    assert msgspec.json.decode(fixed_answer())["usage"]["total_tokens"] == 86
