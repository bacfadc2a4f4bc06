"""Decides which uploaded files a job may be made of, and that what they hold can be trained on, or scored, as asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct, structs

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_counts, checked, labels_of
from reflexd.errors import FileNotFound, InvalidFile, InvalidRequest, NamedFileNotFound
from reflexd.hookspecs import DataSource, InputFile, InvalidInput, takes_file, where
from reflexd.registry import runs
from reflexd.service.admission import TRAINING_FILE, Admitted
from reflexd.service.files import FileService
from reflexd.store.files import File

PURPOSE = "fine-tune"
VALIDATION_FILE = "validation_file"
CHECKED_AT_ONCE = 2
"""Files of job requests, one of each API key: each keeps a thread busy for seconds, the interpreter half of that."""

Links = dict[str, Callable[[Path], None]]


class _Named(Struct, frozen=True):
    """A file that a request names, the field that names it, and the source that reads it."""

    param: str
    source: DataSource
    file: File
    content: InputFile

    def kept(self, name: str) -> runs.KeptFile:
        """Return what the run directory says of it, where it has the name."""
        file = self.content
        return runs.KeptFile(name=name, filename=file.filename, bytes=file.bytes, source=self.source.name)


class JobFiles:
    """Checks the files of create requests."""

    def __init__(self, files: FileService, sources: Mapping[str, DataSource], limits: Limits) -> None:
        self._files = files
        self._sources = sources
        self._limits = limits
        self._places = asyncio.Semaphore(CHECKED_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of each key: its files wait for one another before one of them waits for a place among those of others."""

    async def check(self, admitted: Admitted) -> tuple[Admitted, Links]:
        """Return the job with what its files say of it, and how they get into its run directory.

        Raises NamedFileNotFound and InvalidFile naming the field; of a bad row, the message begins with its place.
        """
        tenant_id = admitted.job.tenant_id
        if admitted.beside is not None and await self._is_file(tenant_id, admitted.beside):
            raise InvalidRequest(
                f"Exactly one input is allowed, and {admitted.given.source} and {TRAINING_FILE} are given",
                param=TRAINING_FILE,
            )
        links: Links = {}
        if admitted.training_file is not None:
            source = self._sources[admitted.given.source]
            named = await self._find(tenant_id, admitted.training_file, source.name, source)
            admitted = await self._in_thread(self._check_training, named, admitted)
            links[runs.TRAINING_FILE] = partial(self._link, named)
        if admitted.validation_file is not None:
            source = self._reader(admitted.given.source)
            named = await self._find(tenant_id, admitted.validation_file, VALIDATION_FILE, source)
            admitted = await self._in_thread(self._check_validation, named, admitted)
            links[runs.VALIDATION_FILE] = partial(self._link, named)
        return admitted, links

    async def _is_file(self, tenant_id: str, file_id: str) -> bool:
        try:
            return bool(await self._files.find(tenant_id, file_id))
        except FileNotFound:
            return False

    async def _find(self, tenant_id: str, file_id: str, param: str, source: DataSource) -> _Named:
        try:
            file = await self._files.find(tenant_id, file_id)
        except FileNotFound as error:
            raise NamedFileNotFound(param=param) from error
        if file.purpose != PURPOSE:
            raise InvalidFile(f"The file's purpose is {file.purpose}, and must be {PURPOSE}", param=param)
        content = InputFile(path=self._files.content(file), filename=file.filename, bytes=file.bytes)
        return _Named(param, source, file, content)

    def _reader(self, name: str) -> DataSource:
        """Return the source that reads the validation file: the job's own where it reads files."""
        source = self._sources[name]
        if takes_file(source):
            return source
        if TRAINING_FILE not in self._sources:
            raise InvalidRequest("No plugin that reads files is loaded", param=VALIDATION_FILE)
        return self._sources[TRAINING_FILE]

    async def _in_thread(self, check: Callable[[_Named, Admitted], Admitted], named: _Named, to: Admitted) -> Admitted:
        async with self._turns.setdefault(to.job.key_id, asyncio.Lock()), self._places:
            try:
                return await asyncio.to_thread(check, named, to)
            except FileNotFoundError as error:  # deleted just now
                raise NamedFileNotFound(param=named.param) from error
            except BadRow as error:
                raise InvalidFile(error.told_of(named.source, named.content), param=named.param) from error
            except InvalidInput as error:
                # A field of the request itself (`labels`) is named as it is; a file has no paths.
                inside = not error.param or error.param.startswith((".", "["))
                raise InvalidFile(error.message, param=named.param if inside else error.param) from error

    def _check_training(self, named: _Named, admitted: Admitted) -> Admitted:
        given, job = admitted.given, admitted.job
        rows = named.source.check(named.content, given.labels)
        if rows is not None:
            good = checked(rows, given.labels, self._limits, given.mode)
            labels, mode, count = check_counts(good, given.labels, self._limits, given.mode)
            job = structs.replace(job, labels=labels, mode=mode, trained_examples=count)
        payload = msgspec.Raw(msgspec.json.encode(named.kept(runs.TRAINING_FILE)))
        return structs.replace(admitted, job=job, given=structs.replace(given, payload=payload))

    def _check_validation(self, named: _Named, admitted: Admitted) -> Admitted:
        given, job = admitted.given, admitted.job
        rows = named.source.check(named.content, given.labels)
        if rows is not None:
            # Before the job's own rows are known, so are neither its mode nor, perhaps, its labels.
            mode = given.mode
            if job.trained_examples:
                mode = "multi_label" if job.mode == "multi_label" else "single_label"
            allowed, number = frozenset(job.labels), -1
            for number, row in enumerate(checked(rows, (), self._limits, mode)):
                if unknown := [label for label in labels_of(row) if allowed and label not in allowed]:
                    raise InvalidFile(
                        f"{where(named.source, named.content, number)}: The job has no label {unknown[0]!r}",
                        param=named.param,
                    )
            if number < 0:
                raise InvalidFile("The file has no rows", param=named.param)
        kept = named.kept(runs.VALIDATION_FILE)
        return structs.replace(admitted, given=structs.replace(given, validation=kept))

    def _link(self, named: _Named, target: Path) -> None:
        try:
            self._files.blobs.link(named.file.sha256, target)
        except FileNotFoundError as error:  # deleted just now
            raise NamedFileNotFound(param=named.param) from error
