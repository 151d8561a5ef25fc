"""The driver of a sandbox of Stripe, rehearsed: journeys are made on the fake with nothing but Stripe's own calls.

No key is needed, and Stripe is not asked. What this proves is that the driver's calls are of Stripe's API and do what journeys
need; how Stripe itself plays them, only a run with a key shows (`make sandbox`).
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.billing import sandbox
from tests.billing import test_told as told
from tests.billing.house import DAY, House
from tests.fake_stripe.control import KEY, running
from tests.path.conftest import upstream_url as upstream_url

# The first of them have each of the driver's calls between them; `make long` makes all. Without any nothing is started.
JOURNEYS: Sequence[Callable[[House], None]] = [
    told.test_an_end_user_buys_spends_to_the_last_token_is_refused_and_buys_again,
    told.test_a_trial_grants_as_a_trial_and_a_refund_of_a_renewal_takes_its_allowance,
    told.test_a_dispute_freezes_and_a_won_one_frees,
    told.test_a_card_that_is_declined_pays_nothing_and_the_page_takes_another,
    told.test_a_creator_buys_of_the_platform_and_builds_with_it,
    told.test_with_a_refund_its_part_of_the_wallet_goes_and_the_fee_comes_back_whoever_made_it,
    told.test_a_change_to_a_cheaper_plan_takes_nothing_back_and_the_next_periods_are_of_that,
][: int(os.environ.get("SANDBOX_JOURNEYS", 4))]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, upstream_url: str) -> Iterator[House]:
    """The driver never gets a hand on the fake: only its address."""
    with running(now=int(time.time()) - 500 * DAY) as control:
        with contextlib.closing(sandbox.Sandbox(KEY, control.base, quiet_s=0, pause_s=0.1)) as stripe:
            yield from told.opened(tmp_path_factory.mktemp("sandbox"), upstream_url, stripe)
        assert control.audit() == []
        assert control.violations() == []
        assert control.shape_faults() == []
        asked = {row["path"].rpartition("/")[2] for row in control.requests() if row["status"] == 200}
        assert {"confirm", "advance", "events"} <= asked


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda each: each.__name__)
def test_a_journey_is_made_with_stripes_own_calls(house: House, journey: Callable[[House], None]) -> None:
    assert not hasattr(journey, "pytestmark"), "it is the fake's alone"
    journey(house)


@pytest.mark.skipif(not JOURNEYS, reason="SANDBOX_JOURNEYS=0")
def test_a_test_clock_goes_on_by_two_periods_at_most_and_never_back(house: House) -> None:
    shop = house.shop(clock=True)
    shop.buy(shop.monthly(10_000_000, 1000), "ann")
    with pytest.raises(sandbox.Refused, match="two intervals"):
        house.stripe.advance(shop.account, 70 * DAY)
    with pytest.raises(sandbox.Refused, match="must be after"):
        house.stripe.advance(shop.account, 0)


@pytest.mark.parametrize("key", ["sk_live_made_up", "rk_live_made_up", "pk_test_made_up", "made_up"])
def test_a_key_that_is_not_of_a_sandbox_is_refused_before_anything_is_asked(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sandbox.KEY_NAME, key)
    with pytest.raises(sandbox.LiveKey):
        sandbox.given_key()
    with pytest.raises(sandbox.LiveKey):
        sandbox.Sandbox(key, "http://127.0.0.1:9")
