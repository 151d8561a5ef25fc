"""How long the sound in a WebM or Matroska file plays, by its blocks (RFC 9559). Pure."""

from struct import unpack_from
from typing import Any, Final

from gateway.metering.audio import ADTS_HZ
from gateway.metering.packets import NANO, OPUS_LONGEST, opus_nanos

_BLOCKS_MAX: Final = 250_000  # what comes behind them counts as if each eight bytes were one
_BLOCK_BYTES_LEAST: Final = 8
_INTO: Final = frozenset((0x18538067, 0x1F43B675, 0xA0, 0x1654AE6B, 0xE1, 0x1549A966))  # segment, cluster, group, tracks, info
_TRACK: Final = 0xAE
_OF_A_TRACK: Final = {0xD7: "number", 0x83: "type", 0x86: "codec", 0x63A2: "private", 0xB5: "hz", 0x6D80: "encoded"}
_BLOCKS: Final = frozenset((0xA3, 0xA1))
_SCALE, _DURATION = 0x2AD7B1, 0x4489
_AUDIO: Final = 2


def matroska_nanos(data: bytes) -> int | None:
    """Nanoseconds that a decoder hears, and no less than the head tells; None where that cannot be told.

    Elements that hold others are walked into whatever size they say: a recorder does not know it when it begins.
    """
    tracks: list[dict[str, Any]] = []
    each_of: dict[int, tuple[int, bool]] | None = None  # of each track with sound: nanoseconds of a frame, and whether Opus
    at = heard = blocks = 0
    scale, told = 1_000_000, 0.0
    while at < len(data):
        name, width = (data[at], 1) if data[at] & 0x80 else _number(data, at, marked=True)
        size, more = _number(data, at + width, marked=False)
        if not width or not more:
            break
        body = at + width + more
        if name in _INTO or name == _TRACK:
            if name == _TRACK:
                tracks.append({})
            at = body
            continue
        at = body + size
        if name in _BLOCKS:
            if each_of is None and (each_of := _frames(tracks)) is None:
                return None
            blocks += 1
            if blocks > _BLOCKS_MAX:
                return heard + (len(data) - body) // _BLOCK_BYTES_LEAST * OPUS_LONGEST
            heard += _block(data, body, min(at, len(data)), each_of)
        elif name in _OF_A_TRACK and tracks:
            tracks[-1][_OF_A_TRACK[name]] = data[body:at]
        elif name == _SCALE:
            scale = int.from_bytes(data[body:at], "big")
        elif name == _DURATION and size in (4, 8) and at <= len(data):
            told = unpack_from(">f" if size == 4 else ">d", data, body)[0]
    if not blocks or (each_of is not None and not each_of):
        return None
    return max(heard, int(told * scale)) if 0 < told < 1e12 else heard


def _number(data: bytes, at: int, *, marked: bool) -> tuple[int, int]:
    """A number of variable size, with or without the bit that says how long it is; its width, 0 where there is none."""
    first = data[at] if at < len(data) else 0
    if first & 0x80:
        return first if marked else first & 0x7F, 1
    width = 9 - first.bit_length()
    if width > 8 or at + width > len(data):
        return 0, 0
    value = int.from_bytes(data[at : at + width], "big")
    return value if marked else value & (1 << 7 * width) - 1, width


def _frames(tracks: list[dict[str, Any]]) -> dict[int, tuple[int, bool]] | None:
    """The longest that a frame of each track of sound is; None where one of them cannot be measured."""
    found: dict[int, tuple[int, bool]] = {}
    for track in tracks:
        if int.from_bytes(track.get("type", b""), "big") != _AUDIO:
            continue
        codec, private = track.get("codec", b"").rstrip(b"\0"), track.get("private", b"")
        hz = _hz(track.get("hz", b""))
        samples = 0
        if codec == b"A_OPUS":
            samples, hz = 5_760, 48_000
        elif codec == b"A_VORBIS" and len(head := private[private.find(b"\x01vorbis") :]) > 28:
            samples, hz = (1 << (head[28] >> 4)) // 2, unpack_from("<I", head, 12)[0]
        elif codec.startswith(b"A_AAC") and len(private) >= 2:
            rate = int.from_bytes(private[:2], "big") >> 7 & 15
            samples, hz = 1024, ADTS_HZ[rate] if rate < len(ADTS_HZ) else 0
        elif codec == b"A_MPEG/L3":
            samples = 1152
        if not samples or not hz:
            return None
        shown = codec == b"A_OPUS" and "encoded" not in track
        found[int.from_bytes(track.get("number", b""), "big")] = samples * NANO // hz, shown
    return found


def _hz(value: bytes) -> int:
    told = unpack_from(">f" if len(value) == 4 else ">d", value)[0] if len(value) in (4, 8) else 0.0
    return int(told) if 1 <= told <= 192_000 else 0


def _block(data: bytes, at: int, end: int, each_of: dict[int, tuple[int, bool]]) -> int:
    number, width = _number(data, at, marked=False)
    head = at + width + 3
    if not width or head >= end or number not in each_of:
        return 0
    longest, shown = each_of[number]
    if data[head - 1] & 6:  # several frames in one block
        return longest * (data[head] + 1)
    return opus_nanos(data, head) if shown else longest
