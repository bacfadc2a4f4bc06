"""Shows, for every route, what a key's scopes open, and that another tenant's objects are like none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from reflexd.store.keys import SCOPES
from tests import batches, jobs
from tests.daemons import Daemon, wait_for
from tests.integration.refusals import check_error, nothing_written
from tests.integration.routes import CLOSED, OPEN, ROUTES, UNKNOWN, Route
from tests.rows import TICKETS, endless

CREATE = "/v1/fine_tuning/jobs"
UPLOAD = "/v1/reflex/asynchronous_batches/upload"
HOOK = "https://nobody.invalid/"
NOBODYS = "nobody-trained-this"
NAMING = [route for route in CLOSED if "{" in route.path]


class Private:
    """What one tenant has: its client, its jobs by what they are, the names of its models, and its batches."""

    def __init__(self, daemon: Daemon, owner: openai.OpenAI) -> None:
        self.owner = owner
        owner.webhooks.create(name="n", url=HOOK, event_types=["fine_tuning.job.succeeded"])
        done = jobs.train(owner, TICKETS, "private")
        active = jobs.create(owner, endless()[:10_000], "private-too")
        rests = jobs.create(owner, TICKETS, "private-rests", auto_train=False)
        self.jobs = [done.id, active.id, rests.id]
        self.files = [owner.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune").id]
        self.models = ["private", "private@1", "private-too", "private-rests", *self.jobs]
        file_id = batches.put_file(owner, b"{}\n")
        body = {"input_file_id": file_id, "endpoint": "/v1/reflex/predict", "completion_window": "24h"}
        with daemon.http(owner.api_key) as http:
            of_file: str = http.post("/v1/batches", json=body).json()["id"]
            self.batches = [batches.upload(http, batches.rows_of(3, "private")), of_file]
            batches.wait_for_end(http, self.batches[0])  # it would write meanwhile
        batches.wait_for_batch(owner, of_file, "failed")
        self.file = file_id
        self.deliveries = [self.ended_delivery(done.id)]
        self.endpoints = [owner.webhooks.create(name="n", url=HOOK, event_types=["batch.expired"]).id]
        jobs.wait_until_training(owner, active.id)
        owner.fine_tuning.jobs.pause(active.id)  # it would write events of its own meanwhile
        wait_for(lambda: jobs.messages(owner, active.id)[-1].startswith("The training process has ended"), "it rests")
        wait_for(lambda: self.status(rests.id) == "prepared", "the job is prepared")

    def ended_delivery(self, job_id: str) -> str:
        """Return the id of a delivery that nothing will be written of: its endpoint is gone."""
        for endpoint in self.owner.webhooks.list():
            self.owner.webhooks.delete(endpoint.id)
        found: Any = self.owner.get("/webhook_deliveries", cast_to=dict[str, Any])
        (delivery,) = [each for each in found["data"] if each["event"]["data"]["id"] == job_id]
        assert delivery["status"] == "failed"
        return str(delivery["id"])

    def status(self, job_id: str) -> str:
        job: dict[str, Any] = self.owner.get(f"/fine_tuning/jobs/{job_id}", cast_to=dict[str, Any])
        return str(job["status"])

    def all(self) -> list[Any]:
        paths = [f"/fine_tuning/jobs/{job_id}" for job_id in self.jobs]
        paths += [f"/webhook_endpoints/{self.endpoints[0]}", f"/webhook_deliveries/{self.deliveries[0]}"]
        paths += [f"/reflex/asynchronous_batches/{self.batches[0]}", f"/batches/{self.batches[1]}"]
        return [*(self.owner.get(path, cast_to=dict[str, Any]) for path in paths), *self.owner.files.list()]


@pytest.fixture(scope="module")
def private(quiet: Daemon) -> Iterator[Private]:
    with quiet.openai(quiet.create_key("owner")) as owner:
        held = Private(quiet, owner)
        yield held
        for job_id in held.jobs:
            jobs.delete(owner, job_id)
        for file_id in held.files:
            owner.files.delete(file_id)


@pytest.fixture(scope="module")
def stranger(quiet: Daemon) -> Iterator[httpx2.Client]:
    with quiet.http(quiet.create_key("stranger")) as http:
        yield http


def comparable(answer: httpx2.Response) -> tuple[int, bytes, dict[str, str]]:
    """Return all of an answer but what differs from one request to the next anyway."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id")}
    return answer.status_code, answer.content, headers


def test_the_walk_finds_what_there_is() -> None:
    found = {(route.method, route.path) for route in ROUTES}
    assert found >= {("POST", CREATE), ("DELETE", "/v1/models/{model}"), ("GET", CREATE + "/{job_id}/events")}
    assert len(NAMING) > 15
    assert {route.path for route in OPEN} == {"/health", "/healthz", "/readyz"}


@pytest.mark.parametrize("scopes", sorted({route.scopes for route in CLOSED}), ids="-or-".join)
def test_all_scopes_but_the_right_one_open_nothing(quiet: Daemon, private: Private, scopes: tuple[str, ...]) -> None:
    others = [word for other in SCOPES if other not in scopes for word in ("--scope", other)]
    secret = quiet.create_key(f"all-but-{'-'.join(scopes)}", "--tenant", "owner", *others)
    routes = [route for route in CLOSED if route.scopes == scopes]
    assert routes
    before = private.all()
    with quiet.http(secret) as http, nothing_written(quiet):
        for route in routes:
            named = (private.jobs[0], "private", private.files[0], private.endpoints[0], private.deliveries[0])
            for name in (*named, *private.batches):
                answer = http.request(route.method, route.to(name), json={"training_data": TICKETS})
                assert " or ".join(scopes) in check_error(quiet, answer, 403, "insufficient_scope", None, secret)
    assert private.all() == before


@pytest.mark.parametrize("route", NAMING, ids=lambda route: f"{route.method} {route.path}")
def test_another_tenants_object_is_like_none(
    quiet: Daemon, private: Private, stranger: httpx2.Client, route: Route
) -> None:
    known_names = {
        "model": private.models,
        "batch_id": private.batches,
        "file_id": private.files,
        "endpoint_id": private.endpoints,
        "delivery_id": private.deliveries,
    }
    names = known_names.get(*re.findall(r"{(\w+)}", route.path), private.jobs)
    queries = ("", "?stream=true", "?after=x") if route.path.endswith("/events") else ("",)
    before = private.all()
    with nothing_written(quiet):
        for query in queries:
            unknown = comparable(stranger.request(route.method, route.example + query))
            if route.method == "OPTIONS":  # answered by the framework, without looking for the object
                assert unknown[0] == (403 if "admin" in route.scopes else 204)
            else:
                assert unknown[0] == 404
            for name in (*names, NOBODYS):
                known = comparable(stranger.request(route.method, route.to(name) + query))
                assert known == unknown, f"{route.method} {route.path}{query} tells that {name} exists"
            for count in ("1", "2"):  # nor does the forgiving of a repeated request
                retried = stranger.request(
                    route.method, route.to(names[0]) + query, headers={"x-stainless-retry-count": count}
                )
                assert comparable(retried) == unknown
    assert private.all() == before


def test_another_tenants_names_in_a_body_or_query_are_like_none(
    quiet: Daemon, private: Private, stranger: httpx2.Client
) -> None:
    row = {"id": "1", "text": "a"}
    bodies: list[tuple[str, Any, int]] = [
        ("/v1/reflex/predict", lambda name: {"model": name, "text": "a"}, 404),
        ("/v1/reflex/predict", lambda name: {"models": [name], "texts": ["a", "b"]}, 404),
        ("/v1/reflex/synchronous_predict_batch", lambda name: {"requests": [{**row, "model": name}]}, 404),
        (UPLOAD, lambda name: {"requests": [{**row, "model": [name]}]}, 404),
        (CREATE, lambda name: {"training_data": TICKETS, "base_model": name}, 400),
        (CREATE, lambda name: {"training_data": TICKETS, "model": name}, 400),
        (CREATE, lambda name: {"training_file": name}, 400),
        (CREATE, lambda name: {"training_data": TICKETS, "validation_file": name}, 400),
    ]
    with nothing_written(quiet):
        for path, body, status in bodies:
            unknown = comparable(stranger.post(path, json=body(NOBODYS)))
            assert unknown[0] == status
            for name in (*private.models, *private.files):
                assert comparable(stranger.post(path, json=body(name))) == unknown, (path, name)
        for job_id in private.jobs:
            unknown, known = (comparable(stranger.get(CREATE, params={"after": i})) for i in (UNKNOWN, job_id))
            assert known == unknown
            assert known[0] == 400
        for file_id in private.files:
            unknown, known = (comparable(stranger.get("/v1/files", params={"after": i})) for i in ("file-x", file_id))
            assert known == unknown
            assert known[0] == 400
        assert stranger.get("/v1/files").json()["data"] == []
        for batch_id in private.batches:
            unknown, known = (comparable(stranger.get("/v1/batches", params={"after": i})) for i in ("x", batch_id))
            assert known == unknown
            assert known[0] == 400
        assert stranger.get("/v1/batches").json()["data"] == []
        for path, own in (("/v1/webhook_endpoints", private.endpoints), ("/v1/webhook_deliveries", private.deliveries)):
            unknown, known = (comparable(stranger.get(path, params={"after": i})) for i in ("x", own[0]))
            assert known == unknown
            assert known[0] == 400
            assert stranger.get(path).json()["data"] == []
        assert stranger.get(CREATE).json()["data"] == []
        assert stranger.get(CREATE, params={"metadata[a]": "b"}).json()["data"] == []
        assert stranger.get("/v1/models").json()["data"] == []
    assert jobs.predict(private.owner, "private", "the app freezes")["label"] == "bug"


def test_own_and_foreign_models_in_one_request_are_a_404(
    quiet: Daemon, private: Private, stranger: httpx2.Client
) -> None:
    with quiet.openai(stranger.headers["authorization"].removeprefix("Bearer ")) as client:
        mine = jobs.train(client, TICKETS, "mine")
        asked = {"models": ["mine", "private"], "text": "a"}
        check_error(quiet, stranger.post("/v1/reflex/predict", json=asked), 404, "model_not_found", "model")
        jobs.delete(client, mine.id)
