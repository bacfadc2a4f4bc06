"""Decides the OpenAI-shaped objects of /v1: the union job object, events, models and list pages (spec 1.3, 3.3, 7).

Every field that the official SDK needs in strict mode is present and never null where its type forbids null.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct, field

T = TypeVar("T")

COLD_START = "morph-reflex-v1"
"""The value of `model` that means: train from scratch."""


class JobError(Struct, frozen=True):
    """Why a job failed; always the whole triple, since the SDK's strict mode needs it."""

    code: str
    message: str
    param: str | None = None


class Method(Struct, frozen=True):
    """The SDK's `method` object."""

    type: Literal["supervised"] = "supervised"


class FineTuningJob(Struct, kw_only=True):
    """A training job as every client sees it; `created_at` and `finished_at` are unix seconds."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None = None
    estimated_finish: int | None = None
    status: str
    phase: str | None = None
    paused: bool = False
    model: str
    base_model: str | None = None
    base_model_version: int | None = None
    fine_tuned_model: str | None = None
    version: int | None = None
    suffix: str | None = None
    labels: list[str]
    mode: str
    trained_examples: int
    trained_tokens: int | None = None
    result: dict[str, Any] | None = None
    error: JobError | None = None
    training_file: str
    validation_file: str | None = None
    result_files: list[str] = field(default_factory=list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    seed: int
    organization_id: str
    integrations: list[Any] | None = None
    metadata: dict[str, str] | None = None
    method: Method = Method()
    auto_train: bool = True
    webhook_url: str | None = None


class JobEvent(Struct, kw_only=True):
    """One line of a job's history; `metrics` lines carry {epoch, step, train_loss} in `data`."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] = field(default_factory=dict)


class CheckpointMetrics(Struct, kw_only=True):
    """The last point of the loss curve."""

    step: int | None = None
    train_loss: float | None = None


class Checkpoint(Struct, kw_only=True):
    """A model that a job has left on its way; here the one at its end, under its versioned name."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int


class Page(Struct, Generic[T], kw_only=True):
    """One page of a keyset-paged list."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Model(Struct, kw_only=True):
    """A served name and the version that it points at, or `name@version` for a version that it points at no more."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    labels: list[str]
    mode: str
    version: int
    versions: list[int]
    job_id: str | None
    backbone: str
    precision: str
    result: dict[str, Any] | None = None


class Deleted(Struct, kw_only=True):
    """The answer to a DELETE."""

    id: str
    object: Literal["fine_tuning.job.deleted", "model", "file"]
    deleted: Literal[True] = True
