"""Decides how batches look on the wire: Morph's status object and results (spec 1.7), and OpenAI's Batch (spec 3.4)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from reflexd.schemas.reflex import BatchResult, Fields, GivenRow, LongText

ENDPOINT = "/v1/reflex/predict"
"""The one route whose requests a batch of /v1/batches may hold."""
MAX_CUSTOM_ID = 256
"""Characters of what tells one row of a batch from the others."""
COMPLETION_WINDOW = "24h"

ReflexStatus = Literal["queued", "in_progress", "completed", "failed", "cancelling", "cancelled", "expired"]
OpenAIStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


class UploadRequest(Struct, kw_only=True):
    """Body of POST /v1/reflex/asynchronous_batches/upload; what is wrong with a row's text is told in its result."""

    requests: list[GivenRow]
    fields: Fields | None = None
    long_text: LongText = "error"


class UploadRow(Struct, kw_only=True):
    """One text with the models to ask; `id` is the caller's, different for each row, and comes back."""

    id: Annotated[str, Meta(max_length=MAX_CUSTOM_ID)]
    model: list[str]
    text: str


class RequestCounts(Struct, kw_only=True):
    """Rows or requests of a batch: all of them, those that were answered and those that could not be."""

    total: int
    completed: int
    failed: int


class BatchProblem(Struct, kw_only=True):
    """Why a batch as a whole came to nothing, in OpenAI's words; `line` counts the lines of the input file from 1."""

    code: str
    line: int | None = None
    message: str
    param: str | None = None


class BatchProblems(Struct, kw_only=True):
    """Up to a hundred of them."""

    object: Literal["list"] = "list"
    data: list[BatchProblem]


class ReflexBatch(Struct, kw_only=True):
    """A batch of rows; times are unix seconds."""

    id: str
    object: Literal["reflex.batch"] = "reflex.batch"
    status: ReflexStatus
    request_counts: RequestCounts
    created_at: int
    in_progress_at: int | None = None
    cancelling_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    cancelled_at: int | None = None
    expired_at: int | None = None
    expires_at: int
    errors: BatchProblems | None = None


class UploadedResults(Struct, kw_only=True):
    """What came of a batch's rows, in their order; of one that did not complete, only the rows that were done."""

    object: Literal["reflex.batch.results"] = "reflex.batch.results"
    results: list[BatchResult]


class Batch(Struct, kw_only=True):
    """A batch of requests from a file; times are unix seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchProblems | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: OpenAIStatus
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts
    metadata: dict[str, str] | None = None
