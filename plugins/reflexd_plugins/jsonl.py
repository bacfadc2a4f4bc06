"""Decides how an uploaded file of JSON lines (`training_file`) becomes training rows, and how a bad line is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reflexd import DataSource, Example, InputFile, InvalidInput, SourceContext, hookimpl

MAX_LINE_BYTES = 16 << 20
"""Three times the longest text that is allowed by default, with every character of it escaped."""
MAX_BLANK_LINES = 100_000
BOM = b"\xef\xbb\xbf"
BLANKS = b" \t\r\n"


class Part(Struct):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class Message(Struct):
    """A turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """Return the whole content; its pieces are lines."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Chat(Struct):
    """A line of chat."""

    messages: list[Message]


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
    given: Any = msgspec.json.decode(line)
    if not isinstance(given, dict):
        raise msgspec.ValidationError("A line must hold a JSON object")
    if "messages" not in given:
        return msgspec.convert(given, Example)
    if doubled := {"text", "label", "labels"} & given.keys():
        raise msgspec.ValidationError(f"A chat has its text and label in messages: leave {min(doubled)} out")
    messages = msgspec.convert(given, Chat).messages
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
