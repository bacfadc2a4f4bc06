"""Shows that an encoder with units too large for one scale is still exported in int8, its wide products spared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
from safetensors.torch import load_file, save_file

from reflexd.engine.backbone import BIASES, GRAPH, LOW_RANK_GRAPH, ExportSpec
from reflexd.engine.encoder import Encoder
from reflexd.engine.export import MIN_COSINE, export
from tests.checkpoints import copy_of, shallow
from tests.unit.vectors import vector_of

TEXTS = ("I was charged twice this month", "Der Knopf zum Absenden tut nichts", "ok")


def exported(source: Path, target: Path, precision: str) -> Encoder:
    spec = ExportSpec(
        name="x", source=str(source), target=str(target), fingerprint="f", precision=precision, pooling="mean"
    )
    export(spec)
    return Encoder(target)


def quantised_products(folder: Path) -> int:
    return Counter(node.op_type for node in onnx.load(folder / GRAPH).graph.node)["MatMulInteger"]


@pytest.fixture(scope="module")
def outlying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an encoder whose feed-forward middles have a few units 1,000 times as large as the others."""
    root = tmp_path_factory.mktemp("outlying")
    plain = shallow(root / "plain")
    folder = copy_of(plain, root / "changed", "model.safetensors")
    tensors = load_file(plain / "model.safetensors")
    for layer in ("encoder.layer.0.", "encoder.layer.1."):
        tensors[layer + "intermediate.dense.weight"][:8] *= 1_000
        tensors[layer + "intermediate.dense.bias"][:8] *= 1_000
        tensors[layer + "output.dense.weight"][:, :8] /= 1_000
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_outliers_cost_the_wide_products_alone(outlying: Path, tmp_path: Path) -> None:
    plain = exported(outlying.parent / "plain", tmp_path / "plain", "int8")
    spared = exported(outlying, tmp_path / "spared", "int8")
    exact = exported(outlying, tmp_path / "exact", "fp32")
    for text in TEXTS:
        assert float(vector_of(spared, text) @ vector_of(exact, text)) > MIN_COSINE["int8"]
        assert plain.token_ids(text) == spared.token_ids(text)
    both = quantised_products(tmp_path / "plain"), quantised_products(tmp_path / "spared")
    assert both[0] - both[1] == 2, "one product a layer is fp32"
    assert {path.name for path in (tmp_path / "spared").iterdir()} == {
        GRAPH,
        LOW_RANK_GRAPH,
        BIASES,
        "tokenizer.json",
        "encoder.json",
    }
