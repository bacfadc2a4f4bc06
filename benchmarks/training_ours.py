"""Decides how the product takes part in the training benchmark: a job and its predictions over HTTP, nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any

import msgspec

from benchmarks.appliance import Appliance
from benchmarks.training_cells import Example

TEXTS = 500
"""Texts a request: half of what [limits] texts allows."""
POLL_SECONDS = 0.2
WARM_UP = [
    Example(f"a made-up text of a {animal}, number {n}", [animal]) for n in range(5) for animal in ("cat", "dog")
]


class Ours:
    """A daemon that trains on one thread, for as long as the `with` lasts; it has done one small job already."""

    def __enter__(self) -> Ours:
        self._daemon = Appliance(TRAINING__THREADS="1").__enter__()
        self.answer(0, WARM_UP, ["a text"], multi=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._daemon.__exit__(kind, error, tb)

    def answer(
        self, seed: int, train: Sequence[Example], test: Sequence[str], multi: bool, budget: float | None = None
    ) -> dict[str, Any]:
        """Train, timed, and label the test texts, which is not; answers as training_peers does.

        `budget` is how many seconds the job asks for, if not for what is configured.
        core_seconds is the daemon's and its children's processor time from the job's creation to their rest; wall ends
        with the job. With `confidences` and the job's own `result`.
        """
        daemon, connection = self._daemon, self._daemon.connect()
        rows = msgspec.to_builtins(train) if multi else [{"text": row.text, "label": row.labels[0]} for row in train]
        body: dict[str, Any] = {
            "suffix": "training-benchmark",
            "seed": seed,
            "training_file": "",
            "training_data": rows,
        }
        if budget is not None:
            body["hyperparameters"] = {"budget_seconds": budget}
        daemon.rest()
        started, used = time.perf_counter(), daemon.core_seconds()
        job, _ = connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", body), POLL_SECONDS)
        took = time.perf_counter() - started
        daemon.rest()
        used = daemon.core_seconds() - used
        found: list[dict[str, Any]] = []
        for start in range(0, len(test), TEXTS):
            asked = {
                "model": job["fine_tuned_model"],
                "texts": list(test[start : start + TEXTS]),
                "fields": ["label", "confidence", "classes"] if multi else ["label", "confidence"],
                "long_text": "chunk",
            }
            found += connection.call("POST", "/v1/reflex/predict", asked)["predictions"]
        return {
            "predicted": [selected(each) if multi else [each["label"]] for each in found],
            "confidences": None if multi else [each["confidence"] for each in found],
            "core_seconds": used,
            "wall": took,
            "versions": {name: version(name) for name in ("reflexd", "onnxruntime", "torch")},
            "result": job["result"],
            "notes": {"hyperparameters": job["hyperparameters"]},
        }


def selected(prediction: dict[str, Any]) -> list[str]:
    """Return the labels that a multi-label prediction selects."""
    return [each["label"] for each in prediction["classes"] if each["selected"]]
