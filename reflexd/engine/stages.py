"""Decides what a stage of a job is inside the training process, and what it imports before it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from reflexd.engine import prepare, trainer
from reflexd.engine.encoder import Encoder
from reflexd.engine.opening import open_encoder
from reflexd.errors import JobFailure
from reflexd.hookspecs import BY_USER, Example, MadeRow
from reflexd.plugins import PluginManager
from reflexd.registry import runs
from reflexd.registry.files import sha256_file
from reflexd.schemas.worker import Event, RunSpec, Terminal


class Stages:
    """Runs stages one after the other, keeping what the next one needs too: plugins and the loaded encoder."""

    def __init__(self, emit: Callable[[Event], None], cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._emit = emit
        self._plugins: dict[tuple[str, ...], PluginManager] = {}
        self._encoder: tuple[str, Encoder] | None = None

    def run(self, spec: RunSpec) -> Terminal:
        """Run one stage to its terminal event; raises JobFailure where the job's own data is why it cannot."""
        if spec.stage == "prepare":
            return prepare.prepare(
                spec,
                self._sources(spec).data_sources,
                lambda: self._load_encoder(spec),
                self._emit,
                self._cancelled,
            )
        run_dir = Path(spec.run_dir)
        mark = runs.read_prepared(run_dir)
        if mark is None or mark.sha256 != sha256_file(run_dir / mark.file):
            raise JobFailure("rows_missing", "The job's prepared rows are not what was prepared any more")
        rows = runs.read_rows(run_dir, Example, mark.file)
        given = _given(run_dir, mark.file) if mark.made else None
        encoder, held = self._load_encoder(spec), runs.read_validation(run_dir, Example)
        # Not kept: the next job may never need it, and it is as large as the other one.
        fp32 = partial(open_encoder, Path(spec.backbone_fp32), spec.threads) if spec.backbone_fp32 else None
        return trainer.train(spec, rows, mark.labels, encoder, self._emit, mark.mode, held, given, fp32)

    def _sources(self, spec: RunSpec) -> PluginManager:
        allow = tuple(spec.plugins_allow)
        if allow not in self._plugins:
            self._plugins[allow] = PluginManager(allow)
        return self._plugins[allow]

    def _load_encoder(self, spec: RunSpec) -> Encoder:
        if self._encoder is None or self._encoder[0] != spec.backbone:
            self._encoder = (spec.backbone, open_encoder(Path(spec.backbone), spec.threads))
        return self._encoder[1]

    @staticmethod
    def stand_by() -> None:
        """Import what tuning takes, seconds of it, while there is nothing to do."""
        from reflexd.engine import tunable_decoder, tuning  # noqa: F401


def _given(run_dir: Path, file: str) -> frozenset[str]:
    """Return the texts among made rows whose labels the user has given."""
    return frozenset(row.text for row in runs.read_rows(run_dir, MadeRow, file) if row.decided_by == BY_USER)
