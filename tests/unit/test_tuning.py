"""Shows that tuning is the same each time, however often it was interrupted, and that a loss of no number ends it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from transformers import MPNetConfig

from reflexd.engine import budget, trainer, tuning
from reflexd.engine import tunable as tunable_module
from reflexd.engine.adapters import Adapter
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import fit_head
from reflexd.engine.plan import LossNotFinite, Plan
from reflexd.engine.trainer import train
from reflexd.engine.tunable import TunableEncoder
from reflexd.engine.tuning import adapter_of, tune
from reflexd.hookspecs import Example
from reflexd.registry import artifacts
from reflexd.registry.artifacts import Head
from reflexd.schemas.worker import Message, Metrics, RunSpec
from reflexd_plugins.checkpoints import MINILM
from tests.checkpoints import tiny
from tests.rows import questions
from tests.unit.tunings import weights

ROWS = questions(4)
LABELS = sorted({row["label"] for row in ROWS})
TARGETS = np.array([LABELS.index(row["label"]) for row in ROWS])
WHOLE: dict[Plan, tuple[list[float], Adapter]] = {}
PLAN = Plan(steps=5, batch_rows=10, rate=8e-3, contrast=0.5)


@pytest.fixture(scope="module")
def tunable() -> TunableEncoder:
    return TunableEncoder(weights(), MINILM.pooling, "biases")


class Tuning:
    """Tunes one encoder again and again from its start."""

    def __init__(self, tunable: TunableEncoder, encoder: Encoder) -> None:
        self.encoder = tunable
        self.ids = [encoder.token_ids(row["text"]) for row in ROWS]
        width = encoder.description.width
        self.head = fit_head(encoder.embed_all([row["text"] for row in ROWS], 1)[0][:, :width], TARGETS, len(LABELS))

    def whole(self, plan: Plan = PLAN) -> tuple[list[float], Adapter]:
        """Return what comes of a tuning that nothing interrupts."""
        if plan not in WHOLE:
            WHOLE[plan] = self.run(plan)
        return WHOLE[plan]

    def run(
        self, plan: Plan = PLAN, kept: Path | None = None, until: int | None = None, seed: Sequence[int] = (1, 0)
    ) -> tuple[list[float], Adapter]:
        self.encoder.reset()
        losses = tune(self.encoder, self.ids, TARGETS, self.head, plan, seed, kept=kept, until=until)
        return losses, adapter_of(self.encoder)


@pytest.fixture
def under(tunable: TunableEncoder, encoder: Encoder) -> Tuning:
    return Tuning(tunable, encoder)


def same(one: tuple[list[float], Adapter], other: tuple[list[float], Adapter]) -> bool:
    tensors = other[1].tensors
    return one[0] == other[0] and all(np.array_equal(tensor, tensors[name]) for name, tensor in one[1].tensors.items())


def test_the_seed_decides_the_losses_and_the_adapter(under: Tuning) -> None:
    once = under.run()
    assert len(once[0]) == PLAN.steps
    assert once[0][-1] < once[0][0]
    assert any(np.any(tensor) for tensor in once[1].tensors.values())
    assert same(under.run(), once)
    assert not same(under.run(seed=(2, 0)), once)


@pytest.mark.parametrize("stops", [[1], [2, 3, 4], [5]])
def test_an_interrupted_tuning_goes_on_to_the_same_end(under: Tuning, tmp_path: Path, stops: list[int]) -> None:
    whole = under.whole()
    kept = tmp_path / "state.safetensors"
    for stop in stops:
        losses, _ = under.run(kept=kept, until=stop)
        assert losses == whole[0][:stop]
    assert same(under.run(kept=kept), whole)
    before = kept.read_bytes()
    assert same(under.run(kept=kept), whole), "an ended tuning is taken up as it ended"
    assert kept.read_bytes() == before


def test_a_batch_over_the_memory_is_the_same_batch(under: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = under.whole()
    monkeypatch.setattr(tuning, "GRAPH_NUMBERS", 20 * 6 * 384)  # a smaller memory than any machine has
    again = under.run()
    np.testing.assert_allclose(again[0], whole[0], atol=2e-3)
    for name, tensor in whole[1].tensors.items():
        np.testing.assert_allclose(again[1].tensors[name], tensor, atol=5e-3)


def test_what_is_held_stays_and_is_made_once(under: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    held = structs.replace(PLAN, batch_rows=100, holds=True)
    once = under.run(held)
    for name, tensor in once[1].tensors.items():
        assert np.any(tensor) == (".layer.0." not in name), name
    remembered = len(under.encoder._memory.made)
    assert remembered > 1
    forwards = []
    layer = under.encoder._model.encoder.layer[0].intermediate
    hook = layer.register_forward_hook(lambda *_: forwards.append(1))
    assert same(under.run(held), once)
    assert len(forwards) == remembered, "each group of rows passes the lowest layer in the first step alone"
    monkeypatch.setattr(tunable_module, "REMEMBERED_NUMBERS", 0)
    assert same(under.run(held), once), "what does not fit into the memory is made anew, the same"
    assert len(forwards) == remembered * (1 + held.steps)
    hook.remove()
    assert len(under.encoder._memory.made) == 0
    free = structs.replace(held, holds=False)
    assert all(np.any(tensor) for tensor in under.run(free)[1].tensors.values())


def test_an_encoder_that_nobody_has_any_more_is_freed_at_once() -> None:
    gone = weakref.ref(TunableEncoder(weights(), MINILM.pooling, "low_rank")._lowest.popitem()[1])
    assert gone() is None


def harmed(content: bytes, harm: str) -> bytes:
    size = 8 + int.from_bytes(content[:8], "little")
    match harm:
        case "empty":
            return b""
        case "torn in the length":
            return content[:5]
        case "torn in the header":
            return content[: size // 2]
        case "torn at the header's end":
            return content[:size]
        case "torn in the tensors":
            return content[:-1]
        case "not ours":
            return b"\x02\0\0\0\0\0\0\0[]"
        case "no text":
            return b"\x04\0\0\0\0\0\0\0\xff\xfe\xfd\xfc"
        case "without a moment":
            return content.replace(b'"exp_avg/head.bias"', b'"exp_avx/head.bias"')
        case _:
            raise AssertionError(harm)


@pytest.mark.parametrize(
    "harm",
    [
        "empty",
        "torn in the length",
        "torn in the header",
        "torn at the header's end",
        "torn in the tensors",
        "not ours",
        "no text",
        "without a moment",
    ],
)
def test_a_state_that_cannot_be_read_is_begun_anew(under: Tuning, tmp_path: Path, harm: str) -> None:
    kept = tmp_path / "state.safetensors"
    short = Plan(steps=3, batch_rows=10, rate=8e-3, contrast=0.5)
    whole = under.whole(short)
    under.run(short, kept=kept, until=2)
    kept.write_bytes(harmed(kept.read_bytes(), harm))
    assert same(under.run(short, kept=kept), whole)


@pytest.mark.parametrize(
    "other", [Plan(4, 10, 8e-3, 0.5), Plan(5, 9, 8e-3, 0.5), Plan(5, 10, 4e-3, 0.5), Plan(5, 10, 8e-3, 0.0)]
)
def test_the_state_of_another_plan_is_not_taken_up(under: Tuning, tmp_path: Path, other: Plan) -> None:
    kept = tmp_path / "state.safetensors"
    under.run(other, kept=kept, until=2)
    assert under.run(kept=kept, until=1)[0] == under.run(until=1)[0]


def test_the_state_of_another_kind_is_not_taken_up(under: Tuning, encoder: Encoder, tmp_path: Path) -> None:
    kept = tmp_path / "state.safetensors"
    low_rank = Tuning(TunableEncoder(weights(), MINILM.pooling, "low_rank"), encoder)
    under.run(kept=kept, until=2)
    assert same(low_rank.run(kept=kept, until=2), low_rank.run(until=2))


def test_the_state_of_another_precision_is_not_taken_up(
    under: Tuning, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "state.safetensors"
    under.run(kept=kept, until=2)
    before = kept.read_bytes()
    monkeypatch.setattr(under.encoder, "precision", "another")
    assert under.run(kept=kept, until=2)[0] == under.run(until=2)[0]
    assert kept.read_bytes() != before, "it was begun anew, and is kept as what it is now"


def test_an_encoder_of_another_architecture_is_tuned_too(tmp_path: Path) -> None:
    """MPNet's attention takes other arguments than BERT's; weights without sense are enough to see that it moves."""
    config = MPNetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=30_527
    )
    folder = tiny(tmp_path / "mpnet", config)
    ids = [[0, 5 + number, 9, 2] for number in range(8)]
    targets = np.arange(8) % 2
    head = Head(np.zeros((2, 32), np.float32), np.zeros(2, np.float32))
    for kind in ("biases", "low_rank"):
        encoder = TunableEncoder(folder, "mean", kind)
        losses = tune(encoder, ids, targets, head, Plan(6, 8, 1e-2, 0.5), [1, 0])
        assert losses[-1] < losses[0]
        assert all(np.abs(tensor).max() > 0 for name, tensor in adapter_of(encoder).tensors.items() if "bias" in name)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(steps=4, batch_rows=100, rate=1e30, contrast=0.5), r"the loss of step \d is nan"),
        (Plan(steps=1, batch_rows=100, rate=1e10, contrast=0.5), "the tuned weights are not finite"),
    ],
)
def test_a_loss_that_is_no_number_ends_the_tuning(under: Tuning, tmp_path: Path, plan: Plan, said: str) -> None:
    """Rates that no plan has: what they bring about, real data with huge values could."""
    for _ in range(2):  # a job that is taken up comes to the same end
        with pytest.raises(LossNotFinite, match=said):
            under.run(plan, tmp_path / "state.safetensors")


@pytest.mark.parametrize(("rate", "given_up"), [(1e30, 1), (1e10, 1), (30.0, 0)])
def test_a_job_whose_tuning_fails_keeps_the_frozen_encoder(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, given_up: int
) -> None:
    """The rates are fakes: no plan has one so great. The least of them only makes the encoder a bad one."""
    rows = [Example(**row) for row in ROWS]
    monkeypatch.setattr(budget, "RATE", dict.fromkeys(budget.RATE, rate))
    events: list[Message | Metrics] = []
    results: list[Any] = []
    for name, seconds in (("tuned", 60.0), ("frozen", 0.0)):
        (tmp_path / name).mkdir()
        spec = RunSpec(
            job_id="j", stage="train", run_dir=str(tmp_path / name), models_dir=str(tmp_path), model_id=f"m-{name}",
            backbone="", checkpoint=str(weights()), seed=1, threads=1, budget_seconds=seconds,
        )  # fmt: skip
        results.append(train(spec, rows, LABELS, encoder, events.append).result)
        head, manifest = artifacts.load(tmp_path, f"m-{name}")
        assert np.isfinite(head.weight).all()
        assert manifest.adapter is None
    if given_up:
        assert results[0] == results[1]
    else:  # the score then counts the choice between the two, on the tuning's folds
        assert results[0]["recipe"] == results[1]["recipe"]
    assert any("Tuning the encoder" in e.message for e in events)
    told = [e for e in events if isinstance(e, Message) and e.data.get("code") == "loss_not_finite"]
    assert [(e.level, "was given up" in e.message) for e in told] == [("warn", True)] * given_up


def test_a_tuning_on_all_rows_that_fails_keeps_the_frozen_encoder(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is a fake, and only of the last tuning, which follows the folds."""

    def hot_at_the_end(*given: Any) -> budget.Scheme | None:
        found = budget.scheme(*given)
        assert found is not None
        (work,) = found.works
        assert work.again is not None
        again = structs.replace(work.again, rate=1e30)
        return structs.replace(found, works=[structs.replace(work, again=again)])

    monkeypatch.setattr(trainer, "scheme", hot_at_the_end)
    monkeypatch.setattr(trainer, "choose", lambda candidates: len(candidates) - 1)
    events: list[Message | Metrics] = []
    spec = RunSpec(
        job_id="j", stage="train", run_dir=str(tmp_path), models_dir=str(tmp_path), model_id="m",
        backbone="", checkpoint=str(weights()), seed=1, threads=1, budget_seconds=60.0,
    )  # fmt: skip
    result = train(spec, [Example(**row) for row in ROWS], LABELS, encoder, events.append).result
    assert artifacts.load(tmp_path, "m")[1].adapter is None
    assert result["recipe"]["encoder"] == "frozen"
    assert result["accuracy"] is not None
    (told,) = [e for e in events if isinstance(e, Message) and e.data.get("code") == "loss_not_finite"]
    assert told.level == "warn"


def test_rows_of_several_labels_draw_together_by_what_they_share() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    classes = torch.arange(9) % 3
    one_each = torch.nn.functional.one_hot(classes).to(vectors.dtype)
    assert tuning._contrastive(vectors, one_each) == pytest.approx(tuning._contrastive(vectors, classes).item())
    truth = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    start = vectors[:4].clone().requires_grad_(True)
    torch.autograd.backward(tuning._contrastive(start, truth))
    assert start.grad is not None
    pull = -(start.grad[0] @ (vectors[:4].T - vectors[0][:, None]))
    assert pull[1] > pull[2], "both labels are shared with the second row, and one with the third"
    nothing = tuning._contrastive(vectors[:2], torch.zeros(2, 3))
    assert nothing.item() == 0


def test_a_row_counts_in_the_loss_by_its_weight() -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(9, 8, generator=random), dim=1)
    truth, head = torch.arange(9) % 3, (torch.randn(3, 8, generator=random), torch.zeros(3))

    def loss(weights: list[float] | None, rows: int = 9) -> float:
        counted = None if weights is None else torch.tensor(weights)
        return tuning._loss(vectors[:rows], truth[:rows], counted, head, 0.5).item()

    assert loss([1.0] * 9) == pytest.approx(loss(None))
    assert loss([1.0] * 6 + [1e-9] * 3) == pytest.approx(loss(None, 6)), "next to nothing is none"
    assert loss([1.0] * 6 + [1e-9] * 3) != pytest.approx(loss(None), rel=0.05)
