"""Decides what a multipart body with one file may look like: its fields and their bounds, in any order."""

from __future__ import annotations

from collections.abc import Iterator

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from reflexd.errors import InvalidRequest
from reflexd.service.uploads import check_expiry, check_purpose, shown_name
from reflexd.store.keys import Key

FILE = "file"
PURPOSE = "purpose"
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
MAX_PARTS = 16
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4_096
MAX_FIELD_BYTES = 4_096
MAX_BOUNDARY_CHARS = 70
"""RFC 2046, 5.1.1."""


class FileForm:
    """Parses a body piece by piece; it holds the small fields and hands on what is in the file."""

    def __init__(self, content_type: str, key: Key) -> None:
        """Raise InvalidRequest where this is no multipart body; `key` is whose purposes may be sent."""
        kind, options = parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 1 <= len(boundary) <= MAX_BOUNDARY_CHARS or not boundary.isascii():
            raise InvalidRequest("A file is uploaded as multipart/form-data, with its boundary in the Content-Type")
        self._parser = PushMultipartParser(
            boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_HEADERS, max_segment_count=MAX_PARTS
        )
        self._key = key
        self._fields: dict[str, bytes] = {}
        self._part: str | None = None
        self._filename: str | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a piece of the body and yield what of the file is in it; raises InvalidRequest for what is no form."""
        if not chunk:
            return
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event is None:
                    self._end_part()
                elif self._part == FILE:
                    yield bytes(event)
                else:
                    self._grow(bytes(event))
        except MultipartError as error:
            raise InvalidRequest(f"The body is not valid multipart/form-data: {error}") from error

    def end(self) -> tuple[str, str, int | None]:
        """Return the file's name, its purpose, and after how many seconds it expires.

        Raises InvalidRequest, and InsufficientScope where the key may upload no file of this purpose.
        """
        try:
            self._parser.close()
        except MultipartError as error:
            raise InvalidRequest(f"The body is not valid multipart/form-data: {error}") from error
        if self._filename is None:
            raise InvalidRequest("A file must be sent", param=FILE)
        if PURPOSE not in self._fields:
            raise InvalidRequest("A purpose must be given", param=PURPOSE)
        anchor, seconds = (self._text(name) if name in self._fields else None for name in (ANCHOR, SECONDS))
        return self._filename, check_purpose(self._text(PURPOSE), self._key), check_expiry(anchor, seconds)

    def _begin(self, part: MultipartSegment) -> None:
        name = str(part.name)
        if name in self._fields or (name == FILE and self._filename is not None):
            raise InvalidRequest("A field of the form is sent twice", param=name[:64])
        self._part = name
        if name == FILE:
            self._filename = shown_name(part.filename or "")
        else:
            self._fields[name] = b""

    def _grow(self, piece: bytes) -> None:
        assert self._part is not None
        self._fields[self._part] += piece
        if len(self._fields[self._part]) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"A field has more than {MAX_FIELD_BYTES} bytes", param=self._part[:64])

    def _end_part(self) -> None:
        if self._part == PURPOSE:  # before the file, which is often large, has arrived
            check_purpose(self._text(PURPOSE), self._key)
        self._part = None

    def _text(self, name: str) -> str:
        try:
            return self._fields[name].decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("The field is not valid UTF-8", param=name) from error
