"""Decides how an encoder is made to move: which of its parameters train, and how texts pass it in batches.

biases    every linear layer's bias trains (BitFit): few numbers, hard to overfit, and one graph serves them all
low_rank  a LoRA of rank 8 on every linear layer, through peft: for data that has more to say
full      every weight of the encoder; what the benchmark measures adapters against, never published

Texts pass in small groups of like length: on a processor padding costs as much as text does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from reflexd.engine.adapters import PEFT_PREFIX, Adapter, Kind
from reflexd.engine.half_precision import halve, is_native
from reflexd.engine.layers import linear_layers, pool

Movable = Kind | Literal["full"]
RANK = 8
START = 0
"""Seed of a low-rank adapter's first factor; the job's seed decides its rows and batches."""
HELD = 6
"""One layer of so many, the lowest, is held where a plan says so."""
REMEMBERED_NUMBERS = 16_000_000
"""Of what held layers make, so many stay in memory from step to step (4 bytes each)."""
GROUP_TOKENS = 400
"""Padded tokens that pass the encoder at once; groups of 200 to 1,500 cost within a tenth of the same."""


class _Memory:
    """What held layers made of each batch, while they are held; their own forwards refer to it, and not the reverse."""

    def __init__(self, width: int) -> None:
        self.holds = False
        self.batch: tuple[tuple[int, ...], ...] = ()
        """The token ids that pass the encoder."""
        self.made: dict[tuple[str, tuple[tuple[int, ...], ...]], Any] = {}
        self._width = width

    def forward(self, name: str, layer: torch.nn.Module) -> Callable[..., Any]:
        """Return a layer's forward that makes nothing anew for a batch which has passed it."""
        # A layer that its own forward refers to would outlive the encoder, until a collection.
        itself, forward = weakref.ref(layer), type(layer).forward

        def remembered(*inputs: Any, **named: Any) -> Any:
            key = (name, self.batch)
            if self.holds and key in self.made:
                return self.made[key]
            out = forward(itself(), *inputs, **named)
            if self.holds and self._numbers() <= REMEMBERED_NUMBERS:
                self.made[key] = out
            return out

        return remembered

    def _numbers(self) -> int:
        """Return how many numbers are remembered with one batch more, at most."""
        batches = [batch for _, batch in self.made] + [self.batch]
        return sum(len(batch) * max(map(len, batch)) for batch in batches) * self._width


class TunableEncoder:
    """The encoder's original weights, with those that `kind` names ready to train; deterministic, without dropout."""

    def __init__(self, checkpoint: Path, pooling: str, kind: Movable) -> None:
        """Load the weights of a Hugging Face directory; raises OSError where it is not whole.

        `precision` is that of the products: what comes of a tuning depends on it, and it follows from the machine.
        """
        disable_progress_bar()
        self.kind: Movable = kind
        self._pooling = pooling
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model: Any = AutoModel.from_pretrained(
            checkpoint,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(kind == "full")
        layers = linear_layers(model)
        if kind == "low_rank":
            config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=list(layers))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(START)  # every process that tunes sets out from the same point
                model = get_peft_model(model, config)
        elif kind == "biases":
            for layer in layers.values():
                if layer.bias is not None:
                    layer.bias.requires_grad_(True)
        model.to(self.device)
        self.precision = "bfloat16" if kind != "full" and is_native(self.device) else "float32"
        if self.precision == "bfloat16":
            halve(model)
        self._take(model)

    def _take(self, model: Any) -> None:
        """Set out from a model's weights as they are now."""
        config = model.config
        self.numbers_a_token: int = getattr(config, "num_hidden_layers", 12) * config.hidden_size
        self._model = model
        self.trained: dict[str, torch.nn.Parameter] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self._memory = _Memory(config.hidden_size)
        self._lowest = _lowest(model, getattr(config, "num_hidden_layers", 0)) if self.kind != "full" else {}
        for name, layer in self._lowest.items():
            layer.forward = self._memory.forward(name, layer)

    def hold(self, lowest: bool) -> None:
        """Hold the lowest layers as they are, or let them train again: before the first step of a tuning."""
        self._memory.holds = lowest
        self._memory.made.clear()
        for layer in self._lowest.values():
            for parameter in layer.parameters():
                if any(parameter is one for one in self.trained.values()):
                    parameter.requires_grad_(not lowest)

    def reset(self, adapter: Adapter | None = None) -> None:
        """Go back to the untouched encoder, or to it with an adapter of the same kind."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(self._start[name])
                if adapter is not None:
                    given = torch.from_numpy(adapter.tensors[_stored(name)].astype(np.float32)).to(self.device)
                    parameter.copy_(given if self.kind == "low_rank" else parameter + given)

    def adapter(self) -> Adapter:
        """Return what has been learned so far."""
        if self.kind == "full":
            raise ValueError("a fully tuned encoder is no adapter")
        tensors = {}
        for name, parameter in self.trained.items():
            change = parameter.detach() - (0 if self.kind == "low_rank" else self._start[name])
            tensors[_stored(name)] = change.cpu().numpy().astype(np.float16)
        return Adapter(self.kind, tensors)

    def encode(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the last layer's unit vectors [rows, width] of texts given as token ids."""
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.long)
        mask = torch.zeros(len(ids), width, dtype=torch.long)
        for row, text in enumerate(ids):
            tokens[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        self._memory.batch = tuple(map(tuple, ids))
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        hidden = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
        out: torch.Tensor = pool(hidden, mask, self._pooling)
        return out


def _lowest(model: torch.nn.Module, layers: int) -> dict[str, Any]:
    """Return the lowest of a model's layers, by name, as many as are held; none where it has no such list of them."""
    found = (one for one in model.named_modules() if isinstance(one[1], torch.nn.ModuleList) and len(one[1]) == layers)
    name, stack = next(found, ("", torch.nn.ModuleList()))
    return {f"{name}.{number}": layer for number, layer in enumerate(stack[: layers // HELD])}


def _stored(name: str) -> str:
    """Return the name of a parameter in an adapter: without peft's wrapper and the name that peft gives the adapter."""
    return name.removeprefix(PEFT_PREFIX).replace(".default.weight", ".weight")


def groups(ids: Sequence[Sequence[int]], rows: NDArray[np.int64]) -> list[list[int]]:
    """Return the rows in groups that hold at most GROUP_TOKENS when padded, or one text."""
    out: list[list[int]] = []
    for row in sorted(rows.tolist(), key=lambda r: (len(ids[r]), r)):
        if not out or (len(out[-1]) + 1) * len(ids[row]) > GROUP_TOKENS:
            out.append([])
        out[-1].append(row)
    return out
