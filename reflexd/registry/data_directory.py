"""Decides where things lie in the data directory, that only its owner reads it, and that one process at a time uses it.

D/reflexd.db  lock  admin.sock  initial-api-key  backups/
D/backbones/<random id>/  models/<random id>/  runs/<job id>/  files/<sha256>  batches/<batch id>/
D/llm/models/<random id>/  vllm
"""

from __future__ import annotations

import fcntl
import getpass
import os
import time
from pathlib import Path

import platformdirs

from reflexd.config import Config
from reflexd.errors import AlreadyRunning, StartupError
from reflexd.registry.files import fsync_directory

LOCK = "lock"
HARMLESS = {"lost+found"}
"""What may stand in a folder that is otherwise empty: a file system of its own has it."""


def default_data_dir() -> Path:
    """Return $STATE_DIRECTORY under systemd, else the user's data directory."""
    return Path(os.environ.get("STATE_DIRECTORY") or platformdirs.user_data_dir("reflexd")).absolute()


def default_cache_dir() -> Path:
    """Return $CACHE_DIRECTORY under systemd, else the user's cache directory."""
    return Path(os.environ.get("CACHE_DIRECTORY") or platformdirs.user_cache_dir("reflexd")).absolute()


def data_directory(config: Config) -> DataDirectory:
    """Return the configured data directory, not yet claimed."""
    return DataDirectory(Path(config.storage.data_dir or default_data_dir()).expanduser())


def cache_directory(config: Config) -> Path:
    """Return the configured cache directory."""
    return Path(config.storage.cache_dir or default_cache_dir()).expanduser()


class DataDirectory:
    """A data directory; `claim` makes it this process's own until `release`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.models = self.root / "models"
        self.runs = self.root / "runs"
        self.backbones = self.root / "backbones"
        self.files = self.root / "files"
        self.batches = self.root / "batches"
        self.llm = self.root / "llm"
        self.socket = self.root / "admin.sock"
        self.initial_key = self.root / "initial-api-key"
        self._lock: int | None = None

    def claim(self, patience_seconds: float = 0.0) -> None:
        """Create what is missing (0700), prove that it can be written, and take the lock.

        Raises StartupError naming the path and the user, AlreadyRunning where another process still holds it after
        `patience_seconds`.
        """
        try:
            self._create()
            self._lock = os.open(self.root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._wait_for_lock(self._lock, time.monotonic() + patience_seconds)
            self._make_folders()
        except BlockingIOError:
            self.release()
            raise AlreadyRunning(f"another reflexd uses the data directory {self.root}") from None
        except OSError as error:
            self.release()
            raise StartupError(
                f"cannot write the data directory {self.root} as user {_user()}: {error.strerror or error}"
            ) from error

    def release(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @staticmethod
    def _wait_for_lock(lock: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.05)

    def _create(self) -> None:
        foreign = self.root.is_dir() and not (self.root / LOCK).exists()
        if foreign and any(entry.name not in HARMLESS for entry in self.root.iterdir()):
            raise StartupError(f"{self.root} is not empty and is no data directory of reflexd: name another one")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.root.stat().st_mode & 0o077:
            self.root.chmod(0o700)

    def _make_folders(self) -> None:
        for folder in (self.models, self.runs, self.backbones, self.files, self.batches, self.llm):
            folder.mkdir(mode=0o700, exist_ok=True)
        fsync_directory(self.root)
        probe = self.root / ".write-probe"
        probe.write_bytes(b"")
        probe.unlink()


def _user() -> str:
    try:
        return f"{getpass.getuser()} (uid {os.getuid()})"
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
