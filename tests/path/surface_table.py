"""Which surfaces each provider serves: what is asked of a running gateway, and how its answers are told as a table.

A cell is `native` (the provider's own bytes come through), `translated`, `here` (the gateway makes the answer itself), or `400`
with what the refusal is about. Where a surface streams it is asked both ways; an answer that differs when it is streamed is
told behind a semicolon.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import httpx

SECRET: Final = "sk-made-up-provider-key"
PRICES: Final = {
    "input": "1", "cached_input": "0.5", "output": "10", "images": "0.04", "seconds": "0.0001", "characters": "15",
    "searches": "0.002",
}  # fmt: skip
MESSAGE: Final = {"messages": [{"role": "user", "content": "hello"}]}
PROMPT: Final = {"prompt": "a cat"}
FILE: Final = {"file": b"RIFF"}
# A path's body, and whether it is asked for streamed, too. Bytes go as files of a form.
SURFACES: Final[dict[str, tuple[dict[str, Any], bool]]] = {
    "chat/completions": (MESSAGE, True),
    "completions": ({"prompt": "hello"}, True),
    "embeddings": ({"input": "hello"}, False),
    "messages": ({**MESSAGE, "max_tokens": 50}, True),
    "messages/count_tokens": (MESSAGE, False),
    "responses": ({"input": "hello"}, True),
    "images/generations": (PROMPT, False),
    "images/edits": ({**PROMPT, "image": b"\x89PNG\r\n\x1a\n"}, False),
    "audio/speech": ({"input": "hello", "voice": "alloy", "response_format": "pcm"}, False),
    "audio/transcriptions": (FILE, False),
    "audio/translations": (FILE, False),
    "moderations": ({"input": "hello"}, False),
    "rerank": ({"query": "hello", "documents": ["a"]}, False),
}
_AWS: Final = {"aws_region_name": "eu-west-1", "aws_access_key_id": "AKIAMADEUP", "aws_secret_access_key": "made-up-secret"}
_MEDIA: Final = ["images", "audio", "moderations", "rerank"]


def _row(provider: str, model: str, base: str = "/v1", **more: Any) -> dict[str, Any]:
    return {"provider": provider, "model": model, "api_base": base, **more}


# A row's deployment, and that of its embeddings where it has another one; addresses are below the scripted server's.
ROWS: Final[dict[str, tuple[dict[str, Any], dict[str, Any] | None]]] = {
    "`openai`, and every name that is not listed here": (_row("openai", "m"), None),
    "the same with `speaks: [messages, responses]`": (_row("openai", "m", speaks=["messages", "responses"]), None),
    "`anthropic`": (_row("anthropic", "claude-sonnet-4-5"), None),
    "`azure`": (
        _row("azure", "gpt-4o", "", params={"api_version": "2024-10-21"}),
        _row("azure", "text-embedding-3-small", "", params={"api_version": "2024-10-21"}),
    ),
    "`azure_ai`": (_row("azure_ai", "mistral-large", ""), _row("azure_ai", "Cohere-embed-v3-english", "")),
    "`bedrock`": (
        _row("bedrock", "anthropic.claude-haiku-4-5-20251001-v1:0", "", params=_AWS),
        _row("bedrock", "amazon.titan-embed-text-v2:0", "", params=_AWS),
    ),
    "`cohere_chat` (embeddings: `cohere`)": (
        _row("cohere_chat", "command-a-03-2025", "/v2/chat"), _row("cohere", "embed-v4.0", "/v2/embed")
    ),
    "`deepseek`": (_row("deepseek", "deepseek-chat"), None),
    "`fireworks_ai`": (_row("fireworks_ai", "gpt-oss-120b"), _row("fireworks_ai", "nomic-ai/nomic-embed-text-v1.5")),
    "`gemini`": (_row("gemini", "gemini-2.5-flash", ""), _row("gemini", "gemini-embedding-001", "")),
    "`groq`": (_row("groq", "openai/gpt-oss-120b"), None),
    "`mistral`": (_row("mistral", "mistral-large-latest"), _row("mistral", "mistral-embed")),
    "`ollama_chat` (embeddings: `ollama`)": (_row("ollama_chat", "llama3", ""), _row("ollama", "nomic-embed-text", "")),
    "`openrouter`": (_row("openrouter", "openai/gpt-4o"), _row("openrouter", "openai/text-embedding-3-small")),
    "`perplexity`": (_row("perplexity", "sonar"), None),
    "`together_ai`": (_row("together_ai", "openai/gpt-oss-120b"), _row("together_ai", "BAAI/bge-base-en-v1.5")),
    "`voyage`, `jina_ai`": (_row("voyage", "voyage-3"), None),
    "`xai`": (_row("xai", "grok-4.3"), None),
    "any of these with `speaks: [images, audio, moderations, rerank]`": (
        _row("mistral", "my-own", speaks=_MEDIA), _row("mistral", "mistral-embed")
    ),
    "`demo`": ({"provider": "demo", "model": "demo"}, None),
}  # fmt: skip


def models(base: str) -> list[dict[str, Any]]:
    """The gateway's models: one for each row, and one more where embeddings have their own."""
    found = []
    for place, (deployment, embeds) in enumerate(ROWS.values()):
        found.append(_model(f"row-{place}", base, deployment))
        if embeds is not None:
            found.append(_model(f"row-{place}-embeddings", base, embeds))
    return found


def _model(name: str, base: str, deployment: dict[str, Any]) -> dict[str, Any]:
    if "api_base" in deployment:
        deployment = {**deployment, "api_base": base + deployment["api_base"], "api_key": SECRET, "first_byte_timeout_s": 20.0}
    return {"name": name, "deployments": [{**deployment, "output_tokens_max": 1000}], "prices": PRICES}


async def asked(url: str, headers: dict[str, str]) -> list[list[str]]:
    """A cell for each row and surface."""
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        return list(await asyncio.gather(*[_row_of(client, place, name) for place, name in enumerate(ROWS)]))


async def _row_of(client: httpx.AsyncClient, place: int, name: str) -> list[str]:
    deployment, embeds = ROWS[name]
    cells = []
    for surface, (body, streams) in SURFACES.items():
        model = f"row-{place}-embeddings" if embeds is not None and surface == "embeddings" else f"row-{place}"
        asks = [_post(client, surface, {"model": model, **body}, streamed) for streamed in (False, True)[: 1 + streams]]
        told = [_told(surface, answer, deployment["provider"] == "demo") for answer in await asyncio.gather(*asks)]
        cells.append("; ".join(dict.fromkeys(told)))
    return cells


async def _post(client: httpx.AsyncClient, surface: str, body: dict[str, Any], streamed: bool) -> httpx.Response:
    files = {name: (f"{name}.wav", value) for name, value in body.items() if isinstance(value, bytes)}
    if files:
        plain = {name: value for name, value in body.items() if name not in files}
        return await client.post(f"/v1/{surface}", data=plain, files=files)
    return await client.post(f"/v1/{surface}", json={**body, "stream": True} if streamed else body)


def _told(surface: str, answer: httpx.Response, is_demo: bool) -> str:
    if answer.status_code != 200:
        error = answer.json()["error"]
        if "is not served for models of" in error["message"]:
            return f"{answer.status_code} not served"
        return f"{answer.status_code} `{error.get('param')}`"
    if '"x_own"' in answer.text or surface == "audio/speech":
        return "native"
    return "here" if is_demo or surface == "messages/count_tokens" else "translated"


def claimed_too_much(listed: dict[str, list[str] | None], rows: Sequence[Sequence[str]]) -> list[str]:
    """What `/v1/models` says that a model serves, by its name, and it does not."""
    found = []
    for place, cells in enumerate(rows):
        for surface, cell in zip(SURFACES, cells, strict=True):
            name = (
                f"row-{place}-embeddings" if surface == "embeddings" and f"row-{place}-embeddings" in listed else f"row-{place}"
            )
            if f"/{surface}" in (listed[name] or ()) and cell.startswith("400"):
                found.append(f"{name} {surface}: {cell}")
    return found


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table of a document; surfaces that are served alike everywhere share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for place, surface in enumerate(SURFACES):
        columns.setdefault(tuple(row[place] for row in rows), []).append(surface)
    lines = [
        "| provider | " + " | ".join(", ".join(names) for names in columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for place, name in enumerate(ROWS):
        lines.append(f"| {name} | " + " | ".join(cells[place] for cells in columns) + " |")
    return "\n".join(lines)
