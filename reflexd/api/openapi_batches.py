"""Decides what the published description says of the routes of batches."""

from __future__ import annotations

from typing import Any

import msgspec

from reflexd.api.openapi_examples import TEXT, prediction
from reflexd.api.openapi_operation import BAD_LIMIT, BODY, LIMIT, STORED, Operation
from reflexd.errors import (
    BatchNotCancellable,
    BatchNotFound,
    BatchNotReady,
    FileNotFound,
    FilesFull,
    IdempotencyKeyReused,
    InvalidFile,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    RateLimited,
    RouteNotFound,
    TooManyModels,
)
from reflexd.schemas.batches import Batch, ReflexBatch, RequestCounts, UploadRequest
from reflexd.schemas.openai import Page

TAG = "Batches"
ABOUT = "Hand over thousands of texts at once, and fetch what came of them later."
CREATE = "CreateBatchRequest"
UPLOADED = "rbatch-0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
BATCH = "batch_0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
FILE = "file-0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f02"
CREATED = 1782000000
TIMES: dict[str, Any] = {"created_at": CREATED, "in_progress_at": CREATED + 1}
KEY = {
    "Idempotency-Key": {
        "description": "A second request with the same key and body returns the batch that the first one made.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
}
TOO_MANY = RateLimited("This API key already has 100 batches that have not ended")
# A slash in a batch's id makes the path another one, which no route answers.
ONE = (*STORED, BatchNotFound(), RouteNotFound())

UPLOADS: dict[str, Any] = {
    "Rows with their own models": {
        "requests": [
            {"id": "a", "model": ["tickets"], "text": TEXT},
            {"id": "b", "model": ["tickets", "topics"], "text": "The app crashes"},
            {"id": "c", "model": ["tickets"], "text": ""},
        ]
    },
    "Only some keys": {
        "requests": [{"id": "a", "model": ["tickets"], "text": TEXT}],
        "fields": ["label", "confidence"],
    },
}
CREATES: dict[str, Any] = {
    "A file of requests": {"input_file_id": FILE, "endpoint": "/v1/reflex/predict", "completion_window": "24h"},
    "With metadata, and answers that are kept for a day": {
        "input_file_id": FILE,
        "endpoint": "/v1/reflex/predict",
        "completion_window": "24h",
        "metadata": {"team": "support"},
        "output_expires_after": {"anchor": "created_at", "seconds": 86_400},
    },
}


def _uploaded(status: Any, **given: Any) -> Any:
    counts = RequestCounts(total=3, completed=2 * (status == "completed"), failed=int(status == "completed"))
    fields: dict[str, Any] = {"request_counts": counts, "expires_at": CREATED + 7 * 86_400}
    return msgspec.to_builtins(ReflexBatch(id=UPLOADED, status=status, **fields | TIMES | given))


def _batch(status: Any, **given: Any) -> Any:
    fields: dict[str, Any] = {
        "id": BATCH,
        "endpoint": "/v1/reflex/predict",
        "input_file_id": FILE,
        "request_counts": RequestCounts(total=3, completed=2, failed=1),
        "expires_at": CREATED + 86_400,
    }
    return msgspec.to_builtins(Batch(status=status, **fields | TIMES | given))


def _results() -> Any:
    error = {"message": "The text is empty", "type": "invalid_request_error", "param": "text", "code": None}
    results = [{"id": "a", "predictions": [prediction()]}, {"id": "c", "error": error}]
    return {"object": "reflex.batch.results", "results": results}


def _id(example: str) -> Any:
    return {"batch_id": {"description": "The id of a batch of yours.", "example": example}}


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/reflex/asynchronous_batches/upload"): Operation(
        id="uploadBatch",
        tag=TAG,
        description="Each row names its models in a list. A model that is unknown or not ready refuses the whole"
        " request, and so do two rows of one id; what is wrong with a text is told in its row's result. All rows are"
        " classified by the models as they are now, whatever is trained meanwhile. What is not done after seven days"
        " expires.",
        answer=_uploaded("queued", in_progress_at=None),
        errors=(
            *STORED,
            *BODY,
            InvalidRequest("Expected `array`, got `str` (in model)", param="requests[3].model"),
            TooManyModels(param="requests[3].model"),
            IdempotencyKeyReused(),
            ModelNotFound(param="requests[0].model"),
            ModelNotReady(param="requests[0].model"),
            TOO_MANY,
        ),
        body=UploadRequest,
        requests=UPLOADS,
        parameters=KEY,
    ),
    ("GET", "/v1/reflex/asynchronous_batches/{batch_id}"): Operation(
        id="retrieveUploadedBatch",
        tag=TAG,
        answer=_uploaded("completed", completed_at=CREATED + 2),
        errors=ONE,
        parameters=_id(UPLOADED),
    ),
    ("GET", "/v1/reflex/asynchronous_batches/{batch_id}/results"): Operation(
        id="retrieveBatchResults",
        tag=TAG,
        answer=_results(),
        errors=(*ONE, BatchNotReady()),
        parameters=_id(UPLOADED),
    ),
    ("POST", "/v1/reflex/asynchronous_batches/{batch_id}/cancel"): Operation(
        id="cancelUploadedBatch",
        tag=TAG,
        answer=_uploaded("cancelling", cancelling_at=CREATED + 2),
        errors=(*ONE, BatchNotCancellable()),
        parameters=_id(UPLOADED),
    ),
    ("POST", "/v1/batches"): Operation(
        id="createBatch",
        tag=TAG,
        description='Each line of the file is `{"custom_id", "method": "POST", "url": "/v1/reflex/predict",'
        ' "body"}`, where the body is a PredictRequest. The lines are checked first: the batch fails where one is no'
        " such line, and tells which. A body that is refused is a line of the error file.",
        answer=_batch("validating", in_progress_at=None, request_counts=RequestCounts(total=0, completed=0, failed=0)),
        errors=(
            *STORED,
            *BODY,
            InvalidRequest("Invalid enum value '/v1/responses' (in endpoint)", param="endpoint"),
            InvalidFile("The file's purpose must be batch", param="input_file_id"),
            FilesFull(),
            IdempotencyKeyReused(),
            FileNotFound(param="input_file_id"),
            TOO_MANY,
        ),
        body=CREATE,
        requests=CREATES,
        parameters=KEY,
    ),
    ("GET", "/v1/batches"): Operation(
        id="listBatches",
        tag=TAG,
        answer=msgspec.to_builtins(Page(data=[_batch("in_progress")], first_id=BATCH, last_id=BATCH)),
        errors=(*STORED, BAD_LIMIT),
        parameters={
            "limit": LIMIT,
            "after": {"description": "The id of a batch of yours: the page begins behind it."},
        },
    ),
    ("GET", "/v1/batches/{batch_id}"): Operation(
        id="retrieveBatch",
        tag=TAG,
        answer=_batch("completed", completed_at=CREATED + 2, output_file_id=FILE[:-1] + "3"),
        errors=ONE,
        parameters=_id(BATCH),
    ),
    ("POST", "/v1/batches/{batch_id}/cancel"): Operation(
        id="cancelBatch",
        tag=TAG,
        answer=_batch("cancelling", cancelling_at=CREATED + 2),
        errors=(*ONE, BatchNotCancellable()),
        parameters=_id(BATCH),
    ),
}
