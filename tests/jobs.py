"""Decides how tests make jobs over the official SDK and wait for what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import openai
from openai.types.fine_tuning import FineTuningJob

from tests.daemons import wait_for
from tests.rows import Row

ACTIVE = ("queued", "running")


def create(client: openai.OpenAI, rows: Sequence[Row], suffix: str | None = None, **body: Any) -> FineTuningJob:
    """Create a job from rows in the request."""
    extra = {"training_data": list(rows), **body}
    if suffix is not None:
        extra["suffix"] = suffix
    return client.fine_tuning.jobs.create(model="morph-reflex-v1", training_file="", extra_body=extra)


def status(client: openai.OpenAI, job_id: str) -> str:
    return client.fine_tuning.jobs.retrieve(job_id).status


def wait_for_status(client: openai.OpenAI, job_id: str, *wanted: str) -> FineTuningJob:
    """Wait until the job has one of these statuses."""

    def look() -> FineTuningJob | None:
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status in (*ACTIVE, *wanted), f"{job.status}: {job.error}"
        return job if job.status in wanted else None

    return wait_for(look, f"{job_id} is {' or '.join(wanted)}")


def train(client: openai.OpenAI, rows: Sequence[Row], suffix: str | None = None, **body: Any) -> FineTuningJob:
    """Create a job and wait until it has succeeded."""
    return wait_for_status(client, create(client, rows, suffix, **body).id, "succeeded")


def wait_until_training(client: openai.OpenAI, job_id: str) -> None:
    """Wait until the job's rows are prepared and its training process works on them."""

    def look() -> bool:
        job = client.fine_tuning.jobs.retrieve(job_id)
        assert job.status in ACTIVE, f"it ended as {job.status} before it could be watched"
        return job.status == "running" and job.model_extra["phase"] == "training"

    wait_for(look, f"{job_id} is in its train stage")


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """Return the messages of all events of a job, oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]


def predict(client: openai.OpenAI, model: str, text: str) -> dict[str, Any]:
    """Classify one text."""
    return client.post("/reflex/predict", body={"model": model, "text": text}, cast_to=dict[str, Any])


def delete(client: openai.OpenAI, job_id: str) -> dict[str, Any]:
    """Delete a job; the SDK has no method for it."""
    return client.delete(f"/fine_tuning/jobs/{job_id}", cast_to=dict[str, Any])
