"""Shows that five rows a label make a useful classifier of 77 intents, and that a job's own score can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import mean

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.rows import Row, banking77, draw, read_gzip

SEEDS = (1, 2, 3)


def accuracy(http: httpx2.Client, model: str, rows: Sequence[Row]) -> float:
    """Return the share of rows that predict labels rightly."""

    def is_right(row: Row) -> bool:
        answer = http.post("/v1/reflex/predict", json={"model": model, "text": row["text"]})
        return bool(answer.json()["label"] == row["label"])

    with ThreadPoolExecutor(4) as pool:
        return mean(map(float, pool.map(is_right, rows)))


@pytest.mark.data
@pytest.mark.skipif(not banking77().is_dir(), reason=f"{banking77()} is not there")
def test_five_rows_a_label_of_banking77(daemon: Daemon, client: openai.OpenAI, key: str) -> None:
    train, test = (read_gzip(banking77() / f"{name}.jsonl.gz") for name in ("train", "test"))
    measured, reported = [], []
    for seed in SEEDS:
        job = jobs.train(client, draw(train, 5, seed), f"banking-{seed}", seed=seed)
        assert len(job.model_extra["labels"]) == 77
        reported.append(job.model_extra["result"]["accuracy"])
        with daemon.http(key) as http:
            measured.append(accuracy(http, f"banking-{seed}", test))
        print(f"draw {seed}: accuracy {measured[-1]:.4f} on {len(test)} test rows, the job said {reported[-1]:.4f}")
    error = mean(abs(said - true) for said, true in zip(reported, measured, strict=True))
    print(f"mean accuracy {mean(measured):.4f}, mean error of the job's own score {error:.4f}")
    assert mean(measured) >= 0.78
    assert error <= 0.05
