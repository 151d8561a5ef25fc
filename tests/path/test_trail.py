"""The trail and the audit as an operator runs them: commands, exit statuses, a pinned head, a file for Prometheus."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.path.test_demo import Demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo"))
    try:
        running.start()
        yield running
    finally:
        running.process.stop()


def gauges(file: Path) -> dict[str, float]:
    """The samples of a file in Prometheus' text format; each metric has its HELP and TYPE before its samples, once."""
    found, named = {}, []
    text = file.read_text()
    assert text.endswith("\n")
    for line in text.splitlines():
        told = re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line)
        if told is not None:
            named.append((told[1], told[2]))
            assert told[1] == "HELP" or told[3] == "gauge"
            continue
        sample = re.fullmatch(r'(\w+)((?:\{\w+="[^"\\\n]*"(?:,\w+="[^"\\\n]*")*\})?) (\d+(?:\.\d+)?)', line)
        assert sample is not None, line
        assert ("TYPE", sample[1]) in named
        assert sample[1] + sample[2] not in found
        found[sample[1] + sample[2]] = float(sample[3])
    assert len(named) == len(set(named))
    return found


def test_the_commands_tell_who_did_what_and_notice_what_was_done_to_it(demo: Demo, tmp_path: Path) -> None:
    shown = demo.cli("trail", "show")
    for act in ("creator.create", "app.create", "key.create", "prices.configure"):
        assert shown.count(act) == 1
    own = json.loads(demo.cli("trail", "show", "--app", "demo-app", "--json"))["data"]
    (grant,) = [line for line in own if line["act"] == "grant.create"]
    assert (grant["chain"], grant["reason"], grant["actor"]) == ("app", "demo balance", "demo")
    heads = tmp_path / "heads"
    heads.write_text(demo.cli("trail", "head"))
    assert [line.split(" ", 2)[2] for line in heads.read_text().splitlines()] == ["platform", "app demo-app"]
    pinned = heads.read_text().split()[0]
    assert demo.cli("trail", "verify", "--head", pinned, "--heads", str(heads)).count("ok ") == 2
    demo.cli("grants", "create", "--app", "demo-app", "--end-user", "demo-user", "--amount", "1", "--reason", "more")
    assert "BROKEN" not in demo.cli("trail", "verify", "--heads", str(heads))

    for wrong in (["--head", "abc"], ["--app", "nowhere"], ["--heads", str(tmp_path / "none")], ["--nonsense"]):
        demo.cli("trail", "verify", *wrong, status=2)
    assert "is not in" in demo.cli("trail", "verify", "--head", "f" * 64, status=1)

    # The last line of the platform's chain goes, and its head is set back, by whoever owns the file.
    metrics = tmp_path / "audit.prom"
    file = Path(demo.env["MOZAIKS_DATA_DIR"]) / "platform.sqlite"
    with closing(sqlite3.connect(file)) as conn, conn:
        for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            conn.execute(f"DROP TRIGGER {name}")
        last = conn.execute("SELECT MAX(seq) FROM trail").fetchone()[0]
        conn.execute("UPDATE trail_head SET seq = seq - 1, hash = (SELECT prev_hash FROM trail WHERE seq = ?)", (last,))
        conn.execute("DELETE FROM trail WHERE seq = ?", (last,))
    assert "BROKEN" not in demo.cli("trail", "verify")
    found = json.loads(demo.cli("trail", "verify", "--heads", str(heads), "--json", status=1))
    assert (found["ok"], len(found["violations"])) == (False, 1)
    assert f"the head {pinned} is not in platform any more" in found["violations"][0]
    with closing(sqlite3.connect(file)) as conn, conn:
        conn.execute("UPDATE trail SET reason = 'another' WHERE seq = 2")
    assert "BROKEN    platform: line 2 was changed" in demo.cli("trail", "verify", status=1)
    assert "VIOLATED  15 every line of the trail" in demo.cli("audit", "--metrics", str(metrics), status=1)
    violated = {name for name, value in gauges(metrics).items() if name.startswith("mozaiks_audit_violations") and value}
    assert violated == {'mozaiks_audit_violations{invariant="15",check="every line of the trail follows the one before it"}'}
    with closing(sqlite3.connect(file)) as conn, conn:
        conn.execute("UPDATE trail SET reason = '' WHERE seq = 2")
    demo.cli("audit", "--metrics", str(metrics))
    samples = gauges(metrics)
    assert samples["mozaiks_audit_completed"] == 1
    assert samples["mozaiks_audit_last_run_timestamp_seconds"] > 1.7e9
    assert samples["mozaiks_audit_duration_seconds"] > 0
    assert not any(value for name, value in samples.items() if name.startswith("mozaiks_audit_violations"))
    assert sum(name.startswith("mozaiks_audit_checked") for name in samples) == sum("violations{" in name for name in samples) > 9
    assert metrics.stat().st_mode & 0o777 == 0o644  # the collector is another user
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == ["audit.prom"]


def test_an_audit_that_could_not_look_is_neither_clean_nor_a_violation(demo: Demo, tmp_path: Path) -> None:
    metrics = tmp_path / "audit.prom"
    cut_off = Demo(tmp_path)
    cut_off.env |= {"MOZAIKS_DATABASE_URL": f"postgresql+asyncpg://nobody@/none?host={tmp_path}"}
    cut_off.env |= {"MOZAIKS_APP_DATABASE_URL": f"postgresql+asyncpg://nobody@/none_{{enterprise_id}}?host={tmp_path}"}
    cut_off.env |= {"MOZAIKS_OPERATOR_TOKEN": "t" * 24, "MOZAIKS_KEY_PEPPER": "p" * 24, "MOZAIKS_DEMO": "false"}
    (tmp_path / "data").mkdir()
    for command in (["audit", "--metrics", str(metrics)], ["trail", "verify"]):
        cut_off.cli(*command, status=2)
    samples = gauges(metrics)
    assert samples.pop("mozaiks_audit_completed") == 0
    assert not any("violations" in name for name in samples)
    demo.cli("audit", "--metrics", str(tmp_path / "no" / "such.prom"), status=2)
