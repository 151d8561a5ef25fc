"""Our reading of the rank files gives the tokens that tiktoken gives."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken

from gateway.providers import tokenizer
from gateway.providers.tokenizer import CL100K, O200K, TokenizerMissing, encode, encoding_name, load


@pytest.fixture
def tiktokens_own(monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.util.find_spec("litellm")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "litellm_core_utils" / "tokenizers"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


@pytest.mark.parametrize("name", [O200K, CL100K])
def test_it_is_tiktokens_own_encoding(name: str, tiktokens_own: None) -> None:
    theirs, ours = tiktoken.get_encoding(name), load(name)
    assert ours._pat_str == theirs._pat_str
    assert ours._special_tokens == theirs._special_tokens
    assert ours.n_vocab == theirs.n_vocab
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    for _ in range(300):
        text = "".join(
            chr(dice.choice([dice.randrange(32, 127), dice.randrange(0xD800), 0x1F600 + dice.randrange(80)])) for _ in range(60)
        )
        assert encode(name, text) == theirs.encode_ordinary(text), f"seed {seed}: {text!r}"


def test_litellm_is_not_imported_and_the_environment_is_left_alone() -> None:
    look = (
        "import os, sys; from gateway.providers.tokenizer import O200K, load; load(O200K); "
        "assert 'litellm' not in sys.modules and 'TIKTOKEN_CACHE_DIR' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TIKTOKEN_CACHE_DIR"}
    subprocess.run([sys.executable, "-c", look], env=environment, timeout=60, check=True)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", O200K),
        ("gpt-4.1", O200K),
        ("gpt-5-nano", O200K),
        ("o3", O200K),
        ("claude-sonnet-4-5", O200K),
        ("gpt-4", CL100K),
        ("gpt-4-turbo", CL100K),
        ("openai/gpt-3.5-turbo", CL100K),
        ("ft:gpt-3.5-turbo:org::id", CL100K),
        ("ft:gpt-4o-mini:org::id", O200K),
        ("text-embedding-3-small", CL100K),
    ],
)
def test_each_family_has_its_encoding(model: str, name: str) -> None:
    assert encoding_name(model) == name


def test_special_tokens_in_a_text_are_ordinary_text() -> None:
    assert len(encode(O200K, "<|endoftext|>")) > 1


def test_a_long_text_is_cut_without_losing_anything() -> None:
    text = "The quick brown fox. " * 20_000
    assert load(O200K).decode(encode(O200K, text)) == text


def test_a_changed_rank_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    file, _, pattern, special = tokenizer._SOURCES[CL100K]
    monkeypatch.setitem(tokenizer._SOURCES, CL100K, (file, "0" * 64, pattern, special))
    with pytest.raises(TokenizerMissing):
        tokenizer._read(CL100K)
