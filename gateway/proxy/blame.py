"""What a provider's error answer says about the deployment: an account's trouble rests it, a request's own does not.

What one caller's request provokes must move nobody else to another, perhaps dearer, deployment. Servers refuse single requests
with statuses that they have for the account, too: OpenRouter a flagged prompt with 403, tools that no endpoint supports with
404, more output than the credit is for with 402; OpenAI a prompt above the tokens of a minute with 429. So these rest a
deployment only where what they say leaves no doubt, or when requests of several creators met them.
"""

import re
from enum import Enum, auto
from typing import Final

from gateway.proxy import refusals

_CALLERS_TO_MEND: Final = frozenset((400, 409, 413, 415, 422))
_NOT_THERE: Final = frozenset((405, 501))  # it serves other surfaces
_REFUSALS: Final = frozenset((402, 403, 404))
_NO_MODEL: Final = frozenset(("model_not_found", "DeploymentNotFound"))
_IS_NO_MODEL: Final = re.compile(r"The model .{1,300} (?:does not exist|is not found)", re.DOTALL)  # vLLM
_ONE_REQUEST: Final = re.compile(r"request too large|long context|larger than the limit", re.IGNORECASE)  # of 429


class Blame(Enum):
    """Whose trouble it is, by what follows."""

    CALLER = auto()  # told at once: every provider would say so
    REQUEST = auto()  # others are asked for this request
    REFUSAL = auto()  # others are asked; the account, or this request
    ACCOUNT = auto()  # others are asked, for everybody: a key, an empty account, a name in the configuration
    RATE = auto()  # the account's
    FAILURE = auto()  # it fails, or this request makes it fail


def blame(status: int, body: bytes, *, is_chat: bool) -> Blame:
    """The blame for an error answer with this status."""
    meant = refusals.status_meant(status, body, is_chat=is_chat)
    said = refusals.error_object(body)
    message = said.get("message")
    text = message[:2000] if type(message) is str else ""
    if meant in _CALLERS_TO_MEND:
        return Blame.CALLER
    if meant in _NOT_THERE:
        return Blame.REQUEST
    if meant == 401 or refusals.is_spent(said):
        return Blame.ACCOUNT
    if meant in _REFUSALS:
        is_named = said.get("code") in _NO_MODEL or _IS_NO_MODEL.match(text)
        return Blame.ACCOUNT if meant == 404 and is_named else Blame.REFUSAL
    if meant == 429:
        return Blame.REQUEST if _ONE_REQUEST.search(text) else Blame.RATE
    return Blame.FAILURE
