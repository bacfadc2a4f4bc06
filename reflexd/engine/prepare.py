"""Decides how a data source's rows get to disk: each one checked, appended, and counted on again after a restart."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_counts, check_row
from reflexd.engine.encoder import Encoder
from reflexd.errors import JobFailure
from reflexd.hookspecs import DataSource, Example, InvalidInput, SourceContext, payload_type
from reflexd.registry import runs
from reflexd.registry.files import sha256_file
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
    source = sources.get(given.source)
    if source is None:
        raise JobFailure("data_source_missing", f"No installed plugin provides the data source {given.source}")
    limits = msgspec.convert(given.limits, Limits)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        loaded = encoder()
        return loaded.embed_all(texts, spec.threads)[0][:, : loaded.description.width]

    def tell(message: str) -> None:
        emit(Message(message))

    context = SourceContext(None, embed, tell, run_dir, cancelled, given.labels)
    stored = len(runs.read_rows(run_dir, Example))
    if stored:
        tell(f"{stored} rows were kept from before the interruption")
    try:
        made = source.rows(msgspec.json.decode(given.payload, type=payload_type(source)), context)
        fresh = _checked(itertools.islice(made, stored, None), stored, given, limits)
        for _ in runs.append_rows(run_dir, fresh):
            pass
        rows = runs.read_rows(run_dir, Example)
        labels, mode = check_counts(rows, given.labels, limits, given.mode)
    except BadRow as error:
        code = "invalid_training_row" if error.param else "insufficient_examples"
        raise JobFailure(code, error.message, given.source + error.param) from error
    except InvalidInput as error:
        raise JobFailure("invalid_input", error.message, given.source + error.param) from error
    mark = runs.PreparedRows(rows=len(rows), labels=labels, sha256=sha256_file(run_dir / runs.ROWS), mode=mode)
    runs.mark_prepared(run_dir, mark)
    return Prepared(labels=labels, examples=len(rows), mode=mode)


def _checked(rows: Iterable[Example], start: int, given: runs.RunInput, limits: Limits) -> Iterator[Example]:
    allowed = frozenset(given.labels)
    for number, row in enumerate(rows, start):
        if number >= limits.rows:
            raise BadRow(f"The source yields more than {limits.rows} rows", "")
        check_row(row, number, allowed, limits, given.mode)
        yield row
