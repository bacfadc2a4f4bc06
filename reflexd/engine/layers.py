"""Decides which of an encoder's layers a text passes, and how a layer's output becomes one vector.

Shared by the graph that serves (engine/export.py) and the encoder that trains (engine/tunable.py): they must agree.
"""

from __future__ import annotations

from typing import Any

import torch

from reflexd.registry.backbones import LAST_TOKEN


def linear_layers(encoder: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Return the linear layers that a token passes, by name: all but those of the pooler, which is not used."""
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")
    }


def last_and_middle(out: Any) -> tuple[Any, Any]:
    """Return the outputs [rows, tokens, width] of the two layers that features are made of."""
    return out.last_hidden_state, out.hidden_states[(len(out.hidden_states) - 1) // 2]


def pool(hidden: Any, attention_mask: Any, pooling: str) -> Any:
    """Return the unit vectors [rows, width] of a layer's output [rows, tokens, width]."""
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == LAST_TOKEN:
        pooled = hidden[:, -1]
    else:
        kept = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=-1)
