"""Decides how a file or folder comes into being and goes: whole and durable, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"


class FileChanged(Exception):
    """A file does not hold what was read of it any more."""


def fsync_directory(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_file(path: Path) -> None:
    """Make the content of a file that something else wrote survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_durably(path: Path, content: bytes) -> None:
    """Write a new file and fsync it; its folder still needs fsync_directory."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_stream_durably(path: Path, source: BinaryIO, most: int) -> None:
    """Write a new file from a stream and fsync it; raises ValueError where that holds more than `most` bytes."""
    with path.open("xb") as file:
        written = 0
        while chunk := source.read(1 << 20):
            written += len(chunk)
            if written > most:
                raise ValueError(f"more than {most} bytes")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def copy_directory(source: Path, target: Path) -> None:
    """Copy the files of a folder, durably, to a new folder; subfolders are left out.

    Raises FileNotFoundError where the folder is not there, or goes while it is copied.
    """
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    target.mkdir(mode=0o700)
    for name in names:
        write_durably(target / name, (source / name).read_bytes())
    fsync_directory(target)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that appears as `final` in one step when the block ends; one that fails leaves nothing.

    Raises OSError where `final` exists already and is not empty.
    """
    temporary = final.with_name(TEMPORARY + final.name)
    remove_directory(temporary)
    temporary.mkdir(mode=0o700, parents=True)
    try:
        yield temporary
        fsync_directory(temporary)
        temporary.rename(final)
    except Exception:
        remove_directory(temporary)
        raise
    fsync_directory(final.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Make a file hold `content`, atomically and durably."""
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.unlink(missing_ok=True)
    write_durably(temporary, content)
    temporary.replace(path)
    fsync_directory(path.parent)


def rewrite_file(path: Path, content: bytes, was: bytes) -> None:
    """Make somebody's file that holds `was` hold `content`, atomically and durably.

    Its mode, extended attributes and, as far as this process may, owner stay. A symlink stays, and the file that it
    leads to is rewritten; other hard links to that one go on with the old content. Raises FileChanged where it holds
    something else by now, and OSError where it may not be written; then it is as it was.
    """
    path = path.resolve(strict=True)
    with path.open("r+b") as file:  # a folder's writer could replace a file that is not to be written
        status = os.fstat(file.fileno())
    temporary = path.with_name(TEMPORARY + secrets.token_hex(8))
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            for name in os.listxattr(path):
                with contextlib.suppress(OSError):
                    os.setxattr(file.fileno(), name, os.getxattr(path, name))
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            os.fsync(file.fileno())
        if path.read_bytes() != was:
            raise FileChanged(path)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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


def sweep(folder: Path, keep: set[str], aside: Path) -> list[str]:
    """Remove what is half made in `folder`, and move whole entries that `keep` does not name to `aside`.

    Returns the names that were moved. What a crash left is no loss; but where the database is the older one of the two
    (a backup was restored), what it does not know is somebody's model.
    """
    moved = []
    for entry in list(folder.iterdir()):
        if entry.name.startswith(TEMPORARY):
            remove_directory(entry)
        elif entry.name not in keep:
            aside.mkdir(mode=0o700, exist_ok=True)
            entry.rename(aside / f"{entry.name}-{secrets.token_hex(4)}")
            moved.append(entry.name)
    return moved


def purge(folder: Path, days: float) -> None:
    """Remove every entry of `folder` that was put there longer than so many days ago."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if time.time() - entry.lstat().st_ctime > days * 86_400:
            remove_directory(entry)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
