"""Decides what opens as a language model, and how it is asked: a local directory, whole, of attention layers only.

transformers' own continuous batching was looked at first (5.24, `generate_batch`): it draws every row from one global
generator, so that a seed says nothing about a row, and it returns no log-probabilities of a prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from transformers.utils import logging

from reflexd.engine.llm.embedded.row import Vocabulary
from reflexd.engine.llm.embedded.wire import Refused
from reflexd.errors import StartupError

CPU_TOKENS = 512
GPU_TOKENS = 8192
"""Tokens of one forward: enough to keep the device busy, and few enough that rows under way wait little for it."""
LOGIT_BYTES = 96 << 20
"""Of one forward's logits; what is computed of them takes as much again."""


class LanguageModel:
    """A causal language model with its tokenizer, on the device it runs on."""

    def __init__(self, directory: str, context_tokens: int) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = self.device.type == "cuda"
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if not (Path(directory) / "config.json").is_file():
            raise StartupError(f"{directory} has no config.json: it is no model's directory")
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
        if missing := sorted(report["missing_keys"]):
            raise StartupError(f"the weights lack {missing[0]}: they are not a whole causal language model")
        self._model = model.to(self.device).eval()
        config = model.config.get_text_config()
        takes = inspect.signature(model.forward).parameters
        layers = DynamicCache(config=config).layers
        if "position_ids" not in takes or not all(isinstance(layer, DynamicLayer) for layer in layers):
            raise StartupError(f"{config.model_type} models are not served by transformers here: vLLM may serve them")
        # Its name until transformers 5.2x, and the one since.
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        self._keeps_logits = "logits_to_keep" in takes
        self.context_tokens = min(context_tokens, getattr(config, "max_position_embeddings", None) or context_tokens)
        windows = [getattr(layer, "sliding_window", 0) or 0 for layer in layers]
        self.shares = not any(0 < window < self.context_tokens for window in windows)
        """Whether beginnings may be kept: those stand apart from what follows, and a sliding window counts columns."""
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **local)
        self.vocabulary = _vocabulary(directory, model, self._tokenizer)
        self.forward_tokens = GPU_TOKENS if on_gpu else CPU_TOKENS
        self.logit_positions = max(1, LOGIT_BYTES * (4 if on_gpu else 1) // (4 * config.vocab_size))

    @torch.inference_mode()
    def __call__(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Cache, last_only: bool
    ) -> torch.Tensor:
        """Return the logits [rows, tokens or 1, vocabulary] in float32; the cache takes what was read."""
        more: dict[str, Any] = {self._cache_name: cache}
        if last_only and self._keeps_logits:
            more["logits_to_keep"] = 1
        logits: torch.Tensor = self._model(
            input_ids=ids.to(self.device),
            position_ids=positions.to(self.device),
            attention_mask=mask.to(self.device),
            use_cache=True,
            **more,
        ).logits
        return (logits[:, -1:] if last_only else logits).float()

    def prompt_of(self, messages: Sequence[dict[str, str]]) -> str:
        """Return a chat in the model's own template, up to where its answer begins; raises Refused."""
        if not self._tokenizer.chat_template:
            raise Refused(400, "This model has no chat template: ask it at /v1/completions", param="messages")
        try:
            said = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as error:  # what a template says of turns that it does not know
            raise Refused(400, f"The model's chat template refuses this: {error}", param="messages") from error
        begin = self._tokenizer.bos_token
        # What the tokenizer puts before each prompt, the template need not put there, too.
        return str(said).removeprefix(begin) if begin and self.vocabulary.encode("") else str(said)

    def cache(self, layers: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> Cache:
        """Return a growing cache that begins with these keys and values."""
        cache = DynamicCache()
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
        return cache


def _vocabulary(directory: str, model: Any, tokenizer: Any) -> Vocabulary:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise StartupError(f"{directory} has no tokenizer.json: its tokenizer is not served here")
    backend.no_truncation()
    backend.no_padding()
    ends: set[int] = set()
    for said in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        ends.update([said] if isinstance(said, int) else said or [])
    return Vocabulary(backend, frozenset(ends))
