"""How long uploaded files are, of files made here byte by byte as the standards have them, and of those that lie about it."""

import os
from random import Random
from struct import pack

import pytest

from gateway.metering.heard import _crc8, _page_crc, seconds_at_most, seconds_of
from tests.scripted_media import MP3_FRAME, speech, wave

SEED = int(os.environ.get("AUDIO_SEED", "7"))


def ogg_page(granule: int, packets: list[bytes], serial: int = 1, flags: int = 0) -> bytes:
    laces = b"".join(bytes([255]) * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    page = b"OggS" + pack("<BBqIIIB", 0, flags, granule, serial, 0, 0, len(laces)) + laces + b"".join(packets)
    return page[:22] + pack("<I", _page_crc(page)) + page[26:]


def opus(seconds: int, told: int | None = None, serial: int = 1) -> bytes:
    """Frames of 20 ms in 15 bytes (6 kbit/s), a second on a page; every page tells `told`, where it is given."""
    head = b"OpusHead" + pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    pages = [ogg_page(0, [head], serial, 2), ogg_page(0, [b"OpusTags" + bytes(8)], serial)]
    packet = b"\x08" + b"\x01" * 14
    pages += [ogg_page(48_000 * (n + 1) if told is None else told, [packet] * 50, serial) for n in range(seconds)]
    return b"".join(pages)


def vorbis(packets: int, hz: int, told: int) -> bytes:
    head = b"\x01vorbis" + pack("<IBIiiiBB", 0, 2, hz, 0, 0, 0, 0xB8, 1)  # blocks of 256 and 2,048 samples
    pages = [ogg_page(0, [head], flags=2), ogg_page(0, [b"\x03vorbis" + bytes(20), b"\x05vorbis" + bytes(400)])]
    pages += [ogg_page(told, [b"\x02" + bytes(99)] * 40) for _ in range(packets // 40)]
    return b"".join(pages)


def adts(frames: int) -> bytes:
    """AAC-LC at 24 kHz: 1,024 samples in a frame of 107 bytes."""
    size = 107
    head = bytes([0xFF, 0xF1, 0x40 | 6 << 2, 0x40 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC])
    return (head + bytes(size - 7)) * frames


def flac(frames: int, hz: int, told: int, body: int = 3_000) -> bytes:
    """Frames of 4,096 samples."""
    head = b"fLaC\x80\x00\x00\x22" + pack(">HH", 4_096, 4_096) + bytes(6)
    made = head + (hz << 44 | 15 << 36 | told).to_bytes(8, "big") + bytes(16)
    frame = b"\xff\xf8\xc0\x08\x00"
    return made + (frame + bytes([_crc8(frame)]) + bytes(body)) * frames


def box(kind: bytes, *body: bytes) -> bytes:
    inner = b"".join(body)
    return pack(">I4s", 8 + len(inner), kind) + inner


def m4a(samples: int, hz: int, told: int, *, runs: int = 0, rate: int = 4) -> bytes:
    """AAC-LC; `rate` is the index of 44.1 kHz in AudioSpecificConfig."""
    config = (2 << 11 | rate << 7 | 1 << 3).to_bytes(2, "big")
    esds = box(b"esds", bytes(4), b"\x03\x19\x00\x00\x00\x04\x11\x40\x15" + bytes(11) + b"\x05\x02" + config + b"\x06\x01\x02")
    entry = box(b"mp4a", bytes(6), pack(">H", 1), bytes(8), pack(">HHHHI", 2, 16, 0, 0, hz << 16 & 0xFFFFFFFF), esds)
    table = box(b"stbl", box(b"stsd", pack(">II", 0, 1), entry), box(b"stsz", pack(">III", 0, 200, samples), bytes(8)))
    media = box(b"mdhd", pack(">BxxxIIII", 0, 0, 0, hz, told), bytes(4)) + box(b"hdlr", bytes(8), b"soun", bytes(13))
    moov = box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", box(b"mdia", media, box(b"minf", table))))
    fragments = box(b"moof", box(b"traf", box(b"trun", pack(">II", 0, 40), bytes(12)))) * runs
    return box(b"ftyp", b"M4A \0\0\0\0") + moov + fragments + box(b"mdat", bytes(200 * samples))


def element(name: str, body: bytes, *, live: bool = False) -> bytes:
    size = b"\x01" + b"\xff" * 7 if live else pack(">Q", len(body) | 1 << 56)
    return bytes.fromhex(name) + size + body


def webm(blocks: int, told_ms: float | None = None, codec: bytes = b"A_OPUS") -> bytes:
    """As browsers record: Opus in frames of 20 ms, sizes unknown, a picture beside it."""
    info = element("1549A966", element("2AD7B1", b"\x0f\x42\x40") + (element("4489", pack(">d", told_ms)) if told_ms else b""))
    video = element("AE", element("D7", b"\x02") + element("83", b"\x01") + element("86", b"V_VP8"))
    audio = element("AE", element("D7", b"\x01") + element("83", b"\x02") + element("86", codec))
    block = element("A3", b"\x81\x00\x00\x80" + b"\x08" + bytes(99)) + element("A3", b"\x82\x00\x00\x80" + bytes(300))
    clusters = b"".join(
        element("1F43B675", element("E7", b"\x00") + block * min(50, blocks - at), live=True) for at in range(0, blocks, 50)
    )
    return element("1A45DFA3", b"") + element("18538067", info + element("1654AE6B", video + audio) + clusters, live=True)


def waved(
    tag: int, hz: int, rate: int, bits: int, data: bytes, *, said: int | None = None, kind: bytes = b"RIFF", align: int = 1
) -> bytes:
    form = b"fmt " + pack("<IHHIIHH", 16, tag, 1, hz, rate, align, bits)
    size = len(data) if said is None else said
    return kind + b"\xff\xff\xff\xffWAVE" + form + b"data" + pack("<I", size) + data


SLOW_FRAME = bytes([0xFF, 0xF3, 0x14, 0xC4]) + bytes(20)  # MPEG-2 layer III, 8 kbit/s at 24 kHz: 24 ms in 24 bytes
FAST = b"".join(b"\xff\xfb" + bytes([index << 4]) + b"\0" * (144_000 * kbps // 44_100 - 3) for index, kbps in ((9, 128), (5, 64)))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (wave(7.5), 8),
        (wave(2.0, 16_000), 2),
        (speech("wav", 3), 3),  # as a stream has it
        (waved(7, 8_000, 8_000, 8, bytes(80_000)), 10),
        (waved(3, 48_000, 192_000, 32, bytes(384_000)), 2),
        (waved(0x11, 8_000, 4_055, 4, bytes(256 * 1_584), align=256), 100),  # IMA ADPCM: 505 samples in a block
        (speech("mp3", 3), 3),
        (b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + MP3_FRAME * 42, 2),  # 1.008 s behind a tag
        (MP3_FRAME * 30_000, 720),
        (FAST * 100, 6),  # of changing rates: 200 frames of 1,152 samples at 44.1 kHz
        (adts(47), 3),  # 2.005 s
        (opus(120), 120),
        (opus(3) + opus(4, serial=2), 7),
        (vorbis(400, 44_100, 400 * 1_024), 10),
        (vorbis(400, 44_100, 300 * 1_024), 7),  # some of short blocks: as told
        (flac(50, 44_100, 50 * 4_096), 5),
        (m4a(4_307, 44_100, 4_307 * 1_024), 101),
        (m4a(0, 44_100, 0, runs=11), 11),
        (webm(500), 10),
        (webm(500, 10_900.0), 11),
    ],
)
def test_an_honest_file_is_as_long_as_it_plays(data: bytes, seconds: int) -> None:
    assert seconds_of(memoryview(data)) == seconds


@pytest.mark.parametrize(
    ("data", "true"),
    [
        (SLOW_FRAME + b"ID3\x04\x00\x00\x00\x09\x00\x00" + SLOW_FRAME * 6_200, 148),  # a tag in mid-file
        (b"ID3\x04\xff\x00\x00\x07\x00\x00" + SLOW_FRAME * 5_000, 120),  # tags that readers do not know for one
        (b"ID3\x04\x00\x00\x00\x06\x80\x00" + SLOW_FRAME * 5_000, 120),
        (FAST * 50 + SLOW_FRAME * 50_000, 1_200),  # first the fast ones
        (waved(7, 8_000, 8_000, 8, bytes(800_000), said=2, kind=b"RF64"), 100),
        (waved(7, 8_000, 8_000, 8, bytes(800_000), said=2), 100),
        (waved(1, 8_000, 8_000, 16, bytes(800_000) + b"data" + pack("<I", 800_000) + bytes(800_000)), 100),
        (waved(0x31, 8_000, 1_625, 0, bytes(162_500)), 100),  # honest GSM 6.10
        (opus(100, told=1), 100),
        (opus(2) + opus(100, told=1, serial=9), 102),
        (opus(100, told=1)[:-20], 99),
        (vorbis(4_000, 44_100, 1), 92),
        (flac(500, 44_100, 1, body=20), 46),
        (m4a(4_307, 44_100, 1_024), 100),
        (m4a(4_307, 2_000_000_000, 1_024), 100),
        (webm(5_000, 1_000.0), 100),
    ],
)
def test_a_file_that_says_less_than_a_decoder_hears_is_held_for_what_it_hears(data: bytes, true: int) -> None:
    found = seconds_of(memoryview(data)) or seconds_at_most(memoryview(data))
    assert true <= found <= 8 * true


def test_an_ogg_file_whose_pages_are_not_whole_is_held_by_its_size() -> None:
    data = opus(300, told=1).replace(b"OggS\0\0", b"OggS\0\4")  # the checksums are no longer theirs
    assert seconds_of(memoryview(data)) is None
    assert seconds_at_most(memoryview(data)) >= 300


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"hello" * 300, b"RIFF\0\0\0\0AVI ", b"fLaC", b"\x1a\x45\xdf\xa3" + bytes(90), b"\xff" * 300_000]
)
def test_what_does_not_show_its_length_has_none(data: bytes) -> None:
    assert seconds_of(memoryview(data)) is None
    assert seconds_at_most(memoryview(data)) >= len(data) // 1_000


def test_a_large_file_of_the_smallest_frames_is_walked_in_a_moment() -> None:
    assert seconds_of(memoryview(SLOW_FRAME * 400_000)) == 9_600
    tiny = ogg_page(0, [b"OpusHead" + bytes(11)], flags=2) + ogg_page(9, [b"\x18"] * 255) * 4_000
    assert seconds_of(memoryview(tiny)) == 255 * 4_000 * 6 // 100


def test_nonsense_is_read_without_an_error() -> None:
    print(f"AUDIO_SEED={SEED}")
    random = Random(SEED)
    heads = [
        wave(0.01),
        opus(1),
        vorbis(40, 8_000, 9),
        flac(2, 10, 10, 30),
        m4a(2, 8_000, 9, runs=1),
        webm(3, 1.0),
        MP3_FRAME * 2,
    ]
    heads += [adts(2), webm(2, None, b"A_VORBIS"), waved(0xFFFE, 1, 1, 16, b"12")]
    for _ in range(6_000):
        data = bytearray(random.choice(heads))
        for _ in range(random.randrange(6)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = memoryview(bytes(data[: random.randrange(len(data) + 1)]))
        assert (seconds_of(cut) or 1) > 0
        assert seconds_at_most(cut) >= 0
