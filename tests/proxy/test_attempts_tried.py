"""How often one request asks providers, in whatever way they fail: each deployment once, and so many retries."""

import asyncio
from typing import Any, Literal

import msgspec
import pytest

from gateway.balance.model import Limit, LimitKind
from gateway.core.errors import GatewayError, Unavailable
from gateway.core.limits import ATTEMPTS_MAX
from gateway.identity.model import Limits
from gateway.pricing.rates import Rates
from gateway.providers.model import Deployment, Headers, UpstreamFault, UpstreamSilent
from tests.proxy.test_attempts import REFUSED, SILENT, Failing, Many, Step, good, pauses_of
from tests.proxy.test_exchange import PRINCIPAL, Reply

JSON, EVENTS = "application/json", "text/event-stream"
TOO_LARGE = UpstreamFault("the upstream's answer is too large", sent=True)
TOO_SLOW = UpstreamSilent("the upstream's answer took too long", sent=True)
FILTERED = b'data: {"error": {"message": "content filter", "code": 403}}\n\ndata: [DONE]\n\n'
WAYS: dict[str, tuple[bool, Any]] = {
    "refused": (False, lambda: REFUSED),
    "silent": (True, lambda: SILENT),
    "status": (False, lambda: Failing(503)),
    "no JSON": (False, lambda: Reply([b"<html>maintenance</html>"], kind=JSON)),
    "too large": (False, lambda: Reply([TOO_LARGE], kind=JSON)),
    "too slow": (False, lambda: Reply([TOO_SLOW], kind=JSON)),
    "an error as the first event": (True, lambda: Reply([FILTERED], kind=EVENTS)),
    "ended before it began": (True, lambda: Reply([], kind=EVENTS)),
}


@pytest.fixture(params=WAYS, ids=[name.replace(" ", "-") for name in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[bool, Any]:
    return WAYS[request.param]


async def test_each_deployment_is_asked_once_however_it_fails(way: tuple[bool, Any]) -> None:
    streamed, fails = way
    house = Many({name: [fails() for _ in range(9)] for name in ("a", "b", "x")}, models={"other": ["x"]})
    with pytest.raises(GatewayError):
        await house.run(stream=streamed, max_tokens=50)
    assert house.asked_in_turn() == ["a", "b", "x"]
    assert await house.wallet() == (1_000_000, 0)


async def test_the_last_one_is_asked_again_as_often_as_retries_says_and_after_pauses(way: tuple[bool, Any]) -> None:
    streamed, fails = way
    house = Many({"a": [fails() for _ in range(9)]}, retries=2)
    pauses: list[float] = []
    with pytest.raises(GatewayError):
        await pauses_of(house, pauses, stream=streamed, max_tokens=50)
    assert house.asked_in_turn() == ["a", "a", "a"]
    assert pauses == [0.5, 1.0]


async def test_ways_to_fail_that_take_turns_share_what_was_tried() -> None:
    broken: list[Step] = [Reply([b"<html>"], kind=JSON), Failing(500), Reply([TOO_LARGE], kind=JSON), REFUSED]
    house = Many({"a": [Reply([b"<html>"], kind=JSON)], "b": [*broken, good()]}, retries=4)
    assert await pauses_of(house, max_tokens=50) == [0.5, 1.0, 2.0, 4.0]
    assert house.asked_in_turn() == ["a", "b", "b", "b", "b", "b"]
    assert house.events()[0].rest.attempts == 6


async def test_there_is_a_bound_on_attempts_whatever_the_configuration_says(way: tuple[bool, Any]) -> None:
    streamed, fails = way
    house = Many({f"d{number}": [fails() for _ in range(9)] for number in range(ATTEMPTS_MAX + 5)})
    with pytest.raises(GatewayError):
        await house.run(stream=streamed, max_tokens=50)
    assert len(house.bodies) == ATTEMPTS_MAX


async def rpm_left(house: Many) -> int:
    [left] = await house.balance.used(PRINCIPAL.shard, [Limit("k/key_1", LimitKind.REQUESTS_PER_MINUTE, 5)])
    return 5 - left


@pytest.mark.parametrize("fails", [REFUSED, SILENT, *[Failing(status) for status in (400, 403, 422, 429, 503)]])
async def test_a_request_counts_on_rpm_unless_no_provider_got_it(fails: Step) -> None:
    house = Many({"a": [fails]})
    house.principal = msgspec.structs.replace(PRINCIPAL, limits=Limits(rpm=5))
    with pytest.raises(GatewayError):
        await house.run(max_tokens=50)
    assert await rpm_left(house) == (5 if fails is REFUSED else 4)
    assert await house.wallet() == (1_000_000, 0)


async def test_a_request_that_is_cancelled_while_its_provider_works_counts_on_rpm() -> None:
    class Never(Many):
        async def send(self, deployment: Deployment, path: str, body: bytes, headers: Headers = ()) -> Reply:
            self.bodies.append((deployment.id, {}))
            await asyncio.Event().wait()
            raise AssertionError

    house = Never({"a": []})
    house.principal = msgspec.structs.replace(PRINCIPAL, limits=Limits(rpm=5))
    running = asyncio.ensure_future(house.run(max_tokens=50))
    while not house.bodies:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await rpm_left(house) == 4


class Forgets(Many):
    """The app's prices are forgotten while the first deployment is asked, as by any change of the app."""

    loaded = 0
    is_down = False

    def app_cached(  # type: ignore[override]
        self, enterprise_id: str, asset: str, model: str, deployment_id: str, at_ms: int
    ) -> Rates | Literal[False] | None:
        if len(self.bodies) == 1 and not self.loaded:
            return False
        return super().app_cached(enterprise_id, asset, model, deployment_id, at_ms)

    async def load_app(self, enterprise_id: str) -> None:
        if self.is_down:
            raise Unavailable("no database", code="platform_unavailable")
        self.loaded += 1


async def test_an_app_that_changes_while_its_request_is_in_flight_has_its_stand_in_all_the_same() -> None:
    house = Forgets({"a": [SILENT], "b": [good()]})
    await house.run(max_tokens=50)
    assert (house.asked_in_turn(), house.loaded) == (["a", "b"], 1)
    [event] = house.events()
    assert event.rest.provider_cost_micro > 108  # with what the first one was sent
    assert await house.wallet() == (1_000_000 - 108, 0)


async def test_where_the_prices_of_a_stand_in_cannot_be_read_the_failure_is_told_and_its_cost_recorded() -> None:
    house = Forgets({"a": [SILENT], "b": [good()]})
    house.is_down = True
    with pytest.raises(GatewayError) as failed:
        await house.run(max_tokens=50)
    assert failed.value.code == "upstream_timeout"
    assert house.events()[0].rest.provider_cost_micro > 0
    assert await house.wallet() == (1_000_000, 0)
