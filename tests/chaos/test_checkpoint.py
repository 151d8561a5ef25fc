"""A gateway that dies in mid-stream: what the stream had made by its last sign of life is paid, and not more."""


import pytest

from gateway.core.ids import shard_of
from tests.chaos.house import CREATOR, House
from tests.chaos.taps import until
from tests.chaos.test_shutdown import Caller

HOLD_TTL_S = 5  # so signs come every 1.25 s


@pytest.fixture
def settings() -> dict[str, str]:
    return {"MOZAIKS_HOLD_TTL_S": str(HOLD_TTL_S)}


@pytest.mark.timeout(120)
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
