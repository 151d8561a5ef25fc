import random
import string

import pytest

from gateway.core.ids import is_outside_id
from gateway.db.names import POSTGRES_NAME_BYTES_MAX, SQLITE_NAME_CHARS_MAX, postgres_name, sqlite_name

_IN_IDS = string.ascii_letters + string.digits + "._:@-"


def ids(seed: int) -> list[str]:
    """Ids that are near each other: few characters, long common beginnings, other case."""
    pick = random.Random(seed)
    made = {
        "a",
        "A",
        "a.b",
        "a_b",
        "a-b",
        "A.B",
        "a" * 128,
        "A" * 128,
        "a" * 127 + "b",
        "A" * 127 + "B",
        "." * 128,
        "con",
        "postgres",
    }
    for _ in range(5_000):
        alphabet = pick.choice(["aA", "ab.", "aA._:@-", "24ea:.", _IN_IDS])
        length = pick.choice([1, 2, 3, 8, 29, 30, 54, 63, 64, 127, 128])
        made.add("".join(pick.choice(alphabet) for _ in range(length)))
    return sorted(made)


def test_no_two_ids_share_a_name_in_any_case_folding_and_every_name_is_safe() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    all_ids = ids(seed)
    assert all(is_outside_id(one) for one in all_ids)
    for name_of, longest in (
        (sqlite_name, SQLITE_NAME_CHARS_MAX),
        (postgres_name, POSTGRES_NAME_BYTES_MAX),
        (lambda one: postgres_name(one, 40), 40),
    ):
        names = {name_of(one) for one in all_ids}
        assert len({name.casefold() for name in names}) == len(all_ids)
        for name in names:
            assert 0 < len(name.encode()) <= longest
            assert not set(name) - set(string.ascii_lowercase + string.digits + "_-%$~")


def test_a_name_that_looks_like_the_shortened_one_of_another_app_is_escaped_away() -> None:
    long = "X" * 128
    for name_of in (sqlite_name, postgres_name):
        assert name_of(name_of(long)) != name_of(long)


@pytest.mark.parametrize(
    ("one", "name"), [("shop-1_a", "shop-1_a"), ("My.shop", "%4dy%2eshop"), ("..", "%2e%2e"), ("a:b@c", "a%3ab%40c")]
)
def test_names_stay_readable(one: str, name: str) -> None:
    assert sqlite_name(one) == name
    assert postgres_name(one) == name.replace("%", "$")


def test_a_template_that_leaves_no_room_for_the_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        postgres_name("a", 33)
