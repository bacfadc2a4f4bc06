"""Decides what an imported language model is on disk: a folder named by chance, with a record of all that lies in it.

D/llm/models/<random id>/config.json  *.safetensors  tokenizer.json ...  llm.json

Its name stands in llm.json alone, so that no name becomes a path. Every function here takes D/llm.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd.registry.files import TEMPORARY, remove_directory, write_durably

FORMAT = 1
RECORD = "llm.json"


class Weights(Struct, frozen=True, kw_only=True):
    """What an imported language model is; `files` maps the name of every other file in the folder to its SHA-256."""

    format: int = FORMAT
    name: str
    fingerprint: str
    """SHA-256 over the names and hashes of `files`."""
    architecture: str
    parameters: int
    context_tokens: int
    """Of the longest text that it can read with its answer; 0 where its configuration does not tell."""
    dtype: str
    """What most of its numbers are stored in, as safetensors writes it: BF16, F16, F32."""
    bytes: int
    license: str
    """As its makers name it; "" where they name none."""
    source: str
    """What it was imported from, without the folder that this lay in."""
    source_sha256: str = ""
    """Of the GGUF file that it was converted from."""
    files: dict[str, str]
    created_at: int


def fingerprint(files: Mapping[str, str]) -> str:
    """Return the identity of a language model: the same files answer the same."""
    lines = (f"{name} {files[name]}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def models_directory(root: Path) -> Path:
    """Return the folder that holds one folder a language model."""
    return root / "models"


def new_place(root: Path) -> Path:
    """Return the folder of a language model that is to be imported; nothing is made yet."""
    return models_directory(root) / secrets.token_hex(16)


def write_record(folder: Path, record: Weights) -> None:
    """Say in an unpublished folder what it holds."""
    write_durably(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))


def all_weights(root: Path) -> list[tuple[Path, Weights]]:
    """Return every imported language model with its folder, newest first; a folder without a record is left out."""
    found = []
    folders = models_directory(root)
    for folder in folders.iterdir() if folders.is_dir() else ():
        try:
            written = (folder / RECORD).stat().st_mtime_ns  # two may be imported within a second
            record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Weights)
        except (OSError, msgspec.DecodeError):
            continue
        if record.format == FORMAT and not folder.name.startswith(TEMPORARY):
            found.append((record.created_at, written, folder, record))
    found.sort(key=lambda entry: entry[:2], reverse=True)
    return [(folder, record) for _, _, folder, record in found]


def find(root: Path, name: str = "") -> tuple[Path, Weights] | None:
    """Return the language model of this name, for "" the one that was imported last; None where there is none."""
    return next(((folder, record) for folder, record in all_weights(root) if name in ("", record.name)), None)


def discard(folder: Path) -> None:
    """Remove a language model's folder and its unfinished one, if there are any."""
    remove_directory(folder.with_name(TEMPORARY + folder.name))
    remove_directory(folder)


def sweep(root: Path) -> None:
    """Remove what a crash has left half made."""
    folders = models_directory(root)
    for entry in list(folders.iterdir()) if folders.is_dir() else ():
        if entry.name.startswith(TEMPORARY):
            remove_directory(entry)
