"""Shows that a stranger's plugin may read uploaded files too, and what becomes of labels that the model has not."""

from __future__ import annotations

import asyncio
import csv
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reflexd.config import Files, Limits
from reflexd.engine.encoder import Encoder
from reflexd.engine.prepare import prepare
from reflexd.engine.trainer import train
from reflexd.errors import InvalidFile, InvalidRequest, JobFailure, StartupError
from reflexd.hookspecs import DataSource, Example, InputFile, SourceContext
from reflexd.registry import runs
from reflexd.registry.blobs import Blobs
from reflexd.schemas.worker import Message, Metrics
from reflexd.service.admission import Admission, Admitted, Repeat
from reflexd.service.files import FileService
from reflexd.service.job_files import JobFiles
from reflexd.service.uploads import Uploads
from reflexd.store.keys import Key
from reflexd.store.store import Store
from reflexd_plugins.inline import InlineRows
from tests.daemons import DEADLINE
from tests.unit.test_engine import BILLING, BUGS, ROWS, spec_for
from tests.unit.test_store import make_key

CSV = "text,label\n" + "".join(f"{row.text},{row.label}\n" for row in ROWS)


class Table:
    """A field `table` that holds the id of a CSV file; `known` says whether its rows are known before the job runs."""

    name = "table"
    payload_type = InputFile

    def __init__(self, known: bool) -> None:
        self.known = known
        self.seen: list[InputFile] = []

    def check(self, payload: InputFile, labels: Sequence[str]) -> Iterator[Example] | None:
        self.seen.append(payload)
        return self._read(payload) if self.known else None

    def rows(self, payload: InputFile, context: SourceContext) -> Iterator[Example]:
        self.seen.append(payload)
        return self._read(payload)

    def _read(self, file: InputFile) -> Iterator[Example]:
        with file.path.open(newline="") as content:
            for row in csv.DictReader(content):
                yield Example(row["text"], row["label"])


class Desk:
    """What admits jobs whose input is a table."""

    def __init__(self, store: Store, key: Key, folder: Path, table: Table) -> None:
        (folder / "files").mkdir()
        (folder / "runs").mkdir()
        self.key = key
        self.files = FileService(store, Blobs(folder / "files"))
        self.uploads = Uploads(store, self.files, Files())
        self.folder = folder
        self.sources: dict[str, DataSource] = {"table": table, "training_data": InlineRows()}
        self.job_files = JobFiles(self.files, self.sources, Limits())

    async def upload(self, content: str, purpose: str = "fine-tune") -> str:
        upload = await self.uploads.begin(self.key.tenant_id)
        try:
            await upload.write(content.encode())
            return (await upload.finish("rows.csv", purpose, None)).id
        finally:
            await upload.discard()

    async def admit(self, key: Key | None = None, /, **body: Any) -> Admitted:
        admission = Admission(self.sources, Limits(), any_url)
        admitted = admission.admit(key or self.key, msgspec.json.encode(body), "", Repeat())
        checked, links = await self.job_files.check(admitted)
        runs.create(self.folder / "runs", checked.job.id, checked.given, None, links)
        return checked

    def run(self, job_id: str) -> list[Example] | None:
        spec = msgspec.structs.replace(spec_for(self.folder / "runs" / job_id), stage="prepare")
        prepare(spec, self.sources, lambda: pytest.fail("no encoder is needed"), lambda _: None, threading.Event())
        return runs.read_validation(Path(spec.run_dir), Example)


@pytest.fixture(params=[True, False], ids=["known", "unknown"])
def table(request: pytest.FixtureRequest) -> Table:
    return Table(request.param)


@pytest.fixture
async def desk(store: Store, tmp_path: Path, table: Table) -> Desk:
    return Desk(store, await make_key(store, "desk"), tmp_path, table)


pytestmark = pytest.mark.anyio


def any_url(url: str, param: str) -> None:
    """Refuse none: these requests name no webhook."""


async def test_a_strangers_source_gets_the_file_in_both_processes(desk: Desk, table: Table) -> None:
    rows, judge = await desk.upload(CSV), await desk.upload("text,label\nIt ends,bug\n")
    admitted = await desk.admit(table=rows, validation_file=judge)
    assert (admitted.job.source, admitted.job.training_file, admitted.job.validation_file) == ("table", rows, judge)
    assert admitted.job.trained_examples == (10 if table.known else 0)
    for file_id in (rows, judge):
        await desk.files.delete(desk.key, file_id, retried=False)
    run_dir = desk.folder / "runs" / admitted.job.id
    assert str(desk.folder) not in (run_dir / runs.INPUT).read_text(), "the directory may be moved"
    assert desk.run(admitted.job.id) == [Example("It ends", "bug")]
    assert runs.read_rows(run_dir, Example) == ROWS
    assert {(file.filename, file.bytes) for file in table.seen} == {("rows.csv", len(CSV)), ("rows.csv", 23)}
    assert not (run_dir / runs.TRAINING_FILE).exists()


@pytest.mark.parametrize("table", [True], indirect=True)
async def test_one_keys_files_leave_a_place_to_the_next_key(desk: Desk, store: Store, table: Table) -> None:
    """None of the first key's files comes to an end before the other's is checked."""
    inside, go_on = threading.Semaphore(0), threading.Event()

    class Slow(Table):
        name = "slow"

        def check(self, payload: InputFile, labels: Sequence[str]) -> Iterator[Example] | None:
            inside.release()
            assert go_on.wait(DEADLINE)
            return super().check(payload, labels)

    desk.sources["slow"] = Slow(known=True)
    other = await make_key(store, "other", tenant="desk")
    file_id = await desk.upload(CSV)
    held = [asyncio.create_task(desk.admit(slow=file_id)) for _ in range(4)]
    try:
        assert await asyncio.to_thread(inside.acquire, timeout=DEADLINE)
        admitted = await asyncio.wait_for(desk.admit(other, table=file_id), DEADLINE)
        assert admitted.job.trained_examples == 10
        assert not any(task.done() for task in held)
    finally:
        go_on.set()
        await asyncio.gather(*held)


async def test_a_bad_row_is_told_by_its_number_where_the_source_says_no_more(desk: Desk, table: Table) -> None:
    file_id = await desk.upload(CSV + " ,bug\n")
    if table.known:
        with pytest.raises(InvalidFile) as refused:
            await desk.admit(table=file_id)
        assert (refused.value.message, refused.value.param) == ("row 10: The text is empty", "table")
        return
    admitted = await desk.admit(table=file_id)
    with pytest.raises(JobFailure) as failed:
        desk.run(admitted.job.id)
    assert (failed.value.code, failed.value.param) == ("invalid_training_row", "table")
    assert failed.value.message == "row 10: The text is empty"


async def test_a_bad_validation_row_ends_the_job_that_could_not_know(desk: Desk, table: Table) -> None:
    rows, judge = await desk.upload(CSV), await desk.upload("text,label\n,bug\n")
    if table.known:
        with pytest.raises(InvalidFile, match="row 0: The text is empty"):
            await desk.admit(table=rows, validation_file=judge)
        return
    admitted = await desk.admit(table=rows, validation_file=judge)
    with pytest.raises(JobFailure) as failed:
        desk.run(admitted.job.id)
    assert (failed.value.code, failed.value.param) == ("invalid_validation_row", "validation_file")


async def test_labels_of_the_request_are_the_only_ones_of_a_validation_file(desk: Desk) -> None:
    rows, judge = await desk.upload(CSV), await desk.upload("text,label\nx,question\n")
    if desk.sources["table"].known:  # type: ignore[attr-defined]
        with pytest.raises(InvalidFile, match="row 0: The job has no label 'question'"):
            await desk.admit(table=rows, validation_file=judge, labels=["billing", "bug"])
    else:
        admitted = await desk.admit(table=rows, validation_file=judge, labels=["billing", "bug"])
        assert desk.run(admitted.job.id) == [Example("x", "question")]


async def test_without_a_plugin_that_reads_files_none_is_scored(desk: Desk) -> None:
    inline = [msgspec.to_builtins(row) for row in ROWS]
    with pytest.raises(InvalidRequest) as refused:
        await desk.admit(training_data=inline, validation_file=await desk.upload(CSV))
    assert refused.value.param == "validation_file"
    admitted = await desk.admit(training_data=inline, training_file="file-x")
    assert admitted.job.training_file.startswith("file-inline-")


def test_the_name_training_file_is_for_sources_that_read_files() -> None:
    class Other(InlineRows):
        name = "training_file"

    with pytest.raises(StartupError):
        Admission({"training_file": Other()}, Limits(), any_url)


# --- the score ------------------------------------------------------------------------------------------------------


def test_labels_that_the_model_does_not_have_count_as_wrong(encoder: Encoder, tmp_path: Path) -> None:
    events: list[Message | Metrics] = []
    judge = [Example("I want a refund now", "billing"), Example("When do you open", "question")]
    done = train(spec_for(tmp_path), ROWS, ["billing", "bug"], encoder, events.append, validation=judge)
    assert (done.result["n"], done.result["accuracy"]) == (2, 0.5)
    assert done.result["per_label"]["question"] == {"precision": 0.0, "recall": 0.0, "f1_score": 0.0, "n": 1}
    (told,) = (found for found in done.result["warnings"] if found["code"] == "validation_labels_unknown")
    assert told["labels"] == ["question"]
    assert told["message"].startswith("1 row of the validation file has a label that the model does not")
    assert told["message"] in [event.message for event in events if isinstance(event, Message)]


def test_of_several_labels_too(encoder: Encoder, tmp_path: Path) -> None:
    rows = [Example(text, None, ("billing",)) for text in BILLING] + [Example(text, None, ("bug",)) for text in BUGS]
    judge = [Example("Refund me", None, ("question",)), Example("Refund me now", None, ("billing", "question"))]
    done = train(spec_for(tmp_path), rows, ["billing", "bug"], encoder, lambda _: None, "multi_label", judge)
    assert (done.result["n"], done.result["accuracy"], done.result["method"]) == (2, 0.0, "validation_file")
