"""Shows the conformance checks 1 to 6 and 10 of the API contract's last section, each as its number says."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx2
import openai
import pytest

from tests import jobs
from tests.compat.test_quick_start import ROWS
from tests.daemons import Daemon
from tests.rows import TICKETS, endless, made_up

TEXT = "the total on my bill is too high"
LITERALS = {"validating_files", "queued", "running", "succeeded", "failed", "cancelled"}
"""The statuses that the SDK's type knows."""


def counting(daemon: Daemon, key: str) -> tuple[openai.OpenAI, list[httpx2.Request], list[httpx2.Response]]:
    """Return a strict client, the list of the requests that it has sent, and that of the answers."""
    sent: list[httpx2.Request] = []
    answers: list[httpx2.Response] = []
    http = httpx2.Client(event_hooks={"request": [sent.append], "response": [answers.append]}, timeout=60)
    return daemon.openai(key, http_client=http), sent, answers


def test_1_the_strict_sdk_parses_every_answer(client: openai.OpenAI) -> None:
    api = client.fine_tuning.jobs
    held = [jobs.create(client, endless(), f"held-{number}") for number in range(3)]
    paused = api.pause(held[2].id)
    assert (paused.status, paused.model_extra["paused"]) == ("queued", True)
    assert api.retrieve(held[2].id).status == "queued"
    resumed = api.resume(held[2].id)
    assert (resumed.status in LITERALS, resumed.model_extra["paused"]) == (True, False)
    for job in held:
        assert api.cancel(job.id).status == "cancelled"

    job = jobs.train(client, TICKETS, "parsed", metadata={"a": "b"}, seed=3)
    assert api.retrieve(job.id) == job
    assert [j.id for j in api.list(limit=2)] == [job.id, *(j.id for j in held[::-1])]
    assert list(api.list_events(job.id, limit=2))
    (checkpoint,) = api.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == "parsed@1"
    assert (checkpoint.fine_tuning_job_id, checkpoint.object) == (job.id, "fine_tuning.job.checkpoint")
    last = [event.data for event in api.list_events(job.id, limit=100) if event.type == "metrics"][-1]
    assert isinstance(last, dict)
    assert (checkpoint.step_number, checkpoint.metrics.train_loss) == (last["step"], last["train_loss"])
    assert jobs.predict(client, checkpoint.fine_tuned_model_checkpoint, TEXT)["label"] == "billing"
    assert list(api.checkpoints.list(held[0].id)) == []
    (model,) = client.models.list()
    assert client.models.retrieve("parsed") == model
    gone = client.models.delete("parsed")
    assert (gone.id, gone.deleted, gone.object) == ("parsed", True, "model")


def test_2_25_jobs_come_in_three_pages(daemon: Daemon, key: str) -> None:
    pager, sent, _ = counting(daemon, key)
    with pager:
        made = [jobs.create(pager, TICKETS, f"page-{number}").id for number in range(25)]
        sent.clear()
        pages = list(pager.fine_tuning.jobs.list(limit=10).iter_pages())
        assert len(sent) == 3
        assert [page.has_more for page in pages] == [True, True, False]
        ids = [job.id for page in pages for job in page.data]
        assert ids == made[::-1], "disjoint, and newest first"
        last = pager.fine_tuning.jobs.list(limit=10, after=made[5])
        assert [job.id for job in last.data] == made[4::-1]
        assert len(pager.fine_tuning.jobs.list().data) == 20, "the default limit"
        for job_id in made:
            jobs.delete(pager, job_id)
        assert list(pager.fine_tuning.jobs.list()) == []


def test_3_the_oldest_poll_loop_never_sees_another_status(daemon: Daemon, key: str) -> None:
    with daemon.openai(key) as client:
        job = client.fine_tuning.jobs.create(
            model="morph-reflex-v1", training_file="", suffix="support-classifier", extra_body={"training_data": ROWS}
        )
        seen = [job.status]
        while job.status in ("queued", "running"):
            time.sleep(0.02)
            job = client.fine_tuning.jobs.retrieve(job.id)
            seen.append(job.status)
        assert job.status == "succeeded", f"{job.status}: {job.error}"
    assert seen[0] == "queued"
    assert set(seen) <= {"queued", "running", "succeeded"}


def test_4_each_generation_of_clients_reads_its_answer(client: openai.OpenAI) -> None:
    jobs.train(client, TICKETS, "tickets")
    answer = jobs.predict(client, "tickets", TEXT)

    a = {"label": answer["label"], "confidence": answer["confidence"], "scores": answer["scores"]}
    assert max(a["scores"], key=a["scores"].__getitem__) == a["label"] == "billing"
    assert a["confidence"] == a["scores"]["billing"]

    labels = client.models.retrieve("tickets").model_extra["labels"]
    b = {name: answer[name] for name in ("model", "label", "confidence", "all_scores", "inference_time_ms")}
    assert labels[b["all_scores"].index(max(b["all_scores"]))] == b["label"]
    assert len(b["all_scores"]) == len(labels)

    for name in ("model", "label", "confidence", "mode", "classes", "inference_time_ms"):  # generation C
        assert name in answer
    d = {name: answer[name] for name in ("model", "mode", "classes", "inference_time_ms")}
    assert [set(c) for c in d["classes"]] == [{"label", "score", "selected"}] * 2
    assert d["mode"] == "single_label"
    (chosen,) = [c for c in d["classes"] if c["selected"]]
    assert (chosen["label"], chosen["score"]) == (b["label"], b["confidence"])
    assert sum(c["score"] for c in d["classes"]) == pytest.approx(1, abs=1e-6)


def test_5_several_models_answer_as_each_does_alone(client: openai.OpenAI) -> None:
    names = ["tickets", "animals", "turned"]
    jobs.train(client, TICKETS, "tickets")
    jobs.train(client, made_up(40), "animals")
    jobs.train(client, TICKETS, "turned", labels=["bug", "billing"])
    body: dict[str, Any] = {"models": names, "text": TEXT}
    together = client.post("/reflex/predict", body=body, cast_to=dict[str, Any])
    assert [answer["model"] for answer in together["predictions"]] == names
    alone = [jobs.predict(client, name, TEXT) for name in names]
    for one, other in zip(together["predictions"], alone, strict=True):
        assert one["all_scores"] == pytest.approx(other["all_scores"], abs=1e-4)
        assert one["labels"] == other["labels"]


def test_6_a_model_that_is_not_ready_costs_one_attempt(daemon: Daemon, key: str) -> None:
    client, sent, answers = counting(daemon, key)
    with client:
        active = jobs.create(client, endless(), "busy")
        for name in ("busy", active.id):
            sent.clear()
            with pytest.raises(openai.ConflictError) as refused:
                jobs.predict(client, name, TEXT)
            assert (refused.value.code, refused.value.type) == ("model_not_ready", "invalid_request_error")
            assert answers[-1].headers["x-should-retry"] == "false"
            assert len(sent) == 1, "the SDK would try a plain 409 three times"
        jobs.delete(client, active.id)


def test_10_after_the_job_its_model_may_still_be_deleted(client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "gone")
    assert jobs.delete(client, job.id) == {"id": job.id, "object": "fine_tuning.job.deleted", "deleted": True}
    assert client.models.delete("gone").deleted
    assert client.models.delete(job.id).deleted
    for name in ("gone", job.id):
        with pytest.raises(openai.NotFoundError) as refused:
            jobs.predict(client, name, TEXT)
        assert refused.value.code == "model_not_found"
        assert not re.search(r"gone|ftjob", refused.value.message)
