"""A gateway that dies in mid-stream, or stands still for as long: what the stream had made by its last sign of life is paid."""

import asyncio
import os
import signal

import pytest

from gateway.core.ids import shard_of
from tests.chaos.house import CREATOR, House
from tests.chaos.taps import until
from tests.chaos.test_shutdown import Caller

HOLD_TTL_S = 5  # so signs come every 1.25 s


@pytest.fixture
def settings() -> dict[str, str]:
    return {"MOZAIKS_HOLD_TTL_S": str(HOLD_TTL_S)}


@pytest.mark.timeout(300)
async def test_the_sweeper_settles_a_dead_gateways_stream_at_its_checkpoint(house: House) -> None:
    shard, wallet = shard_of(CREATOR), f"p/{CREATOR}"
    [before] = await house.direct.read(shard, [wallet])
    assert before is not None
    # One that outlives its first deadline and ends by itself, beside one that will not.
    whole = Caller(house, "whole", "ok:tokens=200,ms=35", streamed=True)
    cut = Caller(house, "cut", "ok:tokens=1000,ms=35", streamed=True)
    await whole.task
    assert whole.text.endswith(b"data: [DONE]\n\n"), "a stream that lives is not swept"
    house.kill("gateway")
    await cut.task
    delivered = cut.text.count(b" tok")
    assert delivered > 150
    await until(house.nothing_held, "the worker's sweeper ends the hold", 60)
    await house.restart("gateway")
    await house.drained()
    sql = "SELECT session_id, status, usage_source, output_tokens, amount_micro, creator_micro FROM usage"
    rows = {row[0]: row[1:] for row in await house.rows(sql)}
    assert set(rows) == {"whole", "cut"}
    assert rows["whole"][:2] == ("served", "upstream")
    status, source, tokens, amount_micro, creator_micro = rows["cut"]
    assert (status, source) == ("abandoned", "counted")
    # Each " tokN" is two or three tokens by the tokenizer that counts where the provider did not say.
    assert 100 < tokens <= 4 * delivered
    assert amount_micro > 0
    assert creator_micro > 0
    [after] = await house.direct.read(shard, [wallet])
    assert after is not None
    assert (after.available_micro, after.held_micro) == (before.available_micro - creator_micro - rows["whole"][4], 0)
    await house.audit()
    print(f"{delivered} events delivered, {tokens} tokens paid")


@pytest.mark.timeout(300)
async def test_a_gateway_that_stood_still_delivers_nothing_that_is_not_paid(house: House) -> None:
    shard, wallet = shard_of(CREATOR), f"p/{CREATOR}"
    [before] = await house.direct.read(shard, [wallet])
    assert before is not None
    stream = Caller(house, "stream", "patient-stream", streamed=True)
    await asyncio.sleep(3)
    whole = Caller(house, "whole", "patient-model", streamed=False)
    await asyncio.sleep(1.5)
    os.kill(house.gateway.child.pid, signal.SIGSTOP)
    await asyncio.sleep(0.3)
    delivered = stream.text.count(b" tok")
    assert 60 < delivered < 150
    await until(house.nothing_held, "the worker's sweeper ends the holds", 60)
    await asyncio.sleep(8 - HOLD_TTL_S)  # the provider has said it all by now: it waits in the gateway's sockets
    os.kill(house.gateway.child.pid, signal.SIGCONT)
    await asyncio.gather(stream.task, whole.task)
    assert stream.text.count(b" tok") == delivered
    assert (stream.told(), whole.status, whole.told()) == ("balance_unavailable", 503, "balance_unavailable")
    again = Caller(house, "again", "ok", streamed=False)
    await again.task
    assert again.status == 200
    await house.drained()
    sql = "SELECT session_id, status, amount_micro, creator_micro FROM usage"
    rows = {row[0]: row[1:] for row in await house.rows(sql)}
    assert rows["stream"][0] == "abandoned"
    assert rows["stream"][1] > 0
    assert rows.get("whole", ("abandoned", 0, 0))[1:] == (0, 0)
    [after] = await house.direct.read(shard, [wallet])
    assert after is not None
    assert after.available_micro == before.available_micro - rows["stream"][2] - rows["again"][2]
    await house.audit()
