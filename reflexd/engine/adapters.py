"""Decides what an adapter is: the small change of an encoder that a tuned classifier carries, and how it is stored.

biases    what is added to the linear layers' biases: name of the bias -> [out], 40 KB for all-MiniLM-L6-v2
low_rank  what is added to their weights, as a LoRA of scale 1: <layer>.lora_A.weight [rank, in] and
          <layer>.lora_B.weight [out, rank]; 650 KB at rank 8. peft reads the file as it is. A decoder's is activated:
          it works on the tokens of the invocation alone, which follow the text (engine/decoder.py)

All in float16: a delta needs fewer digits than what it is added to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from reflexd.registry import artifacts
from reflexd.registry.artifacts import ADAPTER, ADAPTER_CONFIG, AdapterRef, DamagedArtifact, Manifest

Kind = Literal["biases", "low_rank"]
Half = NDArray[np.float16]
DOWN, UP = "down", "up"
"""What the graph calls the two halves of a layer's change, after its name and a dot."""
PEFT_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


class Adapter(Struct, frozen=True):
    """An adapter in memory; `tensors` by the names above, without peft's prefix."""

    kind: Kind
    tensors: dict[str, Half]
    invocation: tuple[int, ...] = ()
    """The token ids that activate it; none for an encoder's, which always works."""

    @property
    def rank(self) -> int:
        """Return the rank of its weight changes; 0 for biases."""
        return max((len(t) for name, t in self.tensors.items() if name.endswith(_DOWN)), default=0)

    @property
    def parameters(self) -> int:
        """Return how many numbers it holds."""
        return sum(tensor.size for tensor in self.tensors.values())

    def reference(self) -> AdapterRef:
        """Return what a manifest says of it."""
        return AdapterRef(kind=self.kind, parameters=self.parameters, rank=self.rank)

    def sound(self) -> bool:
        """Return whether it changes anything of its kind, and by finite numbers alone."""
        of_its_kind = bool(self.tensors) if self.kind == "biases" else bool(self.layers())
        return of_its_kind and all(bool(np.isfinite(tensor).all()) for tensor in self.tensors.values())

    def movement(self) -> float:
        """Return the root mean square of what it adds to a weight of the layers that it changes; 0 for biases.

        Raises KeyError where a half is missing, and ValueError where two do not fit.
        """
        squares, numbers = 0.0, 0
        for layer in self.layers():
            down, up = self.halves(layer)
            if down.ndim != 2 or up.ndim != 2 or down.shape[1] != len(up):
                raise ValueError(layer)
            squares += float(np.sum((down.T @ down) * (up @ up.T)))  # that of down @ up, which is never made
            numbers += len(down) * up.shape[1]
        return float(np.sqrt(squares / max(numbers, 1)))

    def weakened(self, share: float) -> Adapter:
        """Return it with a share of what it adds."""
        tensors = {
            name: tensor if name.endswith(_DOWN) else (tensor.astype(np.float32) * share).astype(np.float16)
            for name, tensor in self.tensors.items()
        }
        return structs.replace(self, tensors=tensors)

    def layers(self) -> list[str]:
        """Return the linear layers whose weight it changes."""
        return [name.removesuffix(_DOWN) for name in self.tensors if name.endswith(_DOWN)]

    def halves(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what a linear layer's input is multiplied with, [in, rank] and then [rank, out].

        Raises KeyError where a half is missing.
        """
        down, up = self.tensors[layer + _DOWN], self.tensors[layer + _UP]
        return np.ascontiguousarray(down.T, np.float32), np.ascontiguousarray(up.T, np.float32)


class _Config(Struct):
    """What is read of an adapter_config.json."""

    alora_invocation_tokens: tuple[int, ...] = ()


def to_files(adapter: Adapter) -> dict[str, bytes]:
    """Return the files of a model's folder that hold the adapter."""
    if adapter.kind == "biases":
        return {ADAPTER: save_tensors(adapter.tensors)}
    config: dict[str, object] = {
        "peft_type": "LORA",
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(adapter.layers()),
        "inference_mode": True,
    }
    if adapter.invocation:
        config["alora_invocation_tokens"] = adapter.invocation
    return {
        ADAPTER: save_tensors({PEFT_PREFIX + name: tensor for name, tensor in adapter.tensors.items()}),
        ADAPTER_CONFIG: msgspec.json.format(msgspec.json.encode(config), indent=1),
    }


def read_adapter(models_dir: Path, model_id: str, manifest: Manifest) -> Adapter | None:
    """Read a model's adapter; None where its encoder is untouched. Raises DamagedArtifact."""
    content = artifacts.load_adapter(models_dir, model_id, manifest)
    if content is None or manifest.adapter is None:
        return None
    config = artifacts.load_adapter_config(models_dir, model_id, manifest)
    try:
        tensors = load_tensors(content)
        invocation = () if config is None else msgspec.json.decode(config, type=_Config).alora_invocation_tokens
    except (SafetensorError, msgspec.DecodeError) as error:
        raise DamagedArtifact("the adapter cannot be read") from error
    named = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    return Adapter(manifest.adapter.kind, named, invocation)
