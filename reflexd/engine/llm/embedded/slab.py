"""Decides where the keys and values of rows that are generated stand: in place, so that rows come and go cheaply.

transformers' growing cache copies itself whole for each token. Here every row ends in the same column: a step writes
one column, a row joins by writing what it has read up to there, and leaves by giving its place to the last row.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

ROOM = 128
"""Columns by which it grows at least."""


class Window:
    """Which rows and columns hold something, the same in every layer."""

    def __init__(self) -> None:
        self.rows = 0
        self.start = self.end = 0

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.end - self.start


class Layer(CacheLayerMixin):  # type: ignore[misc] # mypy skips transformers (pyproject.toml), so its classes are Any
    """One layer's keys and values: [places, heads, columns, width], of which the window is seen."""

    def __init__(self, window: Window, keys: torch.Tensor, values: torch.Tensor, places: int, columns: int) -> None:
        super().__init__()
        self._window = window
        # Zeros and not what was there: a masked column counts nothing only if it is a number.
        self.keys, self.values = (
            torch.zeros(places, one.shape[1], columns, one.shape[3], dtype=one.dtype, device=one.device)
            for one in (keys, values)
        )
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: it has its memory from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the columns after the window, and return them with those before."""
        window, more = self._window, key_states.shape[2]
        seen = []
        for whole, new in ((self.keys, key_states), (self.values, value_states)):
            whole[: window.rows, :, window.end : window.end + more] = new
            seen.append(whole[: window.rows, :, window.start : window.end + more])
        return seen[0], seen[1]

    def get_seq_length(self) -> int:
        """Return the columns in use."""
        return self._window.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns that a query may see, and the first of them."""
        return self._window.width + query_length, 0

    def get_max_length(self) -> int:
        """Return that there is none: it grows."""
        return -1

    get_max_cache_shape = get_max_length
    """Its name in transformers 5.10, where a layer without it cannot be made."""


class Slab:
    """The cache of all rows; `lengths` says how many columns of each count, the last ones."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._window = Window()
        self._layers: list[Layer] = []
        self.lengths: list[int] = []

    def cache(self) -> Cache:
        """Return it as models take it, with room for one more column."""
        self._make_room(self._window.width, 1)
        return Cache(layers=list(self._layers))

    def mask(self) -> torch.Tensor:
        """Return which columns each row sees in the next step, its own new one included."""
        columns = torch.arange(self._window.width + 1)
        starts = self._window.width - torch.tensor(self.lengths)
        return columns[None, :] >= starts[:, None]

    def stepped(self) -> None:
        """Count the column that a forward has written."""
        self._window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def join(self, keys: list[list[torch.Tensor]], values: list[list[torch.Tensor]]) -> None:
        """Add a row: of each layer the pieces [heads, tokens, width] of what it has read, in order."""
        length = sum(piece.shape[1] for piece in keys[0])
        window = self._window
        if not self._layers:
            firsts = [(k[0][None], v[0][None]) for k, v in zip(keys, values, strict=True)]
            self._layers = [Layer(window, k, v, self._places, length + ROOM) for k, v in firsts]
            window.start = window.end = length
        if length > window.end:
            self._make_room(length, 1)
        for layer, layer_keys, layer_values in zip(self._layers, keys, values, strict=True):
            for whole, pieces in ((layer.keys, layer_keys), (layer.values, layer_values)):
                at = window.end - length
                for piece in pieces:
                    whole[window.rows, :, at : at + piece.shape[1]] = piece
                    at += piece.shape[1]
        window.rows += 1
        self.lengths.append(length)
        window.start = window.end - max(self.lengths)

    def leave(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        window = self._window
        window.rows -= 1
        if row != window.rows:
            for layer in self._layers:
                for whole in (layer.keys, layer.values):
                    whole[row, :, window.start : window.end] = whole[window.rows, :, window.start : window.end]
        self.lengths[row] = self.lengths[-1]
        self.lengths.pop()
        if self.lengths:
            window.start = window.end - max(self.lengths)
        else:
            self._layers, window.start, window.end = [], 0, 0

    def _make_room(self, width: int, more: int) -> None:
        """See that the window can be `width` wide and grow by `more`: by moving it, or by growing."""
        window = self._window
        columns = self._layers[0].keys.shape[2]
        width = max(width, window.width)
        if width <= window.end and window.end + more <= columns:
            return
        if width + more + ROOM // 2 > columns:
            columns = max(width + more + ROOM, columns + columns // 2)
        for layer in self._layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = torch.zeros(*old.shape[:2], columns, old.shape[3], dtype=old.dtype, device=old.device)
                new[: window.rows, :, width - window.width : width] = old[: window.rows, :, window.start : window.end]
                setattr(layer, name, new)
        window.start, window.end = width - window.width, width
