"""Decides which classifiers are in memory: read when first asked, and let go, the least recently used first, by bytes.

So a thousand small heads and ten of a thousand labels are held to the same bound, and no number of models is one too
many. A request's models stacked (engine/panel.py) are kept in the same way, since the same set is mostly asked again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from reflexd import observability
from reflexd.engine.adapters import read_adapter
from reflexd.engine.backbone import incompatibility
from reflexd.engine.encoder import Encoder
from reflexd.engine.panel import LoadedHead, Stack
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Manifest

Models = tuple[str, ...]

OBJECT_BYTES = 6_144
"""What the objects around a head's numbers take, about."""
PLACE_BYTES = 64
"""And what a model takes in a kept set of several."""


class _Resident(Struct, frozen=True):
    """A classifier in memory, and how it is asked alone."""

    head: LoadedHead
    alone: Stack

    @property
    def bytes(self) -> int:
        return self.head.bytes + self.alone.bytes + OBJECT_BYTES


class Residents:
    """The heads in memory, and the sets of them that were asked together; safe to use from several threads."""

    def __init__(
        self, encoder: Encoder, models_dir: Path, most_bytes: int, others: Callable[[Manifest], Encoder] | None = None
    ) -> None:
        """`encoder` is the configured one; `others` finds that of a model which was trained on another one.

        engine/encoders.py says what it raises. Without it such models are refused.
        """
        self._encoder = encoder
        self._models_dir = models_dir
        self._others = others
        self._most = most_bytes
        self._heads: OrderedDict[str, _Resident] = OrderedDict()
        self._sets: OrderedDict[Models, Stack] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0
        observability.RESIDENT_MODELS.set_function(lambda: len(self._heads))
        observability.RESIDENT_BYTES.set_function(lambda: self._bytes)

    def stack(self, models: Models) -> Stack:
        """Return models, at least one, as they are asked together, reading those that are not in memory.

        Raises DamagedArtifact for a model whose files do not match their manifest or whose encoder is not here, and
        Unavailable while that is being prepared.
        """
        if len(models) == 1:
            return self._resident(models[0]).alone
        with self._lock:
            if (found := self._sets.get(models)) is not None:
                self._sets.move_to_end(models)
                return found
        made = Stack([self._resident(model).head for model in models])
        with self._lock:
            if models not in self._sets:
                self._sets[models] = made
                self._bytes += _set_bytes(models, made)
                self._evict()
        return made

    def forget(self, models: Sequence[str]) -> None:
        """Let go of deleted models, and of the sets that they are in."""
        gone = set(models)
        with self._lock:
            for model in gone & self._heads.keys():
                self._bytes -= self._heads.pop(model).bytes
            for held in [held for held in self._sets if not gone.isdisjoint(held)]:
                self._bytes -= _set_bytes(held, self._sets.pop(held))

    def _resident(self, model: str) -> _Resident:
        with self._lock:
            if (found := self._heads.get(model)) is not None:
                self._heads.move_to_end(model)
                return found
        loaded = self._load(model)
        made = _Resident(loaded, Stack([loaded]))
        with self._lock:
            if model in self._heads:  # another thread was faster
                return self._heads[model]
            self._heads[model] = made
            self._bytes += made.bytes
            self._evict()
        return made

    def _load(self, model: str) -> LoadedHead:
        observability.MODEL_READS.inc()
        head, manifest = artifacts.load(self._models_dir, model)
        adapter = read_adapter(self._models_dir, model, manifest)
        encoder = self._encoder_of(manifest)
        try:
            encoder = encoder.adapted(adapter)
        except ValueError as error:
            raise DamagedArtifact(str(error)) from error
        domain = artifacts.load_domain(self._models_dir, model, manifest)
        return LoadedHead(encoder, head, manifest.mode, manifest.calibration.temperature, manifest.thresholds, domain)

    def _encoder_of(self, manifest: Manifest) -> Encoder:
        about = self._encoder.description
        problem = incompatibility(manifest, about.fingerprint, about.precision)
        if problem is None:
            return self._encoder
        if self._others is None:
            raise DamagedArtifact(problem)
        return self._others(manifest)

    def _evict(self) -> None:
        """Let go of what was used longest ago, down to the bound: sets first, which are made again in no time."""
        while self._bytes > self._most and self._sets:
            self._bytes -= _set_bytes(*self._sets.popitem(last=False))
        while self._bytes > self._most and self._heads:
            self._bytes -= self._heads.popitem(last=False)[1].bytes


def _set_bytes(models: Models, stack: Stack) -> int:
    return stack.bytes + PLACE_BYTES * len(models)
