"""Answers with status 200 that are errors: some servers say so when they fail late, OpenRouter among them."""

from typing import Any, Final

from gateway.providers.model import UpstreamFault
from gateway.proxy import wire

_ANSWERS: Final = ("choices", "content", "data", "output", "results", "text")  # in what the surfaces' answers are
_WORDS_MAX: Final = 500


class AnsweredError(UpstreamFault):
    """The reason has the provider's words, which may name keys and addresses: see `refusals.fault_error`."""


def check_answered(body: bytes) -> None:
    """For an answer that has an `error`: AnsweredError where that is all it has.

    DecodeError as `wire.decode_json`.
    """
    answer: Any = wire.decode_json(body)
    if type(answer) is not dict or any(answer.get(name) for name in _ANSWERS):
        return
    error = answer.get("error")
    words = error.get("message") if type(error) is dict else error
    told = f": {words[:_WORDS_MAX]}" if type(words) is str and words else ""
    raise AnsweredError(f"it answered with an error{told}", sent=True)
