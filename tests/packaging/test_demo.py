"""Shows that `reflexd demo` trains and answers for real, leaves nothing behind, and prints commands that work."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reflexd.demo import NEW_TEXTS, QUESTION, TICKETS
from tests.daemons import Daemon, environment, free_port, processes, wait_for
from tests.jobs import predict, wait_for_status

pytestmark = pytest.mark.timeout(360)  # the first one exports the encoder, beside whatever else the machine does

BIN = Path(sys.executable).parent


class Demo:
    """A demo that is running, with a folder for temporary files of its own."""

    def __init__(self, folder: Path, *words: str, clean: dict[str, str] | None = None, **env: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        # A job that gave way to every other test would keep its own waiting.
        env = {
            "REFLEXD_TRAINING__NICE": "0",
            "REFLEXD_TRAINING__BUDGET_SECONDS": "0",
            "TMPDIR": str(folder),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **env,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reflexd", "demo", *words],
            env=clean or environment(**env),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=300)
        return self.process.returncode, out, err

    def left(self) -> list[str]:
        """Return what stands in the folder for temporary files by the demo's doing."""
        return [path.name for path in self.folder.iterdir() if path.name.startswith("reflexd")]

    def daemons(self) -> list[int]:
        """Return the pids of the daemons that work in this demo's folder."""
        found = []
        for pid, _ in processes("reflexd"):
            try:
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
            except OSError:
                continue
        return found


@pytest.fixture
def new_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Return a function that starts a demo; all are ended with the test."""
    started: list[Demo] = []

    def start(*words: str, **env: str) -> Demo:
        started.append(Demo(tmp_path / "tmp", *words, **env))
        return started[-1]

    yield start
    for demo in started:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.end()


def commands(said: str) -> list[str]:
    """Return the three commands that the demo prints at its end."""
    block = said.partition("first one in a terminal of its own:\n")[2]
    return [part.strip() for part in block.split("\n\n") if part.strip()][:3]


def test_the_rows_are_many_enough_and_do_not_hold_the_question() -> None:
    texts = [text for rows in TICKETS.values() for text in rows]

    assert list(TICKETS) == ["billing", "bug", "account", "feature"]
    assert all(len(rows) >= 10 for rows in TICKETS.values())
    assert len(set(texts)) == len(texts)
    assert not set(NEW_TEXTS) & set(texts)
    assert QUESTION == "I was billed twice this month"


def test_it_shows_training_and_answers_and_cleans_up(tmp_path: Path, daemon: Daemon, key: str) -> None:
    """And no library writes or reports anything of its own.

    ONNX Runtime collects usage data and sends it home unless it is told not to, or finds CI in its environment.
    """
    home = tmp_path / "home"
    home.mkdir()
    hiding = ("CI", "ORT_", "XDG_", "TORCH")  # torch tells its children where its folder is, if it was imported here
    outside = {name: value for name, value in environment().items() if not name.startswith(hiding)}
    outside |= {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    demo = Demo(tmp_path / "tmp", clean=outside)
    status, said, errors = demo.end()

    assert (status, errors) == (0, "")
    assert list(demo.folder.iterdir()) == []
    assert [path for path in home.rglob("*") if path.is_file()] == []
    losses = [float(loss) for loss in re.findall(r"train_loss (\d+\.\d+)  #", said)]
    assert len(losses) >= 2
    assert losses[0] > losses[-1]
    score = re.search(r"held-out accuracy (\d\.\d\d) on 48 tickets", said)
    assert score
    assert float(score[1]) > 0.8
    rows = {line[1:44].strip(): line[44:].split() for line in said.splitlines() if line[1:44].strip() in NEW_TEXTS}
    assert [label for label, _, _ in rows.values()] == ["billing", "bug", "account", "feature", "billing"]
    assert all(0.25 < float(confidence) <= 1 and float(ms) > 0 for _, confidence, ms in rows.values())
    assert demo.daemons() == []

    serve, export, first_job = commands(said)
    assert serve == "reflexd serve"
    assert export == "export REFLEXD_API_KEY=$(reflexd keys create me)"
    typed = first_job.replace("http://127.0.0.1:7335", daemon.url)
    env = {**os.environ, "REFLEXD_API_KEY": key}
    assert typed != first_job
    done = subprocess.run(["sh", "-c", typed], env=env, capture_output=True, text=True, timeout=60, check=False)
    with daemon.openai(key) as client:
        (job,) = client.fine_tuning.jobs.list()
        assert job.id in done.stdout
        wait_for_status(client, job.id, "succeeded")
        model, text = shlex.split(said.partition("Then:")[2].splitlines()[0])[-2:]
        assert predict(client, model, text)["label"] == "good"


def test_what_it_keeps_can_be_served(new_demo: Callable[..., Demo]) -> None:
    demo = new_demo("--keep")
    status, said, _ = demo.end()

    assert status == 0
    (name,) = demo.left()
    assert f"Kept: {demo.folder / name}" in said
    serve, export, use = commands(said)
    port = str(free_port())
    where = {"REFLEXD_HTTP__PORT": port, "REFLEXD_URL": f"http://127.0.0.1:{port}"}
    env = environment(PATH=f"{BIN}:{os.environ['PATH']}", **where)
    with subprocess.Popen(shlex.split(serve), env=env, cwd="/", stderr=subprocess.DEVNULL) as daemon:
        try:
            wait_for(
                lambda: (
                    subprocess.run(["reflexd", "healthcheck"], env=env, capture_output=True, check=False).returncode
                    == 0
                ),
                "the kept daemon is ready",
            )
            done = subprocess.run(
                ["sh", "-c", f"{export}\n{use}"], env=env, capture_output=True, text=True, check=False
            )
        finally:
            daemon.terminate()
    assert done.stdout.startswith("billing  ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(new_demo: Callable[..., Demo], number: signal.Signals) -> None:
    demo = new_demo()
    wait_for(demo.daemons, "the demo has started its daemon")
    demo.process.send_signal(number)
    status, said, errors = demo.end()

    assert status == 130
    assert said.endswith("Interrupted; the daemon is stopped.\n")
    assert errors == ""
    assert demo.daemons() == []
    assert demo.left() == []


def test_a_daemon_that_cannot_start_is_quoted(new_demo: Callable[..., Demo]) -> None:
    demo = new_demo(REFLEXD_TRAINING__BACKBONE="none-such")
    status, _, errors = demo.end()

    assert status == 1
    assert errors.startswith("Error: the daemon has ended with status 78. Its last lines:\n")
    assert "[training] backbone: there is no 'none-such'" in errors
    assert "Traceback" not in errors
    assert demo.left() == []


def test_a_daemon_that_dies_on_the_way_is_told(new_demo: Callable[..., Demo]) -> None:
    demo = new_demo()
    assert demo.process.stdout is not None
    for line in demo.process.stdout:
        if "Job queued" in line:
            break
    (pid,) = demo.daemons()
    os.kill(pid, signal.SIGKILL)
    status, said, errors = demo.end()

    assert status == 1
    assert errors.startswith("Error: the daemon has ended with status -9.")
    assert "Three commands" not in said
    assert demo.left() == []
