"""Decides how tests run the real daemon: as a subprocess, on a free port, in a directory of its own, always ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import platformdirs

from reflexd.engine import backbone
from reflexd_plugins.checkpoints import MINILM

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 120.0
"""Seconds after which something is taken to hang; no test asserts by speed."""

ALIVE: list[Daemon] = []
"""Daemons in use: when a test fails, what they wrote to stderr is shown."""

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """Return the first true value of `look`; fail when there is none in time."""
    end, pause = time.monotonic() + seconds, 0.02
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(pause)
        pause = min(0.2, pause * 1.2)  # looking takes the time of those who are looked at
    return found


def shared_cache() -> Path:
    """Return where the exported encoder is kept from one test run to the next; making it takes 20 s."""
    return Path(os.environ.get("REFLEXD_TEST_CACHE") or platformdirs.user_cache_dir("reflexd-tests"))


def embedded(precision: str) -> Path:
    """Return the embedded encoder's exported form in the shared cache, made there when it is missing."""
    source = backbone.find_files(MINILM)
    target = backbone.exported_directory(shared_cache(), backbone.fingerprint(MINILM, source), precision)
    if backbone.read_description(target) is None:
        asyncio.run(backbone.export(MINILM, source, target, precision))
    return target


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


UNTUNED = {
    "REFLEXD_TRAINING__BUDGET_SECONDS": "0",
    "REFLEXD_TRAINING__WARM_CHILDREN": "0",
    "REFLEXD_TRAINING__NICE": "0",
}
"""What daemons of tests run with: those about tuning ask for it in the request, and most train nothing or one job, so
that a process standing by (4 s of a core) would be for nothing; the one that ran a job stays for the next. A job that
gives way to every other test keeps its own waiting."""


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what could configure reflexd or the SDK, then `extra`."""
    cleared = ("REFLEXD_", "OPENAI_", "XDG_CONFIG", "STATE_DIR", "CACHE_DIR", "CONFIGURATION_DIR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cleared)}
    # A folder without reflexd.toml, so that no file on the machine is read.
    quiet = {"XDG_CONFIG_HOME": "/nonexistent", "CONFIGURATION_DIRECTORY": "/nonexistent"}
    return {**kept, **quiet, "REFLEXD_STORAGE__CACHE_DIR": str(shared_cache()), **extra}


def reflexd(*words: str | Path, seconds: float = DEADLINE, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one `reflexd` command to its end, in a folder without reflexd.toml."""
    command = [sys.executable, "-m", "reflexd", *map(str, words)]
    return subprocess.run(
        command, env=environment(**env), cwd="/", capture_output=True, text=True, timeout=seconds, check=False
    )


@contextmanager
def new_directory() -> Iterator[Path]:
    """Yield an empty folder with a short path, removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="rfx-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Daemon:
    """A `reflexd serve` process over a data directory; it can be started again after it has ended."""

    def __init__(self, data_dir: Path, **env: str) -> None:
        self.data_dir = data_dir
        self.env = env
        self.port = free_port()
        self.stderr = data_dir.with_name(data_dir.name + ".stderr")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "initial-api-key").read_text().strip()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.stderr.read_text(errors="replace") if self.stderr.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the JSON log with this event, oldest first."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def spawn(self) -> Daemon:
        """Start the process without waiting for anything."""
        command = [sys.executable, "-m", "reflexd", "serve", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        with self.stderr.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment(**{**UNTUNED, **self.env}),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if self not in ALIVE:
            ALIVE.append(self)
        return self

    def start(self) -> Daemon:
        """Start the process and wait until it is ready."""
        self.spawn()
        wait_for(self.is_ready, f"{self.url}/readyz answers 200")
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self.process.returncode} instead of starting:\n{self.log()}")
        try:
            return httpx2.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx2.TransportError:
            return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = DEADLINE) -> int:
        """Wait for the process to end by itself and return its exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End the process with SIGKILL, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def close(self) -> None:
        """End the process whatever its state; by SIGTERM first, so that its coverage is written."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                self.process.wait(45)
        finally:
            self.kill()
            ALIVE.remove(self)

    # --- ways to talk to it -----------------------------------------------------------------------------------------

    def cli(self, *words: str | Path, seconds: float = DEADLINE) -> str:
        """Run a verb on this data directory and return what it printed; fail when it fails."""
        done = reflexd(*words, "--data-dir", self.data_dir, seconds=seconds)
        assert done.returncode == 0, f"reflexd {words}: {done.stderr}"
        return done.stdout

    def create_key(self, name: str, *words: str) -> str:
        """Make a key through the command line; the secret is all that it prints."""
        return self.cli("keys", "create", name, *words).removesuffix("\n")

    def http(self, key: str | None = None) -> httpx2.Client:
        """Return a plain HTTP client with the key (default: the admin's; "" for none)."""
        secret = self.admin_key if key is None else key
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=DEADLINE)

    def openai(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        """Return the official SDK's client, which refuses every answer that does not match its types."""
        secret = self.admin_key if key is None else key
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=secret, _strict_response_validation=True, timeout=DEADLINE, **options
        )

    # --- what it leaves behind --------------------------------------------------------------------------------------

    def training_processes(self) -> list[int]:
        """Return the pids of its training children, standing-by ones included."""
        return [pid for pid, parent in processes("reflexd.engine.worker") if parent == self.pid]

    def runs(self) -> set[str]:
        return {entry.name for entry in (self.data_dir / "runs").iterdir()}

    def batches(self) -> set[str]:
        return {entry.name for entry in (self.data_dir / "batches").iterdir()}

    def models(self) -> set[str]:
        return {entry.name for entry in (self.data_dir / "models").iterdir()}


@contextmanager
def running(ready: bool = True, **env: str) -> Iterator[Daemon]:
    """Yield a started daemon over a new data directory; both are gone afterwards."""
    with new_directory() as folder:
        daemon = Daemon(folder / "d", **env)
        try:
            yield daemon.start() if ready else daemon.spawn()
        finally:
            daemon.close()


def processes(module: str) -> list[tuple[int, int]]:
    """Return (pid, parent's pid) of every live process that runs `python -m module`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if module.encode() in words and after_name[0] != "Z":
            found.append((int(entry.name), int(after_name[1])))
    return found


def kill_process(pid: int) -> None:
    """End a process with SIGKILL and wait until its parent has taken note."""
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"the parent of {pid} knows that it is gone")


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
