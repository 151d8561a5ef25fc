"""Kept answers in a real Redis-protocol server: their bound, their life, and whose they are."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.answers.redis_answers import KeptAnswers, NotForgotten
from tests.balance.server import running_server

BOUND = 20_000


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with running_server() as url:
        yield url


@pytest.fixture
async def redis(server_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(server_url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def kept(redis: Redis, server_url: str) -> AsyncIterator[KeptAnswers]:
    answers = KeptAnswers(server_url, BOUND)
    yield answers
    await answers.close()


async def test_an_answer_is_found_by_its_app_alone(kept: KeptAnswers) -> None:
    await kept.keep("a", b"d", b"hello", 60)
    assert await kept.find("a", b"d") == b"hello"
    assert await kept.find("b", b"d") is None
    assert await kept.find("a", b"e") is None


async def test_all_answers_together_stay_below_the_bound_and_the_least_used_go_first(kept: KeptAnswers, redis: Redis) -> None:
    for number in range(40):
        await kept.keep("a", b"%d" % number, b"x" * 1000, 60)
        await kept.find("a", b"0")  # used again and again
        await asyncio.sleep(0.002)  # the server's clock orders uses by the millisecond
        assert await kept.bytes_used() <= BOUND
    assert await kept.find("a", b"0") is not None
    assert await kept.find("a", b"1") is None
    assert await kept.find("a", b"39") is not None
    keys = [key async for key in redis.scan_iter(match="mzk:{answers}:a/*")]
    assert 1000 * len(keys) < await kept.bytes_used() <= BOUND


async def test_what_is_larger_than_the_bound_is_not_kept_and_drops_nothing(kept: KeptAnswers) -> None:
    await kept.keep("a", b"small", b"x", 60)
    await kept.keep("a", b"large", b"x" * BOUND, 60)
    assert await kept.find("a", b"large") is None
    assert await kept.find("a", b"small") == b"x"


async def test_the_sum_is_that_of_what_is_there_also_after_answers_were_replaced(kept: KeptAnswers) -> None:
    for size in (10, 500, 20, 3000):
        await kept.keep("a", b"d", b"x" * size, 60)
    used = await kept.bytes_used()
    assert 3000 < used < 3500
    assert await kept.forget("a") == 1
    assert await kept.bytes_used() == 0


async def test_an_answer_lives_as_long_as_it_may(kept: KeptAnswers, redis: Redis) -> None:
    await kept.keep("a", b"d", b"hello", 100)
    [key] = [key async for key in redis.scan_iter(match="mzk:{answers}:a/*")]
    assert 99 <= await redis.ttl(key) <= 100
    await redis.pexpire(key, 1)
    await asyncio.sleep(0.01)
    assert await kept.find("a", b"d") is None
    assert await kept.forget("a") == 1  # what stands beside it goes with the rest
    assert await kept.bytes_used() == 0


async def test_an_app_forgets_its_own_answers_only(kept: KeptAnswers) -> None:
    for number in range(20):
        await kept.keep("a", b"%d" % number, b"x", 60)
        await kept.keep("a2", b"%d" % number, b"x", 60)
    assert await kept.forget("a") == 20
    assert await kept.find("a", b"3") is None
    assert await kept.find("a2", b"3") == b"x"


async def test_a_server_that_is_away_is_as_one_that_knows_nothing(tmp_path: Path) -> None:
    away = KeptAnswers(f"unix://{tmp_path}/nobody", BOUND)
    await away.keep("a", b"d", b"x", 60)
    assert await away.find("a", b"d") is None
    with pytest.raises(NotForgotten):
        await away.forget("a")
    await away.close()
