"""`multipart/form-data`: how one is read, and how it is written again for the upstream.

Two parsers may read one form differently, and what is priced must be what runs. So a form is never passed on: what was
understood of it is written anew, behind a boundary that is made at random in each process, so that nobody who fills a
field can guess it. The parser is the one that Starlette uses (python-multipart); what it finds stays where it is in the
body, and is copied once, into the body for the upstream.
"""

import re
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.core import limits
from gateway.core.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from gateway.providers.model import Headers

if TYPE_CHECKING:  # what the library has for type checkers alone
    from python_multipart.multipart import MultipartCallbacks

_BOUNDARY: Final = secrets.token_hex(24).encode()
CONTENT_TYPE: Final[Headers] = (("content-type", f"multipart/form-data; boundary={_BOUNDARY.decode()}"),)
_MEDIA_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:\[\])?")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9 ._()+-]")
_FILENAME_CHARS_MAX: Final = 128
# Fields that hold lists. Some servers read any other such name as the field without the brackets (`model[]`, `fallbacks[]`).
_LISTS: Final = frozenset(
    ("include[]", "known_speaker_names[]", "known_speaker_references[]", "timestamp_granularities[]")
)  # fmt: skip


class File(msgspec.Struct, frozen=True):
    """One file of a form; `content` is where it stands in the form's own bytes."""

    field: str
    name: str
    media_type: str
    content: memoryview


class Form(msgspec.Struct, frozen=True):
    """A form. Fields whose names end in "[]" hold lists; the others are there once."""

    fields: dict[str, Any]
    files: tuple[File, ...]


class _Parts:
    """What the parser finds, part by part."""

    def __init__(self, raw: bytes) -> None:
        self.found: list[tuple[Mapping[bytes, bytes], int, int]] = []  # headers, and from where to where the content is
        self.ended = False
        self._raw = raw
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._start = self._end = 0

    def callbacks(self) -> "MultipartCallbacks":
        """As the parser takes them."""
        return {
            "on_part_begin": self._begin, "on_part_data": self._data, "on_part_end": self._part,
            "on_header_field": self._field, "on_header_value": self._says, "on_header_end": self._header, "on_end": self._whole,
        }  # fmt: skip

    def _begin(self) -> None:
        if len(self.found) >= limits.FORM_PARTS_MAX:
            raise InvalidRequest(f"the form has more than {limits.FORM_PARTS_MAX} parts")
        self._headers, self._start, self._end = {}, 0, 0

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _says(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        name = self._name.lower()
        if name in self._headers:
            raise InvalidRequest("a part of the form has a header twice")
        self._headers[name] = self._value
        self._name = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        assert data is self._raw  # all of it was written at once
        # Content comes in pieces, where something in it looked like the beginning of a boundary; they lie side by side.
        self._start, self._end = (self._start, end) if self._end else (start, end)

    def _part(self) -> None:
        self.found.append((self._headers, self._start, self._end))

    def _whole(self) -> None:
        self.ended = True


def read_form(raw: bytes, content_type: bytes, file_fields: Collection[str]) -> Form:
    """The form in a body. InvalidRequest, UnsupportedMedia, BodyTooLarge.

    `file_fields` are the names that files may have ("image[]" for several); every other part is a text of UTF-8.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia("send the request as multipart/form-data", param="content-type")
    parts = _Parts(raw)
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""), parts.callbacks(), max_header_count=8, max_header_size=limits.FORM_HEADER_BYTES_MAX
        )  # fmt: skip
        parser.write(raw)
        parser.finalize()
    except FormParserError as broken:
        raise InvalidRequest(f"the body is not a valid form: {broken}") from broken
    if not parts.ended:
        raise InvalidRequest("the body is not a valid form: it has no end")
    fields: dict[str, Any] = {}
    files: list[File] = []
    view = memoryview(raw)
    for headers, start, end in parts.found:
        name, filename = _named(headers)
        if name in file_fields:
            files.append(_file(name, filename, headers, view[start:end]))
        elif filename is not None:
            raise InvalidRequest(f"{name} is no field for a file", param=name)
        else:
            _put(fields, name, raw, start, end)
    return Form(fields, tuple(files))


def _named(headers: Mapping[bytes, bytes]) -> tuple[str, str | None]:
    disposition, options = parse_options_header(headers.get(b"content-disposition"))
    name = options.get(b"name", b"").decode("latin-1")
    if disposition != b"form-data" or not _NAME.fullmatch(name):
        raise InvalidRequest("a part of the form has no proper name")
    filename = options.get(b"filename")
    return name, None if filename is None else filename.decode("utf-8", "replace")


def _file(name: str, filename: str | None, headers: Mapping[bytes, bytes], content: memoryview) -> File:
    if not content:
        raise InvalidRequest(f"{name} is empty", param=name)
    if len(content) > limits.FILE_BYTES_MAX:
        raise BodyTooLarge(f"{name} is larger than {limits.FILE_BYTES_MAX} bytes", param=name)
    media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip()
    if not _MEDIA_TYPE.fullmatch(media_type):
        media_type = "application/octet-stream"
    return File(name, _UNSAFE.sub("_", filename or name)[-_FILENAME_CHARS_MAX:], media_type, content)


def _put(fields: dict[str, Any], name: str, raw: bytes, start: int, end: int) -> None:
    if end - start > limits.FORM_FIELD_BYTES_MAX:
        raise BodyTooLarge(f"{name} is larger than {limits.FORM_FIELD_BYTES_MAX} bytes", param=name)
    try:
        value = raw[start:end].decode()
    except UnicodeDecodeError as wrong:
        raise InvalidRequest(f"{name} is not UTF-8", param=name) from wrong
    if name.endswith("[]"):
        if name not in _LISTS:
            raise InvalidRequest(f"{name} is no list here, only {', '.join(sorted(_LISTS))}", param=name)
        fields.setdefault(name, []).append(value)
    elif name in fields:  # one server takes the first, another the last
        raise InvalidRequest(f"{name} is there twice", param=name)
    else:
        fields[name] = value


def write_form(fields: Mapping[str, Any], files: Collection[File]) -> bytes:
    """The body of a form, to be sent with `CONTENT_TYPE`. Values that are no texts or lists of texts are left out."""
    parts: list[bytes | memoryview] = []
    for name, value in fields.items():
        for each in value if type(value) is list else (value,):
            if type(each) is str:
                head = f'--{_BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
                parts += [head.encode(), each.encode(), b"\r\n"]
    for file in files:
        head = f'--{_BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{file.field}"; filename="{file.name}"\r\n'
        parts += [head.encode(), f"Content-Type: {file.media_type}\r\n\r\n".encode(), file.content, b"\r\n"]
    return b"".join((*parts, b"--", _BOUNDARY, b"--\r\n"))


def whole_in(fields: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    """A whole number that a form gives as text; the default where it is not there. InvalidRequest."""
    value = fields.get(name)
    if value is None or value == "":
        return default
    if type(value) is not str or not value.isascii() or not value.isdigit() or len(value) > 9 or not least <= int(value) <= most:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {most}", param=name)
    return int(value)


def flag_in(fields: Mapping[str, Any], name: str) -> bool:
    """A truth that a form gives as text; False where it is not there. InvalidRequest."""
    value = fields.get(name) or "false"
    if type(value) is not str or value.lower() not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value.lower() == "true"
