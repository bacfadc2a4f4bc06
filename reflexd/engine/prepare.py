"""Decides how a data source's rows get to disk: each one checked, appended, and counted on again after a restart."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_counts, checked
from reflexd.engine.encoder import Encoder
from reflexd.engine.llm.client import Client
from reflexd.errors import JobFailure
from reflexd.hookspecs import (
    DataSource,
    Example,
    InputFile,
    InvalidInput,
    SourceContext,
    needs_llm,
    payload_type,
    takes_file,
)
from reflexd.registry import runs
from reflexd.registry.files import sha256_file
from reflexd.schemas.reflex import Mode
from reflexd.schemas.worker import Message, Prepared, RunSpec


def prepare(
    spec: RunSpec,
    sources: dict[str, DataSource],
    encoder: Callable[[], Encoder],
    emit: Callable[[Message], None],
    cancelled: threading.Event,
) -> Prepared:
    """Write all rows of a job's source to its run directory; raise JobFailure where that gives no trainable set.

    Rows that an earlier, killed run stored are kept, and as many are skipped of what the source yields again.
    """
    run_dir = Path(spec.run_dir)
    if mark := runs.read_prepared(run_dir):
        return Prepared(labels=mark.labels, examples=mark.rows, mode=mark.mode)
    given = runs.read_input(run_dir)
    source = _source(sources, given.source)
    limits = msgspec.convert(given.limits, Limits)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        loaded = encoder()
        return loaded.embed_all(texts, spec.threads)[0][:, : loaded.description.width]

    def tell(message: str) -> None:
        emit(Message(message))

    llm = None if spec.llm is None else Client(spec.llm, run_dir, cancelled)
    context = SourceContext(llm, embed, tell, run_dir, cancelled, given.labels, limits.text_chars)
    stored = len(runs.read_rows(run_dir, Example))
    if stored:
        tell(f"{stored} rows were kept from before the interruption")
    payload = _payload(source, given, run_dir)
    try:
        made = source.rows(payload, context)
        fresh = checked(itertools.islice(made, stored, None), given.labels, limits, given.mode, stored)
        for _ in runs.append_rows(run_dir, fresh):
            pass
        rows = runs.read_rows(run_dir, Example)
        labels, mode, _ = check_counts(rows, given.labels, limits, given.mode)
    except BadRow as error:
        code = "invalid_training_row" if error.param else "insufficient_examples"
        if isinstance(payload, InputFile):
            raise JobFailure(code, error.told_of(source, payload), given.source) from error
        raise JobFailure(code, error.message, given.source + error.param) from error
    except InvalidInput as error:
        raise JobFailure("invalid_input", error.message, given.source + error.param) from error
    if given.validation is not None:
        _prepare_validation(given.validation, _source(sources, given.validation.source), run_dir, context, limits, mode)
    sha256 = sha256_file(run_dir / runs.ROWS)
    mark = runs.PreparedRows(rows=len(rows), labels=labels, sha256=sha256, mode=mode, made=needs_llm(source))
    runs.mark_prepared(run_dir, mark)
    return Prepared(labels=labels, examples=len(rows), mode=mode)


def _source(sources: dict[str, DataSource], name: str) -> DataSource:
    if name not in sources:
        raise JobFailure("data_source_missing", f"No installed plugin provides the data source {name}")
    return sources[name]


def _payload(source: DataSource, given: runs.RunInput, run_dir: Path) -> Any:
    """Return what a source makes rows of: its field of the request, or the file that the field names."""
    if takes_file(source):
        return _file(msgspec.json.decode(given.payload, type=runs.KeptFile), run_dir)
    return msgspec.json.decode(given.payload, type=payload_type(source))


def _file(kept: runs.KeptFile, run_dir: Path) -> InputFile:
    return InputFile(path=run_dir / kept.name, filename=kept.filename, bytes=kept.bytes)


def _prepare_validation(
    kept: runs.KeptFile, source: DataSource, run_dir: Path, context: SourceContext, limits: Limits, mode: Mode
) -> None:
    """Write the rows that the job is to be scored on; their labels need not be the job's own."""
    file = _file(kept, run_dir)
    try:
        runs.write_validation(run_dir, checked(source.rows(file, context), (), limits, mode))
    except BadRow as error:
        raise JobFailure("invalid_validation_row", error.told_of(source, file), "validation_file") from error
    except InvalidInput as error:
        raise JobFailure("invalid_input", error.message, "validation_file") from error
