"""Verdicts of the budget: which way each figure must fall, and what spoils a run."""

from pathlib import Path

import msgspec

from bench import budget, report
from bench.cases import ANSWER_BYTES, chat_answer
from bench.contestants import GATEWAY, NOTES
from bench.peers.install import LITELLM, PORTKEY
from bench.plain_load import PlainLoad
from bench.results import PlainRound, Results, StreamRound
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


def test_ratios_to_the_peers_are_of_cpu_and_not_measured_without_them() -> None:
    figures = (f"requests per CPU second, times {LITELLM}'s", f"requests per CPU second, times {PORTKEY}'s")
    ours = plain(GATEWAY, 200, 1)
    alone = verdicts(Results({}, {}, full_load=[ours]))
    assert [alone[figure] for figure in figures] == ["not measured", "not measured"]
    for litellm_us, portkey_us, expected in (
        (10_000, 500, ["pass", "pass"]),
        (9_999, 499, ["FAIL", "FAIL"]),
        (22_000, 1_000, ["pass, aim", "pass, aim"]),
    ):
        found = verdicts(Results({}, {}, full_load=[ours, plain(LITELLM, litellm_us, 1), plain(PORTKEY, portkey_us, 1)]))
        assert [found[figure] for figure in figures] == expected


def test_failures_are_counted_and_what_was_left_out_is_said(tmp_path: Path) -> None:
    load = PlainLoad(990, 5, 3, 1000.0, 10, 20, 30, p95_us=15, wrong=2)
    rounds = [plain("nginx", 20, 1), PlainRound(GATEWAY, 200.0, 0.0, load)]
    results = Results({}, {}, full_load=rounds, skipped=["LiteLLM proxy was not installed"], notes=NOTES)
    report.write(results, tmp_path)
    text = (tmp_path / "latest.md").read_text()
    assert "| gateway | 200 | 5000 | 10.00 x | 1000 | 0.01 | 0.01 | 0.02 | 10 | 0 | 200 |" in text
    assert "- LiteLLM proxy was not installed" in text
    assert f"- gateway: {NOTES[GATEWAY]}." in text
    assert "Portkey" not in text.partition("## Budget")[0]
    assert report.read(tmp_path) == results


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
    assert len(chat_answer()) == ANSWER_BYTES
    assert msgspec.json.decode(chat_answer())["usage"]["total_tokens"] == 86
