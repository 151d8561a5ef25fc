"""Places within a deployment's capacity, on a real server whose clock the tests move."""

from collections.abc import AsyncIterator

import pytest

from gateway.balance.places import Full, Place
from gateway.balance.redis_places import RedisPlaces
from gateway.balance.redis_scripts import Scripts
from gateway.core.tasks import Tasks
from gateway.providers.model import Capacity
from tests.balance.server import scripts_with_moved_clock

MINUTE_S = 60
START_S = 1_700_000_040  # the beginning of a minute


class House:
    """Two processes' places on one server."""

    def __init__(self, url: str, scripts: Scripts) -> None:
        self.tasks = Tasks()
        self.here, self.there = (RedisPlaces(url, self.tasks, 60, scripts=scripts) for _ in range(2))

    async def at(self, seconds: float) -> None:
        await self.here._link.call("SET", "clock", round((START_S + seconds) * 1_000_000))

    async def left(self, place: Place | Full | None, tokens: int = 0, *, asked: bool = True) -> None:
        assert isinstance(place, Place)
        self.here.leave(place, tokens, asked=asked)
        await self.tasks.finish(5)


@pytest.fixture
async def house(server_url: str) -> AsyncIterator[House]:
    house = House(server_url, scripts_with_moved_clock())
    await house.here._link.call("FLUSHALL")
    await house.at(0)
    yield house
    await house.here.close()
    await house.there.close()


async def test_requests_at_once_are_counted_over_all_processes_and_given_back(house: House) -> None:
    two = Capacity("m/openai/0", concurrency=2)
    first = await house.here.take(two, "req_1", 10)
    assert isinstance(first, Place)
    assert isinstance(await house.there.take(two, "req_2", 10), Place)
    assert await house.here.take(two, "req_3", 10) == Full(0.0)
    assert isinstance(await house.here.take(Capacity("other/openai/0", concurrency=2), "req_3", 10), Place)
    await house.left(first)
    assert isinstance(await house.there.take(two, "req_3", 10), Place)
    await house.left(first)  # a repeat takes nobody else's
    assert await house.here.take(two, "req_4", 10) == Full(0.0)


async def test_the_places_of_a_process_that_died_are_free_after_their_time_and_those_that_are_renewed_stay(house: House) -> None:
    two = Capacity("m/openai/0", concurrency=2)
    await house.here.take(two, "req_1", 10)
    await house.there.take(two, "req_2", 10)
    await house.at(50)
    assert await house.here.renew() == 1
    await house.at(61)
    assert isinstance(await house.here.take(two, "req_3", 10), Place)  # that of req_2
    assert await house.here.take(two, "req_4", 10) == Full(0.0)


async def test_requests_a_minute_count_in_a_window_that_slides(house: House) -> None:
    four = Capacity("m/openai/0", rpm=4)
    for number in range(4):
        assert isinstance(await house.here.take(four, f"req_{number}", 10), Place)
    full = await house.there.take(four, "req_5", 10)
    assert isinstance(full, Full)
    assert 60 < full.wait_s <= 75  # when the first quarter of this minute has slid out of the last sixty seconds
    await house.at(full.wait_s)
    assert isinstance(await house.there.take(four, "req_5", 10), Place)
    assert isinstance(await house.there.take(four, "req_6", 10), Full)


async def test_a_request_that_the_deployment_never_heard_of_does_not_count(house: House) -> None:
    one = Capacity("m/openai/0", rpm=1, tpm=100)
    await house.left(await house.here.take(one, "req_1", 80), 0, asked=False)
    await house.left(await house.here.take(one, "req_2", 80), 30)
    assert isinstance(await house.here.take(one, "req_3", 1), Full)


async def test_tokens_count_at_their_most_until_the_request_has_ended(house: House) -> None:
    hundred = Capacity("m/openai/0", tpm=100)
    first = await house.here.take(hundred, "req_1", 80)
    assert isinstance(await house.here.take(hundred, "req_2", 30), Full)
    await house.left(first, 30)
    assert isinstance(await house.here.take(hundred, "req_3", 70), Place)
    assert isinstance(await house.here.take(hundred, "req_4", 1), Full)
    # A request that may use more than the whole limit takes the whole window, or it could never run.
    await house.at(3 * MINUTE_S)
    huge = await house.here.take(hundred, "req_5", 5000)
    assert isinstance(huge, Place)
    assert huge.tokens == 100
    # What the last minute counted is corrected after its end, too.
    await house.at(3.5 * MINUTE_S)
    await house.here.renew()
    await house.at(4.4 * MINUTE_S)
    assert isinstance(await house.here.take(hundred, "req_6", 10), Place)
    assert isinstance(await house.here.take(hundred, "req_7", 80), Full)
    await house.left(huge, 10)
    assert isinstance(await house.here.take(hundred, "req_7", 80), Place)


async def test_a_repeat_counts_once(house: House) -> None:
    two = Capacity("m/openai/0", rpm=2, concurrency=2)
    for _ in range(3):
        assert isinstance(await house.here.take(two, "req_1", 10), Place)
    assert isinstance(await house.here.take(two, "req_2", 10), Place)


async def test_a_server_that_does_not_answer_or_forgot_the_scripts_stops_nobody(house: House) -> None:
    one = Capacity("m/openai/0", concurrency=1)
    await house.here._link.call("SCRIPT", "FLUSH")
    assert isinstance(await house.here.take(one, "req_1", 10), Place)
    await house.here.close()
    assert await house.here.take(one, "req_2", 10) is None
