"""Decides how a decoder makes features of a text: one reading of it that all classifiers share, then a few tokens each.

The text is followed by the invocation, the same few words always. The features are the hidden states of the last of
them, of the last and the middle layer. An adapter is activated (aLoRA): it changes what the invocation's tokens
compute and nothing of the text, whose keys and values are the untouched decoder's, whoever asks.

It runs in torch, in bf16 on a GPU or in fp32 on the processor: the precision says which. Only this module and those
that tune import torch; a process that serves no decoder never does.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from reflexd.engine.adapters import Adapter
from reflexd.engine.encoder import Encoder, Vector
from reflexd.engine.layers import linear_layers, pool
from reflexd.errors import StartupError
from reflexd.registry.backbones import LAST_TOKEN

INVOCATION = "\nThis means in one word:"
"""Another text is another training stack: models were trained with this one."""
KEPT_TOKENS = 2_048
"""Tokens of the texts read last that stay in memory (46 KB each for SmolLM2-135M in fp32), so that they are shared."""

Change = tuple[torch.Tensor, torch.Tensor]
_NONE: Mapping[str, Change] = {}
_active: ContextVar[Mapping[str, Change]] = ContextVar("active", default=_NONE)
"""The adapter's change of each linear layer that the forward under way in this thread is to see."""


def place_for(precision: str) -> tuple[torch.device, torch.dtype]:
    """Return where a decoder of this precision runs, and in what; raises StartupError where this machine cannot."""
    if precision == "fp32":
        return torch.device("cpu"), torch.float32
    if precision != "bf16":
        raise StartupError(f"a decoder is exported in bf16 or fp32, and not in {precision}")
    if not torch.cuda.is_available():
        raise StartupError("the decoder was added for a GPU, and torch sees none on this machine")
    return torch.device("cuda"), torch.bfloat16


def load_decoder(folder: Path, precision: str) -> Any:
    """Return the decoder in a Hugging Face directory where its precision says, nothing of it to be trained."""
    disable_progress_bar()
    device, dtype = place_for(precision)
    model: Any = AutoModel.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return model.eval().requires_grad_(False).to(device)


def invocation_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the token ids that follow every text."""
    return tuple(tokenizer.encode(INVOCATION, add_special_tokens=False).ids)


class Decoder(Encoder):
    """An exported decoder, loaded; what Encoder promises holds for it too. A text's own tokens alone are counted."""

    def _load(self) -> None:
        self._model = load_decoder(self._folder, self.description.precision)
        self._before, self._after = self._special, 0
        self.invocation = invocation_of(self._tokenizer)
        self._tail = torch.tensor([self.invocation], device=self._model.device)
        self._prefills = _Prefills()
        self._changes: Mapping[str, Change] = _NONE
        for name, layer in linear_layers(self._model).items():
            layer.register_forward_hook(partial(_changed, name))

    @property
    def own_bytes(self) -> int:
        """Return the memory of its adapter."""
        return sum(half.nbytes for halves in self._changes.values() for half in halves)

    def adapted(self, adapter: Adapter | None) -> Decoder:
        """Return this decoder with an adapter that the invocation activates; itself without one.

        Raises ValueError for an adapter of another invocation, or that names a layer which the decoder does not have.
        """
        if adapter is None:
            return self
        if adapter.kind != "low_rank" or adapter.invocation != self.invocation:
            raise ValueError("the adapter is none that this decoder's invocation activates")
        out = copy.copy(self)
        out._origin = self
        changes = {}
        for layer in adapter.layers():
            if f"{layer}.weight" not in self.description.weights:
                raise ValueError(f"the adapter changes {layer}, which the decoder does not have")
            weight = self._model.get_submodule(layer).weight
            down, up = (self._tensor(adapter.tensors[f"{layer}.lora_{part}.weight"]) for part in "AB")
            if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
                raise ValueError(f"the adapter's change of {layer} has not the shape of its weight")
            changes[layer] = (down, up)
        out._changes = changes
        return out

    def forward(self, ids: Sequence[int]) -> Vector:
        """Return the features [2 * width] of one sequence of at most `max_tokens` ids."""
        with torch.inference_mode():
            read = self._prefills.of(ids, self._read) if ids else None
            token = _active.set(self._changes)
            try:
                # A copy, since a forward adds its own tokens to what it is given.
                out = self._model(
                    input_ids=self._tail, past_key_values=copy.deepcopy(read), use_cache=True, output_hidden_states=True
                )
            finally:
                _active.reset(token)
            middle = out.hidden_states[(len(out.hidden_states) - 1) // 2]
            layers = [pool(layer.float(), None, LAST_TOKEN)[0] for layer in (out.last_hidden_state, middle)]
            features: Vector = torch.cat(layers).cpu().numpy()
        return features

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

    def _read(self, ids: Sequence[int]) -> Any:
        """Return the keys and values of a text, which no adapter has a part in."""
        return self._model(input_ids=torch.tensor([ids], device=self._model.device), use_cache=True).past_key_values

    def _tensor(self, values: NDArray[np.float16]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._model.device)


def _changed(name: str, _layer: torch.nn.Module, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Add the active adapter's change to what a linear layer puts out."""
    change = _active.get().get(name)
    if change is None:
        return output
    down, up = change
    return output + functional.linear(functional.linear(given[0].float(), down), up).to(output.dtype)


class _Prefills:
    """The keys and values of the texts read last: classifiers that are asked about one text share its reading.

    Called from many threads; whoever asks for a text that is being read waits for that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, ...], Future[Any]] = OrderedDict()

    def of(self, ids: Sequence[int], read: Callable[[Sequence[int]], Any]) -> Any:
        """Return what `read` makes of the ids, now or lately; nobody may change it."""
        key = tuple(ids)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            else:
                mine = self._kept[key] = Future()
                while sum(map(len, self._kept)) > KEPT_TOKENS and len(self._kept) > 1:
                    self._kept.popitem(last=False)
        if found is not None:
            return found.result()
        try:
            mine.set_result(read(ids))
        except BaseException as error:
            with self._lock:
                self._kept.pop(key, None)
            mine.set_exception(error)
            raise
        return mine.result()
