"""Decides how an encoder makes features in torch: one forward a text, on a GPU.

On a GPU several texts at once would be faster, and a text's vector would depend on its neighbours' lengths: the kernels
are chosen by the shape of the whole. One text a forward keeps training and serving alike, as on the processor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reflexd.engine.encoder import Vector
from reflexd.engine.layers import last_and_middle, pool
from reflexd.engine.torch_backbone import TorchBackbone


class TorchEncoder(TorchBackbone):
    """An encoder that was exported in bf16, loaded; what Encoder promises holds for it too."""

    def forward(self, ids: Sequence[int]) -> Vector:
        """Return the features [2 * width] of one sequence of at most `max_tokens` ids."""
        row = torch.tensor([ids], device=self._model.device)
        mask = torch.ones_like(row)
        with torch.inference_mode(), self._changing():
            out = self._model(input_ids=row, attention_mask=mask, output_hidden_states=True)
            # In single precision: a sum over many tokens has more digits than bf16 holds.
            layers = [pool(layer.float(), mask, self.description.pooling)[0] for layer in last_and_middle(out)]
            features: Vector = torch.cat(layers).cpu().numpy()
        return features
