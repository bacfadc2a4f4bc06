"""Decides how unit tests ask a predictor: each model's part of an answer by itself, in plain values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

from reflexd.engine.encoder import Encoder
from reflexd.engine.panel import Scores
from reflexd.engine.predictor import Outcome, Predictor
from reflexd.engine.residents import Residents
from reflexd.errors import ReflexError
from reflexd.registry import artifacts
from reflexd.registry.artifacts import Manifest


class Said(Struct):
    """What one model says of one text."""

    labels: list[str]
    probabilities: list[float]
    selected: list[bool]
    best: int | None
    windows: int
    in_domain: float | None


Answer = list[Said] | ReflexError


@contextmanager
def predicting(
    encoder: Encoder,
    folder: Path,
    threads: int = 2,
    most_bytes: int = 1 << 28,
    others: Callable[[Manifest], Encoder] | None = None,
) -> Iterator[Predictor]:
    """Yield a predictor of the models in a folder; its threads end with the block."""
    made = Predictor(Residents(encoder, folder, most_bytes, others), threads)
    try:
        yield made
    finally:
        made.close()


async def outcome_of(
    predictor: Predictor, rows: Sequence[tuple[str, Sequence[str]]], *, key: str = "", chunk: bool = False
) -> Outcome:
    """Return what came of rows."""
    given = [(text, tuple(models)) for text, models in rows]
    return await predictor.classify(given, lambda outcome: outcome, key=key, chunk=chunk)


async def ask(
    predictor: Predictor, rows: Sequence[tuple[str, Sequence[str]]], *, key: str = "", chunk: bool = False
) -> list[Answer]:
    """Return each row's answer."""
    outcome = await outcome_of(predictor, rows, key=key, chunk=chunk)
    folder = predictor.residents._models_dir
    return [apart(found, folder, models) for found, (_, models) in zip(outcome.rows, rows, strict=True)]


def apart(found: Scores | ReflexError, folder: Path, models: Sequence[str]) -> Answer:
    """Return the parts of a row's scores."""
    if isinstance(found, ReflexError):
        return found
    labels = [artifacts.read_manifest(folder, model).labels for model in models]
    sizes = [len(each) for each in labels]
    ends = np.cumsum(sizes)
    assert len(found.probabilities) == len(found.selected) == ends[-1]
    out = []
    for number, (end, size) in enumerate(zip(ends.tolist(), sizes, strict=True)):
        part = slice(end - size, end)
        best = found.best[number]
        out.append(
            Said(
                labels[number],
                found.probabilities[part],
                found.selected[part],
                None if best < 0 else best - part.start,
                found.windows[number],
                found.in_domain[number],
            )
        )
    return out


def said(answer: Answer) -> list[Said]:
    """Return the models' parts of an answer that is no error."""
    assert isinstance(answer, list), answer
    return answer


def ask_once(encoder: Encoder, folder: Path, *rows: tuple[str, Sequence[str]], chunk: bool = False) -> list[Answer]:
    """Return each row's answer from a predictor that is made for it."""
    with predicting(encoder, folder, threads=1) as predictor:
        return asyncio.run(ask(predictor, rows, chunk=chunk))
