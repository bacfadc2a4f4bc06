"""Decides how an uploaded file of JSON lines (`training_file`) becomes training rows, and how a bad line is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from reflexd import DataSource, Example, InputFile, InvalidInput, SourceContext, hookimpl

MAX_LINE_BYTES = 8 << 20
"""The longest text and the most labels that are allowed by default, with every character of them escaped."""
MAX_QUOTES = 1_000_000
"""In a line: half as many strings are made of it at most. That text and those labels, of nothing but quotation marks,
have fewer. Decoding gives the daemon's other threads no turn: up to 0.1 s for the worst line within both bounds.
"""
MAX_BLANK_LINES = 100_000
BOM = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n"


class Part(Struct, gc=False):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(Struct, gc=False):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """Return the whole content; its pieces are lines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Line(Struct):
    """What a line may hold; other fields are passed over, and nothing is built of them, however much they hold."""

    text: str | UnsetType = UNSET
    label: str | UnsetType | None = UNSET
    labels: tuple[str, ...] | UnsetType | None = UNSET
    messages: list[Message] | UnsetType = UNSET


_decode = msgspec.json.Decoder(Line).decode


class FileRows:
    """The `training_file` field: the id of an uploaded file with one JSON object a line, in any of three forms.

    {"text", "label"}; {"text", "labels"} where a text has several labels or none; or a chat {"messages"}, in which the
    last user message is the text and the assistant message at the end the label. Blank lines count as none.
    """

    name = "training_file"
    payload_type = InputFile

    def check(self, payload: InputFile, labels: Sequence[str]) -> Iterable[Example]:  # noqa: ARG002
        """Return the rows, which are read as they are asked for."""
        return _read(payload)

    def rows(self, payload: InputFile, context: SourceContext) -> Iterable[Example]:  # noqa: ARG002
        """Yield the rows in the order of the file."""
        return _read(payload)

    def where(self, payload: InputFile, number: int) -> str:
        """Return the line of a row."""
        for place, (line, _) in enumerate(_lines(payload)):
            if place == number:
                return f"line {line}"
        return f"row {number}"


def _read(file: InputFile) -> Iterator[Example]:
    """Yield a file's rows; raises InvalidInput that begins with the line."""
    for number, content in _lines(file):
        try:
            yield _row(content)
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$")
            inside = path.rstrip("`").lstrip(".")
            raise InvalidInput(f"line {number}: {message}" + (f" (in {inside})" if inside else "")) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"line {number}: This is not valid JSON: {error}") from error


def _lines(file: InputFile) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, each with its number, counted from 1."""
    blank = 0
    with file.path.open("rb") as content:
        number = 0
        while line := content.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise InvalidInput(f"line {number}: The line has more than {MAX_LINE_BYTES >> 20} MB")
            if number == 1:
                line = line.removeprefix(BOM)
            line = line.strip(BLANKS)
            if line:
                yield number, line
                continue
            blank += 1
            if blank > MAX_BLANK_LINES:
                raise InvalidInput(f"line {number}: The file has more than {MAX_BLANK_LINES} blank lines")


def _row(line: bytes) -> Example:
    if line.count(b'"') > MAX_QUOTES:
        raise msgspec.ValidationError(f"The line has more than {MAX_QUOTES} quotation marks")
    if not line.startswith(b"{"):
        msgspec.json.decode(line, type=msgspec.Raw)  # raises where it is no JSON at all
        raise msgspec.ValidationError("A line must hold a JSON object")
    given = _decode(line.decode())  # as bytes, what is passed over need not be UTF-8
    if given.messages is UNSET:
        if given.text is UNSET:
            raise msgspec.ValidationError("Object missing required field `text`")
        label = None if given.label is UNSET else given.label
        return Example(given.text, label, None if given.labels is UNSET else given.labels)
    return _chat(given, given.messages)


def _chat(given: Line, messages: list[Message]) -> Example:
    doubled = [name for name in ("label", "labels", "text") if getattr(given, name) is not UNSET]
    if doubled:
        raise msgspec.ValidationError(f"A chat has its text and label in messages: leave {doubled[0]} out")
    asked = [message.text for message in messages if message.role == "user"]
    if not asked:
        raise msgspec.ValidationError("A chat needs a user message, which is the text")
    if messages[-1].role != "assistant":
        raise msgspec.ValidationError("A chat must end with an assistant message, which is the label")
    return Example(asked[-1], messages[-1].text)


@hookimpl
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Offer `training_file`."""
    register(FileRows())
