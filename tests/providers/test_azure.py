"""Azure OpenAI over the byte path: where it is asked, with what key, and when it is not."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gateway.providers.azure import AzureUpstream, as_azure_takes_it, is_azure_itself, is_translated, is_v1
from gateway.providers.direct import DirectUpstream, address_of
from gateway.providers.model import METHOD, Deployment, Headers, Reply, UpstreamFault
from gateway.providers.native import as_spoken_to
from gateway.providers.routing import AsItIs, Upstreams

KEY = "azure-key-made-up-0815"
DATED = {"api_base": "https://res.openai.azure.com", "api_version": "2024-10-21"}


def azure(**changes: Any) -> Deployment:
    fields: dict[str, Any] = {"id": "m/azure/0", "provider": "azure", "model": "my-gpt4o", "api_key": KEY, **DATED}
    return Deployment(**{**fields, **changes})


def asked(path: str, **changes: Any) -> str:
    return address_of(as_spoken_to(azure(**changes), path).api_base, path)


@pytest.mark.parametrize(
    ("path", "changes", "address"),
    [
        ("/chat/completions", {}, "/openai/deployments/my-gpt4o/chat/completions?api-version=2024-10-21"),
        ("/embeddings", {"model": "e3"}, "/openai/deployments/e3/embeddings?api-version=2024-10-21"),
        ("/images/edits", {}, "/openai/deployments/my-gpt4o/images/edits?api-version=2024-10-21"),
        ("/audio/speech", {}, "/openai/deployments/my-gpt4o/audio/speech?api-version=2024-10-21"),
        ("/responses", {}, "/openai/responses?api-version=2024-10-21"),
        ("/models", {}, "/openai/models?api-version=2024-10-21"),
        ("/chat/completions", {"api_base": "https://res.openai.azure.com/openai/deployments/prod/", "model": "gpt-4o"},
         "/openai/deployments/prod/chat/completions?api-version=2024-10-21"),
        ("/responses", {"api_base": "https://res.openai.azure.com/openai/deployments/prod", "model": "gpt-4o"},
         "/openai/responses?api-version=2024-10-21"),
        ("/chat/completions", {"api_base": "https://res.openai.azure.com/openai/v1/", "api_version": ""},
         "/openai/v1/chat/completions"),
        ("/responses", {"api_base": "https://res.openai.azure.com/openai/v1", "api_version": "preview"},
         "/openai/v1/responses?api-version=preview"),
    ],
)  # fmt: skip
def test_addresses_are_azures(path: str, changes: dict[str, Any], address: str) -> None:
    assert asked(path, **changes) == "https://res.openai.azure.com" + address


def test_what_is_asked_for_below_a_base_with_a_query_keeps_both_queries() -> None:
    assert address_of("https://h/openai?api-version=v1", "/responses/r1/input_items?limit=2") == (
        "https://h/openai/responses/r1/input_items?api-version=v1&limit=2"
    )
    assert address_of("https://h/v1/", "/models") == "https://h/v1/models"


@pytest.mark.parametrize("model", ["..", "../x", "a/b", "a?b", "", ".", "gpt 4", "a%2fb"])
def test_a_name_that_can_be_no_deployments_makes_no_address(model: str) -> None:
    with pytest.raises(UpstreamFault) as refused:
        as_azure_takes_it(azure(model=model), "/chat/completions")
    assert not refused.value.sent


def test_the_key_goes_as_azure_has_it_unless_the_configuration_says_otherwise() -> None:
    assert as_azure_takes_it(azure(), "/embeddings").headers == (("api-key", KEY),)
    assert as_azure_takes_it(azure(), "/embeddings").api_key == ""
    own = (("Authorization", "Bearer entra-token"),)
    assert as_azure_takes_it(azure(headers=own), "/embeddings").headers == own
    assert as_azure_takes_it(azure(api_key=""), "/embeddings").headers == ()


def test_what_the_configuration_does_not_say_in_full_is_translated_as_before() -> None:
    assert not is_azure_itself("azure", "https://res.openai.azure.com", "", ())
    assert not is_azure_itself("azure", "https://res.openai.azure.com/openai/v1", "", {"azure_ad_token": "x"})
    assert not is_azure_itself("azure", "", "2024-10-21", ())
    assert not is_azure_itself("openai", "https://h/openai/v1", "", ())
    assert is_azure_itself("azure", "https://res.openai.azure.com/openai/v1/", "", ())
    assert is_translated(azure(api_version=""))
    assert is_translated(azure(provider="mistral"))
    assert not is_translated(azure())
    assert not is_v1("https://res.openai.azure.com/openai/v1x")


class Translated:
    """Stands for what translates."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
        self.asked.append(path)
        raise UpstreamFault("translated", sent=False)

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, list[web.Request]]]:
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        seen.append(request)
        return web.json_response({"method": request.method})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def test_requests_reach_azure_with_its_key_alone_and_others_are_translated(server: tuple[str, list[web.Request]]) -> None:
    url, seen = server
    direct, translated = DirectUpstream(), Translated()
    images = frozenset(("/images/generations", "/responses"))
    upstreams = Upstreams(direct, {"azure": AzureUpstream(direct, translated)}, dict.fromkeys(images, AsItIs()))
    dated = azure(api_base=url, speaks=images)
    asked: list[tuple[str, Headers]] = [
        ("/chat/completions", ()), ("/images/generations", ()), ("/responses/r%2D1?include=x", ((METHOD, "GET"),)),
    ]  # fmt: skip
    try:
        for path, headers in asked[:2]:
            reply = await upstreams.send(dated, path, b"{}", headers)
            assert json.loads(await reply.read(5)) == {"method": "POST"}
            await reply.close()
        reply = await upstreams.direct.send(as_spoken_to(dated, "/responses"), *asked[2][:1], b"", asked[2][1])
        assert json.loads(await reply.read(5)) == {"method": "GET"}
        await reply.close()
        with pytest.raises(UpstreamFault, match="translated"):
            await upstreams.send(azure(api_base=url, api_version=""), "/chat/completions", b"{}")
    finally:
        await upstreams.close()
    assert [str(request.rel_url) for request in seen] == [
        "/openai/deployments/my-gpt4o/chat/completions?api-version=2024-10-21",
        "/openai/deployments/my-gpt4o/images/generations?api-version=2024-10-21",
        "/openai/responses/r%2D1?api-version=2024-10-21&include=x",
    ]
    assert {request.headers["api-key"] for request in seen} == {KEY}
    assert not any("Authorization" in request.headers for request in seen)
    assert translated.asked == ["/chat/completions"]
