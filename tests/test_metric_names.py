"""What Prometheus scrapes is named as Prometheus names things: a unit at the end, base units, `_total` for counters alone."""

import re
from pathlib import Path

from gateway.cli.audit import textfile
from gateway.ledger.audit import AuditReport, Check
from gateway.metrics import _FAMILIES

ROOT = Path(__file__).parent.parent
_AUDIT = textfile(AuditReport((Check("1 what", True, 1, 0, ()),)), 1, 2, 0.5)
_KINDS = {name: kind for name, (kind, _) in _FAMILIES.items()} | dict(re.findall(r"# TYPE (\w+) (\w+)", _AUDIT))
# Of OpenMetrics' and promtool's rules: not milliseconds, not the kind of metric, not what a scrape adds to a histogram.
_ODD = re.compile(r"_(ms|milliseconds|micros?|us|minutes|hours|kb|mb|percent|counter|gauge|histogram|bucket|count|sum)(_|$)")


def test_each_metric_has_a_conventional_name_and_a_sentence() -> None:
    assert len(_KINDS) > 20
    for name, kind in _KINDS.items():
        assert re.fullmatch(r"mozaiks_[a-z]+(_[a-z]+)*", name), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert not _ODD.search(name), name
        assert "seconds" not in name or name.endswith("_seconds"), name
        assert kind != "histogram" or name.endswith(("_seconds", "_bytes")), name
    assert all(means.endswith(".") for _, means in _FAMILIES.values())


def test_each_metric_that_the_docs_name_is_there() -> None:
    told = "\n".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    named = set(re.findall(r"`(mozaiks_[a-z_]+)\b(?!\.prom)", told))
    assert named
    assert named <= _KINDS.keys()
