import hashlib
import itertools

import msgspec

from gateway.trail.model import Act, Head, Line, broken_link, digest, line_after, named

ACT = Act("key.create", "creator", "mgk_1", "key_1", "carol", "shop", "why", {"b": 1, "a": None}, {"ä": ["x", True]}, "txn_1")
LINE = line_after(Head(6, "ab" * 32), ACT, 1_800_000_000_000)


def test_the_hash_is_sha_256_of_netstrings_and_can_be_made_with_nothing_of_ours() -> None:
    fields = ["7", "1800000000000", "creator", "mgk_1", "key.create", "carol", "shop", "key_1", "why"]
    fields += ['{"a":null,"b":1}', '{"ä":["x",true]}', "txn_1", "ab" * 32]
    coded = b"mozaiks trail 1" + b"".join(b"%d:%s," % (len(field.encode()), field.encode()) for field in fields)
    assert LINE.hash == hashlib.sha256(coded).hexdigest()


def test_the_hash_covers_every_field() -> None:
    for name in Line.__struct_fields__[:-1]:
        value = getattr(LINE, name)
        other = msgspec.structs.replace(LINE, **{name: value + 1 if isinstance(value, int) else value + "x"})
        assert digest(other) != LINE.hash, name


def test_text_that_moves_between_fields_changes_the_hash() -> None:
    parts = [("ab", ""), ("a", "b"), ("", "ab"), ("a,1:b", ""), ("a", "1:b")]
    lines = [msgspec.structs.replace(LINE, subject=first, reason=second) for first, second in parts]
    assert all(digest(one) != digest(two) for one, two in itertools.combinations(lines, 2))


def test_before_and_after_are_the_same_text_whatever_order_their_fields_came_in() -> None:
    turned = msgspec.structs.replace(ACT, before={"a": None, "b": 1})
    assert line_after(Head(6, "ab" * 32), turned, 1_800_000_000_000) == LINE
    assert line_after(Head(), Act("a", "r", "n", "s"), 1).before_json == ""


def test_an_honest_line_follows_and_every_other_is_named() -> None:
    head = Head(6, "ab" * 32)
    assert broken_link(head, LINE) is None
    assert broken_link(Head(5, "ab" * 32), LINE) == "line 6 is missing: line 7 follows line 5"
    assert "does not follow" in (broken_link(Head(6, "ac" * 32), LINE) or "")
    assert "was changed" in (broken_link(head, msgspec.structs.replace(LINE, actor="x")) or "")


def test_a_digest_stands_for_an_end_user_only_within_one_app() -> None:
    assert named(None, "shop") is None
    assert named("ann", "shop") == named("ann", "shop") != named("ann", "chat")
    assert "ann" not in (named("ann", "shop") or "")
