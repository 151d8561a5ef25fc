"""The usage event: the immutable record of one finished request.

JSON on the stream, so that an operator can read it with any Redis client. Fields are only ever
added; `v` rises when the meaning of one changes.

An event is written in two parts, each once: what is known when the request is admitted (`EventFront`) goes
to the hot store with the hold, and what is known when it has ended (`EventRest`) is joined to it there.
So a hold that nobody ends still leaves an event.
"""

from typing import Final

import msgspec

from gateway.core.units import Usage
from gateway.core.words import RequestStatus, UsageSource


class EventPayer(msgspec.Struct, frozen=True):
    """One wallet that pays, named as in `core.ids`; `role` is `creator` or `end_user`."""

    wallet: str
    role: str
    asset: str


class EventFront(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Who asked for what, and who pays."""

    v: int = 1
    request_id: str
    level: str
    user_id: str
    enterprise_id: str
    key_id: str
    endpoint: str
    model: str
    platform_user_id: str = ""
    workflow_type: str = ""
    session_id: str = ""
    agent_name: str = ""
    tags: tuple[str, ...] = ()
    provider: str = ""
    deployment: str = ""
    cost_policy: str = ""
    streamed: bool = False
    payers: tuple[EventPayer, ...] = ()


class EventRest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How it ended. Times are Unix milliseconds; amounts are integer micro-units, one for each payer."""

    at_ms: int
    status: str
    usage_source: str
    amounts_micro: tuple[int, ...] = ()
    held_micro: tuple[int, ...] = ()
    usage: Usage = Usage()
    provider_cost_micro: int = 0
    latency_ms: int = 0
    ttft_ms: int = 0
    attempts: int = 0
    http_status: int = 200
    flags: tuple[str, ...] = ()
    served_by: tuple[str, str, str] | None = None  # model, provider, deployment; where they are not those of the front


class UsageEvent(msgspec.Struct, frozen=True):
    """One finished request, as it is read back."""

    front: EventFront
    rest: EventRest


encode_event: Final = msgspec.json.Encoder().encode  # of either part
_decode_front: Final = msgspec.json.Decoder(EventFront).decode
_decode_rest: Final = msgspec.json.Decoder(EventRest).decode

# What the hot store adds, behind time and amounts, where a hold was ended by nobody.
ABANDONED: Final = encode_event({"status": RequestStatus.ABANDONED, "usage_source": UsageSource.NONE})


def decode_event(data: bytes) -> UsageEvent:
    """The event; msgspec.DecodeError or UnicodeDecodeError for anything else."""
    return UsageEvent(_decode_front(data), _decode_rest(data))
