"""The peers are pinned whole, and their files name no address to fetch them from."""

import json
from pathlib import Path

from bench.cases import EMBEDDINGS, FURTHER, LONG_PROMPT, embedding_answer
from bench.peers import install

PINS = Path(install.__file__).parent


def test_every_package_of_a_peer_is_pinned_to_one_version() -> None:
    lines = (PINS / "litellm.txt").read_text().split()
    assert len(lines) > 50
    assert not [line for line in lines if line.count("==") != 1 or "@" in line]
    locked = json.loads((PINS / "package-lock.json").read_text())["packages"]
    asked = json.loads((PINS / "package.json").read_text())
    assert locked["node_modules/@hono/node-server"]["version"] == asked["overrides"]["@hono/node-server"]
    assert locked["node_modules/@portkey-ai/gateway"]["version"] == asked["dependencies"]["@portkey-ai/gateway"]
    assert not [name for name, package in locked.items() if name and "integrity" not in package]


def test_no_pin_names_where_it_is_fetched() -> None:
    for path in (PINS / "litellm.txt", PINS / "package.json", PINS / "package-lock.json"):
        assert "://" not in path.read_text(), path
    assert '"resolved"' not in (PINS / "package-lock.json").read_text()


def test_a_case_is_as_large_as_it_says() -> None:
    assert 100_000 < len(LONG_PROMPT.body) < 104_000
    vector = json.loads(embedding_answer())["data"][0]["embedding"]
    assert len(vector) == 1536
    assert EMBEDDINGS.answer_bytes == len(embedding_answer())
    assert all(json.loads(case.body)["model"] for case in FURTHER)


def test_an_answer_written_anew_may_differ_in_length_and_one_passed_on_may_not() -> None:
    case = LONG_PROMPT
    assert (case.least_bytes(exact=True), case.most_bytes(exact=True)) == (case.answer_bytes, case.answer_bytes)
    assert case.least_bytes(exact=False) < case.answer_bytes
    assert case.most_bytes(exact=False) == 0
