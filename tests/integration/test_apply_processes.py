"""Shows that merges are done in processes that may hang, die or be too few, and each caller is told so."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.daemons import DEADLINE, Daemon, kill_process, running, wait_for
from tests.edits import FILE, MERGED, SLOW, UPDATE, applied, ask, is_stopped, prompt, workers


@pytest.fixture(scope="module")
def alone() -> Iterator[Daemon]:
    """A daemon with one apply process, whose merges may take four seconds."""
    with running(REFLEXD_APPLY__WORKERS="1", REFLEXD_APPLY__MERGE_SECONDS="4") as daemon:
        yield daemon


def the_worker(daemon: Daemon) -> int:
    """Return the one process that stands by, once no other is on its way."""
    wait_for(lambda: len(workers(daemon)) == 1, "one process stands by")
    return workers(daemon)[0]


def test_no_process_runs_before_the_first_request(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    assert workers(daemon) == []
    with daemon.openai() as client:
        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = workers(daemon)
        assert applied(client, FILE, UPDATE) == MERGED
        assert workers(daemon) == [pid], "the warm process is used again"
    daemon.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the apply process has ended with the daemon")


def test_a_daemon_that_stops_takes_its_processes_along(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_APPLY__MERGE_SECONDS=str(DEADLINE), REFLEXD_HTTP__DRAIN_TIMEOUT_SECONDS="1")
    with daemon.openai(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        assert applied(client, FILE, UPDATE) == MERGED
        pid = the_worker(daemon)
        os.kill(pid, signal.SIGSTOP)
        asked = pool.submit(applied, client, FILE, UPDATE)
        with pytest.raises(TimeoutError):
            asked.result(0.5)
        assert daemon.stop() == 0
        assert not Path(f"/proc/{pid}").exists(), "it is ended although it stands still"
        with pytest.raises(openai.OpenAIError):
            asked.result(60)


def test_a_merge_that_takes_too_long_is_ended_and_its_process_replaced(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client:
        assert applied(client, FILE, UPDATE) == MERGED
        pid = the_worker(alone)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            ask(client, prompt(SLOW, "value_3 = 3\nvalue_4 = 0\nvalue_5 = 5\n# ... existing code ...\n"))
        assert caught.value.code == "apply_timeout"
        assert applied(client, FILE, UPDATE) == MERGED
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the slow process is gone")


def test_a_process_that_is_killed_at_work_costs_nothing(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        assert applied(client, FILE, UPDATE) == MERGED
        pid = the_worker(alone)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid), "the process stands still")
        asked = pool.submit(applied, client, FILE, UPDATE)
        with pytest.raises(TimeoutError):
            asked.result(0.5)
        kill_process(pid)
        assert asked.result(60) == MERGED
        assert pid not in workers(alone)


def test_processes_that_die_again_and_again_are_told(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        assert applied(client, FILE, UPDATE) == MERGED
        asked = threading.Event()

        def kill_them_all() -> None:
            while not asked.wait(0.001):
                for pid in workers(alone):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

        killing = pool.submit(kill_them_all)
        try:
            with pytest.raises(openai.InternalServerError) as caught:
                wait_for(lambda: not ask(client, prompt(FILE, UPDATE)), "both processes of a request are killed")
            assert (caught.value.status_code, caught.value.code) == (503, "service_unavailable")
        finally:
            asked.set()
            killing.result(30)
        assert applied(client, FILE, UPDATE) == MERGED, "it answers again"


def test_what_is_more_than_the_queue_holds_is_put_off(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(
        REFLEXD_APPLY__WORKERS="1",
        REFLEXD_APPLY__QUEUE="3",
        REFLEXD_APPLY__CONCURRENT_PER_KEY="2",
        REFLEXD_APPLY__MERGE_SECONDS=str(DEADLINE),
    )
    key = daemon.create_key("other")
    with daemon.openai(max_retries=0) as client, daemon.openai(key, max_retries=0) as other, daemon.http() as http:

        def waiting(count: int) -> bool:
            return f"reflexd_apply_waiting {count}.0" in http.get("/metrics").text

        assert applied(client, FILE, UPDATE) == MERGED
        (pid,) = workers(daemon)
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(applied, client, FILE, UPDATE) for _ in range(2)]
            wait_for(lambda: waiting(2), "two wait")
            with pytest.raises(openai.RateLimitError, match="concurrent_per_key"):
                ask(client, prompt(FILE, UPDATE))
            asked.append(pool.submit(applied, other, FILE, UPDATE))
            wait_for(lambda: waiting(3), "three wait")
            with pytest.raises(openai.RateLimitError, match="Too many updates"):
                ask(other, prompt(FILE, UPDATE))
            os.kill(pid, signal.SIGCONT)
            assert [each.result(60) for each in asked] == [MERGED] * 3
        assert waiting(0)


def test_many_at_once_are_answered_each_with_its_own_file(client: openai.OpenAI) -> None:
    def one(number: int) -> bool:
        file, merged = (text.replace("total", f"total_{number}") for text in (FILE, MERGED))
        return applied(client, file, UPDATE.replace("total", f"total_{number}")) == merged

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))


def test_a_caller_that_hangs_up_frees_the_process(alone: Daemon) -> None:
    with alone.openai(max_retries=0) as client:
        assert applied(client, FILE, UPDATE) == MERGED
        pid = the_worker(alone)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(openai.APITimeoutError):
            ask(client, prompt(FILE, UPDATE), timeout=0.5)
        wait_for(lambda: pid not in workers(alone), "the process is ended before its time is up")
        assert applied(client, FILE, UPDATE) == MERGED
