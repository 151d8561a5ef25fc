"""What options take: amounts, times, spans; and the sentence for what they do not take."""

from datetime import UTC, datetime

import click
import pytest

from gateway.cli import values
from gateway.core.clock import now_ms


def parsed(kind: values.Moment, text: str) -> str:
    found: str = kind.convert(text, None, None)
    return found


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("2026-12-31", "2026-12-31T00:00:00.000Z"),
        ("2026-12-31T23:59:59Z", "2026-12-31T23:59:59.000Z"),
        ("2026-12-31 23:59:59.25+02:00", "2026-12-31T21:59:59.250Z"),
        ("2026-12-31t00:00:00z", "2026-12-31T00:00:00.000Z"),
    ],
)
def test_a_time_is_rfc_3339_or_a_date_in_utc(said: str, means: str) -> None:
    assert parsed(values.MOMENT, said) == means
    assert parsed(values.AGO, said) == means


@pytest.mark.parametrize(("said", "ms"), [("30d", 30 * 86_400_000), ("12h", 12 * 3_600_000), ("90m", 90 * 60_000), ("0m", 0)])
def test_a_span_counts_from_now_on_or_back(said: str, ms: int) -> None:
    for kind, sign in ((values.MOMENT, 1), (values.AGO, -1)):
        before = now_ms()
        at = datetime.fromisoformat(parsed(kind, said))
        assert at.tzinfo == UTC
        assert before <= round(at.timestamp() * 1000) - sign * ms <= now_ms()


@pytest.mark.parametrize(
    "said",
    [
        "",
        "soon",
        "30",
        "30 d",
        "-30d",
        "30D",
        "1.5h",
        "2026-13-01",
        "2026-02-30",
        "2026-12-31T23:59:59",
        "9999999d",
        "2026-W01-1",
        "none",
    ],
)
def test_what_is_no_time_is_refused_with_a_sentence_that_shows_it(said: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        parsed(values.MOMENT, said)
    assert repr(said) in refused.value.message
    assert refused.value.message.endswith(".")


@pytest.mark.parametrize("said", ["1_000", "-1", "1.5", "٣", "1" * 19])
def test_a_count_is_plain_digits(said: str) -> None:
    with pytest.raises(click.BadParameter):
        values.COUNT.convert(said, None, None)
    assert values.COUNT.convert("7", None, None) == 7


@pytest.mark.parametrize(("seconds", "shown"), [(1, "1m"), (60, "1m"), (5_400, "90m"), (43_200, "12h"), (2_592_000, "30d")])
def test_seconds_are_shown_as_a_span_that_can_be_typed(seconds: int, shown: str) -> None:
    assert values.Span.shown(seconds) == shown
    assert values.SPAN.convert(shown, None, None) == max(seconds, 60)


def test_none_is_null_where_it_may_be_said_and_nothing_elsewhere() -> None:
    for kind in (values.COUNT_OR_NONE, values.AMOUNT_OR_NONE, values.MOMENT_OR_NONE):
        assert kind.convert("none", None, None) is values.NONE
    for plain in (values.COUNT, values.AMOUNT, values.MOMENT):
        with pytest.raises(click.BadParameter):
            plain.convert("none", None, None)
    assert values.AMOUNT.convert("0.25", None, None) == 250_000
