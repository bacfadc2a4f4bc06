"""Shows that an adapter means the same to torch, to peft and to the encoder that serves, and that a bad one is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.numpy import save as save_tensors
from transformers import AutoModel

from reflexd.engine import tunable
from reflexd.engine.adapters import PEFT_PREFIX, Adapter, Kind, read_adapter, to_files
from reflexd.engine.encoder import Encoder
from reflexd.engine.layers import pool
from reflexd.engine.tunable import TunableEncoder
from reflexd.engine.warm_start import MOST_MOVED, Base, read_base
from reflexd.errors import JobFailure
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import ADAPTER, ADAPTER_CONFIG, MANIFEST, DamagedArtifact
from tests.unit.asking import ask_once
from tests.unit.tunings import moved, publish_tuned, weights

KINDS: tuple[Kind, ...] = ("biases", "low_rank")
TEXTS = ("I was charged twice this month", "ok", "Der Knopf zum Absenden tut nichts", "word " * 200)
FLOOR = {"fp32": 0.9999, "int8": 0.95}
SIZE = {"biases": 60_000, "low_rank": 700_000}


@pytest.fixture(scope="module")
def made() -> dict[Kind, tuple[TunableEncoder, Adapter]]:
    return {kind: moved(kind, seed=3) for kind in KINDS}


def assert_same(one: Adapter | None, other: Adapter) -> None:
    assert one is not None
    assert one.kind == other.kind
    np.testing.assert_equal(one.tensors, other.tensors)


def vector(encoder: Encoder, text: str) -> NDArray[np.float32]:
    return encoder.forward(encoder.token_ids(text))[: encoder.description.width]


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_that_serves_gives_the_vectors_of_the_one_that_was_tuned(
    made: dict[Kind, tuple[TunableEncoder, Adapter]],
    encoder: Encoder,
    full_encoder: Encoder,
    kind: Kind,
    precision: str,
) -> None:
    tuned, adapter = made[kind]
    plain = encoder if precision == "int8" else full_encoder
    untouched = {text: vector(plain, text) for text in TEXTS}
    served = plain.adapted(adapter)
    for text in TEXTS:
        with torch.no_grad():
            exact = tuned.encode([plain.token_ids(text)])[0].numpy()
        assert vector(served, text) @ exact >= FLOOR[precision]
        assert untouched[text] @ exact < 0.97, "the adapter changes what a text means"
        assert np.array_equal(vector(plain, text), untouched[text]), "and leaves the encoder alone that it was made of"
    assert plain.own_bytes == 0
    assert served.own_bytes == pytest.approx({"biases": 83_000, "low_rank": 1_330_000}[kind], rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_small_and_is_read_back_as_it_was(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, kind: Kind
) -> None:
    adapter = made[kind][1]
    files = to_files(adapter)
    assert set(files) == ({ADAPTER} if kind == "biases" else {ADAPTER, ADAPTER_CONFIG})
    assert sum(map(len, files.values())) <= SIZE[kind]
    publish_tuned(tmp_path, "m", encoder, adapter, files)
    again = read_adapter(tmp_path, "m", artifacts.read_manifest(tmp_path, "m"))
    assert again is not None
    assert (again.kind, again.rank, again.parameters) == (kind, 8 * (kind == "low_rank"), adapter.parameters)
    assert set(again.tensors) == set(adapter.tensors)
    assert all(np.array_equal(again.tensors[name], tensor) for name, tensor in adapter.tensors.items())


def test_peft_reads_a_low_rank_adapter_as_it_lies_there(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunable, "is_native", lambda _: False)  # peft multiplies in single precision
    tuned, adapter = moved("low_rank", seed=3)
    AutoModel.from_pretrained(weights()).save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    for name, content in to_files(adapter).items():
        (tmp_path / "adapter" / name).write_bytes(content)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    for text in TEXTS:
        ids = torch.tensor([encoder.token_ids(text)])
        mask = torch.ones_like(ids)
        with torch.no_grad():
            found = pool(theirs(input_ids=ids, attention_mask=mask).last_hidden_state, mask, "mean")[0].numpy()
            ours = tuned.encode(ids.tolist())[0].numpy()
        np.testing.assert_allclose(found, ours, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_tuning_goes_on_from_an_adapter_and_back_to_the_untouched_encoder(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], kind: Kind
) -> None:
    tuned, adapter = made[kind]
    tuned.reset()
    assert all(not np.any(tensor) for name, tensor in tuned.adapter().tensors.items() if "lora_A" not in name)
    tuned.reset(adapter)
    for name, tensor in tuned.adapter().tensors.items():
        np.testing.assert_allclose(tensor, adapter.tensors[name], atol=1e-3)


def test_how_far_an_adapter_moves_the_weights_and_what_a_share_of_it_does(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder
) -> None:
    biases, low_rank = made["biases"][1], made["low_rank"][1]
    added = [down @ up for down, up in map(low_rank.halves, low_rank.layers())]
    squares, numbers = sum(float(np.sum(one**2)) for one in added), sum(one.size for one in added)
    assert low_rank.movement() == pytest.approx(np.sqrt(squares / numbers), rel=1e-3)
    assert biases.movement() == 0
    assert low_rank.weakened(0.25).movement() == pytest.approx(low_rank.movement() / 4, rel=1e-2)
    for adapter in (biases, low_rank):
        plain, half, whole = (vector(encoder.adapted(one), TEXTS[0]) for one in (None, adapter.weakened(0.5), adapter))
        assert plain @ whole < plain @ half < 1
        nothing = vector(encoder.adapted(adapter.weakened(0.0)), TEXTS[0])
        assert nothing @ plain > 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_with_new_labels_takes_over_a_part_of_what_has_moved_far(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, kind: Kind
) -> None:
    adapter = made[kind][1]
    publish_tuned(tmp_path, runs.BASE, encoder, adapter, to_files(adapter))

    def taken(labels: list[str]) -> Base:
        found = read_base(tmp_path, labels, "single_label", encoder.description)
        assert found is not None
        assert found.adapter is not None
        return found

    for labels in (["a", "b"], ["a"]):
        assert taken(labels).strength == 1
        assert_same(taken(labels).adapter, adapter)
    grown = taken(["a", "b", "c"])
    if kind == "biases":
        assert grown.strength == 1
        assert_same(grown.adapter, adapter)
        return
    assert grown.strength == pytest.approx(MOST_MOVED / adapter.movement())
    assert grown.strength < 0.5, "else nothing is shown here"
    assert grown.adapter is not None
    assert grown.adapter.movement() == pytest.approx(MOST_MOVED, rel=1e-2)


@pytest.mark.parametrize("why", ["near", "a decoder's"])
def test_of_what_has_moved_little_or_was_not_measured_all_is_taken_over(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, why: str
) -> None:
    far = made["low_rank"][1]
    near = far.weakened(0.9 * MOST_MOVED / far.movement())
    adapter = near if why == "near" else Adapter(far.kind, far.tensors, invocation=(1, 2))
    publish_tuned(tmp_path, runs.BASE, encoder, adapter, to_files(adapter))
    found = read_base(tmp_path, ["a", "b", "c"], "single_label", encoder.description)
    assert found is not None
    assert found.strength == 1
    assert_same(found.adapter, adapter)


@pytest.mark.parametrize("harm", ["half a change", "two ranks", "rank one", "one dimension"])
def test_a_base_whose_adapter_cannot_be_weighed_fails_the_job(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, harm: str
) -> None:
    tensors = dict(made["low_rank"][1].tensors)
    name = next(name for name in tensors if "lora_B" in name)
    up = tensors.pop(name)
    match harm:
        case "two ranks":
            tensors[name] = up[:, :-1]
        case "rank one":
            tensors[name] = up[:, :1]
        case "one dimension":
            tensors[name] = up[:, 0]
    publish_tuned(tmp_path, runs.BASE, encoder, made["low_rank"][1], to_files(Adapter("low_rank", tensors)))
    said = r"The base model cannot be used: the adapter's two halves of .*layer"
    with pytest.raises(JobFailure, match=said) as failure:
        read_base(tmp_path, ["a", "b", "c"], "single_label", encoder.description)
    assert (failure.value.code, failure.value.param) == ("model_unusable", "base_model")


def bad(adapter: Adapter, harm: str) -> Adapter:
    """Return an adapter that does not fit the encoder."""
    tensors = dict(adapter.tensors)
    name = next(iter(tensors))
    match harm:
        case "unknown layer":
            tensors[name.replace("layer.0", "layer.99")] = tensors.pop(name)
        case "too short":
            tensors[name] = tensors[name][..., :-1]
        case "one number":
            tensors[name] = tensors[name][..., :1]
        case "half a change":
            del tensors[next(name for name in tensors if "lora_B" in name)]
        case "no numbers":
            tensors[name] = np.full_like(tensors[name], np.nan)
    return Adapter(adapter.kind, tensors)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [
        *((kind, harm) for kind in KINDS for harm in ("unknown layer", "too short", "one number", "no numbers")),
        ("low_rank", "half a change"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, kind: Kind, harm: str
) -> None:
    adapter = bad(made[kind][1], harm)
    with pytest.raises(ValueError, match="adapter"):
        encoder.adapted(adapter)
    publish_tuned(tmp_path, "m", encoder, made[kind][1], to_files(adapter))
    with pytest.raises(DamagedArtifact, match="adapter"):
        ask_once(encoder, tmp_path, ("x", ["m"]))


@pytest.mark.parametrize("harm", ["one byte", "torn", "gone", "no tensors", "another kind"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_adapter_is_not_served(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path, kind: Kind, harm: str
) -> None:
    adapter = made[kind][1]
    files = to_files(adapter)
    if harm == "no tensors":  # whole by its manifest, and nonsense
        files[ADAPTER] = b"\x08\0\0\0\0\0\0\0nonsense"
    if harm == "another kind":
        files[ADAPTER] = save_tensors({PEFT_PREFIX + "x": np.zeros(3, np.float16)})
    publish_tuned(tmp_path, "m", encoder, adapter, files)
    path = tmp_path / "m" / ADAPTER
    match harm:
        case "one byte":
            path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        case "torn":
            path.write_bytes(path.read_bytes()[:1000])
        case "gone":
            path.unlink()
    with pytest.raises(DamagedArtifact):
        ask_once(encoder, tmp_path, ("x", ["m"]))


def test_a_manifest_that_names_another_kind_is_not_served(
    made: dict[Kind, tuple[TunableEncoder, Adapter]], encoder: Encoder, tmp_path: Path
) -> None:
    adapter = made["low_rank"][1]
    publish_tuned(tmp_path, "m", encoder, adapter, to_files(adapter))
    path = tmp_path / "m" / MANIFEST
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["adapter"]["kind"] = "biases"
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(DamagedArtifact):
        ask_once(encoder, tmp_path, ("x", ["m"]))
