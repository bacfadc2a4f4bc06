"""Decides how a file or folder comes into being and goes: whole and durable, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

TEMPORARY = ".tmp-"


def fsync_directory(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and fsync it; its folder still needs fsync_directory."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def publish_directory(temporary: Path, final: Path) -> None:
    """Make a finished temporary folder appear under its final name in one step."""
    fsync_directory(temporary)
    temporary.rename(final)
    fsync_directory(final.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Make a file hold `content`, atomically and durably."""
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.unlink(missing_ok=True)
    write_durably(temporary, content)
    temporary.replace(path)
    fsync_directory(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a folder (or file) so that it is never seen half empty under its own name; a missing one is fine."""
    trash = path.with_name(f"{TEMPORARY}trash-{secrets.token_hex(8)}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(trash)
        if trash.is_dir() and not trash.is_symlink():
            shutil.rmtree(trash, ignore_errors=True)
        else:
            trash.unlink()


def sweep(folder: Path, keep: set[str]) -> list[str]:
    """Remove every entry of `folder` but those named in `keep`; return the names removed."""
    gone = [entry.name for entry in folder.iterdir() if entry.name not in keep]
    for name in gone:
        remove_directory(folder / name)
    return gone


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
