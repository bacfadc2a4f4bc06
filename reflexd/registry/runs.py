"""Decides what lies in a job's run directory: its input, the rows made from it, and the mark that they are complete.

runs/<job id>/input.json     written before the job's row commits
              base/          a copy of the model that the job starts from, so that nothing can change it meanwhile
              training.file, validation.file
                             links to the uploaded files that the rows are made of, which may be deleted meanwhile;
                             gone once the rows are there
              rows.jsonl     appended and fsynced by the prepare stage
              rows-*.jsonl   what the user has put in its place
              validation.jsonl
                             the rows of validation.file
              prepared.json  present once all rows are there
              tuning/        the state of encoders that are being tuned, from which a killed job goes on
              llm-*.jsonl    what the local LLM answered, in the format of OpenAI's Batch API
              worker.log     what a failing training process printed
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
from msgspec import Struct, field, structs

from reflexd.registry.files import copy_directory, new_directory, remove_directory, replace_file, write_durably
from reflexd.schemas.reflex import Mode

INPUT = "input.json"
BASE = "base"
TUNING = "tuning"
TRAINING_FILE = "training.file"
VALIDATION_FILE = "validation.file"
ROWS = "rows.jsonl"
VALIDATION = "validation.jsonl"
PREPARED = "prepared.json"
WORKER_LOG = "worker.log"
FSYNC_EVERY = 256

T = TypeVar("T")


class KeptFile(Struct, frozen=True, kw_only=True):
    """A user's file in the run directory: its name there, as it was uploaded, and the source that reads it."""

    name: str
    filename: str
    bytes: int
    source: str


class RunInput(Struct, kw_only=True):
    """What a job starts from; `payload` is the user's JSON of the source's field, byte for byte.

    Where the field names a file, it is the JSON of a KeptFile instead.
    """

    source: str
    payload: msgspec.Raw
    labels: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    mode: Mode | None = None
    """What the request asked for; None leaves it to the rows."""
    validation: KeptFile | None = None


class PreparedRows(Struct, kw_only=True):
    """The mark that rows.jsonl is complete."""

    rows: int
    labels: list[str]
    sha256: str
    mode: Mode = "single_label"
    file: str = ROWS
    """Another one once the rows were replaced by others."""
    made: bool = False
    """Whether the labels are made by a language model, and not given."""


def create(
    runs_dir: Path,
    job_id: str,
    given: RunInput,
    base: Path | None = None,
    links: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write a new run directory, whole and durable, with a copy of the model folder `base` where there is one.

    `links` puts a file under each of its names, and may raise. Raises FileNotFoundError, and leaves nothing, where
    `base` is not there or goes while it is copied.
    """
    with new_directory(runs_dir / job_id) as temporary:
        for name, link in (links or {}).items():
            link(temporary / name)
        if base is not None:
            copy_directory(base, temporary / BASE)
        write_durably(temporary / INPUT, msgspec.json.encode(given))


def discard(runs_dir: Path, job_id: str) -> None:
    """Remove a run directory, if there is one."""
    remove_directory(runs_dir / job_id)


def read_input(run_dir: Path) -> RunInput:
    """Read what the job starts from."""
    return msgspec.json.decode((run_dir / INPUT).read_bytes(), type=RunInput)


def read_prepared(run_dir: Path) -> PreparedRows | None:
    """Read the mark of complete rows; None while the prepare stage has not ended."""
    path = run_dir / PREPARED
    return msgspec.json.decode(path.read_bytes(), type=PreparedRows) if path.exists() else None


def mark_prepared(run_dir: Path, mark: PreparedRows) -> None:
    """Record that rows.jsonl is complete, and let go of the files that the rows were made of."""
    replace_file(run_dir / PREPARED, msgspec.json.encode(mark))
    for name in (TRAINING_FILE, VALIDATION_FILE):
        (run_dir / name).unlink(missing_ok=True)


def read_rows(run_dir: Path, kind: type[T], file: str = ROWS) -> list[T]:
    """Read all rows; a torn last line (a process was killed while writing) is left out."""
    path = run_dir / file
    return msgspec.json.Decoder(kind).decode_lines(_whole_lines(path.read_bytes() if path.exists() else b""))


def replace_rows(run_dir: Path, rows: Iterable[Struct], mark: PreparedRows) -> None:
    """Put other rows in the place of the prepared ones, all at once: `mark` says what they are, but for their file."""
    before = read_prepared(run_dir)
    content = msgspec.json.Encoder().encode_lines(list(rows))
    name = f"rows-{secrets.token_hex(8)}.jsonl"
    write_durably(run_dir / name, content)
    made = before is not None and before.made
    mark_prepared(run_dir, structs.replace(mark, file=name, sha256=hashlib.sha256(content).hexdigest(), made=made))
    for older in run_dir.glob("rows-*.jsonl"):  # the last but one: whoever reads the last now still finds it
        if older.name != name and (before is None or older.name != before.file):
            older.unlink(missing_ok=True)


def write_validation(run_dir: Path, rows: Iterable[Struct]) -> None:
    """Write the rows of the validation file, whole and durable."""
    encode = msgspec.json.Encoder().encode_lines
    replace_file(run_dir / VALIDATION, encode(list(rows)))


def read_validation(run_dir: Path, kind: type[T]) -> list[T] | None:
    """Read the rows of the validation file; None where the job has none."""
    path = run_dir / VALIDATION
    return msgspec.json.Decoder(kind).decode_lines(path.read_bytes()) if path.exists() else None


def append_rows(run_dir: Path, rows: Iterable[Struct]) -> Iterator[Struct]:
    """Append rows to rows.jsonl and yield each one; they are on disk at every 256th and when the iterator ends.

    A torn last line is cut off first.
    """
    encode = msgspec.json.Encoder().encode
    with (run_dir / ROWS).open("a+b") as file:
        file.seek(0)
        file.truncate(len(_whole_lines(file.read())))
        for number, row in enumerate(rows, 1):
            file.write(encode(row) + b"\n")
            if number % FSYNC_EVERY == 0:
                _flush(file)
            yield row
        _flush(file)


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
