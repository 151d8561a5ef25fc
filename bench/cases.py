"""What is asked in a plain request, and what a right answer to it is."""

import json
from collections.abc import Iterable
from typing import Final

import msgspec

ANSWER_BYTES: Final = 600
CHAT_MODEL: Final = "bench-model"
EMBEDDING_MODEL: Final = "bench-embedding"
TLS_MODEL: Final = "bench-tls"
_PROMPT_BYTES: Final = 100_000
_DIMENSIONS: Final = 1536
_ANEW: Final = 0.85  # of the upstream's bytes: the least that an answer written anew, with the same content, may have


class Case(msgspec.Struct, frozen=True):
    """One kind of request. `door` names the upstream; a right answer is 200, holds `proof`, and is `answer_bytes` long."""

    name: str
    title: str
    path: str
    body: str
    answer_bytes: int
    proof: str
    door: str = "plain"

    def least_bytes(self, *, exact: bool) -> int:
        """The shortest body that is a right answer."""
        return self.answer_bytes if exact else int(self.answer_bytes * _ANEW)

    def most_bytes(self, *, exact: bool) -> int:
        """The longest; 0 where there is no limit."""
        return self.answer_bytes if exact else 0


def chat_answer() -> str:
    """A chat completion of exactly `ANSWER_BYTES` bytes, with usage."""
    answer = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": CHAT_MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 57,
            "completion_tokens": 29,
            "total_tokens": 86,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "service_tier": "default",
    }
    text = json.dumps(answer, separators=(",", ":"))
    filler = ("Take the one with the steeper walls and the fully sealed floor: it sheds rain. " * 8)[: ANSWER_BYTES - len(text)]
    return text.replace('"content":""', f'"content":"{filler}"')


def embedding_answer() -> str:
    """One embedding of as many numbers as the common models give, with usage."""
    vector = [round(((number * 7919) % 2003 - 1001) / 25_013, 8) for number in range(_DIMENSIONS)]
    usage = {"prompt_tokens": 19, "total_tokens": 19}
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    return json.dumps({"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage}, separators=(",", ":"))


def _chat(model: str, question: str) -> str:
    return json.dumps(
        {
            "model": model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant of an online shop. Answer in one short paragraph."},
                {"role": "user", "content": question},
            ],
            "max_tokens": 128,
            "temperature": 0.2,
        }
    )


def _first_bytes(lines: Iterable[str], size: int) -> str:
    return "".join(lines)[:size]


_QUESTION: Final = "Which of the two tents is better for a week of rain in the mountains, and why?"
_REVIEWS: Final = _first_bytes(
    (f"Review {number}: slept {number % 9 + 1} nights in it at {number * 37 % 2800} m; the seams held, the poles bent.\n"
     for number in range(2000)), _PROMPT_BYTES
)  # fmt: skip
_USAGE: Final = '"total_tokens":86'

CHAT: Final = Case(
    "chat", "Plain requests", "/v1/chat/completions", _chat(CHAT_MODEL, _QUESTION), ANSWER_BYTES, _USAGE
)
LONG_PROMPT: Final = Case(
    "long prompt", "Prompts of 100 KB", "/v1/chat/completions", _chat(CHAT_MODEL, _REVIEWS + _QUESTION), ANSWER_BYTES, _USAGE
)
EMBEDDINGS: Final = Case(
    "embeddings", f"Embeddings, {_DIMENSIONS} numbers an answer", "/v1/embeddings",
    json.dumps({"model": EMBEDDING_MODEL, "input": _QUESTION, "encoding_format": "float"}),
    len(embedding_answer()), '"total_tokens":19',
)  # fmt: skip
TLS: Final = Case(
    "tls", "Plain requests, upstream over TLS with a private authority", "/v1/chat/completions", _chat(TLS_MODEL, _QUESTION),
    ANSWER_BYTES, _USAGE, "tls",
)  # fmt: skip
FURTHER: Final = (LONG_PROMPT, EMBEDDINGS, TLS)
