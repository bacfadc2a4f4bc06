"""Shows that the end of a job reaches real receivers, signed, with one id through failures, kills and replays."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import openai
import pytest
from standardwebhooks import Webhook

from tests.daemons import Daemon, reflexd, wait_for
from tests.jobs import create, train
from tests.receivers import Received, Receiver, answering, receiving
from tests.rows import TICKETS

LOOPBACK = {"REFLEXD_NETWORK__ALLOW": "127.0.0.1"}
HELD = {"REFLEXD_TRAINING__HOLD": "true"}
KILLS = int(os.environ.get("RFX_WEBHOOK_KILLS", "5"))


def check(one: Received, secret: str, event_type: str, object_id: str) -> None:
    """Hold a delivery against the package of Standard Webhooks and the OpenAI SDK, of which both must take it."""
    assert Webhook(secret).verify(one.body, one.headers)["type"] == event_type
    event = openai.OpenAI(api_key="x").webhooks.unwrap(one.body.decode(), one.headers, secret=secret)
    assert (event.type, event.id, event.data.id) == (event_type, one.id, object_id)


@contextmanager
def hooked(daemon: Daemon) -> Iterator[tuple[openai.OpenAI, Receiver]]:
    with receiving() as receiver, daemon.openai() as client:
        yield client, receiver


def test_a_job_tells_its_url_and_the_endpoints_of_its_tenant(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**LOOPBACK)
    with hooked(daemon) as (client, receiver), receiving() as second:
        made = client.webhooks.create(
            name="ci", url=second.url, event_types=["fine_tuning.job.succeeded", "fine_tuning.job.cancelled"]
        )
        secret = made.signing_secret
        assert secret.startswith("whsec_")
        assert daemon.cli("webhooks", "secret", "admin").strip() == secret
        job = train(client, TICKETS, "tickets", webhook_url=receiver.url + "?token=secret")
        assert job.model_extra is not None
        assert job.model_extra["webhook_url"] == f"http://127.0.0.1:{receiver.port}"
        (first,), (other,) = receiver.wait(), second.wait()
        assert first.path == "/hook?token=secret"
        assert (first.id, first.body) == (other.id, other.body)
        check(first, secret, "fine_tuning.job.succeeded", job.id)
        data = json.loads(first.body)["data"]
        assert (data["status"], data["fine_tuned_model"]) == ("succeeded", "tickets")
        assert data["result"]["accuracy"] == job.model_extra["result"]["accuracy"]

        # With the old secret kept, a receiver verifies with either until it has been told the new one.
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        assert rotated.signing_secret != secret
        again = train(client, TICKETS, webhook_url=receiver.url)
        both = receiver.wait(2)[1]
        for one in (secret, rotated.signing_secret):
            check(both, one, "fine_tuning.job.succeeded", again.id)
        last = client.webhooks.rotate_secret(made.id)
        assert client.webhooks.test(made.id, event_type="fine_tuning.job.succeeded").status_code == 200
        sample = second.wait(3)[2]
        Webhook(last.signing_secret).verify(sample.body, sample.headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(sample.body.decode(), sample.headers, secret=secret)


def test_a_receiver_that_fails_gets_the_same_again_with_a_fresh_time(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**LOOPBACK, **HELD)
    with hooked(daemon) as (client, receiver):
        answers = iter([answering(503, retry_after="1"), answering(500)])

        def answer(handler: BaseHTTPRequestHandler, one: Received) -> None:
            next(answers, answering(200))(handler, one)

        receiver.answer = answer
        job = create(client, TICKETS, webhook_url=receiver.url)
        client.fine_tuning.jobs.cancel(job.id)
        first, second = receiver.wait(2)  # five seconds later
        assert second.at - first.at >= 5
        assert (first.id, first.body) == (second.id, second.body)
        stamps = [int(one.headers["webhook-timestamp"]) for one in (first, second)]
        assert stamps[1] > stamps[0]
        assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
        check(second, daemon.cli("webhooks", "secret", "admin").strip(), "fine_tuning.job.cancelled", job.id)

        def logged() -> list[dict[str, object]]:
            rows: list[dict[str, object]] = json.loads(daemon.cli("webhooks", "deliveries", "--json"))
            return rows if rows[0]["attempts"] == 2 else []

        (row,) = wait_for(logged, "the second attempt is in the log")
        assert (row["status"], row["last_status"], row["last_error"]) == (
            "pending",
            500,
            "the receiver answered 500",
        )
        assert daemon.cli("webhooks", "replay", str(row["id"])).strip() == f"{row['id']} is pending"
        third = receiver.wait(3)[2]
        assert (third.id, third.body) == (first.id, first.body)


def test_what_nothing_may_be_sent_to_is_refused_at_once(daemon: Daemon, client: openai.OpenAI) -> None:
    for url, said in (
        ("http://127.0.0.1:9/", "no public address"),
        ("https://169.254.169.254/latest/meta-data/", "never"),
        ("https://[64:ff9b::a9fe:a9fe]/", "never"),
        ("http://hooks.example.com/", "https://"),
        ("https://user@hooks.example.com/", "without a user"),
        ("https://0x7f.1/", "usual spelling"),
        ("ftp://hooks.example.com/", "begin with one of"),
        ("https://hooks.example.com/\r\nx: y", "without"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, TICKETS, webhook_url=url)
        assert caught.value.param == "webhook_url"
        assert said in str(caught.value)
        with pytest.raises(openai.BadRequestError) as caught:
            client.webhooks.create(name="n", url=url, event_types=["batch.completed"])
        assert caught.value.param == "url"
    assert list(client.fine_tuning.jobs.list()) == []
    assert list(client.webhooks.list()) == []


def test_the_endpoints_of_the_sdk(daemon: Daemon, client: openai.OpenAI, new_key: Callable[[], str]) -> None:
    assert set(client.webhooks.event_types.list().data) >= {"fine_tuning.job.failed", "batch.completed"}
    made = [
        client.webhooks.create(name=f"n{n}", url=f"https://hooks.example.com/{n}", event_types=["batch.completed"])
        for n in range(5)
    ]
    assert len({endpoint.signing_secret for endpoint in made}) == 1
    listed = list(client.webhooks.list(limit=2))
    assert [endpoint.id for endpoint in listed] == [endpoint.id for endpoint in reversed(made)]
    shown = client.webhooks.retrieve(made[0].id)
    assert shown == listed[-1]
    assert "signing_secret" not in shown.model_dump()
    assert shown.signing_secret_hint is not None
    assert made[0].signing_secret.rstrip("=").endswith(shown.signing_secret_hint.rpartition(".")[2])
    changed = client.webhooks.update(made[0].id, name="other", event_types=["batch.failed", "batch.failed"])
    assert (changed.name, changed.url, changed.event_types) == ("other", shown.url, ["batch.failed"])
    assert client.webhooks.delete(made[1].id).deleted is True
    for call in (client.webhooks.retrieve, client.webhooks.delete, client.webhooks.rotate_secret):
        with pytest.raises(openai.NotFoundError) as gone:
            call(made[1].id)
        assert gone.value.code == "webhook_endpoint_not_found"
    with daemon.openai(new_key()) as stranger:
        assert list(stranger.webhooks.list()) == []
        with pytest.raises(openai.NotFoundError):
            stranger.webhooks.rotate_secret(made[0].id)
    for body in (
        {"name": "", "url": "https://a.example/", "event_types": ["batch.failed"]},
        {"name": "\n", "url": "https://a.example/", "event_types": ["batch.failed"]},
        {"name": "n", "url": "https://a.example/", "event_types": []},
        {"name": "n", "url": "https://a.example/", "event_types": ["response.completed"]},
        {"name": "n", "event_types": ["batch.failed"]},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.post("/webhook_endpoints", body=body, cast_to=object)
        assert refused.value.param in ("name", "event_types", "event_types[0]", "url")


def test_a_test_of_an_endpoint_that_is_not_there_says_so_once(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**LOOPBACK, **HELD)
    with daemon.openai() as client:
        made = client.webhooks.create(name="n", url="http://127.0.0.1:9/", event_types=["batch.completed"])
        with pytest.raises(openai.BadRequestError) as caught:
            client.webhooks.test(made.id, event_type="batch.completed")
        assert caught.value.code == "webhook_endpoint_unreachable"
        assert "connected" in str(caught.value)


def test_a_receiver_that_is_gone_is_told_no_more_until_it_is_enabled(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**LOOPBACK, **HELD)
    with hooked(daemon) as (client, receiver):
        secret = daemon.cli("webhooks", "create", "admin", receiver.url).strip()
        receiver.answer = answering(410)
        client.fine_tuning.jobs.cancel(create(client, TICKETS).id)
        (endpoint,) = list(client.webhooks.list())

        def disabled() -> bool:
            return "410" in str((client.webhooks.retrieve(endpoint.id).model_extra or {})["disabled_reason"])

        wait_for(disabled, "the endpoint is disabled")
        client.fine_tuning.jobs.cancel(create(client, TICKETS).id)
        assert daemon.cli("webhooks", "enable", endpoint.id).strip() == f"enabled {endpoint.id}"
        receiver.answer = answering(200)
        job = create(client, TICKETS)
        client.fine_tuning.jobs.cancel(job.id)
        gone, told = receiver.wait(2)
        assert gone.id != told.id

        def listed(*words: str) -> set[str]:
            return {row["event_id"] for row in json.loads(daemon.cli("webhooks", "deliveries", "--json", *words))}

        assert {gone.id, told.id} <= listed("--tenant", "admin", "--endpoint", endpoint.id)
        assert listed("--endpoint", "we_x") == set()
        check(told, secret, "fine_tuning.job.cancelled", job.id)
        assert daemon.cli("webhooks", "test", endpoint.id).strip() == "200"
        rotated = daemon.cli("webhooks", "rotate", "admin", "--keep-old").strip()
        assert rotated not in ("", secret)
        assert daemon.cli("webhooks", "delete", endpoint.id).strip() == f"deleted {endpoint.id}"
        assert json.loads(daemon.cli("webhooks", "list", "--json")) == []


def test_the_verbs_work_without_a_daemon(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**HELD)
    daemon.stop()
    daemon.cli("webhooks", "create", "admin", "https://hooks.example.com/", "--event", "batch.completed")
    (row,) = json.loads(daemon.cli("webhooks", "list", "--json"))
    assert (row["tenant"], row["event_types"]) == ("admin", ["batch.completed"])
    changes = ("--url", "https://other.example.com/", "--event", "batch.failed", "--event", "batch.expired")
    assert daemon.cli("webhooks", "update", row["id"], *changes) == f"updated {row['id']}\n"
    (changed,) = json.loads(daemon.cli("webhooks", "list", "--json"))
    assert changed == {**row, "updated_at": changed["updated_at"]} | {
        "url": "https://other.example.com/",
        "event_types": ["batch.failed", "batch.expired"],
    }
    for words, said in (
        (("update", row["id"]), "nothing is to change"),
        (("update", row["id"], "--event", "batch.begun"), "event_types"),
        (("update", row["id"], "--url", "http://10.0.0.1/"), "no public address"),
        (("deliveries", "--tenant", "nobody"), "no tenant nobody"),
        (("create", "nobody", "https://hooks.example.com/"), "no tenant nobody"),
        (("create", "admin", "http://10.0.0.1/"), "no public address"),
        (("delete", "we_x"), "No webhook endpoint"),
        (("replay", "whd_x"), "No webhook delivery"),
    ):
        done = reflexd("webhooks", *words, "--data-dir", daemon.data_dir)
        assert done.returncode == (2 if said == "nothing is to change" else 1)
        assert said in done.stderr


def test_a_kill_between_the_answer_and_its_record_sends_the_same_again(start_daemon: Callable[..., Daemon]) -> None:
    """The receiver kills the daemon in the moment after its 200 has left; RFX_WEBHOOK_KILLS says how often."""
    daemon = start_daemon(**LOOPBACK, **HELD)
    with hooked(daemon) as (client, receiver):
        seen: dict[str, list[Received]] = {}
        kill = itertools.count()

        def answer(handler: BaseHTTPRequestHandler, one: Received) -> None:
            seen.setdefault(one.id, []).append(one)
            answering(200)(handler, one)
            handler.wfile.flush()
            if len(seen[one.id]) == 1:
                next(kill)
                daemon.signal(signal.SIGKILL)

        receiver.answer = answer
        told = set()
        for _ in range(KILLS):
            job = create(client, TICKETS, webhook_url=receiver.url)
            told.add(job.id)
            # The kill may come before the answer to this; the cancel is committed with its webhook all the same.
            with contextlib.suppress(openai.APIConnectionError):
                client.with_options(max_retries=0).fine_tuning.jobs.cancel(job.id)
            daemon.ended()
            daemon.start()
        secret = daemon.cli("webhooks", "secret", "admin").strip()

        def ended() -> bool:
            rows = json.loads(daemon.cli("webhooks", "deliveries", "--limit", "1000", "--json"))
            return len(rows) == KILLS and all(row["status"] == "delivered" for row in rows)

        wait_for(ended, "every delivery is recorded as such")
        assert next(kill) == len(seen) == KILLS
        for deliveries in seen.values():
            assert len({(one.id, one.body) for one in deliveries}) == 1
            check(deliveries[-1], secret, "fine_tuning.job.cancelled", json.loads(deliveries[0].body)["data"]["id"])
        assert {json.loads(one[0].body)["data"]["id"] for one in seen.values()} == told
        twice = sum(len(deliveries) > 1 for deliveries in seen.values())
        print(f"{KILLS} kills: {twice} were sent again, none was lost")
        assert twice >= KILLS // 2, "the kills did not come before the commit"


def test_a_stranger_cannot_see_or_replay_a_delivery(daemon: Daemon, new_key: Callable[[], str]) -> None:
    """The shared daemon sends nowhere: the delivery fails, and is in the log of its tenant alone."""
    key = new_key()
    with daemon.openai(key) as client, daemon.http(key) as http, daemon.http(new_key()) as stranger:
        job = create(client, TICKETS, webhook_url="https://nobody.invalid/hook?token=secret")
        client.fine_tuning.jobs.cancel(job.id)
        (row,) = http.get("/v1/webhook_deliveries", params={"object_id": job.id}).json()["data"]
        assert (row["url"], row["event"]["data"]["id"]) == ("https://nobody.invalid", job.id)
        assert stranger.get("/v1/webhook_deliveries").json()["data"] == []
        unknown = stranger.post("/v1/webhook_deliveries/whd_x/replay")
        theirs = stranger.post(f"/v1/webhook_deliveries/{row['id']}/replay")
        assert (unknown.status_code, unknown.content) == (theirs.status_code, theirs.content) == (404, unknown.content)
        again = http.post(f"/v1/webhook_deliveries/{row['id']}/replay").json()
        assert again["event"] == row["event"]
