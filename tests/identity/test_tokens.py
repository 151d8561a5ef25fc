"""End-user tokens: what is not signed by us, for this app, is nothing."""

import base64
import json
from typing import Any

import jwt
import msgspec
import pytest

from gateway.identity import tokens

PEPPER = b"pepper" * 6
CLAIMS = tokens.Claims(aud="shop", sub="u1", jti="tok_1", iat=1, exp=2**33, models=("gpt-*",), spend=5, rpm=7)


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_token_brings_back_its_claims_and_its_key() -> None:
    token = tokens.sign(PEPPER, CLAIMS, "key_1")
    assert token.startswith("mzu_")
    assert tokens.key_id_of(token) == "key_1"
    assert tokens.verify(PEPPER, token, "shop") == CLAIMS


def test_a_token_is_of_no_use_in_another_app_or_under_another_pepper() -> None:
    token = tokens.sign(PEPPER, CLAIMS, "key_1")
    for pepper, app in ((PEPPER, "other"), (b"x" * 32, "shop")):
        with pytest.raises(tokens.TokenInvalid):
            tokens.verify(pepper, token, app)


def test_an_audience_must_be_this_app_even_under_its_own_key() -> None:
    payload = msgspec.to_builtins(CLAIMS)
    for audience in ("other", ["shop", "other"]):
        forged = "mzu_" + jwt.encode({**payload, "aud": audience}, tokens.signing_key(PEPPER, "shop"), "HS256")
        with pytest.raises(tokens.TokenInvalid):
            tokens.verify(PEPPER, forged, "shop")


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
@pytest.mark.parametrize("algorithm", ["HS512", "HS384", "none"])
def test_only_hs256_is_accepted(algorithm: str) -> None:
    key: Any = None if algorithm == "none" else tokens.signing_key(PEPPER, "shop")
    forged = "mzu_" + jwt.encode(msgspec.to_builtins(CLAIMS), key, algorithm, {"kid": "key_1"})
    with pytest.raises(tokens.TokenInvalid):
        tokens.verify(PEPPER, forged, "shop")


@pytest.mark.parametrize("claim", ["aud", "sub", "jti", "iat", "exp"])
def test_every_claim_is_required(claim: str) -> None:
    payload = {name: value for name, value in msgspec.to_builtins(CLAIMS).items() if name != claim}
    with pytest.raises(tokens.TokenInvalid):
        tokens.verify(PEPPER, "mzu_" + jwt.encode(payload, tokens.signing_key(PEPPER, "shop"), "HS256"), "shop")


def test_a_changed_payload_breaks_the_signature() -> None:
    head, _, signature = tokens.sign(PEPPER, CLAIMS, "key_1").removeprefix("mzu_").split(".")
    payload = {**msgspec.to_builtins(CLAIMS), "sub": "u2"}
    with pytest.raises(tokens.TokenInvalid):
        tokens.verify(PEPPER, f"mzu_{head}.{_part(payload)}.{signature}", "shop")


GARBAGE = ["mzu_", "mzu_a.b.c", "mzu_..", f"mzu_{_part([])}.{_part({})}.x", f"mzu_{_part({'kid': 1})}.{_part({})}.x"]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_is_told_as_such(text: str) -> None:
    with pytest.raises(tokens.TokenInvalid):
        tokens.key_id_of(text)
    with pytest.raises(tokens.TokenInvalid):
        tokens.verify(PEPPER, text, "shop")
