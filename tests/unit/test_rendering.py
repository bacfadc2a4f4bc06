"""Shows that a prepared answer is, byte for byte, what msgspec makes of the published schema."""

from __future__ import annotations

import itertools
import typing

import msgspec
import numpy as np
import pytest

from reflexd.engine.panel import Scores
from reflexd.schemas.reflex import ClassScore, Field, Mode, Prediction
from reflexd.service.rendering import Renderer, Shape
from reflexd.store.models import ModelVersion

NAMES = ("plain", 'with "quotes" and \\', "Umlaut ä, 中, 🙂", "line\nend", "null", "")
FIELDS = typing.get_args(Field)


def version(name: str, labels: list[str], number: int, mode: Mode) -> ModelVersion:
    return ModelVersion(
        id="0", tenant_id="t", name=name, version=number, job_id="j", labels=labels, mode=mode, backbone="b",
        precision="int8", result=None, created_at=0,
    )  # fmt: skip


def scores_of(versions: list[ModelVersion], seed: int) -> Scores:
    random = np.random.default_rng(seed)
    out = Scores([], [], [], [], [])
    for one in versions:
        start, found = len(out.probabilities), random.random(len(one.labels)).tolist()
        chosen = [value > 0.5 for value in found]
        if one.mode == "single_label":
            chosen = [value == max(found) for value in found]
        best = max((place for place, is_so in enumerate(chosen) if is_so), key=found.__getitem__, default=-1)
        out.probabilities.extend(found)
        out.selected.extend(chosen)
        out.best.append(start + best if best >= 0 else -1)
        out.in_domain.append(None if random.random() < 0.3 else float(random.random()))
        out.windows.append(int(random.integers(1, 130)))
    return out


def expected(versions: list[ModelVersion], scores: Scores, shape: Shape, milliseconds: float, index: int) -> bytes:
    out, start = [], 0
    for number, one in enumerate(versions):
        part = slice(start, start + len(one.labels))
        found, chosen, best = scores.probabilities[part], scores.selected[part], scores.best[number]
        whole = {
            "model": one.name,
            "version": one.version,
            "label": None if best < 0 else one.labels[best - start],
            "confidence": None if best < 0 else found[best - start],
            "mode": one.mode,
            "classes": [*map(ClassScore, one.labels, found, chosen)],
            "all_scores": found,
            "scores": dict(zip(one.labels, found, strict=True)),
            "labels": one.labels,
            "in_domain": scores.in_domain[number],
            "inference_time_ms": round(milliseconds, 3),
        }
        whole |= {"index": index} if shape.indexed else {}
        whole |= {"windows": scores.windows[number]} if shape.windowed else {}
        wanted = {name: value for name, value in whole.items() if shape.fields is None or name in shape.fields}
        out.append(msgspec.json.encode(Prediction(**wanted)))  # type: ignore[arg-type]
        start = part.stop
    return b",".join(out)


VERSIONS = [
    version("tickets", ["billing", "bug"], 1, "single_label"),
    version('odd "name"', list(NAMES), 12, "multi_label"),
    version("many", [f"label {number}" for number in range(40)], 3, "single_label"),
]


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize(("indexed", "windowed"), list(itertools.product([False, True], repeat=2)))
def test_every_choice_of_fields_comes_out_as_the_schema_says(models: int, indexed: bool, windowed: bool) -> None:
    random = np.random.default_rng(models)
    chosen = [None, *([name] for name in FIELDS), *(random.choice(FIELDS, 4, replace=False) for _ in range(20))]
    for seed, fields in enumerate(chosen):
        versions = VERSIONS[-models:]
        shape = Shape(None if fields is None else frozenset(map(str, fields)), indexed, windowed)
        renderer = Renderer(versions, range(models), shape)
        for number in range(3):
            scores, took = scores_of(versions, 100 * seed + number), float(random.random() * 100)
            assert renderer.predictions(scores, took, number) == expected(versions, scores, shape, took, number)


def test_where_nothing_is_selected_label_and_confidence_are_null() -> None:
    renderer = Renderer(VERSIONS[1:2], [0], Shape())
    found = msgspec.json.decode(renderer.predictions(Scores([0.1] * 6, [False] * 6, [-1], [None], [1]), 1.0))
    assert (found["label"], found["confidence"], found["in_domain"]) == (None, None, None)


def test_models_are_answered_in_the_order_asked_and_as_often_as_asked() -> None:
    scores, shape = scores_of(VERSIONS, 1), Shape()
    alone = [msgspec.json.decode(expected([one], parts, shape, 1.0, 0)) for one, parts in apart(VERSIONS, scores)]
    found = Renderer(VERSIONS, [2, 0, 2, 1], shape).predictions(scores, 1.0)
    assert msgspec.json.decode(b"[" + found + b"]") == [alone[number] for number in (2, 0, 2, 1)]


def apart(versions: list[ModelVersion], scores: Scores) -> list[tuple[ModelVersion, Scores]]:
    out, start = [], 0
    for number, one in enumerate(versions):
        part = slice(start, start + len(one.labels))
        best = scores.best[number] - start if scores.best[number] >= 0 else -1
        whole = Scores(
            scores.probabilities[part], scores.selected[part], [best], [scores.in_domain[number]],
            [scores.windows[number]],
        )  # fmt: skip
        out.append((one, whole))
        start = part.stop
    return out


def test_every_label_counts_at_least_once_whatever_is_asked() -> None:
    assert [Shape(fields).size(VERSIONS[1]) for fields in (None, frozenset({"label"}), frozenset({"scores"}))] == [
        8 + 4 * 6, 8 + 6, 8 + 6,
    ]  # fmt: skip
