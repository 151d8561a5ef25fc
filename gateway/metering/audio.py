"""How long speech is that passes in pieces, as its provider makes it. Pure; nothing is decoded.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio frames), 14496-3 (ADTS), RFC 3533 and 7845 (Ogg, Opus), Microsoft's RIFF
WAVE; raw PCM as OpenAI's speech has it. A file that a caller uploads is not believed so far: see `heard`.
"""

import re
from struct import unpack_from
from typing import Final

_NANO: Final = 1_000_000_000
_PCM_BYTES_A_SECOND: Final = 48_000  # 24 kHz, 16 bits, one channel
_PIECES_MAX: Final = 20_000  # frames or pages that are walked; behind them the rest counts by the average
_RESYNCS_MAX: Final = 1_000
_SEARCHED_BYTES: Final = 4_096  # for the next frame, at a time
_HEAD_BYTES_MAX: Final = 1024 * 1024  # before the samples of a WAVE
_SYNC: Final = re.compile(rb"\xff[\xe2-\xe7\xf0-\xf7\xf8\xf9\xfa-\xff][\x00-\xef]")
KBPS_1: Final = {
    3: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
KBPS_2: Final = {
    3: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
HZ: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
ADTS_HZ: Final = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


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
        hz, kbps = HZ[version][rate], (KBPS_1 if version == 3 else KBPS_2)[layer][index - 1]
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
        if rate >= len(ADTS_HZ) or length < 7:
            return 0
        self._made(1024 * ((data[at + 6] & 3) + 1), ADTS_HZ[rate])
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


def started_seconds(nanos: int | None) -> int | None:
    """Whole seconds, a started one counts; None for None."""
    return None if nanos is None else -(-nanos // _NANO)
