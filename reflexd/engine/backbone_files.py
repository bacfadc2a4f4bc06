"""Decides where an encoder's files are in what the operator names: a directory, wheels or zips, or parts of a zip.

A member's own name is only compared and never used as a path. Weights are safetensors; pickled ones are never read.
"""

from __future__ import annotations

import lzma
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import msgspec

from reflexd.errors import BackboneRefused
from reflexd.registry.backbones import CONFIG, LAST_TOKEN, TOKENIZER, WEIGHTS
from reflexd.registry.files import write_stream_durably

INDEX = "model.safetensors.index.json"
POOLING = "1_Pooling/config.json"
CARD = "README.md"
TOKENIZER_SOURCES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
)
"""What transformers makes a tokenizer.json of where there is none."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_WEIGHT_BYTES = 8 << 30
MAX_SMALL_BYTES = 128 << 20
UNTELLING = ("", "model", "input", "data")
PART = re.compile(r"(.+\.zip)\.(\d{1,4})", re.IGNORECASE | re.DOTALL)

UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,  # a password, or (NotImplementedError is one) a zip version or compression that Python does not know
    EOFError,
    ValueError,
    OSError,
)

Opener = Callable[[], IO[bytes]]


class Found:
    """The files of one encoder, by their names inside its folder; `where` is what an error calls that folder."""

    def __init__(self, where: str, name: str, members: Mapping[str, Opener]) -> None:
        self.where = where
        self.name = name
        self._members = members

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def copy(self, name: str, target: Path, most: int = MAX_SMALL_BYTES) -> None:
        """Write a member's content to a new file, durably.

        Raises BackboneRefused naming the member where it cannot be read, and OSError where the copy cannot be written.
        """
        said = f"{name} of {self.where}"
        try:
            with _Source(said, self._members[name]) as source:
                write_stream_durably(target, cast(BinaryIO, source), most)
        except ValueError as error:
            raise BackboneRefused(f"{said}: {error}") from error

    def json(self, name: str) -> dict[str, Any]:
        """Return a member that is a JSON object."""
        try:
            with self._members[name]() as source:
                return msgspec.json.decode(source.read(MAX_SMALL_BYTES), type=dict[str, Any])
        except UNREADABLE as error:
            raise BackboneRefused(f"{name} of {self.where} is no JSON object: {error}") from error

    def license(self) -> str:
        """Return the licence that the model card names; "" where it names none; raises as `copy` does."""
        if CARD not in self:
            return ""
        try:
            with self._members[CARD]() as source:
                card = source.read(MAX_SMALL_BYTES).decode("utf-8", "replace")
        except UNREADABLE as error:
            raise BackboneRefused(f"{CARD} of {self.where} cannot be read: {error}") from error
        head = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
        named = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)", head[1], re.MULTILINE) if head else None
        return named[1] if named else ""

    def pooling(self) -> str:
        """Return how the model's authors pool, as sentence-transformers writes it; "mean" where nothing is written."""
        if POOLING not in self:
            return "mean"
        given = self.json(POOLING)
        prefix = "pooling_mode_"
        modes = {name.removeprefix(prefix) for name, on in given.items() if name.startswith(prefix) and on is True}
        if isinstance(plain := given.get("pooling_mode"), str):
            modes = {plain}
        # The mean times a number has the direction of the mean, and every vector is normalised.
        known = dict.fromkeys(("mean", "mean_tokens", "mean_sqrt_len_tokens"), "mean")
        known |= dict.fromkeys(("cls", "cls_token"), "cls") | dict.fromkeys(("lasttoken", LAST_TOKEN), LAST_TOKEN)
        if len(modes) != 1 or not modes <= set(known):
            named = ", ".join(sorted(modes)) or "none"
            raise BackboneRefused(
                f"{POOLING} of {self.where}: the pooling {named} is not supported: choose with --pooling mean or cls"
            )
        return known[modes.pop()]

    def shards(self) -> list[str]:
        """Return the names of the weights' files: one, or those that the index names."""
        if WEIGHTS in self:
            return [WEIGHTS]
        if INDEX in self:
            named = self.json(INDEX).get("weight_map")
            names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
            for name in names:
                if name not in self:
                    raise BackboneRefused(f"{INDEX} of {self.where} names {name}, which is missing")
                if not name.endswith(".safetensors"):
                    raise BackboneRefused(f"{INDEX} of {self.where} names {name}: only safetensors are read")
            if names:
                return names
            raise BackboneRefused(f"{INDEX} of {self.where} has no weight_map")
        if pickled := sorted(name for name in self._members if name.endswith(PICKLED)):
            raise BackboneRefused(
                f"{self.where} has its weights in {pickled[0]} only, and what may be pickled is never read: "
                f"save them as {WEIGHTS}"
            )
        raise BackboneRefused(f"{self.where} has no {WEIGHTS}")

    def stage_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer's files to a folder; raises BackboneRefused where there are none."""
        if TOKENIZER in self:
            self.copy(TOKENIZER, folder / TOKENIZER)
            return
        present = [name for name in TOKENIZER_SOURCES if name in self]
        if not any(not name.endswith(".json") or name == "vocab.json" for name in present):
            raise BackboneRefused(f"{self.where} has no {TOKENIZER}, and nothing that one can be made of")
        for name in present:
            self.copy(name, folder / name)


class _Source:
    """A member that is copied: an error of reading it is a BackboneRefused naming it, and so none of the copy's."""

    def __init__(self, said: str, opener: Opener) -> None:
        self._said = said
        with self._told():
            self._file = opener()

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        with self._told():
            return self._file.read(size)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except UNREADABLE as error:
            raise BackboneRefused(f"{self._said} cannot be read: {error}") from error


@contextmanager
def open_files(paths: Sequence[Path], scratch: Path) -> Iterator[Found]:
    """Yield the files of the encoder in a directory, or in zip files (wheels, too) that may hold parts of a zip.

    `scratch` is a folder for rejoined parts. Raises BackboneRefused naming the path or the file in it.
    """
    with ExitStack() as stack:
        if len(paths) == 1 and paths[0].is_dir():
            yield _of_directory(paths[0])
            return
        members: dict[str, Opener] = {}
        parts: dict[str, dict[int, Opener]] = {}
        for path in paths:
            if path.is_dir():
                raise BackboneRefused(f"{path}: give one directory, or files")
            if PART.fullmatch(path.name):
                _sort_in({path.name: partial(open_path, path)}, members, parts)
            else:
                _sort_in(members_of_zip(stack, open_path(path), str(path)), members, parts)
        for whole, pieces in parts.items():
            joined = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            _join(whole, pieces, joined)
            members |= members_of_zip(stack, joined, f"{whole}, put together from {len(pieces)} parts,")
        yield _of_members(members, paths)


def open_path(path: Path) -> IO[bytes]:
    """Open a file that the operator named; raises BackboneRefused naming it."""
    try:
        return path.open("rb")
    except OSError as error:
        raise BackboneRefused(f"{path} cannot be read: {error.strerror}") from error


def _of_directory(folder: Path) -> Found:
    try:
        entries = [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError as error:
        raise BackboneRefused(f"{folder} cannot be read: {error.strerror}") from error
    members: dict[str, Opener] = {entry.name: partial(open_path, entry) for entry in entries}
    if (folder / POOLING).is_file():
        members[POOLING] = partial(open_path, folder / POOLING)
    if CONFIG not in members:
        raise BackboneRefused(f"{folder} has no {CONFIG}: it is no directory of a Hugging Face model")
    resolved = folder.absolute()
    if resolved.parent.name == "snapshots":  # the hub's cache: models--OWNER--NAME/snapshots/HASH
        resolved = resolved.parent.parent
    return Found(str(folder), resolved.name.rpartition("--")[2], members)


def members_of_zip(stack: ExitStack, file: IO[bytes], where: str) -> dict[str, Opener]:
    """Return what opens each file in a zip, for as long as `stack` is open; raises BackboneRefused naming `where`."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(file)))
    except UNREADABLE as error:
        raise BackboneRefused(f"{where} is no directory and no whole zip file or wheel ({error})") from error
    return {info.filename: partial(archive.open, info) for info in archive.infolist() if not info.is_dir()}


def _sort_in(found: Mapping[str, Opener], members: dict[str, Opener], parts: dict[str, dict[int, Opener]]) -> None:
    for name, opener in found.items():
        if matched := PART.fullmatch(name.rpartition("/")[2]):
            pieces = parts.setdefault(matched[1], {})
            if int(matched[2]) in pieces:
                raise BackboneRefused(f"part {int(matched[2])} of {matched[1]} is there twice")
            pieces[int(matched[2])] = opener
        else:
            members[name] = opener


def _join(whole: str, pieces: Mapping[int, Opener], target: IO[bytes]) -> None:
    for number in range(1, max(pieces) + 1):
        if number not in pieces:
            raise BackboneRefused(f"part {number} of {whole} is missing")
        with _Source(f"part {number} of {whole}", pieces[number]) as source:
            while chunk := source.read(1 << 20):
                if target.tell() > MAX_WEIGHT_BYTES:
                    raise BackboneRefused(f"{whole} is larger than {MAX_WEIGHT_BYTES >> 30} GB")
                target.write(chunk)
    target.seek(0)


def _of_members(members: Mapping[str, Opener], paths: Sequence[Path]) -> Found:
    """Return the one folder of an archive that holds a model."""
    where = ", ".join(map(str, paths))
    folders = {name.rpartition("/")[0] for name in members if name.rpartition("/")[2] == CONFIG}
    weighty = [f for f in folders if any(name.rpartition("/")[0] == f and _is_weights(name) for name in members)]
    if len(weighty) != 1:
        wrong = f"several models ({', '.join(sorted(weighty))})" if weighty else f"no folder with {CONFIG} and weights"
        raise BackboneRefused(f"{where}: it holds {wrong}")
    prefix = f"{weighty[0]}/" if weighty[0] else ""
    telling = [part for part in weighty[0].split("/") if part.lower() not in UNTELLING]
    own = {name.removeprefix(prefix): opener for name, opener in members.items() if name.startswith(prefix)}
    return Found(where, telling[-1] if telling else paths[0].stem, own)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", INDEX, *PICKLED))
