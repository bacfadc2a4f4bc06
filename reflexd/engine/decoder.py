"""Decides how a decoder makes features of a text: one reading of it that all classifiers share, then a few tokens each.

The text is followed by the invocation, the same few words always. The features are the hidden states of the last of
them, of the last and the middle layer. An adapter is activated (aLoRA): it changes what the invocation's tokens
compute and nothing of the text, whose keys and values are the untouched decoder's, whoever asks.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from tokenizers import Tokenizer

from reflexd.engine.encoder import Vector
from reflexd.engine.layers import last_and_middle, pool
from reflexd.engine.torch_backbone import TorchBackbone
from reflexd.registry.backbones import LAST_TOKEN

INVOCATION = "\nThis means in one word:"
"""Another text is another training stack: models were trained with this one."""
KEPT_TOKENS = 2_048
"""Tokens of the texts read last that stay in memory (46 KB each for SmolLM2-135M in fp32), so that they are shared."""


def invocation_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the token ids that follow every text."""
    return tuple(tokenizer.encode(INVOCATION, add_special_tokens=False).ids)


class Decoder(TorchBackbone):
    """An exported decoder, loaded; what Encoder promises holds for it too. A text's own tokens alone are counted."""

    def _load(self) -> None:
        super()._load()
        self._before, self._after = self._special, 0
        self.invocation = invocation_of(self._tokenizer)
        self._tail = torch.tensor([self.invocation], device=self._model.device)
        self._prefills = _Prefills()

    def forward(self, ids: Sequence[int]) -> Vector:
        """Return the features [2 * width] of one sequence of at most `max_tokens` ids."""
        with torch.inference_mode():
            read = self._prefills.of(ids, self._read) if ids else None
            with self._changing():
                # A copy, since a forward adds its own tokens to what it is given.
                out = self._model(
                    input_ids=self._tail, past_key_values=copy.deepcopy(read), use_cache=True, output_hidden_states=True
                )
            layers = [pool(layer.float(), None, LAST_TOKEN)[0] for layer in last_and_middle(out)]
            features: Vector = torch.cat(layers).cpu().numpy()
        return features

    def _read(self, ids: Sequence[int]) -> Any:
        """Return the keys and values of a text, which no adapter has a part in."""
        return self._model(input_ids=torch.tensor([ids], device=self._model.device), use_cache=True).past_key_values


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
