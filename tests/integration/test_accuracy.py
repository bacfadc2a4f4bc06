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


def accuracies(http: httpx2.Client, models: Sequence[str], rows: Sequence[Row]) -> list[float]:
    """Return the share of rows that each model labels rightly; all are asked at once, which reads a text only once."""

    def are_right(row: Row) -> list[bool]:
        answer = http.post("/v1/reflex/predict", json={"models": models, "text": row["text"]})
        return [prediction["label"] == row["label"] for prediction in answer.json()["predictions"]]

    with ThreadPoolExecutor(4) as pool:
        return [mean(map(float, right)) for right in zip(*pool.map(are_right, rows), strict=True)]


@pytest.mark.data
@pytest.mark.skipif(not banking77().is_dir(), reason=f"{banking77()} is not there")
def test_five_rows_a_label_of_banking77(daemon: Daemon, client: openai.OpenAI, key: str) -> None:
    train, test = (read_gzip(banking77() / f"{name}.jsonl.gz") for name in ("train", "test"))
    trained = [jobs.train(client, draw(train, 5, seed), f"banking-{seed}", seed=seed) for seed in SEEDS]
    assert all(len(job.model_extra["labels"]) == 77 for job in trained)
    reported = [job.model_extra["result"]["accuracy"] for job in trained]
    with daemon.http(key) as http:
        measured = accuracies(http, [str(job.fine_tuned_model) for job in trained], test)
    for seed, true, said in zip(SEEDS, measured, reported, strict=True):
        print(f"draw {seed}: accuracy {true:.4f} on {len(test)} test rows, the job said {said:.4f}")
    error = mean(abs(said - true) for said, true in zip(reported, measured, strict=True))
    print(f"mean accuracy {mean(measured):.4f}, mean error of the job's own score {error:.4f}")
    assert mean(measured) >= 0.78
    assert error <= 0.05
