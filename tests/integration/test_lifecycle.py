"""Shows how the daemon begins and ends: first key, probes, and what a signal does to requests and running jobs."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import httpx2

from tests import jobs
from tests.daemons import Daemon, is_alive, processes, wait_for
from tests.integration.wire import connect, open_socket
from tests.rows import TICKETS, endless, made_up

COLD = {"REFLEXD_TRAINING__WARM_CHILDREN": "0"}
"""No process stands by: each one costs seconds of imports, and the tests here count them."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_private_directory_and_one_key(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**COLD)
    assert mode(daemon.data_dir) == 0o700
    assert mode(daemon.data_dir / "initial-api-key") == 0o600
    assert mode(daemon.data_dir / "admin.sock") == 0o600
    assert mode(daemon.data_dir / "reflexd.db") == 0o600
    secret = daemon.admin_key
    with daemon.openai(secret) as client:
        jobs.train(client, TICKETS, "first")
        text = "the secret text of this request"
        jobs.predict(client, "first", text)
    daemon.signal(signal.SIGINT)
    assert daemon.ended() == 0, "Ctrl-C is a stop like any other"
    log = daemon.log()
    assert str(daemon.data_dir / "initial-api-key") in log, "the log tells where the key is"
    assert all(json.loads(line)["ts"] for line in log.splitlines()), "off a terminal every line is JSON"
    for told in (secret, text, TICKETS[0]["text"]):
        assert told not in log
    for path in daemon.data_dir.iterdir():
        if path.is_file() and path.name != "initial-api-key":
            assert secret.encode() not in path.read_bytes(), f"{path.name} holds the key itself"
    assert not (daemon.data_dir / "admin.sock").exists()

    daemon.start()
    assert daemon.admin_key == secret, "a second start makes no second key"
    assert len(json.loads(daemon.cli("keys", "list", "--json"))) == 1
    with daemon.openai(secret) as client:
        assert jobs.predict(client, "first", "the app freezes")["label"] == "bug"


def test_not_ready_while_the_encoder_is_prepared(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    # An empty cache: the export takes long enough to be watched, and SIGTERM must not wait for it.
    daemon = start_daemon(ready=False, REFLEXD_STORAGE__CACHE_DIR=str(tmp_path / "cache"))
    wait_for(lambda: daemon.events("listening"), "it listens")
    exporting = wait_for(
        lambda: [p for p, parent in processes("reflexd.engine.export") if parent == daemon.pid], "export"
    )
    with daemon.http() as http:
        for path in ("/healthz", "/health"):
            assert http.get(path).status_code == 200
        ready = http.get("/readyz")
        assert (ready.status_code, set(ready.json()["reasons"])) == (503, {"backbone"})
        assert ready.headers["retry-after"]
        job = http.post("/v1/fine_tuning/jobs", json={"training_data": TICKETS, "suffix": "early"}).json()
        assert job["status"] == "queued", "jobs are taken from the first moment"
        refused = http.post("/v1/reflex/predict", json={"model": "early", "text": "a"})
        assert refused.status_code == 409
    assert daemon.stop() == 0
    assert not [pid for pid in exporting if is_alive(pid)]
    assert not [entry for entry in (tmp_path / "cache" / "encoders").glob("*") if not entry.name.startswith(".tmp-")]


def begin_request(daemon: Daemon, path: str, body: bytes) -> tuple[socket.socket, bytes]:
    """Send a request but for the last bytes of its body; return the connection and those bytes."""
    connection = connect(daemon, path, f"Content-Length: {len(body)}")
    connection.sendall(body[:-5])
    return connection, body[-5:]


def refuses_connections(daemon: Daemon) -> bool:
    try:
        open_socket(daemon).close()
    except OSError:
        return True
    return False


def test_a_stop_answers_requests_in_flight_and_keeps_jobs(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**COLD)
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "tickets")
        running = jobs.create(client, made_up(400), "interrupted")
        jobs.wait_until_training(client, running.id)
    children = daemon.training_processes()
    assert children
    predict = json.dumps({"model": "tickets", "text": "the app freezes"}).encode()
    create = json.dumps({"training_data": TICKETS, "suffix": "late"}).encode()
    open_requests = [
        begin_request(daemon, "/v1/reflex/predict", predict),
        begin_request(daemon, "/v1/fine_tuning/jobs", create),
    ]
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: refuses_connections(daemon), "new connections are refused")
    answers = []
    for connection, rest in open_requests:
        connection.sendall(rest)
        with connection, connection.makefile("rb") as file:
            answers.append(file.read())
    assert daemon.ended() == 0
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers), answers
    predicted, created = (json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers)
    assert predicted["label"] == "bug"
    assert not any(map(is_alive, children))
    assert not [name for name in daemon.models() | daemon.runs() if name.startswith(".tmp-")]

    daemon.start()
    with daemon.openai() as client:
        done = jobs.wait_for_status(client, running.id, "succeeded")
        assert done.model_extra["trained_examples"] == 400
        said = jobs.messages(client, running.id)
        assert sum(message.startswith("The daemon") for message in said) == 1, said
        assert jobs.predict(client, "interrupted", "row 5 has a dog")["label"] == "dog"
        assert jobs.wait_for_status(client, created["id"], "succeeded").fine_tuned_model == "late"


def test_a_second_sigterm_ends_at_once(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**COLD)
    with daemon.openai() as client:
        job = jobs.create(client, endless())
        jobs.wait_until_training(client, job.id)
    children = daemon.training_processes()
    connection, _ = begin_request(daemon, "/v1/reflex/predict", b'{"model": "a", "text": "a"}')
    with connection:
        daemon.signal(signal.SIGTERM)
        wait_for(lambda: refuses_connections(daemon), "it drains")
        assert daemon.process is not None
        assert daemon.process.poll() is None, "it waits for the request in flight"
        daemon.signal(signal.SIGTERM)
        assert daemon.ended() == 128 + signal.SIGTERM
    wait_for(lambda: not any(map(is_alive, children)), "the training processes end with the daemon")


def test_an_acknowledged_job_keeps_its_rows_when_the_daemon_is_killed(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**COLD)
    with daemon.openai() as client:
        job = jobs.create(client, made_up(400), "killed")
        jobs.wait_until_training(client, job.id)
    children = daemon.training_processes()
    daemon.kill()
    wait_for(lambda: not any(map(is_alive, children)), "the training processes end with the daemon")
    run = daemon.data_dir / "runs" / job.id
    assert len(json.loads((run / "input.json").read_text())["payload"]) == 400
    # What a crash at the worst moment leaves: half a model, a run nobody knows, a file.
    for folder in ("models/.tmp-half", "models/0123456789abcdef0123456789abcdef", "runs/.tmp-ftjob-x", "runs/ftjob-x"):
        (daemon.data_dir / folder).mkdir()
        (daemon.data_dir / folder / "head.safetensors").write_bytes(b"half")

    daemon.start()
    assert (daemon.models(), daemon.runs()) == (set(), {job.id}), "what is half made is swept"
    with daemon.openai() as client:
        done = jobs.wait_for_status(client, job.id, "succeeded")
        assert done.model_extra["trained_examples"] == 400
        assert jobs.predict(client, "killed", "row 5 has a dog")["label"] == "dog"
    assert daemon.stop() == 0
    database = sqlite3.connect(daemon.data_dir / "reflexd.db")
    assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert database.execute("SELECT attempts, interrupted FROM jobs").fetchall() == [(0, 1)], "restarts count apart"
    database.close()


def test_a_stale_socket_is_no_obstacle(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(**COLD)
    daemon.kill()
    assert (daemon.data_dir / "admin.sock").exists()
    while_dead = daemon.create_key("made-while-dead")
    daemon.start()
    with daemon.http(while_dead) as http:
        assert http.get("/v1/models").status_code == 200
    assert daemon.create_key("made-while-alive").startswith("rfx_")


def test_sighup_does_not_end_it(daemon: Daemon) -> None:
    seen = len(daemon.events("SIGHUP ignored: restart to read the configuration"))
    os.kill(daemon.pid, signal.SIGHUP)
    wait_for(lambda: len(daemon.events("SIGHUP ignored: restart to read the configuration")) > seen, "it says so")
    assert httpx2.get(f"{daemon.url}/healthz").status_code == 200
