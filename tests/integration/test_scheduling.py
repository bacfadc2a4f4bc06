"""Shows which job runs next (three of a key, no queue before somebody's first job), and that no death loses one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, kill_process, wait_for
from tests.rows import TICKETS, endless, made_up


def started(daemon: Daemon) -> list[str]:
    """Return the ids of jobs in the order in which they were started."""
    return [line["job_id"] for line in daemon.events("job running")]


def statuses(client: openai.OpenAI) -> list[str]:
    """Return the status of each job of the tenant, oldest first."""
    return [job.status for job in client.fine_tuning.jobs.list(limit=100)][::-1]


def test_three_jobs_of_a_key_run_at_once_and_the_rest_waits(cold: Daemon) -> None:
    first, second = (cold.create_key(f"many-{number}", "--tenant", "many") for number in (1, 2))
    with cold.openai(first) as many, cold.openai(second) as colleague, cold.openai() as other:
        ids = [jobs.create(many, endless(), f"many-{number}").id for number in range(5)]
        wait_for(lambda: statuses(many) == ["running"] * 3 + ["queued"] * 2, "three run, in the order of creation")
        # Two of five slots are free, and only other keys may have them, be they of the same tenant or not.
        jobs.delete(colleague, jobs.train(colleague, TICKETS).id)
        jobs.train(other, TICKETS)
        assert statuses(many) == ["running"] * 3 + ["queued"] * 2
        many.fine_tuning.jobs.cancel(ids[1])
        wait_for(lambda: statuses(many)[3] == "running", "the next one takes the place")
        assert statuses(many) == ["running", "cancelled", "running", "running", "queued"]
        for job_id in ids:
            jobs.delete(many, job_id)
        wait_for(lambda: len(cold.training_processes()) <= 1, "their processes are gone")


def test_one_job_overtakes_another_keys_queue(daemon: Daemon) -> None:
    # The shared daemon has two slots. Both are taken, so that the order of all that follows is decided by fairness.
    with daemon.openai(daemon.create_key("long-queue")) as many, daemon.openai(daemon.create_key("short")) as one:
        blocking = [jobs.create(many, endless()).id for _ in range(2)]
        wait_for(lambda: statuses(many) == ["running", "running"], "both slots are taken")
        queue = [jobs.create(many, TICKETS, f"queued-{number}").id for number in range(5)]
        single = jobs.create(one, TICKETS, "single").id
        assert jobs.status(one, single) == "queued"
        for job_id in blocking:
            many.fine_tuning.jobs.cancel(job_id)
        jobs.wait_for_status(one, single, "succeeded")
        for job_id in queue:
            jobs.wait_for_status(many, job_id, "succeeded")
        order = [job_id for job_id in started(daemon) if job_id in (*queue, single)]
        assert order.index(single) <= 1, "its key had nothing running"
        assert [job_id for job_id in order if job_id != single] == queue, "one key's jobs run in the order of creation"
        for job_id in (*blocking, *queue):
            jobs.delete(many, job_id)
        jobs.delete(one, single)


def the_child(daemon: Daemon, *but: int) -> int:
    """Wait for the one training process that is not among those named, and return its pid."""
    found = wait_for(lambda: [pid for pid in daemon.training_processes() if pid not in but], "a training process")
    assert len(found) == 1
    return found[0]


def reasons(daemon: Daemon) -> dict[str, str]:
    """Return why the daemon is not ready."""
    found: dict[str, str] = httpx2.get(f"{daemon.url}/readyz").json()["reasons"]
    return found


def progress(client: openai.OpenAI, job_id: str) -> int:
    """Return how often the job's process has told how far it is."""
    return sum(message.startswith("Read ") for message in jobs.messages(client, job_id))


def test_a_job_survives_the_death_of_its_process(cold: Daemon) -> None:
    with cold.openai() as client:
        job = jobs.create(client, made_up(400), "died-once")
        jobs.wait_until_training(client, job.id)
        kill_process(the_child(cold))
        done = jobs.wait_for_status(client, job.id, "succeeded")
        assert done.model_extra["trained_examples"] == 400
        said = jobs.messages(client, job.id)
        assert sum("SIGKILL" in message and "queued again" in message for message in said) == 1, said
        assert said.count("Job running") == 2
        assert sum("training rows" in message for message in said) == 1, "prepared rows are not prepared again"
        assert jobs.predict(client, "died-once", "row 5 has a dog")["label"] == "dog"
        jobs.delete(client, job.id)


def test_a_job_whose_process_dies_three_times_fails_and_says_why(cold: Daemon) -> None:
    with cold.openai() as client:
        models = cold.models()
        job = jobs.create(client, endless(), "died-thrice")
        killed: list[int] = []
        for _ in range(3):
            told = progress(client, job.id)
            wait_for(lambda told=told: progress(client, job.id) > told, "a training process is at work")
            killed.append(the_child(cold, *killed))
            kill_process(killed[-1])
        failed = jobs.wait_for_status(client, job.id, "failed")
        assert failed.error is not None
        assert failed.error.code == "worker_died"
        assert "SIGKILL" in failed.error.message
        assert failed.finished_at is not None
        assert failed.fine_tuned_model is None
        last = client.fine_tuning.jobs.list_events(job.id, limit=100).data[-1]
        assert last.level == "error"
        assert last.message.startswith("Job failed")
        with pytest.raises(openai.NotFoundError):
            jobs.predict(client, "died-thrice", "row 5 has a dog")
        assert cold.models() == models
        # The machine is as good as before.
        jobs.train(client, TICKETS, "after-the-deaths")


def test_a_process_that_dies_before_it_is_ready_costs_the_job_no_attempt(cold: Daemon) -> None:
    with cold.openai() as client:
        for pid in cold.training_processes():  # the one kept from before would be ready at once
            kill_process(pid)
        job = jobs.create(client, TICKETS, "slow-start")
        kill_process(the_child(cold))
        wait_for(lambda: list(reasons(cold)) == ["training"], "it says that it cannot train")
        jobs.wait_for_status(client, job.id, "succeeded")
        assert reasons(cold) == {}
        shown = json.loads(cold.cli("jobs", "show", job.id, "--json"))
        assert (shown["attempts"], shown["interrupted"]) == (0, 1)


def test_an_idle_process_that_is_killed_costs_no_job_an_attempt(daemon: Daemon, client: openai.OpenAI) -> None:
    jobs.train(client, TICKETS)
    idle = wait_for(daemon.training_processes, "one stands by")
    for pid in idle:
        kill_process(pid)
    job = jobs.train(client, TICKETS)
    assert jobs.messages(client, job.id).count("Job running") == 1


def test_training_gives_way_to_all_else(start_daemon: Callable[..., Daemon]) -> None:
    """Also where the kernel schedules sessions by group, as it does outside of a service manager."""
    daemon = start_daemon(REFLEXD_TRAINING__WARM_CHILDREN="1", REFLEXD_TRAINING__NICE="15")
    child = wait_for(lambda: _training_process(daemon), "a training process stands by")
    assert os.getpriority(os.PRIO_PROCESS, child) == 15
    group = Path(f"/proc/{child}/autogroup")
    if group.exists() and group.read_text():
        wait_for(lambda: group.read_text().rstrip().endswith("nice 15"), "its session has the niceness too")


def _training_process(daemon: Daemon) -> int | None:
    """Return a training process that is past its start."""
    found = " ".join(path.read_text() for path in Path(f"/proc/{daemon.pid}/task").glob("*/children")).split()
    return next((int(pid) for pid in found if os.getpriority(os.PRIO_PROCESS, int(pid)) > 0), None)
