"""Decides what lies in a batch's folder: its rows as they came, and below them a line for each that is done, in order.

batches/<batch id>/input.jsonl    written, or linked to an uploaded file, before the batch's row commits
                   results.jsonl  appended and synced; its whole lines say which rows are done

Once the batch has ended the rows go, and so do results that were copied to files.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from reflexd.registry.blobs import Blobs, Incoming
from reflexd.registry.files import fsync_directory, new_directory, remove_directory

INPUT = "input.jsonl"
RESULTS = "results.jsonl"
BLOCK_BYTES = 1 << 18
MOST_BLANK_LINES = 100_000
"""In a whole input: a file of nothing else would hold whoever looks for the next row for minutes."""

_STRING = rb'"(?:[^"\\]|\\.)*"'
_GOOD = re.compile(
    rb'\{"id":' + _STRING + rb'(?:,"predictions":|,"custom_id":' + _STRING + rb',"response":\{"status_code":200,)'
)
"""How the line of a row begins that was answered; of one that was not there stands an error, or another status."""


class Line(Struct, frozen=True):
    """A line of the input that is not blank, or one blank line too many; `number` counts all lines, from 1."""

    number: int
    content: bytes
    too_long: bool = False
    too_many_blanks: bool = False
    """Nothing is read behind it."""


def create(batches_dir: Path, batch_id: str, lines: Iterable[bytes]) -> None:
    """Write a new batch's folder with these rows, whole and durable."""
    with new_directory(batches_dir / batch_id) as temporary, (temporary / INPUT).open("xb") as file:
        file.writelines(line + b"\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def create_linked(batches_dir: Path, batch_id: str, blobs: Blobs, sha256: str) -> None:
    """Make a new batch's folder whose rows are a file's content; raises FileNotFoundError where that is gone."""
    with new_directory(batches_dir / batch_id) as temporary:
        blobs.link(sha256, temporary / INPUT)


def discard(batches_dir: Path, batch_id: str) -> None:
    """Remove a batch's folder, if there is one."""
    remove_directory(batches_dir / batch_id)


def tidy(batches_dir: Path, batch_id: str, *, copied: bool) -> None:
    """Remove what nobody reads of a batch that has ended: its rows, and its results where files hold copies of them.

    Its rows would else keep an uploaded file on the disk that is deleted and that nobody counts.
    """
    if copied:
        discard(batches_dir, batch_id)
    else:
        (batches_dir / batch_id / INPUT).unlink(missing_ok=True)


class BatchInput:
    """The rows of a batch, read from the first to the last. To be called from one thread at a time."""

    def __init__(self, folder: Path, most_line_bytes: int) -> None:
        """Of a line with more bytes than `most_line_bytes` only that is told."""
        self._most = most_line_bytes
        self._file = (folder / INPUT).open("rb")
        self._number, self._blank = 0, 0

    def take(self, most_lines: int, most_bytes: int) -> list[Line]:
        """Return the next lines, at least one unless there is none left; no more once they have `most_bytes`."""
        taken: list[Line] = []
        held = 0
        while len(taken) < most_lines and held < most_bytes and (line := self._next()) is not None:
            taken.append(line)
            held += len(line.content)
        return taken

    def skip(self, lines: int) -> None:
        """Leave out so many lines."""
        while lines and self._next() is not None:
            lines -= 1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next(self) -> Line | None:
        while self._blank <= MOST_BLANK_LINES and (content := self._file.readline(self._most + 1)):
            self._number += 1
            if len(content) > self._most:
                while content and not content.endswith(b"\n"):
                    content = self._file.readline(BLOCK_BYTES)
                return Line(self._number, b"", too_long=True)
            if content := content.strip():
                return Line(self._number, content)
            self._blank += 1
            if self._blank > MOST_BLANK_LINES:
                return Line(self._number, b"", too_many_blanks=True)
        return None


class BatchResults:
    """What came of a batch's rows. To be called from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the file, made where it is missing; a torn last line (the daemon was killed meanwhile) is cut off."""
        path = folder / RESULTS
        new = not path.exists()
        self._file = path.open("a+b", buffering=0)
        try:
            self.completed, self.failed = 0, 0
            self.bytes = 0
            with path.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n") or b"\0" in line:  # a power cut may leave zeros before what is whole
                        break
                    self._count(line)
                    self.bytes += len(line)
            self._file.truncate(self.bytes)
            if new:
                fsync_directory(folder)
        except BaseException:
            self._file.close()
            raise

    @property
    def done(self) -> int:
        """How many rows are done."""
        return self.completed + self.failed

    def append(self, lines: Sequence[bytes]) -> None:
        """Add the lines of the next rows, durably: all of them or none, where that raises OSError."""
        content = memoryview(b"".join(line + b"\n" for line in lines))
        try:
            rest = content
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
            os.fdatasync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self.bytes)
            raise
        self.bytes += len(content)
        for line in lines:
            self._count(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _count(self, line: bytes) -> None:
        if _GOOD.match(line):
            self.completed += 1
        else:
            self.failed += 1


def split_results(folder: Path, good: Incoming, bad: Incoming) -> None:
    """Copy the lines of rows that were answered to one file, and those of rows that were not to the other."""
    with (folder / RESULTS).open("rb") as lines:
        for line in lines:
            (good if _GOOD.match(line) else bad).write(line)


def open_results(folder: Path) -> tuple[BinaryIO, int]:
    """Open the lines for reading, and say how many bytes they are; the caller closes the file."""
    try:
        file = (folder / RESULTS).open("rb")
    except FileNotFoundError:  # it ended before any row was done
        return io.BytesIO(), 0
    return file, os.fstat(file.fileno()).st_size


def joined(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the lines of a file of `size` bytes as the elements of a JSON array: commas between them."""
    left = size
    while left and (block := file.read(min(BLOCK_BYTES, left))):
        left -= len(block)
        block = block.replace(b"\n", b",")  # within a line there is none
        yield block if left else block[:-1]
