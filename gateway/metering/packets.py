"""How long one packet of Opus plays, as its first bytes say (RFC 6716, section 3.1)."""

from typing import Final

NANO: Final = 1_000_000_000
OPUS_LONGEST: Final = 120_000_000  # nanoseconds of one packet
_FRAME: Final = tuple(
    (10_000_000, 20_000_000, 40_000_000, 60_000_000)[each & 3] if each < 12
    else (10_000_000, 20_000_000)[each & 1] if each < 16
    else (2_500_000, 5_000_000, 10_000_000, 20_000_000)[each & 3]
    for each in range(32)
)  # fmt: skip
_PACKET: Final = tuple(_FRAME[first >> 3] * (1, 2, 2, 0)[first & 3] for first in range(256))  # 0: the next byte says how many


def opus_nanos(data: bytes, at: int) -> int:
    """Of the packet that begins there; of one that is cut off the longest."""
    if at >= len(data):
        return OPUS_LONGEST
    found = _PACKET[data[at]]
    if found or at + 1 >= len(data):
        return found or OPUS_LONGEST
    return min(OPUS_LONGEST, _FRAME[data[at] >> 3] * (data[at + 1] & 63))
