"""One fake of Stripe, as a process of its own, for the module; at its end its books add up and nobody asked it wrongly."""

from collections.abc import Iterator

import pytest

from tests.fake_stripe.control import Control, running


@pytest.fixture(scope="module")
def control() -> Iterator[Control]:
    with running() as fake:
        yield fake
        assert fake.audit() == []
        assert fake.violations() == []
        assert fake.shape_faults() == []
