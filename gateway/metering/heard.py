"""How long a file of audio plays that a caller uploads: what a decoder would hear of it, whatever its head says. Pure.

A file that says less than it is would be transcribed for less than it costs, so no head is believed: MPEG audio, ADTS, FLAC,
Ogg (Opus, Vorbis, FLAC), MP4 (AAC, ALAC, Opus) and WebM (Opus, Vorbis, AAC, MP3) are measured by their frames or packets,
and WAVE of plain samples or ADPCM by its bytes. Of what cannot be measured, `seconds_at_most` tells what its bytes can hold.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio), 14496-3 (ADTS, AudioSpecificConfig), 14496-12 (sample tables), RFC 3533
(Ogg), RFC 6716 (the first byte of an Opus packet), RFC 7845, the Vorbis I specification, RFC 9639 (FLAC), RFC 9559
(Matroska), Microsoft's RIFF WAVE, ID3v2.4 as FFmpeg reads it.
"""

import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from secrets import randbelow
from struct import unpack_from
from typing import Final

from gateway.metering.audio import ADTS_HZ, HZ, KBPS_1, KBPS_2, started_seconds
from gateway.metering.matroska import matroska_nanos
from gateway.metering.packets import NANO, opus_nanos

# Bytes a second of the lowest rate that a codec of a container has: of Ogg Speex at 2.15 kbit/s, of MPEG audio 8 kbit/s
# (layer III at half and quarter rates), of any other AMR at 4.75 kbit/s, which is below G.723.1's 5.3 and Opus's 6.
_LEAST: Final = {"ogg": 250, "mpeg": 1_000}
_LEAST_OF_OTHERS: Final = 590
_WAVE_BYTES_A_SECOND_MOST: Final = 1_536_000  # 192 kHz, 32 bits, two channels
_OTHER_BYTES_A_SECOND_MOST: Final = 400_000  # FLAC of two channels at 96 kHz
_PLAIN_WAVES: Final = {1: 0, 3: 0, 6: 1, 7: 1}  # PCM, floats, A-law, mu-law; bytes of a sample where the form says them
_ADPCM: Final = {0x02: (7, 2), 0x11: (4, 1)}  # Microsoft's and IMA's: bytes of a block's head a channel, samples in it
_HZ_MOST: Final = 192_000
_EXTENSIBLE: Final = 0xFFFE
_ID3_BYTES_MAX: Final = 8 * 1024 * 1024  # pictures of a cover; a longer tag counts as sound
_SEARCHED_BYTES: Final = 65_536  # for the first frame
_STRAY_PART: Final = 50  # no more than so small a part of a file may be neither frame nor tag
_WALKED_MAX: Final = 250_000  # frames or pages; what comes behind them counts as if it were made of the smallest
_PACKETS_MAX: Final = 100_000  # of a longer file one packet of each page, taken by chance, stands for all of it
_SHORT_BLOCKS: Final = 4  # a Vorbis file of short blocks plays no less than this part of what long ones would
_FLAC_FRAMES_MAX: Final = 50_000
_BAD_PAGES_MAX: Final = 100
_BOXES_MAX: Final = 20_000
_ADTS_SAMPLES: Final = 1024
_SYNC: Final = re.compile(rb"\xff[\xe2-\xe7\xf0-\xf7\xf8\xf9\xfa-\xff][\x00-\xef]")
_FLAC_FRAME: Final = re.compile(rb"\xff[\xf8\xf9][\x10-\xff][\x00-\xaf]")
_FLAC_HZ: Final = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_CONFIG: Final = re.compile(rb"\x05(?:\x80\x80\x80)?[\x02-\x40](..)", re.DOTALL)
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def seconds_of(content: memoryview) -> int | None:
    """How many seconds of a file a decoder hears, a started one counts; None where nobody can tell without decoding it."""
    data = bytes(content)
    nanos = {"riff": _wave, "ogg": _ogg, "flac": _flac, "mp4": _mp4, "webm": matroska_nanos}.get(_kind(data), _mpeg)(data)
    return started_seconds(nanos) if nanos else None


def seconds_at_most(content: memoryview) -> int:
    """No file of this size and kind that anybody transcribes is longer."""
    return -(-len(content) // _LEAST.get(_kind(bytes(content[:16])), _LEAST_OF_OTHERS))


def _kind(data: bytes) -> str:
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        return "riff"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"fLaC":
        return "flac"
    if data[4:8] == b"ftyp":
        return "mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    return "mpeg" if data[:1] == b"\xff" else ""


def _wave(data: bytes) -> int | None:
    """All that lies behind the head of the samples is samples: readers take what sizes say, or go on with further chunks."""
    at, rate, block = 12, 0, None
    while len(data) - at >= 8:
        name, size = data[at : at + 4], unpack_from("<I", data, at + 4)[0]
        if name == b"data":
            if block is not None:
                return -(-(len(data) - at - 8) // block[0]) * block[1] * NANO // block[2]
            return (len(data) - at - 8) * NANO // min(rate, _WAVE_BYTES_A_SECOND_MOST) if rate else None
        if name == b"fmt " and size >= 16 and len(data) - at >= 24:
            tag, channels, hz, _, align, bits = unpack_from("<HHIIHH", data, at + 8)
            if tag == _EXTENSIBLE and size >= 40 and len(data) - at >= 48:
                tag = unpack_from("<H", data, at + 32)[0]
            plain = tag in _PLAIN_WAVES and bits in (8, 16, 24, 32, 64)
            rate = hz * channels * (_PLAIN_WAVES[tag] or bits // 8) if plain else 0
            block = _adpcm_block(tag, channels, hz, align, bits)
        at += 8 + size + (size & 1)
    return None


def _adpcm_block(tag: int, channels: int, hz: int, align: int, bits: int) -> tuple[int, int, int] | None:
    """Bytes and samples of a block, and samples a second; None for what is not Microsoft's or IMA's ADPCM."""
    if tag not in _ADPCM or bits != 4 or not channels or not hz:
        return None
    head, first = _ADPCM[tag]
    samples = (align - head * channels) * 2 // channels + first
    return (align, samples, min(hz, _HZ_MOST)) if align > head * channels else None


# ---- MPEG audio and ADTS ---------------------------------------------------------------------------


def _mpeg(data: bytes) -> int | None:
    """From its first frame on; a tag counts as no sound only where it stands at the beginning, as readers skip it."""
    begin = _behind_tag(data)
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)
    for sync in _SYNC.finditer(data, begin, begin + _SEARCHED_BYTES):
        at = sync.start()
        if not data[at + 1] & 6:
            length = _adts_length(data, at)
            if length and (at + length == end or _adts_length(data, at + length)):
                return _adts(data, at, end)
            continue
        version, layer, rate = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3, data[at + 2] >> 2 & 3
        if version == 1 or rate == 3:
            continue
        frame, lengths = _frames(version, layer, rate)
        first = frame.match(data, at, end)
        if first is None or not (first.end() == end or frame.match(data, first.end(), end)):
            continue
        found = frame.findall(data, at, end)
        stray = end - begin - sum(map(lengths.__getitem__, found))
        if stray * _STRAY_PART > end - begin + _SEARCHED_BYTES:
            return None
        samples = 384 if layer == 3 else 1152 if version == 3 or layer == 2 else 576
        return len(found) * samples * NANO // HZ[version][rate] + stray * NANO // _LEAST["mpeg"]
    return None


def _behind_tag(data: bytes) -> int:
    if len(data) < 10 or data[:3] != b"ID3" or data[3] == 0xFF or data[4] == 0xFF or any(byte & 0x80 for byte in data[6:10]):
        return 0
    size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
    end = 10 + size + (10 if data[5] & 0x10 else 0)
    return end if end <= min(len(data), _ID3_BYTES_MAX) else 0


@lru_cache(maxsize=64)
def _frames(version: int, layer: int, rate: int) -> tuple[re.Pattern[bytes], dict[bytes, int]]:
    """What matches a frame of such audio at any rate of bits, and its length by the third byte, which is what it captures."""
    hz, table = HZ[version][rate], (KBPS_1 if version == 3 else KBPS_2)[layer]
    lengths: dict[bytes, int] = {}
    for index, kbps in enumerate(table, 1):
        for padding in (0, 1):
            if layer == 3:
                length = (12_000 * kbps // hz + padding) * 4
            else:
                samples = 1152 if version == 3 or layer == 2 else 576
                length = samples // 8 * 1000 * kbps // hz + padding
            for private in (0, 1):
                lengths[bytes([index << 4 | rate << 2 | padding << 1 | private])] = length
    ways = b"|".join(b"\\x%02x.{%d}" % (third[0], length - 3) for third, length in lengths.items())
    second = 0xE0 | version << 3 | layer << 1
    return re.compile(b"\\xff[\\x%02x\\x%02x](?=(.))(?:%s)" % (second, second | 1, ways), re.DOTALL), lengths


def _adts_length(data: bytes, at: int) -> int:
    """Of the frame there, 0 where there is none."""
    if len(data) - at < 7 or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] >> 2 & 15 >= len(ADTS_HZ):
        return 0
    length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return length if length >= 7 else 0


def _adts(data: bytes, at: int, end: int) -> int | None:
    nanos, stray = 0, at
    for _ in range(_WALKED_MAX):
        length = _adts_length(data, at)
        if not length:
            sync = data.find(b"\xff", at + 1, end)
            stray += max(0, (sync if sync >= 0 else end) - at)
            if sync < 0 or stray * _STRAY_PART > end + _SEARCHED_BYTES:
                break
            at = sync
            continue
        nanos += _ADTS_SAMPLES * ((data[at + 6] & 3) + 1) * NANO // ADTS_HZ[data[at + 2] >> 2 & 15]
        at += length
    else:
        nanos += (end - at) // 8 * _ADTS_SAMPLES * NANO // ADTS_HZ[-1]
    return nanos + stray * NANO // _LEAST["mpeg"] if stray * _STRAY_PART <= end + _SEARCHED_BYTES else None


# ---- Ogg and FLAC -------------------------------------------------------------------------------


class _Logical:
    """One stream inside an Ogg file."""

    def __init__(self, first: bytes) -> None:
        self.codec, self.hz, self.packet_samples = "", 0, 0
        self.goes_on = False  # the last packet of the page before is not complete
        self.packets = self.nanos = self.granule = 0
        if first[:8] == b"OpusHead":
            self.codec = "opus"
        elif first[:7] == b"\x01vorbis" and len(first) > 28:
            self.codec, self.hz, self.packet_samples = "vorbis", unpack_from("<I", first, 12)[0], (1 << (first[28] >> 4)) // 2
        elif first[:5] == b"\x7fFLAC" and len(first) >= 35:
            self.codec, self.packet_samples = "flac", unpack_from(">H", first, 19)[0]
            self.hz = int.from_bytes(first[27:30], "big") >> 4

    def page(self, data: bytes, laces: bytes, body: int) -> None:
        """Its packets that begin on one page."""
        if self.packets > _PACKETS_MAX:
            begun = len(laces) - laces.count(255)
            self.packets, self.goes_on = self.packets + begun, bool(laces) and laces[-1] == 255
            if self.codec == "opus" and begun:
                self.nanos += begun * opus_nanos(data, body + _by_chance(laces))
            return
        before = (b"\xff" if self.goes_on else b"\0") + laces  # a lace of 255 goes on in the next one
        begins = [at for at, lace in zip(accumulate(laces[:-1], initial=body), before, strict=False) if lace < 255]
        self.goes_on = bool(laces) and laces[-1] == 255
        if self.codec == "opus":
            self.packets += len(begins)
            self.nanos += sum([opus_nanos(data, at) for at in begins if data[at : at + 8] not in (b"OpusHead", b"OpusTags")])
        elif self.codec == "vorbis":
            self.packets += sum([not data[at] & 1 for at in begins])
        else:
            self.packets += sum([data[at] == 0xFF for at in begins])

    def heard(self) -> int | None:
        """Nanoseconds. What a Vorbis packet holds is half or a whole block: the end that its pages tell may say which."""
        if self.codec == "opus":
            return self.nanos
        if not self.hz or not self.packet_samples:
            return None
        most = self.packets * self.packet_samples
        if self.codec == "vorbis" and most <= _SHORT_BLOCKS * self.granule <= _SHORT_BLOCKS * most:
            most = self.granule
        return most * NANO // self.hz


def _by_chance(laces: bytes) -> int:
    """Where one of the packets of a page begins: nobody knows before which, so that no other can play longer."""
    chosen = randbelow(len(laces))
    while chosen and laces[chosen - 1] == 255:
        chosen -= 1
    return sum(laces[:chosen])


def _ogg(data: bytes) -> int | None:
    """All the streams in it together: one may follow another."""
    streams: dict[int, _Logical] = {}
    at = bad = 0
    for _ in range(_WALKED_MAX):
        at = data.find(b"OggS", at)
        if at < 0 or len(data) - at < 27:
            break
        laces = data[at + 27 : at + 27 + data[at + 26]]
        body = at + 27 + len(laces)
        end = body + sum(laces)
        if end > len(data) or _page_crc(data[at:end]) != unpack_from("<I", data, at + 22)[0]:
            bad, at = bad + 1, at + 4  # readers look for the next one inside it
            if bad > _BAD_PAGES_MAX:
                return None
            continue
        granule, serial = unpack_from("<qI", data, at + 6)
        stream = streams.get(serial)
        if stream is None or data[at + 5] & 2:
            granted = stream.nanos if stream is not None else 0
            stream = streams[serial] = _Logical(data[body : min(end, body + 64)])
            stream.nanos += granted
        stream.page(data, laces, body)
        stream.granule = max(stream.granule, granule)
        at = end
    else:
        return None
    heard = [stream.heard() for stream in streams.values()]
    return None if bad and not heard else sum(each for each in heard if each) if None not in heard else None


def _page_crc(page: bytes) -> int:
    """Ogg's, by that of zlib: the same polynomial, with the bits the other way around."""
    blank = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _flac(data: bytes) -> int | None:
    """Its frames, and no less than its head says."""
    if len(data) < 26 or data[4] & 0x7F:  # the first block is STREAMINFO
        return None
    packed = int.from_bytes(data[18:26], "big")
    hz, told, longest = packed >> 44, packed & (1 << 36) - 1, unpack_from(">H", data, 10)[0]
    if not hz:
        return None
    nanos, frames = 0, _FLAC_FRAME.finditer(data, 42)
    for _, found in zip(range(_FLAC_FRAMES_MAX), frames, strict=False):
        nanos += _flac_frame(data[found.start() : found.start() + 16], hz)
    nanos += sum(1 for _ in frames) * (longest or 65_535) * NANO // hz
    return max(nanos, told * NANO // hz, len(data) * NANO // _OTHER_BYTES_A_SECOND_MOST)


def _flac_frame(head: bytes, hz: int) -> int:
    """Nanoseconds of a frame with such a head, 0 for what is none."""
    size, rate = head[2] >> 4, head[2] & 15
    at = 4 + max(1, 8 - (head[4] ^ 0xFF).bit_length() if len(head) > 4 else 1)
    extra = {6: 1, 7: 2}.get(size, 0)
    rated = {12: 1, 13: 2, 14: 2}.get(rate, 0)
    end = at + extra + rated
    if len(head) <= end or rate == 15 or _crc8(head[:end]) != head[end]:
        return 0
    if extra:
        samples = int.from_bytes(head[at : at + extra], "big") + 1
    else:
        samples = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    own = int.from_bytes(head[at + extra : end], "big") * {12: 1000, 13: 1, 14: 10}[rate] if rated else _FLAC_HZ[rate]
    return samples * NANO // (min(own, hz) if own else hz)


def _crc8(head: bytes) -> int:
    crc = 0
    for byte in head:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc8_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1 ^ 7) & 0xFF if byte & 0x80 else byte << 1
    return byte


_CRC8: Final = bytes(map(_crc8_of, range(256)))


# ---- MP4 ----------------------------------------------------------------------------------------

_PARENTS: Final = frozenset((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"))


def _mp4(data: bytes) -> int | None:
    """The longest of its tracks of sound: by the table of its samples and, where it comes in fragments, those of all runs."""
    tracks: list[dict[bytes, tuple[int, int]]] = []
    runs = 0
    for kind, at, end in _boxes(data):
        if kind == b"trak":
            tracks.append({})
        elif kind == b"trun" and end - at >= 8:
            runs += int(unpack_from(">I", data, at + 4)[0])
        elif tracks and kind in (b"hdlr", b"mdhd", b"stsd", b"stsz", b"stz2") and end - at >= 20:
            kept = tracks[-1]
            if kind not in kept or (kind in (b"stsz", b"stz2") and data[at + 8 : at + 12] > data[kept[kind][0] + 8 :][:4]):
                kept[kind] = (at, end)
    sound = [track for track in tracks if b"hdlr" not in track or data[track[b"hdlr"][0] + 8 :][:4] == b"soun"]
    lengths = [_track(data, track, runs) for track in sound]
    return None if None in lengths else max((length for length in lengths if length), default=None)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Every box that matters, as kind, begin and end of what it holds; those that hold others come before these."""
    spans, left = [(0, len(data))], _BOXES_MAX
    while spans:
        at, end = spans.pop()
        while at + 8 <= end and left:
            left -= 1
            size, kind, head = unpack_from(">I", data, at)[0], data[at + 4 : at + 8], 8
            if size == 1 and at + 16 <= end:
                size, head = unpack_from(">Q", data, at + 8)[0], 16
            inner, following = at + head, at + size if size else end
            if following < inner:
                break
            yield kind, inner, min(following, end)
            if kind in _PARENTS:
                spans.append((following, end))
                at, end = inner, min(following, end)
            else:
                at = following


def _track(data: bytes, track: dict[bytes, tuple[int, int]], runs: int) -> int | None:
    """Nanoseconds; None where its codec, or what a sample of it is, is not known."""
    if b"stsd" not in track or not (b"stsz" in track or b"stz2" in track):
        return None
    samples = runs + sum(unpack_from(">I", data, track[kind][0] + 8)[0] for kind in (b"stsz", b"stz2") if kind in track)
    at, end = track[b"stsd"]
    entry, codec = data[at + 8 : end], data[at + 12 : at + 16]
    each, hz = 0, 0
    if codec == b"mp4a":
        config = _CONFIG.search(entry, max(0, entry.find(b"esds")))
        if config is not None:
            bits = int.from_bytes(config[1], "big")
            each, hz = _ADTS_SAMPLES, ADTS_HZ[bits >> 7 & 15] if bits >> 7 & 15 < len(ADTS_HZ) else 0
    elif codec == b"alac":
        inner = entry.find(b"alac", 8)
        if inner > 0 and len(entry) >= inner + 32:
            each, hz = unpack_from(">I", entry, inner + 8)[0], unpack_from(">I", entry, inner + 28)[0]
    elif codec == b"Opus":
        each, hz = 5_760, 48_000
    if not each or not hz:
        return None
    nanos: int = samples * each * NANO // hz
    if b"mdhd" in track:
        at = track[b"mdhd"][0]
        wide = data[at] == 1
        if at + 32 <= len(data):
            scale, length = unpack_from(">IQ" if wide else ">II", data, at + (20 if wide else 12))
            if scale and length != (1 << (64 if wide else 32)) - 1:
                nanos = max(nanos, length * NANO // scale)
    return nanos
