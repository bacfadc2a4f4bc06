"""Decides what one tuning of an encoder is asked to do, and how it says that it came to nothing."""

from __future__ import annotations

from msgspec import Struct


class Plan(Struct, frozen=True):
    """One tuning: `steps` batches of `batch_rows` rows (all of them where there are fewer)."""

    steps: int
    batch_rows: int
    rate: float
    contrast: float
    """Share of the contrastive loss; the rest is the head's."""
    holds: bool = False
    """Whether the lowest layers stay as they are, so that every batch that comes again passes them once."""


class LossNotFinite(Exception):
    """The loss became infinite or no number; the message says at which step."""
