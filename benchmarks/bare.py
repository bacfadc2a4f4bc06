"""Decides what the product is measured against: a bare script with the same encoder and recipe, its libraries imported.

`python -m benchmarks.bare FOLDER`, where FOLDER is the encoder that the daemon exported (ONNX Runtime, one text a
forward, one thread, as in the daemon), or `--torch FOLDER` for the checkpoint's own files by transformers in fp32. It
uses nothing of reflexd. Every answer tells the seconds and processor seconds that the work took in here.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.process import serve

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Embed = Callable[[Sequence[str]], Vectors]


class Graph:
    """An exported encoder as ONNX Runtime runs it, on one thread."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from safetensors.numpy import load_file

        described = json.loads((folder / "encoder.json").read_text())
        held = load_file(folder / "biases.safetensors")
        self.width: int = described["width"]
        self._biases = np.concatenate([held[name] for name in described["biases"]])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])

    def run(self, ids: Ids) -> Vectors:
        """Return the features of token ids [rows, tokens], all of the same length."""
        given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "biases": self._biases}
        features: Vectors = self._session.run(None, given)[0]
        return features


def onnx_encoder(folder: Path) -> Embed:
    """Return the embedding function of an exported encoder: its last layer's vectors."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    graph = Graph(folder)

    def embed(texts: Sequence[str]) -> Vectors:
        out = []
        for text in texts:
            ids = np.array([tokenizer.encode(text).ids[:512]], dtype=np.int64)
            out.append(graph.run(ids)[0, : graph.width])
        return np.array(out, dtype=np.float32)

    return embed


def torch_encoder(folder: Path) -> Embed:
    """Return the embedding function of a checkpoint: mean pooling over the real tokens, normalised."""
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    def embed(texts: Sequence[str]) -> Vectors:
        out = []
        for text in texts:
            given = tokenizer(text, return_tensors="pt", truncation=True, max_length=512)
            with torch.inference_mode():
                pooled = model(**given).last_hidden_state.mean(dim=1)
                out.append(torch.nn.functional.normalize(pooled, dim=-1)[0].numpy())
        return np.array(out, dtype=np.float32)

    return embed


class Bare:
    """The work that sides ask for, one request at a time."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._model = LogisticRegression(C=10)
        self._test: tuple[Vectors, list[str]] | None = None

    def answer(self, do: str, **given: Any) -> dict[str, Any]:
        """Do one piece of work and return its outcome with the time it took."""
        started, cpu = time.perf_counter(), time.process_time()
        out: dict[str, Any] = getattr(self, "do_" + do)(**given)
        return {"seconds": time.perf_counter() - started, "core_seconds": time.process_time() - cpu, **out}

    def do_fit(self, texts: list[str], labels: list[str], times: int = 1) -> dict[str, Any]:
        """Embed and fit, which is all that training a classifier needs; `took` holds the seconds of each time."""
        took = []
        for _ in range(times):
            started = time.perf_counter()
            self._fit(texts, labels)
            took.append(time.perf_counter() - started)
        return {"took": took}

    def _fit(self, texts: list[str], labels: list[str]) -> None:
        vectors = self._embed(texts)
        self._model = LogisticRegression(C=10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model.fit(vectors, labels)

    def do_test(self, texts: list[str], labels: list[str]) -> dict[str, Any]:
        """Embed the test set, once for all draws."""
        self._test = self._embed(texts), labels
        return {}

    def do_accuracy(self) -> dict[str, Any]:
        """Score the fitted classifier on the test set."""
        assert self._test is not None
        vectors, labels = self._test
        predicted = self._model.predict(vectors)
        return {"accuracy": float(np.mean(predicted == np.asarray(labels))), "predicted": predicted.tolist()}

    def do_forward(self, text: str, times: int) -> dict[str, Any]:
        """Embed a text many times, tokenising included; return the seconds of each."""
        took = []
        for _ in range(times):
            started = time.perf_counter()
            self._embed([text])
            took.append(time.perf_counter() - started)
        return {"took": took}


def main() -> None:
    """Serve requests until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch", action="store_true", help="FOLDER is a checkpoint, not an exported encoder")
    arguments = parser.parse_args()
    serve(Bare((torch_encoder if arguments.torch else onnx_encoder)(arguments.folder)).answer)


if __name__ == "__main__":
    main()
