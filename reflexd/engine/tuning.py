"""Decides how an encoder is tuned: which loss, in which steps, and how an interrupted tuning goes on.

The loss is half supervised contrastive (rows of one label draw together, over the batch) and half the cross-entropy of
a linear head that starts as the frozen encoder's; measured against either alone it won at 64 rows a label and tied at 8
(benchmarks/README.md). Rows with any number of labels draw together by how many of their labels they share, beside the
head's sigmoid loss. The head is thrown away: the one that is served is fitted afterwards, on the tuned features.

Batches follow from the seed and the step alone and state is written every few seconds, so a tuning that was killed
goes on to the very same result. Learning rate: a tenth of the steps up, then a cosine down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import autograd
from torch.nn import functional

from reflexd.engine.adapters import Adapter
from reflexd.engine.heads import Targets, Wide
from reflexd.engine.plan import LossNotFinite, Plan
from reflexd.engine.tunable import TunableEncoder, groups
from reflexd.registry.artifacts import Head
from reflexd.registry.files import replace_file
from reflexd.schemas.worker import Metrics

TEMPERATURE = 0.1
WARM_UP = 0.1
HEAD_RATE = 1e-2
GRAPH_NUMBERS = 6_000 * 6 * 384
"""Tokens x layers x width whose activations may stand in memory (some 50 bytes each); a larger batch is read twice."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW remembers of each parameter."""
SAVE_SECONDS = 3.0
TELL_SECONDS = 2.0


class _State(Struct):
    """What stands beside the tensors of an interrupted tuning."""

    plan: Plan
    precision: str
    step: int
    losses: list[float]


def tune(
    encoder: TunableEncoder,
    ids: Sequence[Sequence[int]],
    targets: Targets,
    head: Head,
    plan: Plan,
    seed: Sequence[int],
    *,
    weights: Wide | None = None,
    kept: Path | None = None,
    emit: Callable[[Metrics], None] | None = None,
    until: int | None = None,
) -> list[float]:
    """Train the encoder on rows given as token ids; return the loss of each step.

    `head` [labels, width] is where the loss's own head starts. `weights` [rows] say how much each row counts, 1 in the
    mean; they are heeded where a row has one label. `kept` is a file for the state, which is taken up from
    there where it belongs to the same plan and precision. `until` ends after that many steps, so that a pilot can be
    judged and go on. Raises LossNotFinite.
    """
    encoder.hold(plan.holds)
    moving = {name: parameter for name, parameter in encoder.trained.items() if parameter.requires_grad}
    weight = torch.tensor(head.weight, device=encoder.device, requires_grad=True)
    bias = torch.tensor(np.maximum(head.bias, -30.0), device=encoder.device, requires_grad=True)
    optimiser = torch.optim.AdamW(
        [
            {"params": list(moving.values()), "lr": plan.rate, "weight_decay": 0.0},
            {"params": [weight, bias], "lr": HEAD_RATE, "weight_decay": 0.0},
        ]
    )
    named = {**moving, "head.weight": weight, "head.bias": bias}
    losses = _take_up(kept, plan, encoder.precision, named, optimiser)
    end = plan.steps if until is None else min(until, plan.steps)
    saved = told = time.monotonic()
    truth = torch.as_tensor(targets, device=encoder.device)
    counted = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=encoder.device)
    for step in range(len(losses), end):
        for group, rate in zip(optimiser.param_groups, (plan.rate, HEAD_RATE), strict=True):
            group["lr"] = rate * _schedule(step, plan.steps)
        loss = _step(encoder, ids, (truth, counted), (weight, bias), plan, _batch(len(ids), plan, seed, step))
        if not math.isfinite(loss):
            raise LossNotFinite(f"the loss of step {step + 1} is {loss}")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(loss)
        now = time.monotonic()
        if kept is not None and (now - saved >= SAVE_SECONDS or step + 1 == end):
            saved = now
            _keep(kept, _State(plan, encoder.precision, step + 1, losses), named, optimiser)
        if emit is not None and now - told >= TELL_SECONDS:
            told = now
            emit(_metrics(step + 1, plan.steps, loss))
    return losses


def _metrics(step: int, steps: int, loss: float) -> Metrics:
    return Metrics(f"Tuning step {step} of {steps}: train_loss {loss:.4f}", {"step": step, "train_loss": loss})


def _schedule(step: int, steps: int) -> float:
    up = max(1.0, WARM_UP * steps)
    return min(1.0, (step + 1) / up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _batch(rows: int, plan: Plan, seed: Sequence[int], step: int) -> NDArray[np.int64]:
    """Return the rows of a step: all, or the next part of an order that is drawn anew for each pass."""
    if rows <= plan.batch_rows:
        return np.arange(rows)
    a_pass = -(-rows // plan.batch_rows)
    order = np.random.default_rng([*seed, step // a_pass]).permutation(rows)
    return np.array_split(order, a_pass)[step % a_pass]


def _step(
    encoder: TunableEncoder,
    ids: Sequence[Sequence[int]],
    known: tuple[torch.Tensor, torch.Tensor | None],
    head: tuple[torch.Tensor, torch.Tensor],
    plan: Plan,
    rows: NDArray[np.int64],
) -> float:
    """Leave the gradients of a batch's loss in the parameters; return the loss.

    `known` is the truth of all rows, and how much each counts, where they do not count alike.
    """
    parts = groups(ids, rows)
    order = torch.tensor([row for part in parts for row in part], device=encoder.device)
    truth, weights = known[0][order], None if known[1] is None else known[1][order]
    if sum(len(ids[row]) for row in rows) * encoder.numbers_a_token <= GRAPH_NUMBERS:
        vectors = torch.cat([encoder.encode([ids[row] for row in part]) for part in parts])
        loss = _loss(vectors, truth, weights, head, plan.contrast)
        autograd.backward(loss)
        return loss.item()
    with torch.no_grad():  # the loss needs all vectors at once, and memory only holds some of their graphs
        vectors = torch.cat([encoder.encode([ids[row] for row in part]) for part in parts])
    vectors.requires_grad_(True)
    loss = _loss(vectors, truth, weights, head, plan.contrast)
    autograd.backward(loss)
    assert vectors.grad is not None
    for part, gradient in zip(parts, torch.split(vectors.grad, [len(part) for part in parts]), strict=True):
        autograd.backward(encoder.encode([ids[row] for row in part]), gradient)
    return loss.item()


def _loss(
    vectors: torch.Tensor,
    truth: torch.Tensor,
    weights: torch.Tensor | None,
    head: tuple[torch.Tensor, torch.Tensor],
    contrast: float,
) -> torch.Tensor:
    logits = functional.linear(vectors, *head)
    if truth.ndim == 2:
        truth = truth.to(logits.dtype)
        loss = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(truth)
        weights = None
    elif weights is None:
        loss = functional.cross_entropy(logits, truth)
    else:
        loss = (functional.cross_entropy(logits, truth, reduction="none") * weights).sum() / weights.sum()
    return (1 - contrast) * loss + contrast * _contrastive(vectors, truth, weights) if contrast else loss


def _contrastive(vectors: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020): each row against all others of the batch.

    Others of the same label count alike; where rows have several labels, each by the share of all labels of the two
    that both have (Jaccard). Where rows have weights, each counts by its own, as a row and as another one.
    """
    own = torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    if truth.ndim == 2:
        both, each = truth @ truth.T, truth.sum(1)
        alike = both / (each[:, None] + each[None, :] - both).clamp(min=1)
    else:
        alike = (truth[:, None] == truth[None, :]).to(vectors.dtype)
    counted = torch.ones_like(vectors[:, 0]) if weights is None else weights
    alike = alike.masked_fill(own, 0.0) * counted
    total = alike.sum(1)
    if not bool(total.any()):
        return vectors.sum() * 0.0
    similar = (vectors @ vectors.T / TEMPERATURE).masked_fill(own, -torch.inf)
    among = torch.logsumexp(similar + torch.log(counted), dim=1, keepdim=True)
    likelihood = (similar - among).masked_fill(own, 0.0)
    paired = total > 0
    drawn = (alike * likelihood).sum(1)[paired] / total[paired]
    return -(drawn * counted[paired]).sum() / counted[paired].sum()


# --- state ----------------------------------------------------------------------------------------------------------


def _keep(path: Path, state: _State, named: dict[str, Any], optimiser: torch.optim.AdamW) -> None:
    tensors = {}
    for name, parameter in named.items():
        tensors[f"value/{name}"] = parameter.detach().cpu().contiguous()
        for moment in MOMENTS:
            tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment].cpu().contiguous()
    # One file: the tensors and what they are must never be of two different steps.
    replace_file(path, save_tensors(tensors, {"state": msgspec.json.encode(state).decode()}))


def _take_up(
    path: Path | None, plan: Plan, precision: str, named: dict[str, Any], optimiser: torch.optim.AdamW
) -> list[float]:
    """Put an interrupted tuning's state in place and return its losses; none where there is nothing to take up."""
    if path is None or not path.exists():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            state = msgspec.json.decode((file.metadata() or {})["state"], type=_State)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, msgspec.DecodeError, KeyError):
        return []
    shapes = {f"{part}/{name}": one.shape for name, one in named.items() for part in ("value", *MOMENTS)}
    if (state.plan, state.precision) != (plan, precision) or shapes != {
        name: tensor.shape for name, tensor in tensors.items()
    }:
        return []
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[f"value/{name}"])
            moments = {m: tensors[f"{m}/{name}"].to(parameter.device) for m in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(state.step)), **moments}
    return state.losses


def adapter_of(encoder: TunableEncoder) -> Adapter:
    """Return what the encoder has learned; raises LossNotFinite where it is no number."""
    adapter = encoder.adapter()
    if not adapter.sound():
        raise LossNotFinite("the tuned weights are not finite")
    return adapter
