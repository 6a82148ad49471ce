"""The parts of a form (multipart/form-data), from a body that is in memory already."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.errors import BadRequest

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Larger forms are parsed in another thread, in slices: the event loop gets its turn between any two of them.
SLOW_FORM = 256 * 2**10
SLICE = 64 * 2**10
# Parts beside the files.
MAX_FIELDS = 8


Headers = list[tuple[bytes, bytes]]


def without_charset(headers: Headers) -> Headers:
    """Remove all parameters of a form's content-type but the boundary from a request's headers.

    Starlette decodes the fields' names, which are ASCII, with the form's charset, and fails for some charsets.
    """
    return [(name, _plain(value) if name == b"content-type" else value) for name, value in headers]


def _plain(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.lower() != b"multipart/form-data" or not boundary:
        return content_type
    return b'multipart/form-data; boundary="%s"' % boundary


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a form. A file has a filename, which may be empty."""

    name: str
    filename: str | None
    content: bytes


def is_form(content_type: str) -> bool:
    """Return whether a request with this content-type is a form with files."""
    return content_type.lower().startswith("multipart/form-data")


async def read_form(body: bytes, content_type: str, *, max_files: int) -> list[Part]:
    """Parse a form. It needs no disk, and does not hold up the event loop.

    Args:
        body: The request's body.
        content_type: The header of that name.
        max_files: The most files that the form may have.

    Raises:
        BadRequest: If the form is broken, incomplete, or has too many parts.
    """
    # The fields' names are UTF-8, whatever charset the header claims.
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("the form's content-type has no boundary")
    if len(body) <= SLOW_FORM:
        return _parse(body, boundary, max_files)
    return await asyncio.to_thread(_parse, body, boundary, max_files)


def _parse(body: bytes, boundary: bytes, max_files: int) -> list[Part]:
    form = _Form(memoryview(body), max_files)
    try:
        parser = MultipartParser(boundary, form.callbacks())
        for form.start in range(0, len(body), SLICE):
            form.slice = body[form.start : form.start + SLICE]
            parser.write(form.slice)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the form is broken: {error}"[:300]) from None
    if not form.complete:
        raise BadRequest("the form is incomplete: its closing boundary is missing")
    return form.parts


@dataclass
class _Form:
    """Collects what python-multipart's parser finds in a body, one slice of it after another."""

    body: memoryview
    max_files: int
    start: int = 0  # of the present slice
    slice: bytes = b""
    parts: list[Part] = field(default_factory=list)
    complete: bool = False
    _files: int = 0
    _name: bytes = b""  # of the present header
    _value: bytes = b""
    _disposition: bytes = b""
    _options: dict[bytes, bytes] = field(default_factory=dict)
    _content: list[bytes | memoryview] = field(default_factory=list)

    def callbacks(self) -> MultipartCallbacks:
        """Return the methods that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._disposition = b""
        self._content = []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_finished(self) -> None:
        self._options = parse_options_header(self._disposition)[1]
        if b"name" not in self._options:
            raise FormParserError("a part has no name in its Content-Disposition")
        self._files += b"filename" in self._options
        if self._files > self.max_files:
            raise BadRequest(f"more than {self.max_files} files in one form")
        if len(self.parts) + 1 - self._files > MAX_FIELDS:
            raise BadRequest(f"more than {MAX_FIELDS} fields beside the files in one form")

    def _data(self, data: bytes, start: int, end: int) -> None:
        # Not copied twice. Data from elsewhere are what first looked like the beginning of a boundary.
        here = data is self.slice
        self._content.append(self.body[self.start + start : self.start + end] if here else data[start:end])

    def _end(self) -> None:
        filename = self._options.get(b"filename")
        name = _text(self._options[b"name"])
        self.parts.append(Part(name, None if filename is None else _text(filename), b"".join(self._content)))

    def _finish(self) -> None:
        self.complete = True


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
