"""How much of the gateway one chat completion crosses, measured on a real one.

Counted are the Python files of the package in which a function runs while a request with a cached key is
answered (two wallets, limits, a real Redis-protocol server, a real upstream over HTTP), the lines of those
functions with their comments and docstrings, and the whole of the Lua scripts that run.
"""

import asyncio
import inspect
import sys
from collections.abc import MutableMapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec
import pytest

import gateway
from gateway.app import application
from gateway.core.ids import new_id
from gateway.settings import load
from tests.path.conftest import OPERATOR, PEPPER, write_config

PACKAGE = Path(gateway.__file__).parent
FILES_MAX = 16
LINES_MAX = 2000
SCRIPTS = ("reserve_v1.lua", "hold_v1.lua", "settle_v1.lua")


class Seen:
    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            self.codes.add(frame.f_code)

    def files(self) -> dict[str, int]:
        lines: dict[str, set[int]] = {}
        for code in self.codes:
            if code.co_name.startswith("<"):
                continue  # a comprehension or lambda lies inside a function that is counted
            source, first = inspect.getsourcelines(code)
            lines.setdefault(str(Path(code.co_filename).relative_to(PACKAGE)), set()).update(range(first, first + len(source)))
        return {name: len(numbers) for name, numbers in sorted(lines.items())}


async def call(app: Any, method: str, path: str, token: str, body: Any, *, traced: Seen | None = None, **headers: str) -> Any:
    raw = msgspec.json.encode(body)
    named = {"authorization": f"Bearer {token}", "content-type": "application/json", "content-length": str(len(raw)), **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": None, "server": None,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
    }  # fmt: skip
    sent: list[MutableMapping[str, Any]] = []
    parts = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    sys.setprofile(traced)
    try:
        await app(scope, receive, send)
    finally:
        sys.setprofile(None)
    payload = b"".join(message.get("body", b"") for message in sent)
    assert sent[0]["status"] < 300, payload
    return payload


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_chat_completion_crosses_few_files_and_lines(tmp_path: Path, upstream_url: str, streamed: bool) -> None:
    config = write_config(tmp_path, upstream_url)
    settings = load(
        {
            "MOZAIKS_CONFIG": str(config),
            "MOZAIKS_DATA_DIR": str(tmp_path / "data"),
            "MOZAIKS_OPERATOR_TOKEN": OPERATOR,
            "MOZAIKS_KEY_PEPPER": PEPPER,
            "MOZAIKS_INLINE_WORKER": "false",
        }
    )
    front = application(settings)
    starlette: Any = front._behind
    async with starlette.router.lifespan_context(starlette):

        async def manage(path: str, body: Any) -> Any:
            return msgspec.json.decode(
                await call(front, "POST", "/api/v1" + path, OPERATOR, body, idempotency_key=new_id("idem"))
            )

        await manage("/creators", {"user_id": "c", "name": "c"})
        app = {"enterprise_id": "a", "user_id": "c", "name": "a", "cost_policy": "creator_pays", "markup_percent": "10"}
        await manage("/apps", app)
        key = (await manage("/apps/a/keys", {"name": "k", "level": "app_usage", "limits": {"rpm": 100, "tpm": 100_000}}))[
            "secret"
        ]
        for wallet in ({"user_id": "c"}, {"enterprise_id": "a", "platform_user_id": "u"}):
            await manage("/grants", {"wallet": wallet, "amount_micro": 10**6, "source": "promo", "reason": "test"})
        body = {"model": "ok", "messages": [{"role": "user", "content": "hi"}], "stream": streamed, "max_tokens": 50}
        seen = Seen()
        for traced in (None, None, seen):  # cached key, loaded price book, pooled connection: then it is looked at
            answer = await call(front, "POST", "/v1/chat/completions", key, body, traced=traced, x_platform_user_id="u")
            assert b"tok0" in answer
    files = seen.files()
    scripts = {name: len((PACKAGE / "balance" / "lua" / name).read_text().splitlines()) for name in SCRIPTS}
    print("\n".join(f"{lines:5d}  {name}" for name, lines in {**files, **scripts}.items()))
    print(f"{sum(files.values()) + sum(scripts.values()):5d}  lines in {len(files)} Python files and {len(scripts)} scripts")
    assert "proxy/exchange.py" in files
    assert "balance/redis_balance.py" in files
    assert len(files) <= FILES_MAX
    assert sum(files.values()) + sum(scripts.values()) <= LINES_MAX
