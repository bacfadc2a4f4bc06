"""Shows what cancelling, deleting and retraining do to a job's process and files, and what a caller sees meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, is_alive, wait_for
from tests.rows import TICKETS, endless

_names = itertools.count(1)


@pytest.fixture
def tenant(cold: Daemon) -> str:
    """A key of a tenant of its own; its jobs are deleted after the test."""
    return cold.create_key(f"tenant-{next(_names)}")


@pytest.fixture
def client(cold: Daemon, tenant: str) -> Iterator[openai.OpenAI]:
    with cold.openai(tenant) as strict:
        yield strict
        for job in strict.fine_tuning.jobs.list(limit=100):
            jobs.delete(strict, job.id)


def files_of(daemon: Daemon, job_id: str) -> set[str]:
    """Return what lies in the data directory on account of a job, half-made models and trash included."""
    return {name for name in daemon.runs() | daemon.models() if name == job_id or name.startswith(".tmp-")}


def test_cancelling_a_running_job_ends_its_process_and_leaves_nothing(cold: Daemon, client: openai.OpenAI) -> None:
    job = jobs.create(client, endless(), "cancelled")
    jobs.wait_until_training(client, job.id)
    (child,) = cold.training_processes()
    models = cold.models()
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    wait_for(lambda: not is_alive(child), "its training process is gone", 10)
    wait_for(lambda: not files_of(cold, job.id), "its files are gone", 10)
    assert cold.models() == models
    after = jobs.train(client, TICKETS, "after-it")
    assert jobs.predict(client, "after-it", "the app freezes")["label"] == "bug"
    with pytest.raises(openai.NotFoundError):
        jobs.predict(client, "cancelled", "the app freezes")
    said = jobs.messages(client, job.id)
    assert said[-1] == "Job cancelled"
    assert jobs.status(client, job.id) == "cancelled", "a job that is over stays so"
    assert jobs.status(client, after.id) == "succeeded"


def test_deleting_a_running_job_ends_its_process_and_leaves_nothing(cold: Daemon, client: openai.OpenAI) -> None:
    job = jobs.create(client, endless(), "deleted")
    jobs.wait_until_training(client, job.id)
    (child,) = cold.training_processes()
    jobs.delete(client, job.id)
    wait_for(lambda: not is_alive(child), "its training process is gone", 10)
    wait_for(lambda: not files_of(cold, job.id), "its files are gone", 10)
    for attempt in (client.fine_tuning.jobs.retrieve, client.fine_tuning.jobs.cancel):
        with pytest.raises(openai.NotFoundError):
            attempt(job.id)
    assert list(client.fine_tuning.jobs.list()) == []


def test_cancelling_and_deleting_queued_jobs_leaves_nothing(cold: Daemon, client: openai.OpenAI) -> None:
    blocking = [jobs.create(client, endless()).id for _ in range(3)]
    cancelled, deleted = (jobs.create(client, TICKETS, name).id for name in ("queued-1", "queued-2"))
    for job_id in blocking:
        jobs.wait_for_status(client, job_id, "running")
    assert client.fine_tuning.jobs.cancel(cancelled).status == "cancelled"
    jobs.delete(client, deleted)
    for job_id in (cancelled, deleted):
        wait_for(lambda job_id=job_id: not files_of(cold, job_id), "its files are gone", 10)
    assert jobs.messages(client, cancelled) == ["Job queued", "Job cancelled"]
    for job_id in blocking:
        client.fine_tuning.jobs.cancel(job_id)
    assert jobs.train(client, TICKETS, "next").status == "succeeded"
    started = [line["job_id"] for line in cold.events("job running")]
    assert cancelled not in started
    assert deleted not in started


def test_a_job_that_is_over_cannot_be_cancelled(client: openai.OpenAI) -> None:
    done = jobs.train(client, TICKETS, "done").id
    cancelled = jobs.create(client, endless()).id
    client.fine_tuning.jobs.cancel(cancelled)
    for job_id in (done, cancelled):
        before = client.fine_tuning.jobs.retrieve(job_id)
        with pytest.raises(openai.BadRequestError) as refused:
            client.fine_tuning.jobs.cancel(job_id)
        assert (refused.value.code, refused.value.type) == ("job_not_cancellable", "invalid_request_error")
        assert client.fine_tuning.jobs.retrieve(job_id) == before
    assert jobs.predict(client, "done", "the app freezes")["label"] == "bug"


def test_deleting_a_succeeded_job_takes_its_model_along(cold: Daemon, client: openai.OpenAI) -> None:
    models = cold.models()
    job = jobs.train(client, TICKETS, "gone")
    assert jobs.predict(client, "gone", "the app freezes")["label"] == "bug"
    (made,) = cold.models() - models
    assert made not in ("gone", job.id), "no user's text becomes a path"
    assert job.id in cold.runs()
    jobs.delete(client, job.id)
    assert cold.models() == models
    assert job.id not in cold.runs()
    for name in ("gone", job.id):
        with pytest.raises(openai.NotFoundError) as refused:
            jobs.predict(client, name, "the app freezes")
        assert refused.value.code == "model_not_found"
    assert list(client.models.list()) == []
    with pytest.raises(openai.NotFoundError) as refused:
        jobs.delete(client, job.id)
    assert refused.value.code == "job_not_found"


def test_a_model_that_is_not_trained_yet_is_a_409_and_one_attempt(cold: Daemon, tenant: str) -> None:
    sent: list[httpx2.Request] = []
    answers: list[httpx2.Response] = []
    http = httpx2.Client(event_hooks={"request": [sent.append], "response": [answers.append]}, timeout=60)
    with cold.openai(tenant, http_client=http) as client:
        active = [jobs.create(client, endless(), f"busy-{number}") for number in range(3)]
        queued = jobs.create(client, TICKETS, "waiting")
        for job in active:
            jobs.wait_for_status(client, job.id, "running")
        assert jobs.status(client, queued.id) == "queued"
        for name in ("waiting", queued.id, "busy-0", active[0].id):
            sent.clear()
            with pytest.raises(openai.ConflictError) as refused:
                jobs.predict(client, name, "the app freezes")
            assert (refused.value.code, refused.value.param) == ("model_not_ready", "model")
            assert refused.value.type == "invalid_request_error"
            assert answers[-1].headers["x-should-retry"] == "false"
            assert len(sent) == 1, "the SDK would try a plain 409 three times"
        for job in (*active, queued):
            jobs.delete(client, job.id)
        with pytest.raises(openai.NotFoundError):
            jobs.predict(client, "waiting", "the app freezes")


def test_retraining_a_name_makes_its_next_version(client: openai.OpenAI) -> None:
    first = jobs.train(client, TICKETS, "retrained")
    other = [{**row, "label": {"billing": "money", "bug": "fault"}[row["label"]]} for row in TICKETS]
    second = jobs.create(client, other, "retrained")
    # While the second version is made, the first one answers.
    assert jobs.predict(client, "retrained", "the app freezes")["label"] in ("bug", "fault")
    second = jobs.wait_for_status(client, second.id, "succeeded")
    answer = jobs.predict(client, "retrained", "the app freezes")
    assert (answer["label"], answer["version"], answer["labels"]) == ("fault", 2, ["money", "fault"])
    assert jobs.predict(client, first.id, "the app freezes")["version"] == 1
    assert (first.model_extra["version"], second.model_extra["version"]) == (1, 2)
    (model,) = client.models.list().data
    assert (model.model_extra["version"], model.model_extra["versions"]) == (2, [1, 2])

    jobs.delete(client, second.id)
    assert jobs.predict(client, "retrained", "the app freezes")["label"] == "bug", "the version before answers again"
    third = jobs.train(client, TICKETS, "retrained")
    assert third.model_extra["version"] == 3, "a number is never given twice"
