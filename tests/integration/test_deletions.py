"""Shows what deleting a job or a model takes along, and which deletion of what is gone is answered 200."""

from __future__ import annotations

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.rows import TICKETS, endless

RETRY = {"x-stainless-retry-count": "1"}


@pytest.fixture
def http(daemon: Daemon, key: str) -> httpx2.Client:
    return daemon.http(key)


def delete_job(http: httpx2.Client, job_id: str, **headers: str) -> httpx2.Response:
    return http.delete(f"/v1/fine_tuning/jobs/{job_id}", headers=headers)


def delete_model(http: httpx2.Client, name: str, **headers: str) -> httpx2.Response:
    return http.delete(f"/v1/models/{name}", headers=headers)


def test_a_model_deleted_by_name_takes_all_versions_and_their_jobs_along(
    daemon: Daemon, client: openai.OpenAI, http: httpx2.Client
) -> None:
    before = daemon.models()
    made = [jobs.train(client, TICKETS, "many") for _ in range(3)]
    other = jobs.train(client, TICKETS, "other")
    assert len(daemon.models() - before) == 4
    assert client.models.delete("many").id == "many"
    assert len(daemon.models() - before) == 1
    assert [job.id for job in client.fine_tuning.jobs.list()] == [other.id]
    assert not {job.id for job in made} & daemon.runs()
    for job in made:
        assert delete_job(http, job.id).status_code == 200, "clients that delete the model first delete its job next"
    assert delete_model(http, "many").status_code == 404, "the second time"
    assert delete_model(http, "many", **RETRY).json() == {"id": "many", "object": "model", "deleted": True}


def test_one_version_can_be_deleted_and_the_one_before_it_answers(client: openai.OpenAI, http: httpx2.Client) -> None:
    first, second, third = (jobs.train(client, TICKETS, "rolled", seed=n) for n in range(3))
    assert client.models.retrieve("rolled").model_extra["versions"] == [1, 2, 3]
    assert delete_model(http, "rolled@3").json()["id"] == "rolled@3"
    assert jobs.predict(client, "rolled", "x y")["version"] == 2
    assert delete_model(http, second.id).json()["id"] == second.id
    assert jobs.predict(client, "rolled", "x y")["version"] == 1
    assert [job.id for job in client.fine_tuning.jobs.list()] == [first.id]
    again = jobs.train(client, TICKETS, "rolled")
    assert again.model_extra["version"] == 4, "a number is never given twice"
    with pytest.raises(openai.NotFoundError):
        jobs.predict(client, "rolled@3", "x y")
    assert third.id not in [job.id for job in client.fine_tuning.jobs.list()]


def test_after_one_version_of_several_the_name_still_stands_for_the_others(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    jobs.train(client, TICKETS, "kept")
    second = jobs.train(client, TICKETS, "kept")
    assert delete_job(http, second.id).status_code == 200
    assert client.models.retrieve("kept").model_extra["version"] == 1
    assert delete_model(http, "kept").status_code == 200
    assert list(client.models.list()) == []


def test_a_second_plain_delete_is_a_404_and_a_retried_one_is_not(client: openai.OpenAI, http: httpx2.Client) -> None:
    job = jobs.train(client, TICKETS, "twice")
    assert delete_job(http, job.id).status_code == 200
    second = delete_job(http, job.id)
    assert (second.status_code, second.json()["error"]["code"]) == (404, "job_not_found")
    assert delete_job(http, job.id, **RETRY).status_code == 200
    unknown = delete_job(http, "ftjob-unknown", **RETRY)
    assert unknown.content == second.content, "a retry of nothing finds nothing"
    assert delete_job(http, "twice", **RETRY).status_code == 404, "a name is no job"


def test_a_newer_job_of_the_name_does_not_hide_that_the_model_was_deleted(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    first = jobs.train(client, TICKETS, "renewed")
    newer = jobs.create(client, endless(), "renewed")
    assert delete_job(http, first.id).status_code == 200
    assert delete_model(http, "renewed").status_code == 200
    assert delete_model(http, "renewed").status_code == 409
    assert jobs.status(client, newer.id) in ("queued", "running")
    jobs.delete(client, newer.id)


def test_a_loop_may_delete_what_it_lists(client: openai.OpenAI, http: httpx2.Client) -> None:
    made = {jobs.create(client, TICKETS).id for _ in range(8)}
    deleted = []
    for job in client.fine_tuning.jobs.list(limit=3):
        assert delete_job(http, job.id).status_code == 200
        deleted.append(job.id)
    assert set(deleted) == made
    assert len(deleted) == 8
    assert list(client.fine_tuning.jobs.list()) == []


def test_tombstones_belong_to_a_tenant(daemon: Daemon, client: openai.OpenAI) -> None:
    job = jobs.train(client, TICKETS, "mine")
    jobs.delete(client, job.id)
    with daemon.http(daemon.create_key("tombstone-stranger")) as foreign:
        for name in ("mine", job.id):
            assert delete_model(foreign, name, **RETRY).status_code == 404
            assert delete_model(foreign, name, **RETRY).content == delete_model(foreign, "unknown").content


def test_a_model_that_is_not_trained_yet_cannot_be_deleted(client: openai.OpenAI, http: httpx2.Client) -> None:
    job = jobs.create(client, endless(), "unborn")
    for name in ("unborn", job.id):
        answer = delete_model(http, name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "model_not_ready")
        assert answer.headers["x-should-retry"] == "false"
    jobs.delete(client, job.id)
    assert delete_model(http, "unborn").status_code == 404


@pytest.mark.parametrize(
    "name", ["a/b", "../x", "..%2f..%2fetc", "%2e%2e/%2e%2e", "a%20b", "%00", "x@", "@1", "n@x", "%f0%9f%90%88"]
)
def test_any_name_gives_a_404_of_the_model(http: httpx2.Client, name: str) -> None:
    for method in ("GET", "DELETE"):
        answer = http.request(method, f"/v1/models/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) in ((404, "model_not_found"), (404, "unknown_url"))
        if ".." not in name:
            assert answer.json()["error"]["code"] == "model_not_found"


def test_the_sdk_encodes_a_slash_and_gets_the_models_404(client: openai.OpenAI) -> None:
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            call("owner/model")
        assert refused.value.code == "model_not_found"
