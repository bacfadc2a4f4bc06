"""Decides how a benchmark gets a real daemon: an own process on a free port in a temporary directory, over a socket.

The client is a bare keep-alive socket, so that what is measured is the daemon and not an HTTP library.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from reflexd.config import load_config
from reflexd.engine import backbone
from reflexd.plugins import PluginManager
from reflexd.registry.data_directory import default_cache_dir

READY_SECONDS = 180.0
ADDED = "added"
"""The name of an encoder that a benchmark brings."""
POLL_SECONDS = 0.005
STOP_SECONDS = 40.0
REST_SECONDS, REST_CORE_SECONDS = 0.5, 0.02


class Connection:
    """One keep-alive HTTP/1.1 connection to a daemon."""

    def __init__(self, port: int, key: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"

    def exchange(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request and return status and body of its answer."""
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        got = bytearray()
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += self._receive()
        fields = bytes(got[:end]).lower().split(b"\r\n")
        length = next(int(f.partition(b":")[2]) for f in fields if f.startswith(b"content-length:"))
        while len(got) < end + 4 + length:
            got += self._receive()
        return int(fields[0].split()[1]), bytes(got[end + 4 :])

    def _receive(self) -> bytes:
        if chunk := self._socket.recv(1 << 18):
            return chunk
        raise ConnectionError("the daemon closed the connection")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Exchange JSON; raises RuntimeError for any status but 200."""
        status, answer = self.exchange(method, path, b"" if body is None else msgspec.json.encode(body))
        if status != 200:
            raise RuntimeError(f"{method} {path} was answered {status}: {answer[:500]!r}")
        return msgspec.json.decode(answer)

    def finish(self, job: dict[str, Any], poll: float = POLL_SECONDS) -> tuple[dict[str, Any], dict[str, float]]:
        """Poll a job until it has ended; return it, and when each status or phase was first seen (perf_counter)."""
        seen: dict[str, float] = {}
        while True:
            seen.setdefault(job["phase"] or job["status"], time.perf_counter())
            if job["status"] == "succeeded":
                return job, seen
            if job["status"] not in ("queued", "running"):
                raise RuntimeError(f"the job {job['status']}: {job['error']}")
            time.sleep(poll)
            job = self.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")


class Appliance:
    """A daemon for as long as the `with` lasts."""

    def __init__(self, **settings: str) -> None:
        """`settings` are REFLEXD_ variables without the prefix, like TRAINING__SLOTS."""
        foreign = {name for name in os.environ if name.startswith("REFLEXD_")} - {"REFLEXD_STORAGE__CACHE_DIR"}
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        self._env = kept | {f"REFLEXD_{name}": value for name, value in settings.items()}
        self.backbone: Sequence[Path] = ()
        """What `reflexd backbones add` is given before the daemon starts; jobs then train on that encoder."""
        self.under: Sequence[str] = ()
        """A command that runs the daemon from its next start on, such as a profiler."""

    def __enter__(self) -> Appliance:
        # An ended script leaves the `with`, and no daemon behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self._folder = tempfile.TemporaryDirectory(prefix="reflexd-benchmark-")
        root = Path(self._folder.name)
        self.data_dir = root / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self.backbone:
            self._add_backbone()
        self._start()
        self.key = (self.data_dir / "initial-api-key").read_text().strip()
        return self

    def _add_backbone(self) -> None:
        files = [str(path.absolute()) for path in self.backbone]
        verb = [sys.executable, "-m", "reflexd", "backbones", "add", *files, "--name", ADDED]
        subprocess.run([*verb, "--data-dir", str(self.data_dir)], check=True, env=self._env, cwd=self.data_dir.parent)
        self._env["REFLEXD_TRAINING__BACKBONE"] = ADDED

    def _start(self) -> None:
        root = self.data_dir.parent
        daemon = [sys.executable, "-m", "reflexd", "serve", "--data-dir", str(self.data_dir), "--port", str(self.port)]
        with (root / "log").open("wb") as log:
            self._process = subprocess.Popen([*self.under, *daemon], stderr=log, stdout=log, env=self._env, cwd=root)
        try:
            self._await_ready(root)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def change(self, work: Callable[[Path], None]) -> None:
        """Stop the daemon, do something with its data directory, and start it again."""
        self._stop()
        work(self.data_dir)
        self._start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop()
        self._folder.cleanup()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connect(self) -> Connection:
        """Return a new connection with the daemon's first key."""
        return Connection(self.port, self.key)

    def _await_ready(self, root: Path) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if Connection(self.port).exchange("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"the daemon did not become ready:\n{(root / 'log').read_text()[-2000:]}")

    def processes(self) -> list[int]:
        """Return the daemon's process id and those of its children, the daemon first."""
        pid = self._process.pid
        found = Path(f"/proc/{pid}/task").glob("*/children")
        return [pid, *sorted({int(child) for path in found for child in path.read_text().split()})]

    def rest(self) -> None:
        """Wait until the daemon and its children have used no processor for a while: nothing is being warmed."""
        started = since = time.monotonic()
        used = self.core_seconds()
        while time.monotonic() - since < REST_SECONDS:
            time.sleep(0.05)
            if (now := self.core_seconds()) - used > REST_CORE_SECONDS:
                used, since = now, time.monotonic()
            if since - started > READY_SECONDS:
                raise RuntimeError("the daemon does not come to rest")

    def core_seconds(self) -> float:
        """Return the processor time of the daemon and of its children, ended ones included."""
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(fields[n]) for n in (11, 12, 13, 14))  # own and waited-for children's, user and system
        return ticks / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def checkpoint_folder() -> Path:
    """Return where the default checkpoint's own files lie."""
    config, _ = load_config()
    return backbone.find_files(PluginManager([]).checkpoints[config.training.backbone])


def exported_folder(precision: str) -> Path:
    """Return where the daemon keeps the exported encoder of a precision; it is there once a daemon was ready."""
    config, _ = load_config()
    checkpoint = PluginManager([]).checkpoints[config.training.backbone]
    cache = Path(config.storage.cache_dir or default_cache_dir()).expanduser()
    identity = backbone.fingerprint(checkpoint, backbone.find_files(checkpoint))
    return backbone.exported_directory(cache, identity, precision)
