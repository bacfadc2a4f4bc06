"""Decides how a backbone runs in torch: where, in which precision, and how an adapter changes one forward of it.

It runs in bf16 on a GPU or in fp32 on the processor: the precision says which. The linear layers have hooks that add
what the adapter of the forward under way in their thread changes, so that one model in memory serves all adapters.
Only what serves or tunes such a backbone imports torch; a process that does neither never does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from reflexd.engine.adapters import Adapter
from reflexd.engine.backbone import NO_GPU, NoGpu
from reflexd.engine.encoder import Encoder
from reflexd.engine.layers import linear_layers
from reflexd.errors import StartupError

Change = tuple[torch.Tensor, ...]
"""What a linear layer gets: its bias's change [out], or its weight's as two halves, [rank, in] and [out, rank]."""
_NONE: Mapping[str, Change] = {}
_active: ContextVar[Mapping[str, Change]] = ContextVar("active", default=_NONE)
"""The adapter's change of each linear layer that the forward under way in this thread is to see."""


def place_for(precision: str) -> tuple[torch.device, torch.dtype]:
    """Return where a backbone of this precision runs, and in what.

    Raises NoGpu where this machine has not what that takes, StartupError for a precision that torch does not serve.
    """
    if precision == "fp32":
        return torch.device("cpu"), torch.float32
    if precision != "bf16":
        raise StartupError(f"torch serves a backbone in bf16 or fp32, and not in {precision}")
    if not torch.cuda.is_available():
        raise NoGpu(NO_GPU)
    return torch.device("cuda"), torch.bfloat16


def load_model(folder: Path, precision: str) -> Any:
    """Return the model in a Hugging Face directory where its precision says, nothing of it to be trained."""
    disable_progress_bar()
    device, dtype = place_for(precision)
    model: Any = AutoModel.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.eval().requires_grad_(False).to(device)


class TorchBackbone(Encoder):
    """An exported backbone, loaded in torch; a subclass says how its features are made."""

    def _load(self) -> None:
        self._model = load_model(self._folder, self.description.precision)
        self._changes: Mapping[str, Change] = _NONE
        for name, layer in linear_layers(self._model).items():
            layer.register_forward_hook(partial(_changed, name))

    @property
    def own_bytes(self) -> int:
        """Return the memory of its adapter."""
        return sum(part.nbytes for change in self._changes.values() for part in change)

    def adapted(self, adapter: Adapter | None) -> Self:
        """Return this backbone as an adapter changes it; itself without one.

        Raises ValueError as an encoder does, and for an adapter that another invocation activates.
        """
        if adapter is None:
            return self
        if not adapter.sound():
            raise ValueError("the adapter holds no changes, or one that is no number")
        if adapter.invocation != self.invocation:
            raise ValueError("the adapter is none that this backbone's invocation activates")
        out = copy.copy(self)
        out._origin = self
        try:
            out._changes = self._of_biases(adapter) if adapter.kind == "biases" else self._of_weights(adapter)
        except KeyError as error:
            raise ValueError(f"the adapter changes {error}, which the backbone does not have") from error
        return out

    def embed_all(
        self, texts: Sequence[str], threads: int, progress: Callable[[int], None] | None = None
    ) -> tuple[NDArray[np.float32], int, int]:
        """Do as an encoder does, each forward in one thread: with two the last digits may differ from serving."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().embed_all(texts, threads, progress)
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Have the forwards of this block, in this thread, see the adapter."""
        token = _active.set(self._changes)
        try:
            yield
        finally:
            _active.reset(token)

    def _of_biases(self, adapter: Adapter) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for name, values in adapter.tensors.items():
            if values.shape != (self.description.biases[name],):
                raise ValueError(f"the adapter's change of {name} has not the shape that the backbone's has")
            changes[name.removesuffix(".bias")] = (self._tensor(values),)
        return changes

    def _of_weights(self, adapter: Adapter) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for layer in adapter.layers():
            shape = tuple(self.description.weights[f"{layer}.weight"])
            down, up = (self._tensor(adapter.tensors[f"{layer}.lora_{half}.weight"]) for half in "AB")
            if (*up.shape[:1], *down.shape[1:]) != shape or up.shape[1:] != down.shape[:1]:
                raise ValueError(f"the adapter's change of {layer} has not the shape of its weight")
            changes[layer] = (down, up)
        return changes

    def _tensor(self, values: NDArray[np.float16]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._model.device)


def _changed(name: str, _layer: torch.nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Add the active adapter's change to what a linear layer puts out."""
    change = _active.get().get(name)
    if change is None:
        return output
    if len(change) == 1:
        return (output + change[0]).to(output.dtype)  # rounded once
    down, up = change
    return output + functional.linear(functional.linear(given[0].float(), down), up).to(output.dtype)
