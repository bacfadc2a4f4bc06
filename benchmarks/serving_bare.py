"""Decides what serving is measured against: the bare forward of the daemon's own exported encoder, and nothing else.

One text a forward on one thread, as long as the caller asks; or all texts, sorted by length, on as many threads as
there are cores, in batches of texts of the same length or alone, whichever is faster: the offline loop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from benchmarks.bare import Graph
from benchmarks.process import serve


class Bare:
    """The bare forward."""

    def __init__(self, folder: Path) -> None:
        self._graph = Graph(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def forward(self, text: str, times: int) -> list[float]:
        """Return the seconds of each of so many forwards of one text; spelling it is not counted."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        took = []
        for _ in range(times):
            started = time.perf_counter()
            self._graph.run(ids)
            took.append(time.perf_counter() - started)
        return took

    def offline(self, texts: Sequence[str], threads: int, batch: int) -> float:
        """Return the seconds of reading all texts, the longest first, `batch` of nearly the same length a forward."""
        started = time.perf_counter()
        spelled = sorted((self._tokenizer.encode(text).ids for text in texts), key=len, reverse=True)
        parts = [spelled[at : at + batch] for at in range(0, len(spelled), batch)]

        def read(part: list[list[int]]) -> None:
            # Cut to the shortest: the cheapest that a batch could be, as if no padding were needed.
            shortest = min(map(len, part))
            self._graph.run(np.array([ids[:shortest] for ids in part], np.int64))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, parts):
                pass
        return time.perf_counter() - started

    def __call__(self, do: str, **given: Any) -> Any:
        """Answer one request."""
        return getattr(self, do)(**given)


if __name__ == "__main__":
    serve(Bare(Path(sys.argv[1])))
