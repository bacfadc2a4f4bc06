"""Decides whether a Hugging Face directory holds an encoder or a decoder of texts, and how much it can read at once.

What a model does counts, not what it is called: it is loaded and asked. Code that comes with a model is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from reflexd.errors import BackboneRefused
from reflexd.registry.backbones import CONFIG, TOKENIZER, WEIGHTS

MOST_TOKENS = 2048
"""Tokens of one forward at most: what attention needs of memory grows with their square."""
MOST_PARAMETERS = 500_000_000
"""Parameters of an encoder that fit an ONNX file with 4 bytes each: it holds less than 2 GiB."""
SPECIAL_TOKENS = 2
"""One before a text and one after it, which engine/encoder.py puts around each window."""


def load(folder: Path) -> Any:
    """Return the model in a directory, in fp32, ready for inference."""
    return AutoModel.from_pretrained(folder, **_options()).eval()


def load_checked(folder: Path) -> Any:
    """Return the model in a directory, proven to read texts; raises BackboneRefused naming what is wrong."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a stranger's configuration makes transformers raise
        raise BackboneRefused(f"{CONFIG} cannot be used: {_sentence(error)}") from error
    for flag in ("is_encoder_decoder", "is_decoder"):
        if getattr(config, flag, False):
            raise BackboneRefused(f"{CONFIG}: {flag}: a model of type {config.model_type} is no encoder alone")
    try:
        encoder, loaded = AutoModel.from_pretrained(folder, output_loading_info=True, **_options())
    except Exception as error:  # as above
        raise BackboneRefused(f"{WEIGHTS} cannot be loaded as {CONFIG} says: {_sentence(error)}") from error
    # A pooling layer on the first token may be missing: its output is not read.
    if missing := sorted(key for key in loaded["missing_keys"] if "pooler" not in key):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BackboneRefused(f"{WEIGHTS} lacks the tensor {missing[0]}{more}, which {CONFIG} asks for")
    parameters = sum(p.numel() for p in encoder.parameters())
    if not is_decoder(encoder.eval()) and parameters > MOST_PARAMETERS:
        raise BackboneRefused(
            f"{WEIGHTS} has {parameters / 1e6:.0f} million parameters; at most {MOST_PARAMETERS / 1e6:.0f} can be used"
        )
    return encoder


def readable_tokens(encoder: Any) -> int:
    """Return how many tokens one forward can read, special ones included."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin leave the rows up to that of the padding unused.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(module.num_embeddings - unused, MOST_TOKENS)
    return min(getattr(encoder.config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS)


def make_tokenizer(folder: Path) -> None:
    """Write tokenizer.json from the older files in a folder, as transformers does; raises BackboneRefused."""
    try:
        slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        text = slow.backend_tokenizer.to_str(pretty=True)
    except Exception as error:  # as above
        raise BackboneRefused(f"there is no {TOKENIZER}, and none can be made: {_sentence(error)}") from error
    (folder / TOKENIZER).write_text(text, encoding="utf-8")


def check_tokenizer(path: Path, encoder: Any, decoder: bool = False) -> None:
    """Raise BackboneRefused for a tokenizer.json that is not this model's, or puts other tokens around a text.

    An encoder's puts one before and one after it, a decoder's any number before and none after.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise BackboneRefused(f"{TOKENIZER} cannot be used: {_sentence(error)}") from error
    rows, largest = encoder.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise BackboneRefused(f"{TOKENIZER} has the token {largest}, and {WEIGHTS} has {rows} only: is it another's?")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    around, inside = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    if decoder and (len(inside.ids) == 0 or around.ids[-len(inside.ids) :] != inside.ids):
        raise BackboneRefused(f"{TOKENIZER} puts special tokens after a text, which a decoder's must not")
    if not decoder and (len(inside.ids) == 0 or around.ids[1:-1] != inside.ids):
        raise BackboneRefused(f"{TOKENIZER} does not put one special token before and one after a text")


def layers_of(encoder: Any) -> int:
    """Return the number of layers; 0 where the configuration does not tell."""
    return int(getattr(encoder.config, "num_hidden_layers", 0))


def is_decoder(encoder: Any) -> bool:
    """Return whether tokens see only those before them; raises BackboneRefused for what does not read texts."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 11]])
    try:
        with torch.no_grad():
            hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    except Exception as error:  # as above
        kind = encoder.config.model_type
        raise BackboneRefused(f"{CONFIG}: a model of type {kind} does not read texts: {_sentence(error)}") from error
    if hidden.shape != (2, 6, encoder.config.hidden_size):
        raise BackboneRefused(f"{CONFIG}: a model of type {encoder.config.model_type} gives no vector for each token")
    if not hidden.isfinite().all():
        raise BackboneRefused(f"{WEIGHTS}: its vectors are not finite")
    return torch.allclose(hidden[0, 0], hidden[1, 0], atol=1e-6)


def _options() -> dict[str, Any]:
    return {
        "attn_implementation": "eager",
        "dtype": torch.float32,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
    }


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} of transformers {transformers.__version__}: {text[:300]}"
