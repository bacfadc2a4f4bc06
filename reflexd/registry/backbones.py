"""Decides what an added backbone is on disk: a folder of three files and a backbone.json, named by chance.

D/backbones/<random id>/config.json  tokenizer.json  model.safetensors  backbone.json

Its name stands in backbone.json alone, so that no name becomes a path.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

from reflexd.registry.files import TEMPORARY, remove_directory, write_durably

FORMAT = 1
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
FILES = (CONFIG, TOKENIZER, WEIGHTS)
RECORD = "backbone.json"
LAST_TOKEN = "last_token"  # noqa: S105 -- of a text, no secret
"""The pooling of a decoder, and of nothing else: whoever has to tell the two kinds apart looks here."""


class AddedBackbone(Struct, frozen=True, kw_only=True):
    """What an added backbone is; `files` maps each of FILES to its SHA-256.

    `kind` is "encoder" or "decoder" (an earlier version wrote the architecture's name of an encoder). `precision` is
    what it is exported in, "" for what `[backbone] precision` says; a decoder's also says where it runs.
    """

    format: int = FORMAT
    name: str
    fingerprint: str
    pooling: str
    precision: str = ""
    license: str
    kind: str
    width: int
    layers: int
    max_tokens: int
    files: dict[str, str]
    created_at: int


def new_place(backbones_dir: Path) -> Path:
    """Return the folder of a backbone that is to be added; nothing is made yet."""
    return backbones_dir / secrets.token_hex(16)


def write_record(folder: Path, record: AddedBackbone) -> None:
    """Say in an unpublished folder what it holds."""
    write_durably(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=1))


def read_all(backbones_dir: Path) -> dict[Path, AddedBackbone]:
    """Return every added encoder by its folder, oldest first; a folder without a readable record is left out."""
    found = {}
    for folder in backbones_dir.iterdir() if backbones_dir.is_dir() else ():
        try:
            record = msgspec.json.decode((folder / RECORD).read_bytes(), type=AddedBackbone)
        except (OSError, msgspec.DecodeError):
            continue
        if record.format == FORMAT and not folder.name.startswith(TEMPORARY):
            found[folder] = record
    return dict(sorted(found.items(), key=lambda entry: (entry[1].created_at, entry[1].name)))


def discard(folder: Path) -> None:
    """Remove a backbone's folder and its unfinished one, if there are any."""
    remove_directory(folder.with_name(TEMPORARY + folder.name))
    remove_directory(folder)


def sweep(backbones_dir: Path) -> None:
    """Remove what a crash has left half made."""
    for entry in list(backbones_dir.iterdir()):
        if entry.name.startswith(TEMPORARY):
            remove_directory(entry)
