"""Shows that the command line's words do what scripts rely on, with the daemon running and without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests import jobs
from tests.daemons import Daemon, environment, free_port, new_directory, reflexd
from tests.rows import TICKETS, endless

KEY = re.compile(r"rfx_[A-Za-z0-9_-]{43}")


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_directory() as path:
        yield path


def test_help_imports_neither_the_web_framework_nor_torch_nor_numpy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reflexd", "--help"],
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported, "the list of imports is read rightly"
    assert not imported & {"litestar", "torch", "numpy", "onnxruntime", "transformers", "sklearn", "uvicorn"}
    for verb in (
        "serve",
        "demo",
        "predict",
        "apply",
        "jobs",
        "keys",
        "models",
        "backbones",
        "plugins",
        "config",
        "healthcheck",
        "version",
    ):
        assert re.search(rf"^  {verb}\b", done.stdout, re.MULTILINE), f"{verb} is listed"


def test_keys_are_made_listed_and_revoked_while_no_daemon_runs(folder: Path) -> None:
    data = ("--data-dir", folder / "d")
    made = reflexd("keys", "create", "first", *data)
    assert KEY.fullmatch(made.stdout.removesuffix("\n")), "the key alone is on stdout"
    reflexd("keys", "create", "second", "--tenant", "first", *data)
    listed = json.loads(reflexd("keys", "list", "--json", *data).stdout)
    assert [(key["name"], key["tenant"], key["revoked_at"]) for key in listed] == [
        ("first", "first", None),
        ("second", "first", None),
    ]
    assert made.stdout.strip() not in json.dumps(listed), "a key is shown once and never again"
    assert made.stdout.startswith(listed[0]["hint"])
    assert reflexd("keys", "revoke", "first", *data).returncode == 0
    again = reflexd("keys", "revoke", "first", *data)
    assert again.returncode == 1
    assert "first" in again.stderr
    assert json.loads(reflexd("keys", "list", "--json", *data).stdout)[0]["revoked_at"] is not None


def test_keys_made_and_revoked_while_the_daemon_runs_count_at_once(daemon: Daemon) -> None:
    secret = daemon.create_key("live")
    assert KEY.fullmatch(secret)
    with daemon.http(secret) as http:
        assert http.get("/v1/models").status_code == 200
        daemon.cli("keys", "revoke", "live")
        assert http.get("/v1/models").status_code == 401, "the open connection is refused too"


def test_a_key_is_revoked_by_its_id_where_the_name_is_not_enough(daemon: Daemon) -> None:
    first, second = daemon.create_key("twin"), daemon.create_key("twin", "--tenant", "twin")
    failed = reflexd("keys", "revoke", "twin", "--data-dir", daemon.data_dir)
    assert failed.returncode == 1
    twins = [key for key in json.loads(daemon.cli("keys", "list", "--json")) if key["name"] == "twin"]
    daemon.cli("keys", "revoke", twins[1]["id"])
    with daemon.http(first) as one, daemon.http(second) as other:
        assert {one.get("/v1/models").status_code, other.get("/v1/models").status_code} == {200, 401}


def test_a_key_with_a_bad_name_or_scope_is_not_made(daemon: Daemon) -> None:
    before = daemon.cli("keys", "list", "--json")
    for words in (("",), ("a\nb",), ("x" * 65,), ("fine", "--scope", "everything"), ("fine", "--tenant", " ")):
        done = reflexd("keys", "create", *words, "--data-dir", daemon.data_dir)
        assert (done.returncode, done.stdout) == (1, ""), words
        assert len(done.stderr.splitlines()) == 1
    assert daemon.cli("keys", "list", "--json") == before


def test_jobs_and_models_are_shown_across_tenants(
    daemon: Daemon, client: openai.OpenAI, new_key: Callable[[], str]
) -> None:
    job = jobs.train(client, TICKETS, "shown")
    with daemon.openai(new_key()) as other:
        running = jobs.create(other, endless(), "other-tenants")

        listed = json.loads(daemon.cli("jobs", "list", "--json", "--limit", "2"))
        assert [row["id"] for row in listed] == [running.id, job.id]
        shown = json.loads(daemon.cli("jobs", "show", job.id, "--json"))
        assert (shown["status"], shown["suffix"], shown["trained_examples"]) == ("succeeded", "shown", 10)
        assert "shown" in daemon.cli("jobs", "show", job.id)
        lines = [json.loads(line) for line in daemon.cli("jobs", "logs", job.id, "--json", "--follow").splitlines()]
        assert [line["message"] for line in lines] == jobs.messages(client, job.id)
        assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
        assert "Job succeeded" in daemon.cli("jobs", "logs", job.id)

        assert daemon.cli("jobs", "cancel", running.id) == "cancelled\n"
        assert jobs.status(other, running.id) == "cancelled"
        again = reflexd("jobs", "cancel", running.id, "--data-dir", daemon.data_dir)
        assert (again.returncode, again.stdout) == (1, "")
        assert "cancelled" in again.stderr

    models = json.loads(daemon.cli("models", "list", "--json"))
    assert {"name": "shown", "version": 1, "job_id": job.id}.items() <= models[0].items()
    assert "shown" in daemon.cli("models", "list")


@pytest.mark.parametrize("verb", [("jobs", "show"), ("jobs", "logs"), ("jobs", "cancel")])
def test_an_unknown_job_is_one_sentence(daemon: Daemon, verb: tuple[str, str]) -> None:
    done = reflexd(*verb, "ftjob-nobody", "--data-dir", daemon.data_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "ftjob-nobody" in done.stderr


def test_jobs_can_be_listed_and_cancelled_while_no_daemon_runs(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with daemon.openai() as client:
        job = jobs.create(client, endless(), "left-behind")
    assert daemon.stop() == 0
    assert [row["id"] for row in json.loads(daemon.cli("jobs", "list", "--json"))] == [job.id]
    assert daemon.cli("jobs", "cancel", job.id) == "cancelled\n"
    assert daemon.runs() == set()


def test_predict_and_healthcheck_speak_to_the_daemon(daemon: Daemon, client: openai.OpenAI, key: str) -> None:
    jobs.train(client, TICKETS, "spoken-to")
    env = {"REFLEXD_URL": daemon.url, "REFLEXD_API_KEY": key}
    said = reflexd("predict", "spoken-to", "the app freezes", **env)
    assert said.stdout.startswith("bug  0.")
    answer = json.loads(reflexd("predict", "spoken-to", "the app freezes", "--json", **env).stdout)
    assert answer["labels"] == ["billing", "bug"]
    unknown = reflexd("predict", "nobody", "the app freezes", **env)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert reflexd("healthcheck", **env).returncode == 0
    nothing = reflexd("healthcheck", REFLEXD_URL=f"http://127.0.0.1:{free_port()}")
    assert nothing.returncode == 69
    assert len(nothing.stderr.splitlines()) == 1


def test_config_show_says_where_each_value_came_from(folder: Path) -> None:
    file = folder / "my.toml"
    file.write_text('[http]\nport = 1234\nmax_body_bytes = 4096\n\n[log]\nlevel = "debug"\n')
    (folder / "port").write_text("4321\n")
    env = {"REFLEXD_HTTP__PORT_FILE": str(folder / "port"), "REFLEXD_PLUGINS__ALLOW": "inline, checkpoints"}
    words = ("config", "show", "--origin", "--config", file, "--data-dir", folder / "d")
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(reflexd(*words, "--json", **env).stdout)}
    assert rows["http.port"] == (4321, "env REFLEXD_HTTP__PORT_FILE"), "env beats the file"
    assert rows["plugins.allow"] == (["inline", "checkpoints"], "env REFLEXD_PLUGINS__ALLOW")
    assert rows["http.max_body_bytes"] == (4096, f"file {file}")
    assert rows["log.level"] == ("debug", f"file {file}")
    assert rows["http.host"] == ("127.0.0.1", "default")
    assert rows["storage.data_dir"][0] == str(folder / "d")
    assert rows["storage.data_dir"][1].startswith("flag ")
    printed = reflexd(*words, **env).stdout
    assert re.search(r"^http\.port += 4321 +# env REFLEXD_HTTP__PORT_FILE$", printed, re.MULTILINE)
    assert len(printed.splitlines()) == len(rows)
    secrets = reflexd(*words, REFLEXD_LLM__API_KEY="the-key", REFLEXD_APPLY__API_KEY="the-key").stdout
    assert "the-key" not in secrets
    assert len(re.findall(r"^(?:llm|apply)\.api_key += \"\(hidden\)\"", secrets, re.MULTILINE)) == 2


def test_version_and_plugins() -> None:
    assert re.fullmatch(r"reflexd \d+\.\d+\.\d+\n", reflexd("version").stdout)
    rows = json.loads(reflexd("plugins", "list", "--json").stdout)
    assert {"inline", "checkpoints", "local_executor"} <= {row["name"] for row in rows}
    assert all(row["from"].startswith("reflexd ") for row in rows if row["name"] in ("inline", "checkpoints"))
