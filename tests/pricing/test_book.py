"""Versions by time: the exact model before `*`, the newest that is in force."""

import random

from gateway.pricing.book import Book, Version


def version(model: str, at: int, bp: int = 0) -> Version:
    return Version(model, at, markup_bp=bp)


def test_the_newest_version_in_force_holds_from_its_very_millisecond() -> None:
    book = Book([version("m", 200, 2), version("m", 100, 1)])
    assert [getattr(book.at("m", at), "markup_bp", None) for at in (99, 100, 199, 200, 10**15)] == [None, 1, 1, 2, 2]


def test_the_exact_model_wins_over_any_model_however_old_it_is() -> None:
    book = Book([version("m", 100, 1), version("*", 200, 2)])
    assert book.at("m", 300) == version("m", 100, 1)
    assert book.at("other", 300) == version("*", 200, 2)
    assert book.at("m", 50) is None


def test_until_any_model_holds_the_default_stands_in_for_a_model_not_yet_priced() -> None:
    book = Book([version("*", 100, 1), version("m", 200, 2)])
    assert book.at("m", 150) == version("*", 100, 1)
    assert book.until("m", 150) == 200
    assert book.until("m", 200) is None


def test_between_at_and_until_nothing_changes() -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(500):
        keys = {(dice.choice(["m", "n", "*"]), dice.randrange(60)) for _ in range(dice.randrange(8))}
        book = Book([version(model, at, number) for number, (model, at) in enumerate(sorted(keys))])
        at = dice.randrange(60)
        until = book.until("m", at) or 80
        assert until > at
        assert all(book.at("m", moment) == book.at("m", at) for moment in range(at, until)), f"seed {seed}"
