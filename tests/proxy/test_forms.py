"""Forms: what is understood of one is what is written again, and nothing else."""

import os
from random import Random

import pytest

from gateway.core.errors import GatewayError, InvalidRequest
from gateway.proxy import forms

SEED = int(os.environ.get("FORMS_SEED", "11"))
BOUNDARY = forms.CONTENT_TYPE[0][1].encode()


def body(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"--x\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--x--\r\n"


def read(raw: bytes, *files: str) -> forms.Form:
    return forms.read_form(raw, b'multipart/form-data; boundary="x"', files or ("file",))


def test_fields_lists_and_files_are_found() -> None:
    form = read(
        body(
            (b'Content-Disposition: form-data; name="model"', b"whisper-1"),
            (b'content-disposition: form-data; name="prompt"', "Grüße\r\n--\r\n--y".encode()),
            (b'Content-Disposition: form-data; name="include[]"', b"a"),
            (b'Content-Disposition: form-data; name="include[]"', b"b"),
            (
                b'Content-Disposition: form-data; name="file"; filename="a\\"b/../c.wav"\r\nContent-Type: audio/wav; q=1',
                b"\r\n--\0",
            ),
        )
    )
    assert form.fields == {"model": "whisper-1", "prompt": "Grüße\r\n--\r\n--y", "include[]": ["a", "b"]}
    [file] = form.files
    assert (file.name, file.media_type, bytes(file.content)) == ("a_b_.._c.wav", "audio/wav", b"\r\n--\0")


def test_what_is_written_reads_back_whatever_it_holds() -> None:
    print(f"FORMS_SEED={SEED}")
    random = Random(SEED)
    for _ in range(200):
        pieces = [b"\r\n", b"--", b"x", b"\r", b"\n", b"\r\n--x", b"\r\n--x--\r\n", bytes([random.randrange(256)])]
        content = b"".join(random.choice(pieces) for _ in range(random.randrange(1, 40)))
        text = content.decode("latin-1")
        raw = forms.write_form({"prompt": text, "include[]": [text, "b"]}, [forms.File("file", "f", "a/b", memoryview(content))])
        form = forms.read_form(raw, BOUNDARY, ("file",))
        assert form.fields == {"prompt": text, "include[]": [text, "b"]}
        assert [bytes(file.content) for file in form.files] == [content]


def test_the_boundary_is_of_this_process_alone() -> None:
    assert b"boundary=" in BOUNDARY
    assert len(BOUNDARY.partition(b"boundary=")[2]) == 48


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--x",
        b"nothing",
        body((b"Content-Disposition: form-data", b"1")),
        body((b'Content-Disposition: attachment; name="a"', b"1")),
        body((b'Content-Disposition: form-data; name="a\\"; filename=b"', b"1")),
        body((b'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="b"', b"1")),
        body((b'Content-Disposition: form-data; name="a"', b"\xff\xfe")),
        body((b'Content-Disposition: form-data; name="a"', b"1"), (b'Content-Disposition: form-data; name="a"', b"1")),
        body((b'Content-Disposition: form-data; name="a"', b"1"))[:-4],
        b"--x\r\n" + b"a: b\r\n" * 20 + b"\r\n\r\n--x--\r\n",
        b"--x\r\n" + b"a: " + b"b" * 10_000 + b"\r\n\r\n\r\n--x--\r\n",
    ],
)
def test_what_is_not_a_plain_form_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(raw)


def test_a_form_without_an_end_has_no_part_that_counts() -> None:
    raw = body((b'Content-Disposition: form-data; name="a"', b"1"))
    assert read(raw).fields == {"a": "1"}
    for cut in range(len(raw) - 3):
        with pytest.raises(GatewayError):
            read(raw[:cut])


@pytest.mark.parametrize(("value", "number"), [("7", 7), ("", 3), (None, 3)])
def test_a_number_is_read_from_text(value: str | None, number: int) -> None:
    assert forms.whole_in({"n": value}, "n", 1, 10, 3) == number


@pytest.mark.parametrize("value", ["0", "11", "1.0", "-1", "x", "٣", "9" * 5000])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest):
        forms.whole_in({"n": value}, "n", 1, 10, 3)


@pytest.mark.parametrize("name", ["fallbacks[]", "api_base[]", "model[]", "n[]", "stream[]"])
def test_what_is_no_list_is_not_said_as_one(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(body((f'Content-Disposition: form-data; name="{name}"'.encode(), b"x")))
    assert refused.value.param == name
