"""One fake of Stripe for each file of tests, as a process of its own, for tests move its clock; at its end its books add up and
nobody asked it wrongly.
"""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.trail.service import Trail
from tests.api.conftest import Api, Populated, _databases
from tests.api.conftest import populated as populated
from tests.api.conftest import redis_server as redis_server
from tests.billing.market import Market
from tests.fake_stripe.control import Control, running


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    with running() as fake:
        yield fake
        assert fake.audit() == []
        assert fake.violations() == []
        assert fake.shape_faults() == []


@pytest.fixture
async def api(tmp_path: Path, populated: Populated, redis_server: str, control: Control) -> AsyncIterator[Api]:
    """The management API, which sells through the fake: `alice` has the apps `shop` and `second`, `bob` has `bobs`."""
    folder, credentials, key_id = populated
    for file in folder.iterdir():
        shutil.copy(file, tmp_path)
    api = Api(_databases(tmp_path), redis_server, control.base)
    api.credentials, api.key_id = dict(credentials), key_id
    yield api
    await api.close()


@pytest.fixture
async def market(api: Api, control: Control) -> AsyncIterator[Market]:
    market = Market(api, control)
    await market.connect()
    yield market
    for enterprise_id in ("shop", "second", None):
        assert (await Trail(api.databases).verify(enterprise_id)).broken is None
