"""Decides in which precision an encoder's linear layers multiply while it is tuned.

Where the machine multiplies bfloat16 natively (a GPU, AVX-512 BF16, AMX, some ARM processors) the frozen weights are
kept in it; activations, what trains, the loss and its sums stay in single precision. On a processor with AVX-512 BF16
such a product takes a quarter of the time, a whole step of all-MiniLM-L6-v2 about 0.4 of it, and what is learned is as
good: int8, which serves, is coarser by far. Without native support bfloat16 is slower than single precision, and is not
used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

NATIVE = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch calls the abilities of a processor to multiply bfloat16."""


def is_native(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 faster than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in NATIVE)


class HalfLinear(torch.nn.Module):
    """A linear layer that multiplies in bfloat16; its inputs, output, bias and a weight that trains are single."""

    weight: torch.Tensor

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        if layer.weight.requires_grad:
            self.weight = layer.weight
        else:
            self.register_buffer("weight", layer.weight.detach().to(torch.bfloat16))
        self.bias = layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs [..., in] times the weight, plus the bias: [..., out]."""
        out = functional.linear(inputs.to(torch.bfloat16), self.weight.to(torch.bfloat16)).float()
        return out if self.bias is None else out + self.bias


def halve(model: Any) -> None:
    """Have every linear layer multiply in bfloat16; parameters keep their names."""
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.set_submodule(name, HalfLinear(module))
