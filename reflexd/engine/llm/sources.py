"""Decides where a language model is in what the operator names: a directory, a GGUF file, or a wheel with one of these.

As with encoders, a member's own name is only compared and never used as a path, and what may be pickled is never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from reflexd.engine.backbone_files import Found, Opener, members_of_zip, open_files, open_path
from reflexd.errors import LanguageModelRefused
from reflexd.registry.backbones import CONFIG

GGUF = ".gguf"
MAGIC = b"GGUF"
PACKED = "model.gguf"
"""What a GGUF file is called while it is converted, whatever its own name."""
QUANTISATION = re.compile(r"[.\-_](I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)
PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
MAX_WEIGHT_BYTES = 256 << 30
MAX_NAME = 64


class ImportSpec(Struct, kw_only=True):
    """The command line of engine/llm/weights.py; an empty `name` is what the files say."""

    paths: list[str]
    name: str
    target: str
    taken: list[str]
    """Names that are in use."""
    known: dict[str, str]
    """Names of the language models that are there already, by fingerprint."""


class Packed:
    """A GGUF file, on the disk or in an archive."""

    def __init__(self, file_name: str, where: str, opener: Opener, path: Path | None) -> None:
        self.file_name = file_name
        self.where = where
        self.name = QUANTISATION.sub("", file_name[: -len(GGUF)])
        self._opener = opener
        self._path = path

    def place(self, folder: Path) -> Path:
        """Let the file be PACKED in a folder, copied only where it is in an archive; raises LanguageModelRefused."""
        if (part := PART.search(self.file_name)) and int(part[1]) > 1:
            raise LanguageModelRefused(f"{self.where} is one of {int(part[1])} files: join them with llama-gguf-split")
        target = folder / PACKED
        if self._path is not None:
            target.symlink_to(self._path.resolve())
        else:
            Found(self.where, self.name, {self.file_name: self._opener}).copy(self.file_name, target, MAX_WEIGHT_BYTES)
        with target.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise LanguageModelRefused(f"{self.where} is no GGUF file")
        return target


@contextmanager
def open_source(paths: Sequence[Path], scratch: Path) -> Iterator[Found | Packed]:
    """Yield the one language model in these paths; `scratch` is a folder for rejoined parts of a zip.

    Raises LanguageModelRefused or BackboneRefused naming the path or the file in it.
    """
    with ExitStack() as stack:
        packed = _packed(paths, stack)
        yield packed if packed is not None else stack.enter_context(open_files(paths, scratch))


def described(paths: Sequence[Path], found: Found | Packed) -> str:
    """Return what a language model was imported from, as the record keeps it: names of files and no folders."""
    names = ", ".join(path.name for path in paths)
    inside = isinstance(found, Packed) and found.file_name not in (path.name for path in paths)
    return f"{found.file_name} of {names}" if isinstance(found, Packed) and inside else names


def checked_name(name: str, taken: Sequence[str]) -> str:
    """Return a name that a language model may have; raises LanguageModelRefused."""
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        raise LanguageModelRefused(
            f"{name!r} is no name of 1 to {MAX_NAME} printable characters: choose one with --name"
        )
    if name in taken:
        raise LanguageModelRefused(f"there is a language model {name} already: choose another name with --name")
    return name


def _packed(paths: Sequence[Path], stack: ExitStack) -> Packed | None:
    """Return the GGUF file in the paths; None where they hold none, or a whole directory of a model as well."""
    if len(paths) == 1 and paths[0].is_dir():
        if (paths[0] / CONFIG).is_file():
            return None
        files = [path for path in sorted(paths[0].glob("*")) if path.name.lower().endswith(GGUF)]
        return _only([Packed(path.name, str(path), partial(open_path, path), path) for path in files], str(paths[0]))
    if len(paths) == 1 and paths[0].name.lower().endswith(GGUF):
        open_path(paths[0]).close()
        return Packed(paths[0].name, str(paths[0]), partial(open_path, paths[0]), paths[0])
    found, configured = [], False
    for path in paths:
        if not path.name.lower().endswith((".whl", ".zip")):
            continue  # it is refused, or a part of a zip
        for member, opener in members_of_zip(stack, open_path(path), str(path)).items():
            file_name = member.rpartition("/")[2]
            configured = configured or file_name == CONFIG
            if file_name.lower().endswith(GGUF):
                found.append(Packed(file_name, f"{member} of {path}", opener, None))
    return None if configured else _only(found, ", ".join(map(str, paths)))


def _only(found: Sequence[Packed], where: str) -> Packed | None:
    if len(found) > 1:
        names = ", ".join(packed.file_name for packed in found)
        raise LanguageModelRefused(f"{where} holds several GGUF files ({names}): name one of them")
    return found[0] if found else None
