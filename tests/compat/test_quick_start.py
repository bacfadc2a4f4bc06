"""Shows that the documented quick start works with the official SDK, strictly checked, from ten rows to an answer."""

from __future__ import annotations

import time

import httpx2

from tests.daemons import Daemon

ROWS = [
    {"text": "I need a refund for my order", "label": "billing"},
    {"text": "Charged me twice this month", "label": "billing"},
    {"text": "Cancel my subscription", "label": "billing"},
    {"text": "Update my card on file", "label": "billing"},
    {"text": "The invoice amount is wrong", "label": "billing"},
    {"text": "The app crashed on launch", "label": "bug"},
    {"text": "Submit button does nothing", "label": "bug"},
    {"text": "Page never finishes loading", "label": "bug"},
    {"text": "Getting a 500 error on save", "label": "bug"},
    {"text": "Login fails every time", "label": "bug"},
]
"""The rows of the vendor's page; everything else here is in our own words."""


def test_ten_rows_become_a_classifier_that_answers(daemon: Daemon, key: str) -> None:
    seen = set()
    with daemon.openai(key) as client:
        # The page leaves training_file out, which the SDK itself refuses before any request.
        job = client.fine_tuning.jobs.create(
            model="morph-reflex-v1", training_file="", suffix="support-classifier", extra_body={"training_data": ROWS}
        )
        while job.status in ("queued", "running"):
            seen.add(job.status)
            assert job.fine_tuned_model is None
            time.sleep(0.05)
            job = client.fine_tuning.jobs.retrieve(job.id)

    assert job.status == "succeeded", job.error
    assert seen, "a job must not be answered as ended by the request that creates it"
    assert job.id.startswith("ftjob-")
    assert job.fine_tuned_model == "support-classifier"
    assert job.finished_at is not None
    assert job.finished_at >= job.created_at
    assert job.model_extra["labels"] == ["billing", "bug"]
    assert job.model_extra["trained_examples"] == 10
    assert 0 <= job.model_extra["result"]["accuracy"] <= 1
    assert 0 <= job.model_extra["result"]["f1_score"] <= 1

    answer = httpx2.post(
        f"{daemon.url}/v1/reflex/predict",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": job.fine_tuned_model, "text": "I was billed twice this month"},
    )
    assert answer.status_code == 200
    assert answer.json()["label"] == "billing"
    assert answer.json()["confidence"] > 0.5
