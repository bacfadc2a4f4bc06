"""Shows that a job may rest: reviewed before it is trained, paused in the queue or in its run, and go on afterwards."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import DEADLINE, Daemon, is_alive, wait_for
from tests.rows import TICKETS, endless


def act(http: httpx2.Client, job_id: str, verb: str, **headers: str) -> httpx2.Response:
    return http.post(f"/v1/fine_tuning/jobs/{job_id}/{verb}", headers=headers)


def rests(http: httpx2.Client, job_id: str, seconds: float = DEADLINE) -> dict[str, object]:
    """Wait until the job is prepared and return it; the SDK's strict mode does not know this status."""

    def look() -> dict[str, object] | None:
        job = http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
        assert job["status"] in ("queued", "running", "prepared"), job
        return job if job["status"] == "prepared" else None

    return wait_for(look, "the job is prepared", seconds)


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_a_job_rests_at_prepared_until_it_is_told_to_train(daemon: Daemon, key: str, verb: str) -> None:
    with daemon.http(key) as http, daemon.openai(key) as client:
        made = jobs.create(client, TICKETS, "reviewed", auto_train=False)
        assert made.status == "queued"
        job = rests(http, made.id)
        assert (job["auto_train"], job["phase"], job["trained_examples"]) == (False, None, 10)
        assert (job["labels"], job["finished_at"], job["fine_tuned_model"]) == (["billing", "bug"], None, None)
        assert jobs.messages(client, made.id)[-1] == "10 training rows with 2 labels are ready"
        with pytest.raises(openai.ConflictError):
            jobs.predict(client, "reviewed", "the app freezes")
        assert act(http, made.id, "pause").json()["error"]["code"] == "job_not_pausable"
        assert act(http, made.id, verb).json()["status"] == "queued"
        assert jobs.wait_for_status(client, made.id, "succeeded").fine_tuned_model == "reviewed"
        assert "Training queued" in jobs.messages(client, made.id)
        assert act(http, made.id, verb).json()["error"]["code"] in ("job_not_prepared", "job_not_resumable")


def test_a_prepared_job_survives_a_restart_and_can_be_cancelled(start_daemon) -> None:  # type: ignore[no-untyped-def]
    daemon = start_daemon()
    with daemon.http() as http, daemon.openai() as client:
        first, second = (jobs.create(client, TICKETS, name, auto_train=False).id for name in ("first", "second"))
        rests(http, first)
        rests(http, second)
        daemon.stop()
        daemon.start()
        assert act(http, first, "train").status_code == 200
        jobs.wait_for_status(client, first, "succeeded")
        assert client.fine_tuning.jobs.cancel(second).status == "cancelled"
        assert second not in daemon.runs()


def test_train_is_for_prepared_jobs_only(daemon: Daemon, key: str) -> None:
    with daemon.http(key) as http, daemon.openai(key) as client:
        job = jobs.train(client, TICKETS)
        for verb, code in (
            ("train", "job_not_prepared"),
            ("resume", "job_not_resumable"),
            ("pause", "job_not_pausable"),
        ):
            answer = act(http, job.id, verb)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
        for verb in ("train", "resume", "pause", "cancel"):
            answer = act(http, "ftjob-unknown", verb)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


def test_a_verb_whose_answer_was_lost_may_be_sent_again(daemon: Daemon, key: str) -> None:
    retry = {"x-stainless-retry-count": "1"}
    with daemon.http(key) as http, daemon.openai(key) as client:
        job = jobs.create(client, endless(), "again", auto_train=False)
        rests(http, job.id)
        for verb, status in (("train", "queued"), ("train", ""), ("pause", "queued"), ("pause", "queued")):
            answer = act(http, job.id, verb, **(retry if not status else {}))
            assert answer.status_code == 200, answer.text
            assert answer.json()["status"] == status or not status
        assert act(http, job.id, "resume").status_code == 200
        assert act(http, job.id, "resume", **retry).status_code == 200
        assert act(http, job.id, "resume").status_code == 400
        assert act(http, job.id, "cancel").json()["status"] == "cancelled"
        assert act(http, job.id, "cancel", **retry).json()["status"] == "cancelled"
        assert act(http, job.id, "cancel").status_code == 400


def test_a_paused_run_gives_its_place_back_and_goes_on_when_resumed(cold: Daemon) -> None:
    key = cold.create_key("pauser")
    with cold.openai(key) as client:
        job = jobs.create(client, endless()[:6_000], "paused")
        jobs.wait_until_training(client, job.id)
        (child,) = cold.training_processes()
        paused = client.fine_tuning.jobs.pause(job.id)
        assert (paused.status, paused.model_extra["paused"], paused.model_extra["phase"]) == ("queued", True, None)
        wait_for(lambda: not is_alive(child), "its training process is gone", 20)
        jobs.train(client, TICKETS, "meanwhile")
        still = client.fine_tuning.jobs.retrieve(job.id)
        assert (still.status, still.model_extra["paused"]) == ("queued", True), "room to run, and it rests"
        assert client.fine_tuning.jobs.resume(job.id).model_extra["paused"] is False
        jobs.wait_until_training(client, job.id)
        said = jobs.messages(client, job.id)
        assert [m for m in said if m in ("Job paused", "Job resumed")] == ["Job paused", "Job resumed"]
        assert said.count("Job running") == 2
        jobs.delete(client, job.id)


def test_a_paused_job_in_the_queue_is_passed_by(cold: Daemon) -> None:
    with cold.openai(cold.create_key("queue-pauser")) as client:
        blocking = [jobs.create(client, endless()).id for _ in range(3)]
        for job_id in blocking:
            jobs.wait_for_status(client, job_id, "running")
        first, second = (jobs.create(client, TICKETS, name) for name in ("first", "second"))
        client.fine_tuning.jobs.pause(first.id)
        client.fine_tuning.jobs.cancel(blocking[0])
        jobs.wait_for_status(client, second.id, "succeeded")
        assert jobs.status(client, first.id) == "queued"
        client.fine_tuning.jobs.resume(first.id)
        jobs.wait_for_status(client, first.id, "succeeded")
        for job_id in blocking[1:]:
            jobs.delete(client, job_id)


def test_held_training_accepts_jobs_and_starts_none(start_daemon) -> None:  # type: ignore[no-untyped-def]
    daemon = start_daemon(REFLEXD_TRAINING__HOLD="true")
    with daemon.openai() as client:
        job = jobs.create(client, TICKETS, "held")
        assert daemon.events("training is held: jobs are accepted and wait ([training] hold)")
        assert jobs.status(client, job.id) == "queued"
        daemon.stop()
        del daemon.env["REFLEXD_TRAINING__HOLD"]
        daemon.start()
        jobs.wait_for_status(client, job.id, "succeeded")


def test_rows_that_are_replaced_while_training_begins_are_trained_on_or_refused(daemon: Daemon, key: str) -> None:
    """Whichever comes first: what the answers say is what the job was trained on."""
    rows = [{"text": f"{row['text']} {n}", "label": row["label"]} for row in TICKETS for n in range(60)]
    more = "\n".join(map(json.dumps, rows))
    with daemon.http(key) as http, daemon.openai(key) as client, ThreadPoolExecutor(2) as threads:
        for number in range(6):
            job = jobs.create(client, TICKETS, f"raced-{number}", auto_train=False)
            rests(http, job.id)
            path = f"/v1/fine_tuning/jobs/{job.id}/rows"
            put = threads.submit(http.put, path, content=more)
            time.sleep(0.004 * number)
            assert act(http, job.id, "train").status_code == 200
            taken = put.result().status_code == 200
            done = jobs.wait_for_status(client, job.id, "succeeded")
            assert done.model_extra["trained_examples"] == (600 if taken else 10)
            assert len(http.get(path).text.splitlines()) == (600 if taken else 10)
