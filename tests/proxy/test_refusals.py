"""What is taken out of a provider's words before anybody reads them."""

import pytest

from gateway.providers.model import Deployment
from gateway.proxy.refusals import answer_error, without_secrets

DEPLOYMENT = Deployment(
    id="m/openai/0", provider="openai", model="m", api_base="http://inside.example:8000/v1", api_key="my-odd-secret-0815",
    headers=(
        ("X-Api-Token", "tenant-t0ken"), ("Authorization", "Basic dXNlcjpwYXNz"), ("X-Region", "europe"), ("X-Auth-Mode", "on"),
    ),
    params=(("aws_secret_access_key", "aws-s3cr3t-value"), ("aws_region_name", "eu-west-1"), ("token_limit", 123456)),
)  # fmt: skip


@pytest.mark.parametrize(
    "secret",
    ["my-odd-secret-0815", "tenant-t0ken", "Basic dXNlcjpwYXNz", "dXNlcjpwYXNz", "aws-s3cr3t-value", "inside.example:8000"],
)
def test_no_secret_of_the_configuration_is_told(secret: str) -> None:
    told = without_secrets(f"the value '{secret}' is not accepted", DEPLOYMENT)
    assert told == "the value '[removed]' is not accepted"
    body = b'{"error": {"message": "header %s?", "param": "%s"}}' % (secret.encode(), secret.encode())
    error = answer_error(400, {}, body, DEPLOYMENT, 1)
    assert (error.message, error.param) == ("header [removed]?", "[removed]")


def test_what_is_no_secret_stays() -> None:
    words = "region europe or eu-west-1 is on, with at most 123456 tokens"
    assert without_secrets(words, DEPLOYMENT) == words


def test_of_secrets_that_contain_each_other_nothing_is_left() -> None:
    nested = Deployment("m", "openai", "m", "http://h/v1", "short-key", headers=(("x-key", "short-key-and-more"),))
    assert without_secrets("short-key-and-more", nested) == "[removed]"
