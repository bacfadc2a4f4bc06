"""Decides how rows of jobs, events and models look on the wire: the union objects of spec section 7."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from reflexd.schemas.files import FileObject
from reflexd.schemas.openai import (
    Checkpoint,
    CheckpointMetrics,
    FineTuningJob,
    JobError,
    JobEvent,
    Model,
    Page,
)
from reflexd.schemas.webhooks import WebhookDelivery, WebhookEndpoint
from reflexd.service.jobs import event_prefix
from reflexd.store.models import ModelStore, ModelVersion
from reflexd.store.records import Event, Job

T = TypeVar("T", FineTuningJob, JobEvent, Checkpoint, FileObject, WebhookEndpoint, WebhookDelivery)


def make_page(data: list[T], more: bool = False) -> Page[T]:
    """Return one page with the cursors that OpenAI's lists carry."""
    return Page(data=data, has_more=more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)


def job_object(job: Job, models: ModelStore) -> FineTuningJob:
    """Return the union job object: `prepare` and `train` both report as running (row 6), paused as queued (row 8)."""
    version = models.of_job(job.tenant_id, job.id)
    status = "queued" if job.paused else job.status
    phase = None
    if status == "running":
        phase = "validating_files" if job.stage == "prepare" else "training"
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=status,
        phase=phase,
        paused=job.paused,
        model=job.model,
        base_model=job.base_model,
        base_model_version=job.base_model_version,
        fine_tuned_model=job.served_name if job.status == "succeeded" else None,
        version=version.version if version else None,
        suffix=job.suffix,
        labels=job.labels,
        mode=job.mode,
        trained_examples=job.trained_examples,
        trained_tokens=job.trained_tokens,
        result=job.result,
        error=msgspec.convert(job.error, JobError) if job.error else None,
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=job.result_files,
        seed=job.seed,
        organization_id=job.tenant_id,
        metadata=job.metadata,
        hyperparameters=job.hyperparameters,
        auto_train=job.auto_train,
        webhook_url=shortened(job.webhook_url) if job.webhook_url is not None else None,
    )


def shortened(url: str) -> str:
    """Return a URL without its path and query, which may hold somebody's secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def event_object(event: Event) -> JobEvent:
    """Return the wire form of an event; its id carries its number within the job."""
    return JobEvent(
        id=f"{event_prefix(event.job_id)}-{event.n}",
        created_at=event.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def checkpoints_of(job: Job, last: Event | None, models: ModelStore) -> list[Checkpoint]:
    """Return the checkpoints of a job: none before it has succeeded, and then its model."""
    version = models.of_job(job.tenant_id, job.id)
    if version is None:
        return []
    point = last.data if last is not None else {}
    return [
        Checkpoint(
            id="ftckpt-" + job.id.removeprefix("ftjob-"),
            created_at=version.created_at,
            fine_tuned_model_checkpoint=f"{version.name}@{version.version}",
            fine_tuning_job_id=job.id,
            metrics=CheckpointMetrics(step=point.get("step"), train_loss=point.get("train_loss")),
            step_number=point.get("step", 0),
        )
    ]


def model_object(versions: list[ModelVersion], shown: ModelVersion) -> Model:
    """Return the wire form of a served name, or of one version that is not its latest."""
    latest = versions[-1].id == shown.id
    return Model(
        id=shown.name if latest else f"{shown.name}@{shown.version}",
        created=shown.created_at,
        owned_by=shown.tenant_id,
        labels=shown.labels,
        mode=shown.mode,
        version=shown.version,
        versions=[v.version for v in versions],
        job_id=shown.job_id or None,
        backbone=shown.backbone,
        precision=shown.precision,
        result=shown.result,
    )
