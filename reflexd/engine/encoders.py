"""Decides which loaded encoder serves a model whose backbone is not the configured one, and when it is let go.

Such an encoder is loaded when a model of it is first asked, and stays as long as a head in memory needs it. Where its
exported form is missing from the cache, that is made meanwhile, and whoever asks is told to come again.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from reflexd.engine.backbone import NO_GPU, BackboneMissing, NoGpu, read_description
from reflexd.engine.backbones import Backbones, Present
from reflexd.engine.encoder import Encoder
from reflexd.engine.opening import open_encoder
from reflexd.errors import StartupError, Unavailable
from reflexd.registry.artifacts import DamagedArtifact, Manifest

log = structlog.get_logger(__name__)


class Encoders:
    """The encoders beside the configured one; made in the event loop, asked from any thread."""

    def __init__(self, backbones: Backbones) -> None:
        self._backbones = backbones
        self._loop = asyncio.get_running_loop()
        self._loaded: WeakValueDictionary[Path, Encoder] = WeakValueDictionary()
        self._exporting: dict[Path, Future[Path]] = {}
        self._lock = threading.Lock()

    def of_model(self, manifest: Manifest) -> Encoder:
        """Return the encoder that a model was trained on, loaded.

        Raises BackboneMissing where it is not on this machine or cannot run on it, DamagedArtifact where it cannot be
        used, and Unavailable while it is being exported.
        """
        present, precision = self._backbones.of_model(manifest), manifest.backbone.precision
        target = self._backbones.exported(present, precision)
        with self._lock:
            if (loaded := self._loaded.get(target)) is not None:
                return loaded
            exporting = self._exporting.get(target)
            if exporting is not None and exporting.done():
                del self._exporting[target]
                if (error := exporting.exception()) is not None:  # the next one to ask has it tried again
                    log.error("a sentence encoder cannot be exported", backbone=present.name, why=str(error))
                    if isinstance(error, NoGpu):
                        raise _without_gpu(present)
                    raise DamagedArtifact(f"the encoder {present.name} cannot be exported")
            if target not in self._exporting and read_description(target) is None:
                work = self._backbones.export(present, precision)
                self._exporting[target] = asyncio.run_coroutine_threadsafe(work, self._loop)
            if target in self._exporting:
                raise Unavailable(
                    f"The sentence encoder {present.name} is being prepared, once: try again in a minute or two"
                )
            try:
                loaded = open_encoder(target, forward_threads=1)
            except NoGpu as error:
                raise _without_gpu(present) from error
            except StartupError as error:
                raise DamagedArtifact(str(error)) from error
            log.info("sentence encoder loaded", backbone=present.name, precision=precision)
            self._loaded[target] = loaded
            return loaded


def _without_gpu(present: Present) -> BackboneMissing:
    return BackboneMissing(f"the model was trained on {present.name}: {NO_GPU}")
