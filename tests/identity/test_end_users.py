"""Whose wallet pays: sources, their order, and tokens that nobody contradicts."""

import itertools
import json
import random
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.core.errors import Forbidden, GatewayError, InvalidRequest, MissingEndUser
from gateway.core.words import CostPolicy, DisconnectPolicy, Enforcement, HoldPolicy, Level
from gateway.identity.model import END_USER_SOURCES, App, Limits, Principal
from gateway.identity.service import Identity
from gateway.identity.store import Store

PARAMS = {source: source for source in END_USER_SOURCES} | {"metadata": "metadata.platform_user_id"}
UNSIGNED = [source for source in END_USER_SOURCES if source != "token"]


def identity() -> Identity:
    return Identity(Store(None), b"p" * 16)  # type: ignore[arg-type]  # the resolution of end users reads no store


def principal(
    sources: tuple[str, ...] = END_USER_SOURCES,
    *,
    level: Level = Level.APP_USAGE,
    default: str | None = None,
    signed: str | None = None,
) -> Principal:
    app = App(
        enterprise_id="shop",
        user_id="alice",
        name="Shop",
        asset="USD",
        enforcement=Enforcement.PREPAID,
        cost_policy=CostPolicy.PLATFORM_PAYS,
        hold_policy=HoldPolicy.STRICT,
        disconnect_policy=DisconnectPolicy.DRAIN,
        end_user_sources=sources,
        default_end_user=default,
        end_user_limits=Limits(),
        cors_origins=(),
        status="active",
        created_at_ms=0,
    )
    return Principal("key_1", level, app, 0, (), Limits(), platform_user_id=signed, token_id="tok_1" if signed else None)


def request_naming(named: Mapping[str, Any]) -> tuple[dict[bytes, bytes], dict[str, Any]]:
    """Headers and body that name an end user in each of the given sources."""
    headers: dict[bytes, bytes] = {}
    body: dict[str, Any] = {}
    for source, value in named.items():
        if source == "x-portkey-metadata":
            headers[source.encode()] = json.dumps({"_user": value, "other": 1}).encode()
        elif source == "metadata":
            body["metadata"] = {"platform_user_id": value}
        elif source in ("user", "safety_identifier"):
            body[source] = value
        else:
            headers[source.encode()] = str(value).encode()
    return headers, body


def resolve(who: Principal, named: Mapping[str, Any]) -> str | None:
    return identity().resolve_end_user(who, *request_naming(named))


@pytest.mark.parametrize("source", UNSIGNED)
def test_each_source_alone_names_the_end_user(source: str) -> None:
    assert resolve(principal(), {source: "u1"}) == "u1"


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(UNSIGNED, 2)))
def test_of_two_sources_the_earlier_one_counts(first: str, second: str) -> None:
    assert resolve(principal(), {second: "later", first: "earlier"}) == "earlier"


def test_of_any_sources_the_first_accepted_one_counts() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(500):
        present = {source: f"of-{source}" for source in UNSIGNED if chance.random() < 0.5}
        accepted = tuple(source for source in END_USER_SOURCES if chance.random() < 0.5)
        wanted = next((value for source, value in present.items() if source in accepted), None)
        if wanted is None:
            with pytest.raises(MissingEndUser):
                resolve(principal(accepted), present)
        else:
            assert resolve(principal(accepted), present) == wanted


@pytest.mark.parametrize("source", UNSIGNED)
def test_a_source_that_the_app_does_not_accept_is_not_read(source: str) -> None:
    others = tuple(other for other in END_USER_SOURCES if other != source)
    with pytest.raises(MissingEndUser):
        resolve(principal(others), {source: "u1"})
    assert resolve(principal(others, default="shared"), {source: "not an id"}) == "shared"


def test_without_an_end_user_the_default_wallet_counts_or_the_request_is_refused() -> None:
    assert resolve(principal(default="shared"), {}) == "shared"
    assert resolve(principal(default="shared"), {"user": "u1"}) == "u1"
    with pytest.raises(MissingEndUser) as missing:
        resolve(principal(), {})
    assert (missing.value.status, missing.value.code) == (400, "missing_end_user")


def test_the_level_platform_has_no_end_user_whatever_is_sent() -> None:
    assert resolve(principal(level=Level.PLATFORM, default="shared"), dict.fromkeys(UNSIGNED, "u1")) is None


@pytest.mark.parametrize("source", UNSIGNED)
@pytest.mark.parametrize("accepted", [True, False])
def test_nothing_may_contradict_a_token(source: str, accepted: bool) -> None:
    who = principal(END_USER_SOURCES if accepted else ("token",), signed="u1")
    assert resolve(who, {source: "u1"}) == "u1"
    with pytest.raises(Forbidden) as mismatch:
        resolve(who, {source: "u2"})
    assert (mismatch.value.code, mismatch.value.param) == ("end_user_mismatch", PARAMS[source])


def test_a_token_alone_names_the_end_user() -> None:
    assert resolve(principal(signed="u1", default="shared"), {}) == "u1"


def test_one_lie_among_truths_is_still_a_mismatch() -> None:
    for liar in UNSIGNED:
        with pytest.raises(Forbidden):
            resolve(principal(signed="u1"), {source: "u2" if source == liar else "u1" for source in UNSIGNED})


@pytest.mark.parametrize("source", UNSIGNED)
@pytest.mark.parametrize("value", ["has space", "a/b", "x" * 129, "\u00e9", ".", ".."])
def test_a_malformed_id_is_refused_with_its_source(source: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve(principal(), {source: value})
    assert refused.value.param == PARAMS[source]


@pytest.mark.parametrize("value", [5, True, ["u1"], {"a": 1}, 1.5])
@pytest.mark.parametrize("source", ["safety_identifier", "user", "metadata", "x-portkey-metadata"])
def test_an_id_that_is_no_string_is_refused_and_never_matches_a_token(source: str, value: object) -> None:
    with pytest.raises(InvalidRequest):
        resolve(principal(), {source: value})
    with pytest.raises(Forbidden):
        resolve(principal(signed="u1"), {source: value})


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 100_000])
def test_portkey_metadata_that_is_no_json_is_refused(raw: bytes) -> None:
    for who in (principal(), principal(signed="u1")):
        with pytest.raises(InvalidRequest) as refused:
            identity().resolve_end_user(who, {b"x-portkey-metadata": raw}, {})
        assert refused.value.param == "x-portkey-metadata"


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'"u1"', b'{"_user": null}'])
def test_portkey_metadata_without_a_user_names_nobody(raw: bytes) -> None:
    assert identity().resolve_end_user(principal(), {b"x-portkey-metadata": raw}, {"user": "u1"}) == "u1"


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_value_is_no_source(empty: str | None) -> None:
    body = {"safety_identifier": empty, "user": "u1", "metadata": None}
    assert identity().resolve_end_user(principal(), {b"x-platform-user-id": b""}, body) == "u1"
    with pytest.raises(GatewayError):
        identity().resolve_end_user(principal(), {}, {"user": empty, "metadata": "not a mapping"})
