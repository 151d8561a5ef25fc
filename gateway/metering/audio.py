"""How long audio is: of a file that was sent, and of speech as it passes in pieces. Pure; nothing is decoded.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio frames), 14496-3 (ADTS), 14496-12 (mvhd, mdhd), RFC 3533 and 7845 (Ogg,
Opus), RFC 9639 (FLAC), Microsoft's RIFF WAVE, Matroska's RFC 9559; raw PCM as OpenAI's speech has it.

MPEG audio, ADTS, WAVE and PCM are measured by what is there. Ogg, FLAC, MP4 and WebM say how long they are; a file that
says less than its bytes would take at the highest rate that such audio has is not believed that far.
"""

import re
from struct import unpack_from
from typing import Final

_NANO: Final = 1_000_000_000
BYTES_A_SECOND_LEAST: Final = 750  # the lowest rate of a speech codec that transcribers take: Opus at 6 kbit/s
_BYTES_A_SECOND_MOST: Final = 400_000  # FLAC of two channels at 96 kHz
_PCM_BYTES_A_SECOND: Final = 48_000  # 24 kHz, 16 bits, one channel
_PIECES_MAX: Final = 20_000  # frames or pages that are walked; behind them the rest counts by the average
_RESYNCS_MAX: Final = 1_000
_SEARCHED_BYTES: Final = 4_096  # for the next frame, at a time
_BOXES_MAX: Final = 2_000
_HEAD_BYTES_MAX: Final = 1024 * 1024  # before the samples of a WAVE
_SYNC: Final = re.compile(rb"\xff[\xe2-\xe7\xf0-\xf7\xf8\xf9\xfa-\xff][\x00-\xef]")
_KBPS_1: Final = {
    3: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_KBPS_2: Final = {
    3: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HZ: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_ADTS_HZ: Final = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


class Meter:
    """The length of one piece of audio of a known form: "mp3", "aac" (ADTS), "wav", "pcm", "opus" (in Ogg) or "ogg".

    Another form has no length here. `feed` takes the bytes in any pieces.
    """

    def __init__(self, form: str) -> None:
        self._form = {"opus": "ogg", "aac": "mp3"}.get(form, form)
        self._tail = b""
        self._skip = 0  # bytes of a frame or tag that are not here yet
        self._nanos = 0
        self._pieces = self._resyncs = 0
        self._bytes = self._walked = 0
        self._rate = _PCM_BYTES_A_SECOND if form == "pcm" else 0  # bytes of samples a second
        self._data_bytes = 0
        self._data_max = -1  # as a WAVE says, -1: none said
        self._hz = self._granule = 0

    def feed(self, chunk: bytes) -> None:
        """The next piece."""
        self._bytes += len(chunk)
        if self._form == "pcm" or (self._form == "wav" and self._rate):
            self._data_bytes += len(chunk)
            return
        if self._form not in ("mp3", "ogg", "wav") or self._pieces >= _PIECES_MAX or self._resyncs > _RESYNCS_MAX:
            return
        data = self._tail + chunk if self._tail else chunk
        at = self._wave(data) if self._form == "wav" else self._walk(data)
        self._tail = data[at:] if self._pieces < _PIECES_MAX else b""
        if self._form == "wav" and len(self._tail) > _HEAD_BYTES_MAX:
            self._form = ""

    @property
    def nanos(self) -> int | None:
        """Nanoseconds so far; None where nobody can tell."""
        if self._form in ("pcm", "wav"):
            size = self._data_bytes if self._data_max < 0 else min(self._data_bytes, self._data_max)
            return size * _NANO // self._rate if self._rate else None
        if self._form == "ogg":
            return self._granule * _NANO // self._hz if self._hz else None
        if self._form != "mp3" or not self._pieces or self._resyncs > _RESYNCS_MAX:
            return None
        if self._pieces >= _PIECES_MAX:
            return self._nanos * self._bytes // (self._walked + self._skip)
        return self._nanos

    def _walk(self, data: bytes) -> int:
        """Frame by frame or page by page; how many bytes were used."""
        at, step = 0, self._page if self._form == "ogg" else self._frame
        while self._pieces < _PIECES_MAX:
            passed = min(self._skip, len(data) - at)
            at, self._skip, self._walked = at + passed, self._skip - passed, self._walked + passed
            if self._skip:
                break
            found = step(data, at)
            if found < 0:
                break
            if found:
                self._skip = found
                continue
            self._resyncs += 1
            if self._resyncs > _RESYNCS_MAX:
                return len(data)
            at = len(data) if self._form == "ogg" else self._resynced(data, at + 1)
        return at

    def _resynced(self, data: bytes, at: int) -> int:
        """Where the next frame may begin, not far away."""
        sync = _SYNC.search(data, at, at + _SEARCHED_BYTES)
        return sync.start() if sync else max(at, min(at + _SEARCHED_BYTES, len(data)) - 2)

    def _frame(self, data: bytes, at: int) -> int:
        """The length of the frame there; 0 where there is none, -1 where more is needed to tell."""
        if len(data) - at < 10:
            return -1
        if data[at : at + 3] == b"ID3":
            size = data[at + 6] << 21 | data[at + 7] << 14 | data[at + 8] << 7 | data[at + 9]
            return 10 + size + (10 if data[at + 5] & 0x10 else 0)
        first, second, third = data[at], data[at + 1], data[at + 2]
        if first != 0xFF or second & 0xE0 != 0xE0:
            return 0
        layer = second >> 1 & 3
        if layer == 0:
            return self._adts(data, at) if second & 0xF0 == 0xF0 else 0
        version, index, rate = second >> 3 & 3, third >> 4, third >> 2 & 3
        if version == 1 or rate == 3 or not 0 < index < 15:
            return 0
        hz, kbps = _HZ[version][rate], (_KBPS_1 if version == 3 else _KBPS_2)[layer][index - 1]
        padding = third >> 1 & 1
        if layer == 3:
            samples, length = 384, (12_000 * kbps // hz + padding) * 4
        else:
            samples = 1152 if version == 3 or layer == 2 else 576
            length = samples // 8 * 1000 * kbps // hz + padding
        self._made(samples, hz)
        return length

    def _adts(self, data: bytes, at: int) -> int:
        rate = data[at + 2] >> 2 & 15
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        if rate >= len(_ADTS_HZ) or length < 7:
            return 0
        self._made(1024 * ((data[at + 6] & 3) + 1), _ADTS_HZ[rate])
        return length

    def _made(self, samples: int, hz: int) -> None:
        self._pieces += 1
        self._nanos += samples * _NANO // hz

    def _page(self, data: bytes, at: int) -> int:
        if len(data) - at < 27 or len(data) - at < 27 + data[at + 26]:
            return -1
        if data[at : at + 4] != b"OggS":
            return 0
        body = at + 27 + data[at + 26]
        length = 27 + data[at + 26] + sum(data[at + 27 : body])
        if not self._hz:
            if len(data) - at < min(length, 80):
                return -1
            if data[body : body + 8] == b"OpusHead":
                self._hz = 48_000
            elif data[body : body + 7] == b"\x01vorbis" and len(data) >= body + 16:
                self._hz = unpack_from("<I", data, body + 12)[0]
        granule = unpack_from("<q", data, at + 6)[0]
        self._granule = max(self._granule, granule)
        self._pieces += 1
        return length

    def _wave(self, data: bytes) -> int:
        """The chunks before the samples; how many bytes were used."""
        at = 0
        if not self._pieces:
            if len(data) < 12:
                return 0
            if data[:4] not in (b"RIFF", b"RF64") or data[8:12] != b"WAVE":
                self._form = ""
                return len(data)
            self._pieces, at = 1, 12
        while len(data) - at >= 8:
            name, size = data[at : at + 4], unpack_from("<I", data, at + 4)[0]
            if name == b"data":
                self._rate, self._data_bytes = self._hz, len(data) - at - 8
                self._data_max = size if 0 < size < 0xFFFFFFFF else -1
                return len(data)
            if len(data) - at < 8 + size:
                break
            if name == b"fmt " and size >= 16:
                self._hz = unpack_from("<I", data, at + 12)[0] * unpack_from("<H", data, at + 20)[0]
            at += 8 + size + (size & 1)
        return min(at, len(data))


def seconds_of(content: memoryview) -> int | None:
    """How many seconds a file of audio has begun; None where it does not show."""
    data = bytes(content)
    nanos: int | None = None
    if data[:4] in (b"RIFF", b"RF64"):
        nanos = _metered("wav", data)
    elif data[:4] == b"OggS":
        nanos = _last_page(data)
    elif data[:4] == b"fLaC":
        nanos = _flac(data)
    elif data[4:8] == b"ftyp":
        nanos = _mp4(data)
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        nanos = _webm(data)
    else:
        return started_seconds(_metered("mp3", data))
    if nanos is None or nanos <= 0:
        return None
    if data[:4] not in (b"RIFF", b"RF64"):
        nanos = max(nanos, len(data) * _NANO // _BYTES_A_SECOND_MOST)
    return started_seconds(nanos)


def started_seconds(nanos: int | None) -> int | None:
    """Whole seconds, a started one counts; None for None."""
    return None if nanos is None else -(-nanos // _NANO)


def seconds_at_most(size: int) -> int:
    """No file of this many bytes that anybody transcribes is longer."""
    return -(-size // BYTES_A_SECOND_LEAST)


def _metered(form: str, data: bytes) -> int | None:
    meter = Meter(form)
    meter.feed(data)
    return meter.nanos


def _last_page(data: bytes) -> int | None:
    """A file is here as a whole: its last page says how long it is, whatever the number of pages."""
    meter = Meter("ogg")
    meter.feed(data)
    last = data.rfind(b"OggS")
    if meter.nanos is not None and last > 0:
        meter._page(data, last)
    return meter.nanos


def _flac(data: bytes) -> int | None:
    if len(data) < 26 or data[4] & 0x7F:  # the first block is STREAMINFO
        return None
    packed = int.from_bytes(data[18:26], "big")
    hz, samples = packed >> 44, packed & (1 << 36) - 1
    return samples * _NANO // hz if hz else None


def _mp4(data: bytes) -> int | None:
    """The longest of what the movie and its tracks say."""
    longest, boxes = 0, 0
    spans = [(0, len(data))]
    while spans:
        at, end = spans.pop()
        while at + 8 <= end and boxes < _BOXES_MAX:
            boxes += 1
            size, kind = unpack_from(">I", data, at)[0], data[at + 4 : at + 8]
            head = 8
            if size == 1 and at + 16 <= end:
                size, head = unpack_from(">Q", data, at + 8)[0], 16
            if size == 0:
                size = end - at
            if size < head:
                break
            if kind in (b"moov", b"trak", b"mdia"):
                spans.append((at + head, min(at + size, end)))
            elif kind in (b"mvhd", b"mdhd") and at + head + 32 <= len(data):
                wide = data[at + head] == 1
                scale, length = unpack_from(">IQ" if wide else ">II", data, at + head + (20 if wide else 12))
                unknown = (1 << (64 if wide else 32)) - 1
                if scale and length != unknown:
                    longest = max(longest, length * _NANO // scale)
            at += size
    return longest or None


def _webm(data: bytes) -> int | None:
    """What its head says, or the time of its last block."""
    scale_at = data.find(b"\x2a\xd7\xb1\x83", 0, 65_536)
    scale = int.from_bytes(data[scale_at + 4 : scale_at + 7], "big") if scale_at >= 0 else 1_000_000
    for name, kind in ((b"\x44\x89\x88", ">d"), (b"\x44\x89\x84", ">f")):
        at = data.find(name, 0, 65_536)
        if at >= 0 and at + 11 <= len(data):
            length = unpack_from(kind, data, at + 3)[0]
            if 0 < length < 1e12:  # not a number is neither
                return int(length * scale)
    at = data.rfind(b"\x1f\x43\xb6\x75")
    time_at = data.find(b"\xe7", at, at + 24) if at >= 0 else -1
    if time_at < 0 or not 0x80 < (data[time_at + 1 : time_at + 2] or b"\0")[0] <= 0x88:
        return None
    size = data[time_at + 1] & 0x7F
    latest = ticks = int.from_bytes(data[time_at + 2 : time_at + 2 + size], "big")
    at = time_at + 2 + size
    for _ in range(_BOXES_MAX):
        if at + 12 > len(data) or data[at] != 0xA3:  # blocks lie side by side
            break
        width = 9 - data[at + 1].bit_length() if data[at + 1] else 9
        length = int.from_bytes(data[at + 1 : at + 1 + width], "big") & (1 << 7 * width) - 1 if width <= 8 else 0
        if not length:
            break
        ticks_at = at + 1 + width + 1  # behind the number of the track
        latest = max(latest, ticks + unpack_from(">h", data, ticks_at)[0])
        at += 1 + width + length
    return latest * scale if latest else None
