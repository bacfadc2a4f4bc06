"""Decides the routes of /v1/fine_tuning/jobs, and how a job's row becomes the union job object."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import Parameter

from reflexd.schemas.openai import Deleted, FineTuningJob, JobError, JobEvent, Page
from reflexd.service.jobs import JobService, event_prefix
from reflexd.store.jobs import Event, Job
from reflexd.store.keys import Key
from reflexd.store.models import ModelStore

T = TypeVar("T", FineTuningJob, JobEvent)
Limit = Annotated[int, Parameter(ge=1, le=100, query="limit")]


class FineTuningController(Controller):
    """Training jobs."""

    path = "/v1/fine_tuning/jobs"
    opt = {"scope": "train"}  # noqa: RUF012 - Litestar reads it from the class

    @post(status_code=200)
    async def create(self, body: bytes, key: Key, jobs: JobService, models: ModelStore) -> FineTuningJob:
        """Create a job."""
        return job_object(await jobs.create(key, body), models)

    @get()
    async def page(
        self, key: Key, jobs: JobService, models: ModelStore, limit: Limit = 20, after: str | None = None
    ) -> Page[FineTuningJob]:
        """List the tenant's jobs, newest first."""
        found, more = await jobs.page(key, limit, after)
        return make_page([job_object(job, models) for job in found], more)

    @get("/{job_id:str}")
    async def retrieve(self, job_id: str, key: Key, jobs: JobService, models: ModelStore) -> FineTuningJob:
        """Show one job."""
        return job_object(await jobs.get(key, job_id), models)

    @post("/{job_id:str}/cancel", status_code=200)
    async def cancel(self, job_id: str, key: Key, jobs: JobService, models: ModelStore) -> FineTuningJob:
        """End a job that has not ended."""
        return job_object(await jobs.cancel(key, job_id), models)

    @get("/{job_id:str}/events")
    async def events(
        self, job_id: str, key: Key, jobs: JobService, limit: Limit = 20, after: str | None = None
    ) -> Page[JobEvent]:
        """List a job's events, oldest first."""
        found, more = await jobs.events(key, job_id, limit, after)
        return make_page([event_object(event) for event in found], more)

    @delete("/{job_id:str}", status_code=200)
    async def remove(self, job_id: str, key: Key, jobs: JobService) -> Deleted:
        """Delete a job and its model."""
        await jobs.delete(key, job_id)
        return Deleted(id=job_id, object="fine_tuning.job.deleted")


def make_page(data: list[T], more: bool) -> Page[T]:
    """Return one page with the cursors that OpenAI's lists carry."""
    return Page(data=data, has_more=more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None)


def job_object(job: Job, models: ModelStore) -> FineTuningJob:
    """Return the union job object of spec section 7; `prepare` and `train` both report as running (row 6)."""
    version = models.of_job(job.tenant_id, job.id)
    phase = None
    if job.status == "running":
        phase = "validating_files" if job.stage == "prepare" else "training"
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=job.status,
        phase=phase,
        model=job.model,
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
        seed=job.seed,
        organization_id=job.tenant_id,
        metadata=job.metadata,
        auto_train=job.auto_train,
    )


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
