"""Ids of responses: what an owner gets back, and nobody else."""

import base64

import pytest

from gateway.core.words import Level
from gateway.proxy.response_ids import Owner, ResponseIds, Stored

ANN = Owner("app", Level.APP_USAGE, "ann")
STORED = Stored("gpt-*/openai/0=gpt-4o", "resp_0123456789abcdef")
IDS = ResponseIds(b"pepper-made-up-for-tests-only")


def test_the_owner_gets_back_what_was_put_in() -> None:
    text = IDS.issued(ANN, STORED)
    assert text.startswith("resp_")
    assert IDS.opened(ANN, text) == STORED
    assert IDS.issued(ANN, STORED) == text


@pytest.mark.parametrize(
    "other",
    [
        Owner("app2", Level.APP_USAGE, "ann"),
        Owner("app", Level.APP_USAGE, "bob"),
        Owner("app", Level.PLATFORM, "ann"),
        Owner("app", Level.PLATFORM, ""),
        Owner('app","app_usage', Level.APP_USAGE, "ann"),
    ],
)
def test_nobody_else_can_open_it(other: Owner) -> None:
    assert IDS.opened(other, IDS.issued(ANN, STORED)) is None


def test_an_id_of_another_pepper_is_none() -> None:
    assert IDS.opened(ANN, ResponseIds(b"another-pepper").issued(ANN, STORED)) is None


def test_no_byte_of_it_can_be_changed() -> None:
    text = IDS.issued(ANN, STORED)
    raw = base64.urlsafe_b64decode(text[5:] + "=" * (-len(text[5:]) % 4))
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        assert IDS.opened(ANN, "resp_" + base64.urlsafe_b64encode(changed).rstrip(b"=").decode()) is None


@pytest.mark.parametrize(
    "text", ["", "resp_", "resp_!", "resp_é", "resp_" + "A" * 5000, "resp_" + "A" * 40, STORED.response_id, "x"]
)
def test_what_is_no_id_opens_nothing(text: str) -> None:
    assert IDS.opened(ANN, text) is None
