"""How long audio is, of files made here byte by byte as the standards have them."""

import os
from random import Random
from struct import pack

import pytest

from gateway.metering.audio import Meter, seconds_at_most, seconds_of
from tests.scripted_media import MP3_FRAME, speech, wave

SEED = int(os.environ.get("AUDIO_SEED", "7"))
NANO = 1_000_000_000


def page(granule: int, body: bytes) -> bytes:
    assert len(body) < 255
    return b"OggS" + pack("<BBqIIIB", 0, 0, granule, 1, 0, 0, 1) + bytes([len(body)]) + body


def opus(seconds: int) -> bytes:
    pages = [page(0, b"OpusHead" + bytes(11)), page(0, b"OpusTags" + bytes(20))]
    pages += [page(48_000 * (second + 1), bytes(200)) for second in range(seconds)]
    return b"".join(pages)


def vorbis(seconds: int, hz: int) -> bytes:
    head = b"\x01vorbis" + pack("<IBI", 0, 2, hz) + bytes(13)
    return page(0, head) + page(hz * seconds, bytes(200))


def adts(frames: int) -> bytes:
    """AAC-LC at 24 kHz: 1,024 samples in a frame of 107 bytes."""
    size = 107
    head = bytes([0xFF, 0xF1, 0x40 | 6 << 2, 0x40 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC])
    return (head + bytes(size - 7)) * frames


def flac(samples: int, hz: int) -> bytes:
    return b"fLaC\x80\x00\x00\x22" + bytes(10) + (hz << 44 | 15 << 36 | samples).to_bytes(8, "big") + bytes(16) + bytes(5000)


def box(kind: bytes, body: bytes) -> bytes:
    return pack(">I4s", 8 + len(body), kind) + body


def mp4(movie_ms: int, track: tuple[int, int], *, wide: bool = False) -> bytes:
    head = pack(">BxxxII", 0, 0, 0) if not wide else pack(">BxxxQQ", 1, 0, 0)
    movie = box(b"mvhd", head + pack(">IQ" if wide else ">II", 1000, movie_ms) + bytes(80))
    media = box(b"mdhd", pack(">BxxxIIII", 0, 0, 0, *track) + bytes(20))
    return box(b"ftyp", b"M4A \0\0\0\0") + box(b"mdat", bytes(3000)) + box(b"moov", movie + box(b"trak", box(b"mdia", media)))


def webm(told_ms: float | None, blocks: tuple[int, ...] = ()) -> bytes:
    info = b"\x2a\xd7\xb1\x83\x0f\x42\x40" + (b"\x44\x89\x88" + pack(">d", told_ms) if told_ms else b"")
    cluster = b"\x1f\x43\xb6\x75\x01\xff\xff\xff\xff\xff\xff\xff" + b"\xe7\x82" + pack(">H", 5000)
    for ticks in blocks:
        body = b"\x81" + pack(">h", ticks) + b"\x80" + bytes(50)
        cluster += b"\xa3" + bytes([0x80 | len(body)]) + body
    return b"\x1a\x45\xdf\xa3\x80" + info + cluster


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (wave(7.5), 8),
        (wave(2.0, 16_000), 2),
        (speech("mp3", 3), 3),
        (b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128) + MP3_FRAME * 42, 2),  # 1.008 s behind a tag
        (b"junk" * 50 + MP3_FRAME * 42, 2),
        (adts(47), 3),  # 2.005 s
        (opus(12), 12),
        (vorbis(9, 44_100), 9),
        (flac(44_100 * 5 + 1, 44_100), 6),
        (mp4(3_999, (48_000, 10)), 4),
        (mp4(0, (48_000, 48_000 * 70)), 70),
        (mp4(3_999, (48_000, 10), wide=True), 4),
        (webm(12_345.0), 13),
        (webm(None, (0, 20, 6_990)), 12),
        (MP3_FRAME * 30_000, 720),  # more than are walked: the rest by the average
    ],
)
def test_a_file_is_as_long_as_it_plays(data: bytes, seconds: int) -> None:
    assert seconds_of(memoryview(data)) == seconds


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"hello" * 300, b"RIFF\0\0\0\0AVI ", b"fLaC", b"\x1a\x45\xdf\xa3" + bytes(90), b"\xff" * 300_000]
)
def test_what_does_not_show_its_length_has_none(data: bytes) -> None:
    assert seconds_of(memoryview(data)) is None


def test_a_file_that_says_less_than_its_bytes_take_is_not_believed() -> None:
    forged = flac(44_100, 44_100) + bytes(4_000_000)
    assert seconds_of(memoryview(forged)) == 11
    assert seconds_at_most(7_501) == 11


@pytest.mark.parametrize(
    ("form", "data"),
    [("mp3", speech("mp3", 2)), ("aac", adts(80)), ("opus", opus(5)), ("wav", speech("wav", 2)), ("pcm", speech("pcm", 2))],
)
def test_audio_in_pieces_is_as_long_as_in_one(form: str, data: bytes) -> None:
    whole = Meter(form)
    whole.feed(data)
    assert whole.nanos
    print(f"AUDIO_SEED={SEED}")
    random = Random(SEED)
    pieces = Meter(form)
    at = 0
    while at < len(data):
        size = random.choice((1, 3, 26, 144, 1000))
        pieces.feed(data[at : at + size])
        at += size
    assert pieces.nanos == whole.nanos


def test_a_form_that_cannot_be_read_has_no_length() -> None:
    meter = Meter("flac")
    meter.feed(flac(44_100, 44_100))
    assert meter.nanos is None


def test_nonsense_is_read_without_an_error() -> None:
    print(f"AUDIO_SEED={SEED}")
    random = Random(SEED)
    heads = [wave(0.01), opus(1), flac(10, 10), mp4(1, (1, 1)), webm(1.0, (1, 2)), webm(None, (1,)), MP3_FRAME, adts(1)]
    for _ in range(4_000):
        data = bytearray(random.choice(heads))
        for _ in range(random.randrange(6)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = bytes(data[: random.randrange(len(data) + 1)])
        assert (seconds_of(memoryview(cut)) or 1) > 0
        meter = Meter(random.choice(("mp3", "aac", "opus", "wav", "pcm")))
        for at in range(0, len(cut), 50):
            meter.feed(cut[at : at + 50])
        assert meter.nanos is None or meter.nanos >= 0
