"""Shows who is let in: one valid Bearer key and nothing else, and that tenants cannot see each other's objects."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from tests import jobs
from tests.daemons import Daemon
from tests.integration.refusals import check_error, check_request_id, nothing_written
from tests.integration.routes import CLOSED
from tests.rows import TICKETS

CREATE = "/v1/fine_tuning/jobs"


@pytest.fixture(scope="module")
def revoked(quiet: Daemon) -> str:
    """A key that worked until it was revoked."""
    secret = quiet.create_key("to-be-revoked")
    with quiet.http(secret) as http:
        assert http.get(CREATE).status_code == 200
        quiet.cli("keys", "revoke", "to-be-revoked")
    return secret


def refused(daemon: Daemon, headers: list[tuple[Any, Any]], *secrets: str) -> set[bytes]:
    """Check that every route refuses these headers with 401 and writes nothing; return the different answers."""
    answers = set()
    with httpx2.Client(base_url=daemon.url) as http, nothing_written(daemon):
        for route in CLOSED:
            answer = http.request(route.method, route.example, headers=headers, json={"training_data": TICKETS})
            check_error(daemon, answer, 401, "invalid_api_key", None, *secrets)
            assert answer.headers["www-authenticate"] == "Bearer"
            answers.add(answer.content)
    return answers


def test_no_wrong_and_revoked_keys_get_the_same_answer(quiet: Daemon, revoked: str) -> None:
    wrong = "rfx_" + "A" * 43
    almost = quiet.admin_key[:-1]
    answers = refused(quiet, [])
    answers |= refused(quiet, [("authorization", f"Bearer {wrong}")], wrong)
    answers |= refused(quiet, [("authorization", f"Bearer {almost}")], almost)
    answers |= refused(quiet, [("authorization", f"Bearer {revoked}")], revoked)
    assert len(answers) == 1, "the answer tells nothing about which keys exist"


def test_the_header_must_be_one_bearer(quiet: Daemon) -> None:
    valid = quiet.admin_key
    for value in (valid, f"Basic {valid}", "Bearer", f"Bearer {valid} {valid}", f"Bearer {valid},"):
        refused(quiet, [("authorization", value)])
    refused(quiet, [(b"authorization", b"Bearer \xe9\xff")])
    refused(quiet, [("x-api-key", valid)])


def test_two_authorization_headers_are_refused_even_if_one_is_valid(quiet: Daemon) -> None:
    valid, wrong = f"Bearer {quiet.admin_key}", "Bearer nobody"
    for pair in ((valid, wrong), (wrong, valid), (valid, valid)):
        refused(quiet, [("authorization", value) for value in pair])


def test_the_scheme_may_be_written_in_any_case(quiet: Daemon) -> None:
    with httpx2.Client(base_url=quiet.url) as http:
        assert http.get(CREATE, headers={"authorization": f"bearer {quiet.admin_key}"}).status_code == 200


def test_the_sdk_raises_its_authentication_error(quiet: Daemon) -> None:
    with quiet.openai("nobody") as client, pytest.raises(openai.AuthenticationError) as error:
        client.models.list()
    assert (error.value.code, error.value.type) == ("invalid_api_key", "authentication_error")
    assert error.value.request_id


def test_a_key_without_the_scope_is_refused_by_name(quiet: Daemon) -> None:
    secret = quiet.create_key("reader", "--scope", "predict")
    with quiet.http(secret) as http:
        assert http.get("/v1/models").status_code == 200
        with nothing_written(quiet):
            answer = http.post(CREATE, json={"training_data": TICKETS})
            assert "train" in check_error(quiet, answer, 403, "insufficient_scope", None, secret)


def test_probes_need_no_key(quiet: Daemon) -> None:
    with quiet.http("") as http:
        for path in ("/healthz", "/health", "/readyz"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")
            check_request_id(answer)


def test_two_keys_of_one_tenant_share_everything(quiet: Daemon) -> None:
    first = quiet.create_key("shared-1", "--tenant", "shared")
    second = quiet.create_key("shared-2", "--tenant", "shared")
    with quiet.openai(first) as mine, quiet.openai(second) as ours:
        job = jobs.train(mine, TICKETS, "shared-model")
        assert ours.fine_tuning.jobs.retrieve(job.id) == job
        assert [m.id for m in ours.models.list()] == ["shared-model"]
        assert jobs.predict(ours, "shared-model", "the app freezes")["label"] == "bug"
        quiet.cli("keys", "revoke", "shared-1")
        assert [j.id for j in ours.fine_tuning.jobs.list()] == [job.id], "revoking a key leaves the tenant's jobs"
        with pytest.raises(openai.AuthenticationError):
            mine.fine_tuning.jobs.retrieve(job.id)
        assert jobs.delete(ours, job.id)["deleted"]


def test_two_tenants_may_use_one_name(quiet: Daemon) -> None:
    with quiet.openai(quiet.create_key("north")) as north, quiet.openai(quiet.create_key("south")) as south:
        jobs.train(north, TICKETS, "same-name")
        swapped = [{**row, "label": "bug" if row["label"] == "billing" else "billing"} for row in TICKETS]
        jobs.train(south, swapped, "same-name")
        answers = [jobs.predict(client, "same-name", "the app freezes") for client in (north, south)]
    assert [(answer["label"], answer["version"]) for answer in answers] == [("bug", 1), ("billing", 1)]
