"""Decides how a decoder is made to move: an activated LoRA of rank 8 on every linear layer, through peft.

The text is read by the untouched decoder, without a gradient and mostly once for all steps; only the invocation's few
tokens are computed anew in each step, with the adapter on (engine/decoder.py serves the same).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from peft import LoraConfig, get_peft_model

from reflexd.engine.adapters import Adapter
from reflexd.engine.decoder import Decoder
from reflexd.engine.encoder import Encoder
from reflexd.engine.layers import linear_layers, pool
from reflexd.engine.torch_backbone import load_model
from reflexd.engine.tunable import RANK, Movable, TunableEncoder
from reflexd.registry.backbones import LAST_TOKEN

KEPT_TOKENS = 4_096
"""Padded tokens of texts whose keys and values stay in memory from step to step."""


def open_tunable(checkpoint: Path, encoder: Encoder, kind: Movable) -> TunableEncoder:
    """Return the original weights of what `encoder` was exported from, ready to be tuned."""
    if isinstance(encoder, Decoder):
        return TunableDecoder(checkpoint, encoder.invocation, encoder.description.precision)
    return TunableEncoder(checkpoint, encoder.description.pooling, kind)


class TunableDecoder(TunableEncoder):
    """A decoder's original weights with an activated LoRA ready to train; deterministic, without dropout."""

    def __init__(self, checkpoint: Path, invocation: Sequence[int], precision: str) -> None:
        """Load the weights of a Hugging Face directory; raises OSError where it is not whole."""
        self.kind = "low_rank"
        self._invocation = tuple(invocation)
        self._prefills: dict[tuple[tuple[int, ...], ...], Any] = {}
        model = load_model(checkpoint, precision)
        self.device = model.device
        self.precision = precision
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")  # peft means activated LoRA for generating; it works for features as well
            torch.manual_seed(0)
            config = LoraConfig(
                r=RANK,
                lora_alpha=RANK,
                lora_dropout=0.0,
                target_modules=list(linear_layers(model)),
                alora_invocation_tokens=list(invocation),
            )
            self._take(get_peft_model(model, config))

    def hold(self, lowest: bool) -> None:
        """Do nothing: of what the adapter has no part in most is remembered anyway."""

    def adapter(self) -> Adapter:
        """Return what has been learned so far."""
        return structs.replace(super().adapter(), invocation=self._invocation)

    def encode(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the last layer's unit vectors [rows, width] of texts given as token ids."""
        rows, lengths = len(ids), torch.tensor([[len(text)] for text in ids], device=self.device)
        mask = torch.arange(max(map(len, ids)), device=self.device) < lengths
        tail = torch.tensor(self._invocation, device=self.device).expand(rows, -1)
        out = self._model(
            input_ids=tail,
            attention_mask=torch.cat([mask, torch.ones_like(tail, dtype=torch.bool)], dim=1).long(),
            position_ids=lengths + torch.arange(tail.shape[1], device=self.device),
            past_key_values=copy.deepcopy(self._prefill(ids, mask)),
            use_cache=True,
            alora_offsets=[tail.shape[1]] * rows,
        )
        vectors: torch.Tensor = pool(out.last_hidden_state.float(), None, LAST_TOKEN)
        return vectors

    def _prefill(self, ids: Sequence[Sequence[int]], mask: torch.Tensor) -> Any:
        """Return the keys and values of texts, padded on the right; the adapter has no part in them."""
        key = tuple(map(tuple, ids))
        if key in self._prefills:
            return self._prefills[key]
        tokens = torch.zeros(mask.shape, dtype=torch.long, device=self.device)
        tokens[mask] = torch.tensor([token for text in ids for token in text], device=self.device)
        with torch.no_grad():
            made = self._model(
                input_ids=tokens, attention_mask=mask.long(), use_cache=True, alora_offsets=None
            ).past_key_values
        if sum(len(texts) * max(map(len, texts)) for texts in (*self._prefills, key)) <= KEPT_TOKENS:
            self._prefills[key] = made
        return made
