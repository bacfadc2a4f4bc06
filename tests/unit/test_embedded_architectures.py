"""Shows that whatever opens as a causal language model is served as transformers itself would compute it."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from reflexd.engine.llm.embedded.engine import Engine
from reflexd.engine.llm.embedded.model import LanguageModel
from reflexd.engine.llm.embedded.wire import Completion, Refused, Wish
from reflexd.errors import StartupError
from tests.checkpoints import smollm2

SIZE: dict[str, Any] = {"vocab_size": 49152, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
MORE: dict[str, Any] = {**SIZE, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 256}
HEADER = "Messages of customers to their bank, each about a card payment that was charged twice: "
TEXTS = [HEADER + end for end in ("refund", "I want it back", "why was my card charged twice today?", "no", "oh dear")]

KINDS = {
    "llama": LlamaConfig(**MORE),
    "qwen3": Qwen3Config(**MORE, head_dim=8),
    "mistral with a window": MistralConfig(**MORE, head_dim=8, sliding_window=9),
    "gemma3, some layers with a window": Gemma3TextConfig(
        **{**MORE, "num_hidden_layers": 6}, head_dim=8, sliding_window=9
    ),
    "gpt2": GPT2Config(vocab_size=49152, n_embd=32, n_head=4, n_layer=2, n_positions=256),
    "gpt_neox": GPTNeoXConfig(**{**MORE, "num_key_value_heads": None}),
}


def directory_of(config: PreTrainedConfig, folder: Path, whole: bool = True) -> Path:
    torch.manual_seed(0)
    # The configurations' own ends may be tokens that mean nothing here.
    config.eos_token_id = config.bos_token_id = config.pad_token_id = 2
    (AutoModelForCausalLM if whole else AutoModel).from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((smollm2() / name).read_bytes())
    return folder


def run(engine: Engine, prompts: list[str], **given: Any) -> list[Completion]:
    base = {"max_tokens": 0, "temperature": 0.0, "top_p": 1.0, "seed": None, "stop": (), "echo": True, "logprobs": 0}
    asked: list[Future[Completion]] = engine.submit(prompts, Wish(**{**base, **given}))
    return [future.result(100) for future in asked]


@pytest.mark.parametrize("kind", KINDS)
def test_it_scores_and_continues_as_transformers_does(kind: str, tmp_path: Path) -> None:
    directory = directory_of(KINDS[kind], tmp_path)
    model = LanguageModel(str(directory), 128)
    assert model.shares != ("window" in kind)
    engine = Engine(model, 3)
    Thread(target=engine.run, daemon=True).start()
    bare = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    for _ in range(3):
        for text, done in zip(TEXTS, run(engine, TEXTS), strict=True):
            ids = torch.tensor([model.vocabulary.encode(text)])
            with torch.inference_mode():
                logprobs = torch.log_softmax(bare(input_ids=ids).logits[0, :-1], -1)
            known = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
            assert [token.logprob for token in done.prompt_scores[1:]] == pytest.approx(known, abs=1e-3)
    for text, done in zip(TEXTS, run(engine, TEXTS, max_tokens=40, echo=False, logprobs=None), strict=True):
        ids = torch.tensor([model.vocabulary.encode(text)])
        with torch.inference_mode():
            said = bare.generate(input_ids=ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :].tolist()
        assert done.completion_tokens == len(said)
        assert done.text == "".join(map(model.vocabulary.reader(tuple(ids[0].tolist())).read, said))


def test_no_prompt_is_longer_than_the_model_can_read(tmp_path: Path) -> None:
    model = LanguageModel(str(directory_of(KINDS["gpt2"], tmp_path)), 2048)
    assert model.context_tokens == 256
    with pytest.raises(Refused, match="256 tokens"):
        Engine(model, 1).submit(["word " * 256], Wish(1, 0.0, 1.0, None, (), False, None))


@pytest.mark.parametrize(
    ("config", "whole", "why"),
    [
        (
            MambaConfig(vocab_size=49152, hidden_size=32, num_hidden_layers=2, state_size=4),
            True,
            "mamba models are not",
        ),
        (LlamaConfig(**MORE, tie_word_embeddings=False), False, "the weights lack lm_head.weight"),
    ],
)
def test_what_cannot_be_served_is_refused(config: PreTrainedConfig, whole: bool, why: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=why):
        LanguageModel(str(directory_of(config, tmp_path, whole)), 128)
