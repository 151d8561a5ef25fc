from collections.abc import AsyncIterator

import pytest

from tests.chaos.house import House


@pytest.fixture
def settings() -> dict[str, str]:
    """Environment of the gateway and the worker; a file of tests may have its own."""
    return {}


@pytest.fixture
def worker_settings() -> dict[str, str]:
    """What the worker has beside them."""
    return {}


@pytest.fixture
async def house(settings: dict[str, str], worker_settings: dict[str, str]) -> AsyncIterator[House]:
    house = House(settings, worker_settings)
    try:
        await house.open()
        yield house
    finally:
        await house.close()
