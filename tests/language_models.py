"""Decides how tests run the embedded server of a language model, and how transformers alone is asked the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reflexd.engine.lifeline import child_environment
from reflexd.engine.llm.embedded import KEY, EmbeddedSpec
from tests.checkpoints import smollm2
from tests.daemons import DEADLINE, ROOT, free_port

MODULE = "reflexd.engine.llm.embedded"
SECRET = "a-key-of-the-test"
CONTEXT = 1024
LONGEST = 20
SLOTS = 4


def spec_of(directory: Path, port: int) -> str:
    # One thread: two that wait for each other crawl on a machine that tests share.
    given = EmbeddedSpec(
        directory=str(directory), name="smol", port=port, threads=1, concurrency=SLOTS, context_tokens=CONTEXT, nice=0
    )
    return msgspec.json.encode(given).decode()


class Server:
    """The process, and clients of it."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.port, self.log = free_port(), log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE, spec_of(directory, self.port)],
                env=child_environment(**{KEY: SECRET}),
                stdin=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                start_new_session=True,
            )
        self.seen: set[int] = set()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            status = httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=30).status_code
        except httpx2.TransportError:
            return False
        self.seen.add(status)
        return status == 200

    def openai(self, key: str = SECRET, **options: Any) -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=DEADLINE, **options)


class Bare:
    """transformers alone."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(smollm2(), local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(smollm2(), local_files_only=True, dtype=torch.float32).eval()
        self._said: dict[str, list[int]] = {}

    def greedy(self, prompt: str, count: int) -> str:
        if prompt not in self._said:
            given = self.tokenizer(prompt, return_tensors="pt")
            with torch.inference_mode():
                said = self.model.generate(**given, do_sample=False, max_new_tokens=LONGEST)[0]
            self._said[prompt] = said[given.input_ids.shape[1] :].tolist()
        return self.tokenizer.decode(self._said[prompt][:count], skip_special_tokens=True)

    def scores(self, text: str) -> tuple[list[float], list[float]]:
        """Return the log-probabilities of the tokens after the first, and of the likeliest ones there."""
        ids = torch.tensor([self.tokenizer(text).input_ids])
        with torch.inference_mode():
            all_ = torch.log_softmax(self.model(input_ids=ids).logits[0, :-1], -1)
        return all_.gather(1, ids[0, 1:, None])[:, 0].tolist(), all_.max(-1).values.tolist()
