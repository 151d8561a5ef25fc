import time

import pytest

from gateway.core.ids import SHARDS, app_wallet, is_outside_id, new_id, platform_wallet, shard_of


def test_ids_of_one_kind_sort_by_the_time_they_were_made() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_id("req"))
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert all(len(made) == len("req_") + 26 for made in ids)


def test_ids_made_in_the_same_millisecond_differ() -> None:
    assert len({new_id("txn") for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("text", ["a", "u-1", "a.b:c@d_e", "x" * 128])
def test_callers_may_choose_plain_ids(text: str) -> None:
    assert is_outside_id(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a/b", "a b", "ü", "{x}", "a\n", "a\x00"])
def test_ids_that_could_break_a_key_or_a_path_are_refused(text: str) -> None:
    assert not is_outside_id(text)


def test_a_shard_is_stable_and_every_shard_is_used() -> None:
    assert shard_of("creator-1") == shard_of("creator-1") == 46
    assert {shard_of(f"creator-{n}") for n in range(5000)} == set(range(SHARDS))


def test_wallets_of_different_owners_never_share_a_name() -> None:
    assert len({platform_wallet("a"), app_wallet("a", "b"), app_wallet("a:b", "c"), app_wallet("a", "b:c")}) == 4
