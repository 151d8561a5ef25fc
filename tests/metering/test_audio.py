"""How long speech in pieces is, of pieces made here byte by byte as the standards have them."""

import os
from random import Random
from struct import pack

import pytest

from gateway.metering.audio import Meter
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


def adts(frames: int) -> bytes:
    """AAC-LC at 24 kHz: 1,024 samples in a frame of 107 bytes."""
    size = 107
    head = bytes([0xFF, 0xF1, 0x40 | 6 << 2, 0x40 | size >> 11, size >> 3 & 0xFF, (size & 7) << 5 | 0x1F, 0xFC])
    return (head + bytes(size - 7)) * frames


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
    meter.feed(b"fLaC" + bytes(5_000))
    assert meter.nanos is None


def test_nonsense_is_read_without_an_error() -> None:
    print(f"AUDIO_SEED={SEED}")
    random = Random(SEED)
    heads = [wave(0.01), opus(1), MP3_FRAME, adts(1)]
    for _ in range(2_000):
        data = bytearray(random.choice(heads))
        for _ in range(random.randrange(6)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = bytes(data[: random.randrange(len(data) + 1)])
        meter = Meter(random.choice(("mp3", "aac", "opus", "wav", "pcm")))
        for at in range(0, len(cut), 50):
            meter.feed(cut[at : at + 50])
        assert meter.nanos is None or meter.nanos >= 0
