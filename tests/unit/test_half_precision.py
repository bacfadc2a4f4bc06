"""Shows that an encoder that multiplies in bfloat16 is the same encoder and trains the same parameters."""

from __future__ import annotations

import pytest
import torch

from reflexd.engine import tunable
from reflexd.engine.adapters import Kind
from reflexd.engine.encoder import Encoder
from reflexd.engine.half_precision import HalfLinear, is_native
from reflexd.engine.tunable import TunableEncoder
from tests.unit.tunings import weights

TEXTS = ["Who wrote Hamlet?", "a", "My card was charged twice for one order, and the second time it was more."]
KINDS: tuple[Kind, ...] = ("biases", "low_rank")


def opened(monkeypatch: pytest.MonkeyPatch, kind: tunable.Movable, half: bool) -> TunableEncoder:
    monkeypatch.setattr(tunable, "is_native", lambda _: half)
    return TunableEncoder(weights(), "mean", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_and_the_gradients_are_those_of_single_precision(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    ids = [encoder.token_ids(text) for text in TEXTS]
    single, half = (opened(monkeypatch, kind, each) for each in (False, True))
    assert list(single.trained) == list(half.trained)
    assert all(parameter.dtype == torch.float32 for parameter in half.trained.values())
    vectors = [one.encode(ids) for one in (single, half)]
    assert torch.nn.functional.cosine_similarity(*vectors).min() > 0.9995
    assert not torch.equal(*vectors), "nothing was multiplied in bfloat16"
    target = vectors[0].detach().roll(1, 0)
    for made in vectors:
        torch.autograd.backward((made * target).sum())
    moved = [torch.cat([p.grad.ravel() for p in one.trained.values() if p.grad is not None]) for one in (single, half)]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.99


def test_all_of_an_encoder_is_tuned_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    full = opened(monkeypatch, "full", half=True)
    assert not any(isinstance(module, HalfLinear) for module in full._model.modules())


def test_a_processor_without_bfloat16_is_not_asked_to_multiply_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert not is_native(cpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    assert is_native(cpu)
