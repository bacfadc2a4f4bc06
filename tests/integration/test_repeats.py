"""Shows that a create which is sent again makes one job: by the SDK's retry count, or by an Idempotency-Key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.daemons import Daemon, wait_for
from tests.integration.refusals import body, check_error
from tests.rows import TICKETS, made_up

CREATE = "/v1/fine_tuning/jobs"


def create(http: httpx2.Client, content: bytes, **headers: str) -> httpx2.Response:
    return http.post(CREATE, content=content, headers={name.replace("_", "-"): v for name, v in headers.items()})


def clean(http: httpx2.Client) -> None:
    for job in http.get(CREATE, params={"limit": 100}).json()["data"]:
        http.delete(f"{CREATE}/{job['id']}")


def test_the_sdks_retry_finds_the_job_that_its_first_sending_made(quiet: Daemon) -> None:
    given, other = body(TICKETS, suffix="retried"), body(TICKETS, suffix="other")
    with quiet.http() as http:
        first = create(http, given, x_stainless_retry_count="0").json()
        again = create(http, given, x_stainless_retry_count="1")
        assert (again.status_code, again.json()["id"]) == (200, first["id"])
        assert create(http, given, x_stainless_retry_count="2").json()["id"] == first["id"]
        assert create(http, other, x_stainless_retry_count="1").json()["id"] != first["id"], "another body"
        assert create(http, given).json()["id"] != first["id"], "no retry: the same rows once more are meant"
        stranger = quiet.create_key("retry-stranger")
        with quiet.http(stranger) as foreign:
            assert create(foreign, given, x_stainless_retry_count="1").json()["id"] != first["id"]
            clean(foreign)
        http.delete(f"{CREATE}/{first['id']}")
        clean(http)
        assert create(http, given, x_stainless_retry_count="1").json()["id"] != first["id"], "a deleted job is gone"
        clean(http)


def test_an_idempotency_key_stands_for_one_body(quiet: Daemon) -> None:
    with quiet.http() as http:
        first = create(http, body(TICKETS), idempotency_key="mine").json()
        assert create(http, body(TICKETS), idempotency_key="mine").json()["id"] == first["id"]
        assert create(http, body(TICKETS), idempotency_key="yours").json()["id"] != first["id"]
        refused = create(http, body(TICKETS, seed=1), idempotency_key="mine")
        check_error(quiet, refused, 400, "idempotency_key_reused", "Idempotency-Key")
        for bad in ("", "x" * 256):
            check_error(quiet, create(http, body(TICKETS), idempotency_key=bad), 400, None, "Idempotency-Key")
        quiet.stop()
        quiet.start()
        assert create(http, body(TICKETS), idempotency_key="mine").json()["id"] == first["id"], "after a restart"
        clean(http)


def test_the_same_sending_many_times_at_once_makes_one_job(quiet: Daemon) -> None:
    large, before = body(made_up(3_000)), quiet.runs()
    with quiet.http() as http, ThreadPoolExecutor(8) as pool:
        for given in (body(TICKETS), large):
            answers = list(pool.map(lambda _, g=given: create(http, g, idempotency_key=f"at-once-{len(g)}"), range(16)))
            assert {answer.status_code for answer in answers} == {200}
            assert len({answer.json()["id"] for answer in answers}) == 1
        retried = list(pool.map(lambda n: create(http, large, x_stainless_retry_count=str(min(n, 1))), range(8)))
        assert len({answer.json()["id"] for answer in retried}) <= 2, "the first one, and the one of the key above"
        assert len(http.get(CREATE).json()["data"]) <= 3
        clean(http)
        wait_for(lambda: quiet.runs() == before, "no input is left behind")
