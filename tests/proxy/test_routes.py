"""The endpoint on an ASGI server that is not ours."""

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from gateway.core.limits import BODY_BYTES_MAX, IN_FLIGHT_MAX, LARGE_BODIES_BYTES_MAX
from gateway.proxy.chat import Chat
from gateway.proxy.routes import ModelEndpoint, Traffic
from tests.proxy.test_exchange import House, Reply


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_body_without_a_length_is_bounded_however_it_comes(parts: int) -> None:
    house = House(Reply([]))
    endpoint = ModelEndpoint(Chat(), house.exchange, cast(Any, house), Traffic())
    pieces = [b"x" * BODY_BYTES_MAX, b"x"] if parts == 2 else [b"x" * (BODY_BYTES_MAX + 1)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer mzk_made_up"), (b"transfer-encoding", b"chunked")]
    await endpoint({"type": "http", "headers": headers}, receive, send)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("size", [100_000, 999_999])
async def test_callers_without_money_cannot_fill_the_memory_with_bodies_that_never_end(size: int) -> None:
    house = House(Reply([]))
    endpoint = ModelEndpoint(Chat(), house.exchange, cast(Any, house), Traffic())
    refused: list[int] = []

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            refused.append(message["status"])

    headers = [(b"authorization", b"Bearer mzk_made_up"), (b"content-length", b"%d" % size)]
    room = LARGE_BODIES_BYTES_MAX // size
    assert room < IN_FLIGHT_MAX
    tasks = [asyncio.ensure_future(endpoint({"type": "http", "headers": headers}, receive, send)) for _ in range(room + 3)]
    await asyncio.sleep(0.01)
    assert refused == [503] * 3
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
