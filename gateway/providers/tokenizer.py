"""Tokenizers without a network: the rank files that litellm's package carries, read without importing it.

tiktoken itself would download a rank file that it does not find, so its loader is not used: the files
are read, checked against their published digests and given to `tiktoken.Encoding` with the patterns
of tiktoken's own `openai_public.py` (a test compares the two). Both calls here take milliseconds to
seconds: run them in a thread, never on the event loop.
"""

import base64
import hashlib
import importlib.util
import threading
from pathlib import Path
from typing import Final

from tiktoken import Encoding

O200K: Final = "o200k_base"
CL100K: Final = "cl100k_base"

# name -> (file: the SHA-1 of its published URL, SHA-256 of its content, pattern, special tokens)
_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_SOURCES: Final[dict[str, tuple[str, str, str, dict[str, int]]]] = {
    O200K: (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        "|".join(
            [
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTIONS,
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTIONS,
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            ]
        ),
        {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
    CL100K: (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}
# Families whose tokenizer is cl100k; everything newer or unknown is counted with o200k.
_CL100K_FAMILIES: Final = ("gpt-4-", "gpt-3.5", "gpt-35", "text-embedding-", "davinci-002", "babbage-002")
_CL100K_MODELS: Final = ("gpt-4",)
_OWN_FAMILIES: Final = ("gpt-", "chatgpt-", "o1", "o3", "o4", "text-embedding-", "davinci-002", "babbage-002", "demo")
# The pattern engine's memory grows with a single run of like characters, so long texts are cut. A cut
# can only add tokens, at most two for each.
_PIECE_CHARS: Final = 100_000

_lock = threading.Lock()
_loaded: dict[str, Encoding] = {}


class TokenizerMissing(Exception):
    """litellm's package is not installed whole, so tokens cannot be counted."""


def encoding_name(model: str) -> str:
    """`O200K` or `CL100K`. A provider prefix ("openai/gpt-4") and a fine-tune's ("ft:gpt-4:...") are looked through."""
    name = model.rpartition("/")[2].removeprefix("ft:").partition(":")[0]
    return CL100K if name in _CL100K_MODELS or name.startswith(_CL100K_FAMILIES) else O200K


def is_own_tokenizer(model: str) -> bool:
    """Whether counts are the model's own: OpenAI's families and the demo; others are estimates."""
    name = model.rpartition("/")[2].removeprefix("ft:")
    return name.startswith(_OWN_FAMILIES)


def load(name: str) -> Encoding:
    """The encoding; some 0.3 s the first time, then at once. Raises TokenizerMissing."""
    encoding = _loaded.get(name)
    if encoding is None:
        with _lock:
            encoding = _loaded.get(name)
            if encoding is None:
                encoding = _loaded[name] = _read(name)
    return encoding


def encode(name: str, text: str) -> list[int]:
    """Tokens of a text; text that looks like a special token is ordinary text."""
    encoding = load(name)
    if len(text) <= _PIECE_CHARS:
        return encoding.encode_ordinary(text)
    tokens: list[int] = []
    for start in range(0, len(text), _PIECE_CHARS):
        tokens += encoding.encode_ordinary(text[start : start + _PIECE_CHARS])
    return tokens


def _read(name: str) -> Encoding:
    file, digest, pattern, special = _SOURCES[name]
    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        raise TokenizerMissing("litellm is not installed")
    path = Path(package.origin).parent / "litellm_core_utils" / "tokenizers" / file
    try:
        content = path.read_bytes()
    except OSError as missing:
        raise TokenizerMissing(f"litellm's tokenizer file for {name} cannot be read") from missing
    if hashlib.sha256(content).hexdigest() != digest:
        raise TokenizerMissing(f"litellm's tokenizer file for {name} is not the published one")
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in content.splitlines() if line)}
    return Encoding(name=name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
