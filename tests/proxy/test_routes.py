"""The endpoint on an ASGI server that is not ours."""

from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from gateway.core.limits import BODY_BYTES_MAX
from gateway.proxy.routes import ModelEndpoint, Traffic
from tests.proxy.test_exchange import House, Reply


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_body_without_a_length_is_bounded_however_it_comes(parts: int) -> None:
    house = House(Reply([]))
    endpoint = ModelEndpoint("/chat/completions", house.exchange, cast(Any, house), Traffic())
    pieces = [b"x" * BODY_BYTES_MAX, b"x"] if parts == 2 else [b"x" * (BODY_BYTES_MAX + 1)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer mzk_made_up"), (b"transfer-encoding", b"chunked")]
    await endpoint({"type": "http", "headers": headers}, receive, send)
    assert sent[0]["status"] == 413
