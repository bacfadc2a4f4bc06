"""Decides what the embedded server of a local language model is told, and how: one argument, and a key beside it.

`python -m reflexd.engine.llm.embedded SPEC`, with the key in the environment. Nothing here imports torch: the daemon
starts the process and speaks to it as to any other server of OpenAI's API.
"""

from __future__ import annotations

from msgspec import Struct

KEY = "REFLEXD_LLM_KEY"
"""The variable that holds the bearer key: arguments are everybody's to read."""


class EmbeddedSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to serve, and with how much of the machine."""

    directory: str
    """Of a Hugging Face causal language model: config.json, tokenizer.json, safetensors."""
    name: str
    """What requests call it."""
    port: int
    """On 127.0.0.1."""
    threads: int = 0
    """Of torch, on a processor; 0: one a core."""
    concurrency: int = 16
    """Rows that are generated at once; four times as many may wait."""
    context_tokens: int = 2048
    """Of a prompt with its answer."""
    nice: int = 10
