"""Shows that `in_domain` is the share of a model's rows that lie at least as far, and that models without it serve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from reflexd.engine.encoder import Encoder
from reflexd.engine.in_domain import LEAST_ROWS, METHOD, fit_domain, label_means, left_out_distances
from reflexd.engine.panel import Alone, LoadedHead
from reflexd.engine.trainer import train
from reflexd.hookspecs import Example
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact, Domain, Head
from tests.rows import TICKETS
from tests.unit.asking import ask, predicting, said
from tests.unit.test_engine import spec_for

ROWS = [Example(row["text"], row["label"]) for row in TICKETS]


def cloud(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, rows)
    return (np.eye(3, 8)[truth] * 4 + random.normal(size=(rows, 8))).astype(np.float32), truth


@pytest.mark.parametrize("several", [False, True])
def test_a_row_is_left_out_of_the_means_that_it_is_measured_by(several: bool) -> None:
    vectors, truth = cloud(30, 0)
    targets = truth
    if several:
        targets = np.eye(3, dtype=bool)[truth]
        targets[:4] = False
        targets[4:9, 1] = True
    found = left_out_distances(vectors, targets, 3)
    for row in range(30):
        rest = np.arange(30) != row
        means, _ = label_means(vectors[rest], targets[rest], 3)
        assert found[row] == pytest.approx(np.linalg.norm(means - vectors[row], axis=1).min(), abs=1e-3)


def share_of(domain: Domain, vector: np.ndarray) -> float:
    """Return what a head with this domain says of a text with this vector."""
    nothing: Any = SimpleNamespace(own_bytes=0)
    head = Head(np.zeros((2, vector.size), np.float32), np.zeros(2, np.float32))
    (share,) = Alone(LoadedHead(nothing, head, "single_label", 1.0, [], domain)).score(vector, 1).in_domain
    assert share is not None
    return share


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_usual_texts_have_evenly_spread_shares_and_strange_ones_none() -> None:
    vectors, truth = cloud(600, 0)
    domain = fit_domain(unit(vectors), truth, 3)
    assert domain is not None
    others = unit(cloud(2_000, 1)[0])
    shares = np.array([share_of(domain, vector) for vector in others])
    assert [np.mean(shares < share) for share in (0.05, 0.25, 0.5, 0.9)] == pytest.approx(
        [0.05, 0.25, 0.5, 0.9], abs=0.05
    )
    assert share_of(domain, unit(-domain.means[0])) == 0
    assert share_of(domain, unit(domain.means[0])) == 1


def test_few_rows_make_no_domain() -> None:
    vectors, truth = cloud(LEAST_ROWS, 0)
    assert fit_domain(vectors[1:], truth[1:], 3) is None
    assert fit_domain(vectors, truth, 3) is not None


def test_a_trained_model_knows_its_domain_and_one_without_it_serves(encoder: Encoder, tmp_path: Path) -> None:
    train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, lambda _: None)
    _, manifest = artifacts.load(tmp_path, "m")
    assert manifest.in_domain is not None
    assert (manifest.in_domain.method, manifest.in_domain.rows) == (METHOD, 10)
    usual, strange = shares(encoder, tmp_path, [ROWS[0].text, "Photosynthesis takes place in chloroplasts"])
    assert usual is not None
    assert strange is not None
    assert usual > 0.5 > strange
    assert artifacts.adopt(tmp_path / "adopted", tmp_path / "m")
    path = tmp_path / "m" / artifacts.MANIFEST
    described = msgspec.json.decode(path.read_bytes())
    del described["in_domain"]
    path.write_bytes(msgspec.json.encode(described))
    assert shares(encoder, tmp_path, ["anything"]) == [None]


def test_a_damaged_domain_is_not_served(encoder: Encoder, tmp_path: Path) -> None:
    train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, lambda _: None)
    path = tmp_path / "m" / artifacts.DOMAIN
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedArtifact, match=r"domain\.safetensors"):
        shares(encoder, tmp_path, ["anything"])


def shares(encoder: Encoder, folder: Path, texts: list[str]) -> list[float | None]:
    with predicting(encoder, folder, threads=1) as predictor:
        answers = asyncio.run(ask(predictor, [(text, ["m"]) for text in texts]))
    return [one.in_domain for answer in answers for one in said(answer)]
