"""Decides what the published description says of each operation beyond its handler: name, tag, answers and errors.

A route without an entry here stops the start, so a handler cannot be added without being described.
"""

from __future__ import annotations

from reflexd.api import openapi_batches as batches
from reflexd.api import openapi_examples as examples
from reflexd.api.openapi_chat import CHAT
from reflexd.api.openapi_chat import TAG as CHAT_TAG
from reflexd.api.openapi_files import FILES, FILES_TAG
from reflexd.api.openapi_operation import BAD_LIMIT, BODY, LIMIT, PRIVATE, STORED, Operation
from reflexd.api.openapi_webhooks import WEBHOOK_OPERATIONS
from reflexd.errors import (
    BaseModelIncompatible,
    BaseModelNotFound,
    BaseModelNotReady,
    ContextLengthExceeded,
    IdempotencyKeyReused,
    InvalidFile,
    InvalidRequest,
    JobNotCancellable,
    JobNotFound,
    JobNotPausable,
    JobNotPrepared,
    JobNotResumable,
    LLMNotConfigured,
    ModelNotFound,
    ModelNotReady,
    ModelUnusable,
    NamedFileNotFound,
    NotSupportedYet,
    RateLimited,
    RouteNotFound,
    RowsGone,
    Unavailable,
)
from reflexd.schemas.reflex import BatchRequest, PredictRequest

TAGS = {
    "Jobs": "Training jobs, as in the OpenAI fine-tuning API.",
    **FILES_TAG,
    "Models": "The trained classifiers of a tenant, and the default Reflexes that all tenants share.",
    "Classification": "Ask one classifier, or many, about one text or many.",
    batches.TAG: batches.ABOUT,
    **CHAT_TAG,
    "Webhooks": "Who is told of jobs and batches that end, signed as Standard Webhooks has it.",
    "Probes": "What a load balancer, a service manager or Prometheus asks.",
}

CREATE = "CreateJobRequest"
"""The component of the create request, which no one Struct holds: each data source adds a field to it."""


JOB_ID = {"job_id": {"description": "The id of a job of yours.", "example": examples.JOB_ID}}
MODEL = {
    "model": {
        "description": "A served name, a job's id, or `name@version`. It is the whole rest of the path: a slash in it"
        " may be written as %2F or as it is.",
        "example": "tickets",
    }
}
METADATA = {
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "Only jobs whose metadata holds these pairs: `metadata[team]=support`. `metadata=null` asks for jobs"
    " without any.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
}

# A slash in a job's id makes the path another one, which no route answers.
ONE_JOB = (*STORED, JobNotFound(), RouteNotFound())
ONE_MODEL = (*STORED, ModelNotFound(param="model"), ModelNotReady(param="model"))
PREDICT = (
    *STORED,
    *BODY,
    ContextLengthExceeded(param="text"),
    ModelNotFound(param="model"),
    ModelNotReady(param="model"),
    RateLimited(),
    ModelUnusable(),
    Unavailable("The sentence encoder is still being loaded: try again in a moment"),
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/fine_tuning/jobs"): Operation(
        id="createFineTuningJob",
        tag="Jobs",
        description="Exactly one input is needed: the field of one data source. Everything that can be checked at once"
        " is checked before the answer.",
        answer=examples.queued_job(),
        errors=(
            *STORED,
            *BODY,
            InvalidRequest("The row's label is not among `labels`", param="training_data[3].label"),
            InvalidFile("line 3: The text is empty", param="training_file"),
            NamedFileNotFound(param="training_file"),
            InvalidRequest(
                "webhook_url cannot be used: 10.1.2.3 is no public address, and [network] allow does not list it",
                param="webhook_url",
            ),
            NotSupportedYet(param="integrations"),
            BaseModelNotFound(param="base_model"),
            BaseModelIncompatible(param="base_model"),
            LLMNotConfigured(param="generate"),
            IdempotencyKeyReused(),
            BaseModelNotReady(param="base_model"),
            RateLimited("This API key already has 10000 jobs waiting"),
        ),
        body=CREATE,
        requests=examples.CREATE_REQUESTS,
        parameters={
            "Idempotency-Key": {
                "description": "A second request with the same key and body returns the job that the first one made.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        },
    ),
    ("GET", "/v1/fine_tuning/jobs"): Operation(
        id="listFineTuningJobs",
        tag="Jobs",
        answer=examples.job_page(),
        errors=(*STORED, BAD_LIMIT),
        parameters={
            "limit": LIMIT,
            "after": {"description": "The id of a job of yours: the page begins behind it."},
            "metadata": METADATA,
        },
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}"): Operation(
        id="retrieveFineTuningJob",
        tag="Jobs",
        answer=examples.succeeded_job(),
        errors=ONE_JOB,
        parameters=JOB_ID,
    ),
    ("DELETE", "/v1/fine_tuning/jobs/{job_id}"): Operation(
        id="deleteFineTuningJob",
        tag="Jobs",
        description="A job that runs is ended.",
        answer=examples.deleted_job(),
        errors=ONE_JOB,
        parameters=JOB_ID,
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/cancel"): Operation(
        id="cancelFineTuningJob",
        tag="Jobs",
        answer=examples.cancelled_job(),
        errors=(*ONE_JOB, JobNotCancellable()),
        parameters=JOB_ID,
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/pause"): Operation(
        id="pauseFineTuningJob",
        tag="Jobs",
        answer=examples.paused_job(),
        errors=(*ONE_JOB, JobNotPausable()),
        parameters=JOB_ID,
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/resume"): Operation(
        id="resumeFineTuningJob",
        tag="Jobs",
        answer=examples.queued_job(),
        errors=(*ONE_JOB, JobNotResumable()),
        parameters=JOB_ID,
    ),
    ("POST", "/v1/fine_tuning/jobs/{job_id}/train"): Operation(
        id="trainFineTuningJob",
        tag="Jobs",
        description="Such a job was created with `auto_train: false`.",
        answer=examples.queued_job(auto_train=False),
        errors=(*ONE_JOB, JobNotPrepared()),
        parameters=JOB_ID,
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/rows"): Operation(
        id="listFineTuningRows",
        tag="Jobs",
        description="One row a line. What was made by a language model says how likely it is right, and who decided.",
        answer='{"text":"I was charged twice","label":"billing"}\n',
        errors=(*ONE_JOB, RowsGone()),
        parameters=JOB_ID,
        media="application/jsonl",
    ),
    ("PUT", "/v1/fine_tuning/jobs/{job_id}/rows"): Operation(
        id="replaceFineTuningRows",
        tag="Jobs",
        description="So rows that were made are reviewed: read, edited, put back, and then trained on.",
        answer=examples.queued_job(auto_train=False),
        errors=(*ONE_JOB, *BODY, JobNotPrepared(), InvalidRequest("The text is empty", param="rows[3].text")),
        body={"type": "string"},
        body_media="application/jsonl",
        requests={"rows": '{"text":"I was charged twice","label":"billing"}\n'},
        parameters=JOB_ID,
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/checkpoints"): Operation(
        id="listFineTuningCheckpoints",
        tag="Jobs",
        answer=examples.checkpoint_page(),
        errors=(*ONE_JOB, BAD_LIMIT),
        parameters={**JOB_ID, "limit": LIMIT, "after": {"description": "The id of a checkpoint of this job."}},
    ),
    ("GET", "/v1/fine_tuning/jobs/{job_id}/events"): Operation(
        id="listFineTuningEvents",
        tag="Jobs",
        answer=examples.event_page(),
        stream=examples.streamed_event(),
        errors=(*ONE_JOB, BAD_LIMIT, RateLimited("This API key has 100 event streams open already")),
        parameters={
            **JOB_ID,
            "limit": LIMIT,
            "after": {"description": "The id of an event of this job: what follows begins behind it."},
            "stream": {"description": "Answer with server-sent events as they come; `limit` then has no meaning."},
            "Last-Event-ID": {
                "description": "With `stream=true`: the id of the last event that was seen. It counts before `after`."
            },
        },
    ),
    **FILES,
    ("GET", "/v1/models"): Operation(
        id="listModels",
        tag="Models",
        answer=examples.model_page(),
        errors=PRIVATE,
    ),
    ("GET", "/v1/models/{model}"): Operation(
        id="retrieveModel",
        tag="Models",
        answer=examples.model(),
        errors=ONE_MODEL,
        parameters=MODEL,
    ),
    ("DELETE", "/v1/models/{model}"): Operation(
        id="deleteModel",
        tag="Models",
        answer=examples.deleted_model(),
        errors=(
            *ONE_MODEL,
            InvalidRequest("A default Reflex belongs to the installation and cannot be deleted", param="model"),
        ),
        parameters=MODEL,
    ),
    ("POST", "/v1/reflex/predict"): Operation(
        id="predict",
        tag="Classification",
        description="Give `model` or `models`, and `text` or `texts`. With one model and one text the answer is a"
        " Prediction, else Predictions.",
        answers={"One text, one model": examples.prediction(), "Several": examples.predictions()},
        errors=(*PREDICT, InvalidRequest("Give either model or models", param="model")),
        body=PredictRequest,
        requests=examples.PREDICT_REQUESTS,
    ),
    ("POST", "/v1/reflex/synchronous_predict_batch"): Operation(
        id="predictBatch",
        tag="Classification",
        description="A model that is unknown or not ready refuses the whole request.",
        answer=examples.batch_results(),
        errors=(*PREDICT, InvalidRequest("requests must hold 1 to 1000 entries, and holds 0", param="requests")),
        body=BatchRequest,
        requests=examples.BATCH_REQUESTS,
    ),
    **batches.OPERATIONS,
    **CHAT,
    **WEBHOOK_OPERATIONS,
    ("GET", "/healthz"): Operation(id="healthz", tag="Probes", answer={"status": "ok"}),
    ("HEAD", "/healthz"): Operation(id="healthzHead", tag="Probes"),
    ("GET", "/health"): Operation(id="health", tag="Probes", answer={"status": "ok"}),
    ("HEAD", "/health"): Operation(id="healthHead", tag="Probes"),
    ("GET", "/readyz"): Operation(
        id="readyz", tag="Probes", answer={"status": "ok", "reasons": {}}, other={"503": examples.NOT_READY}
    ),
    ("HEAD", "/readyz"): Operation(id="readyzHead", tag="Probes", other={"503": examples.NOT_READY}),
    ("GET", "/metrics"): Operation(
        id="metrics", tag="Probes", answer=examples.METRICS, media="text/plain", errors=PRIVATE
    ),
}
