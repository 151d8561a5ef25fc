"""The usage event: the immutable record of one finished request.

JSON on the stream, so that an operator can read it with any Redis client. Fields are only ever
added; `v` rises when the meaning of one changes.
"""

import msgspec

from gateway.core.units import Usage


class EventCharge(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one wallet paid. `wallet` as in `core.ids`; `role` is `creator` or `end_user`."""

    wallet: str
    role: str
    asset: str
    amount_micro: int
    held_micro: int = 0


class UsageEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One finished request. Times are Unix milliseconds; amounts are integer micro-units."""

    request_id: str
    at_ms: int
    level: str
    user_id: str
    enterprise_id: str
    key_id: str
    endpoint: str
    model: str
    status: str
    usage_source: str
    v: int = 1
    platform_user_id: str = ""
    workflow_type: str = ""
    session_id: str = ""
    agent_name: str = ""
    tags: tuple[str, ...] = ()
    provider: str = ""
    deployment: str = ""
    usage: Usage = Usage()
    charges: tuple[EventCharge, ...] = ()
    provider_cost_micro: int = 0
    cost_policy: str = ""
    streamed: bool = False
    latency_ms: int = 0
    ttft_ms: int = 0
    attempts: int = 0
    http_status: int = 200
    flags: tuple[str, ...] = ()


encode_event = msgspec.json.Encoder().encode
decode_event = msgspec.json.Decoder(UsageEvent).decode
