"""Shows that the SDK's file methods work in strict mode, and that jobs are trained from files as it sends them."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests import jobs
from tests.rows import TICKETS

LINES = "".join(json.dumps(row) + "\n" for row in TICKETS).encode()


@pytest.fixture
def files(client: openai.OpenAI) -> Iterator[openai.OpenAI]:
    """The strict client; its files are deleted afterwards, after each of which the same list must still answer."""
    yield client
    while found := client.files.list(limit=100).data:
        for file in found:
            client.files.delete(file.id)


def test_a_file_comes_back_as_it_went(files: openai.OpenAI, tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000 + b"\r\n--boundary\r\n--\r\n"
    path = tmp_path / "größe 2.jsonl"
    path.write_bytes(content)
    made = files.files.create(file=path, purpose="fine-tune")
    assert made.id.startswith("file-")
    assert (made.object, made.status, made.purpose) == ("file", "processed", "fine-tune")
    assert (made.bytes, made.filename, made.expires_at) == (len(content), "größe 2.jsonl", None)
    assert abs(made.created_at - time.time()) < 60
    assert files.files.retrieve(made.id) == made
    answer = files.files.with_raw_response.content(made.id)
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"] == "attachment"
    gone = files.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for ask in (files.files.retrieve, files.files.content, files.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            ask(made.id)
        assert (refused.value.code, refused.value.type) == ("file_not_found", "invalid_request_error")


def test_a_list_pages_without_gap_in_both_orders(files: openai.OpenAI) -> None:
    purposes = ["fine-tune", "batch", "fine-tune", "fine-tune", "batch"]
    made = [files.files.create(file=(f"{n}.jsonl", b"{}"), purpose=purpose) for n, purpose in enumerate(purposes)]  # type: ignore[arg-type]
    ids = [file.id for file in made]
    assert [file.id for file in files.files.list()] == ids[::-1]
    assert [file.id for file in files.files.list(order="asc", limit=2)] == ids
    assert [file.id for file in files.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in files.files.list(purpose="batch", limit=1, order="asc")] == [ids[1], ids[4]]
    first = files.files.list(limit=3)
    assert (first.has_more, len(first.data)) == (True, 3)
    rest = files.files.list(limit=3, after=first.data[-1].id)
    assert (rest.has_more, len(rest.data)) == (False, 2)
    for query in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-nobodys"}):
        with pytest.raises(openai.BadRequestError) as refused:
            files.files.list(**query)  # type: ignore[arg-type]
        assert refused.value.param == next(iter(query))


def test_a_file_for_a_batch_expires_and_any_may_be_told_to(files: openai.OpenAI) -> None:
    def lives(purpose: str, **given: object) -> int | None:
        made = files.files.create(file=("a.jsonl", b"{}"), purpose=purpose, **given)  # type: ignore[call-overload]
        return None if made.expires_at is None else made.expires_at - made.created_at

    def after(seconds: object) -> dict[str, object]:
        return {"expires_after": {"anchor": "created_at", "seconds": seconds}}

    assert lives("fine-tune") is None
    assert lives("batch") in (30 * 86_400, 30 * 86_400 - 1)
    assert lives("fine-tune", **after(3_600)) in (3_600, 3_599)
    assert lives("batch", **after(2_592_000)) in (2_592_000, 2_591_999)
    for seconds in (3_599, 2_592_001, -5, 0, "soon"):
        with pytest.raises(openai.BadRequestError) as refused:
            lives("batch", **after(seconds))
        assert refused.value.param == "expires_after[seconds]"
    for wrong in ({"anchor": "now", "seconds": 4_000}, {"seconds": 4_000}):
        with pytest.raises(openai.BadRequestError) as refused:
            lives("batch", expires_after=wrong)
        assert refused.value.param == "expires_after[anchor]"


@pytest.mark.parametrize("purpose", ["assistants", "vision", "user_data", "batch_output", "fine-tune-results", "x", ""])
def test_other_purposes_are_refused_by_name(files: openai.OpenAI, purpose: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        files.files.create(file=("a.jsonl", b"{}"), purpose=purpose)  # type: ignore[arg-type]
    assert refused.value.param == "purpose"
    assert "fine-tune or batch" in str(refused.value)
    assert files.files.list().data == []


def test_a_job_is_trained_from_a_file_and_scored_on_another(files: openai.OpenAI) -> None:
    rows = files.files.create(file=io.BytesIO(LINES), purpose="fine-tune")
    others = b'{"text": "The screen stays black", "label": "bug"}\n{"text": "I was billed twice", "label": "billing"}'
    judge = files.files.create(file=("judge.jsonl", others), purpose="fine-tune")
    job = files.fine_tuning.jobs.create(
        model="morph-reflex-v1", training_file=rows.id, validation_file=judge.id, suffix="from-a-file"
    )
    assert (job.training_file, job.validation_file) == (rows.id, judge.id)
    assert (job.model_extra["labels"], job.model_extra["trained_examples"]) == (["billing", "bug"], 10)
    done = jobs.wait_for_status(files, job.id, "succeeded")
    assert (done.training_file, done.validation_file) == (rows.id, judge.id)
    assert jobs.predict(files, "from-a-file", "the window freezes")["label"] == "bug"
    result = done.model_extra["result"]
    assert (result["method"], result["n"]) == ("validation_file", 2)
    assert result["cross_validated"]["n"] == 10
    assert files.models.retrieve("from-a-file").model_extra["result"]["method"] == "validation_file"
