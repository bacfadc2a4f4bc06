"""Decides how the contents of files lie on disk: under their SHA-256, written whole and durably before they count."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

from reflexd.registry.files import TEMPORARY, fsync_directory


class Incoming:
    """A content that is arriving; `finish` or `discard` ends it. To be called from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{TEMPORARY}{secrets.token_hex(16)}"
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._file = self.path.open("xb")

    @property
    def sha256(self) -> str:
        """Of what has been written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Append a piece."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.bytes += len(chunk)

    def finish(self) -> str:
        """Make what was written durable and return its SHA-256, in hex."""
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o400)  # it may get other names, and whoever reads there must not change it here
        os.fsync(self._file.fileno())
        self._file.close()
        return self.sha256

    def discard(self) -> None:
        """Remove what was written, unless it was kept."""
        with contextlib.suppress(OSError):  # of a full disk: what is still buffered cannot be written
            self._file.close()
        self.path.unlink(missing_ok=True)


class Blobs:
    """The folder of contents. The names in it are hashes: nothing that a user gives becomes a path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self) -> Incoming:
        """Begin a content."""
        return Incoming(self._folder)

    def keep(self, incoming: Incoming, sha256: str) -> None:
        """Let a finished content count, durably; one that is there already is left as it is."""
        if self.path(sha256).exists():
            incoming.discard()
            fsync_directory(self._folder)  # whoever came before may not have come so far
            return
        incoming.path.rename(self.path(sha256))
        fsync_directory(self._folder)

    def path(self, sha256: str) -> Path:
        """Return where a content lies."""
        return self._folder / sha256

    def link(self, sha256: str, target: Path) -> None:
        """Give a content a second name, under which it outlives its removal; raises FileNotFoundError."""
        try:
            os.link(self.path(sha256), target)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without links
            shutil.copyfile(self.path(sha256), target)
            with target.open("rb") as file:
                os.fsync(file.fileno())

    def remove(self, sha256: str) -> None:
        """Remove a content; a missing one is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.path(sha256).unlink()
