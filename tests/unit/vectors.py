"""Decides how unit tests get the one vector of a text that a head on the last layer reads."""

from __future__ import annotations

from reflexd.engine.encoder import Encoder, Vector


def vector_of(encoder: Encoder, text: str) -> Vector:
    """Return the last layer's unit vector [width] of a text."""
    return encoder.embed(text)[0][: encoder.description.width]
