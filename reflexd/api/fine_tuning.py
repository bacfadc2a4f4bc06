"""Decides the routes of /v1/fine_tuning/jobs."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post, put
from litestar.params import Parameter
from litestar.response.sse import ServerSentEventMessage

from reflexd.api.job_objects import checkpoints_of, event_object, job_object, make_page
from reflexd.api.streams import EventStream
from reflexd.errors import InvalidRequest, ReflexError
from reflexd.schemas.openai import Checkpoint, Deleted, FineTuningJob, JobEvent, Page
from reflexd.service.admission import MAX_METADATA_PAIRS, Repeat
from reflexd.service.event_streams import End, EventStreams, Silence
from reflexd.service.jobs import JobService, event_number
from reflexd.service.made_rows import MadeRows
from reflexd.store.keys import Key
from reflexd.store.models import ModelStore
from reflexd.store.records import Event

Limit = Annotated[int, Parameter(ge=1, le=100)]
JSON_LINES = "application/jsonl"
METADATA_PAIR = re.compile(r"metadata\[(.+)\]", re.DOTALL)


class FineTuningController(Controller):
    """Training jobs."""

    path = "/v1/fine_tuning/jobs"
    opt = {"scope": "train"}  # noqa: RUF012 - Litestar reads it from the class

    @post(status_code=200)
    async def create(
        self,
        body: bytes,
        key: Key,
        jobs: JobService,
        models: ModelStore,
        retried: bool,
        idempotency_key: Annotated[str | None, Parameter(header="Idempotency-Key")] = None,
    ) -> FineTuningJob:
        """Create a job; one that the same request has made before is returned instead."""
        return job_object(await jobs.create(key, body, Repeat(idempotency_key, retried)), models)

    @get()
    async def page(
        self,
        request: Request[Any, Any, Any],
        key: Key,
        jobs: JobService,
        models: ModelStore,
        limit: Limit = 20,
        after: str | None = None,
    ) -> Page[FineTuningJob]:
        """List the tenant's jobs, newest first; `metadata[k]=v` restricts them to those that carry the pair."""
        metadata, bare = _metadata_filter(request.query_params.multi_items())
        found, more = await jobs.page(key, limit, after, metadata, bare=bare)
        return make_page([job_object(job, models) for job in found], more)

    @get("/{job_id:str}")
    async def retrieve(self, job_id: str, key: Key, jobs: JobService, models: ModelStore) -> FineTuningJob:
        """Show one job."""
        return job_object(await jobs.get(key, job_id), models)

    @post("/{job_id:str}/cancel", status_code=200)
    async def cancel(self, job_id: str, key: Key, jobs: JobService, models: ModelStore, retried: bool) -> FineTuningJob:
        """End a job that has not ended."""
        return job_object(await jobs.cancel(key, job_id, retried=retried), models)

    @post("/{job_id:str}/pause", status_code=200)
    async def pause(self, job_id: str, key: Key, jobs: JobService, models: ModelStore) -> FineTuningJob:
        """Keep a job from running until it is resumed; it shows as queued and paused."""
        return job_object(await jobs.pause(key, job_id), models)

    @post("/{job_id:str}/resume", status_code=200)
    async def resume(self, job_id: str, key: Key, jobs: JobService, models: ModelStore, retried: bool) -> FineTuningJob:
        """Let a paused job go on, or train one that rests at `prepared`."""
        return job_object(await jobs.resume(key, job_id, retried=retried), models)

    @post("/{job_id:str}/train", status_code=200)
    async def train(self, job_id: str, key: Key, jobs: JobService, models: ModelStore, retried: bool) -> FineTuningJob:
        """Train a job that rests at `prepared`."""
        return job_object(await jobs.train(key, job_id, retried=retried), models)

    @get("/{job_id:str}/rows")
    async def rows(self, job_id: str, key: Key, made: MadeRows) -> Response[bytes]:
        """Show the rows that a job is trained on, as JSON lines, once they are made."""
        return Response(await made.read(key, job_id), media_type=JSON_LINES)

    @put("/{job_id:str}/rows", status_code=200)
    async def replace_rows(
        self, job_id: str, body: bytes, key: Key, made: MadeRows, models: ModelStore
    ) -> FineTuningJob:
        """Replace the rows of a job that rests at `prepared` by the JSON lines of the body."""
        return job_object(await made.replace(key, job_id, body), models)

    @get("/{job_id:str}/checkpoints")
    async def checkpoints(
        self,
        job_id: str,
        key: Key,
        jobs: JobService,
        models: ModelStore,
        limit: Limit = 10,  # noqa: ARG002 - there is one at most
        after: str | None = None,
    ) -> Page[Checkpoint]:
        """List the models that a job has left: one, once it has succeeded."""
        found = checkpoints_of(*await jobs.checkpoints(key, job_id), models)
        if after is not None and after not in [checkpoint.id for checkpoint in found]:
            raise InvalidRequest("after is not the id of a checkpoint of this job", param="after")
        return make_page(found if after is None else [])

    @get("/{job_id:str}/events")
    async def events(
        self,
        job_id: str,
        key: Key,
        jobs: JobService,
        streams: EventStreams,
        limit: Limit = 20,
        after: str | None = None,
        stream: bool = False,
        last_event_id: Annotated[str | None, Parameter(header="Last-Event-ID")] = None,
    ) -> Page[JobEvent] | EventStream:
        """List a job's events, oldest first; with `stream=true` as server-sent events, until the job has ended."""
        if not stream:
            found, more = await jobs.events(key, job_id, limit, after)
            return make_page([event_object(event) for event in found], more)
        job = await jobs.get(key, job_id)
        # A client that comes back sends the address of the first time, `after` included, so the header counts.
        n = 0
        if last_event_id:
            n = event_number(job.id, last_event_id, "Last-Event-ID")
        elif after is not None:
            n = event_number(job.id, after, "after")
        streams.check_place(key)
        return EventStream(_frames(streams.follow(key, job.id, n)))

    @delete("/{job_id:str}", status_code=200)
    async def remove(self, job_id: str, key: Key, jobs: JobService, retried: bool) -> Deleted:
        """Delete a job and its model."""
        await jobs.delete(key, job_id, retried=retried)
        return Deleted(id=job_id, object="fine_tuning.job.deleted")


async def _frames(
    followed: AsyncGenerator[Event | ReflexError | Silence | End, None],
) -> AsyncGenerator[ServerSentEventMessage, None]:
    async for item in followed:
        match item:
            case Event():
                shown = event_object(item)
                yield ServerSentEventMessage(data=msgspec.json.encode(shown), id=shown.id, sep="\n")
            case Silence():
                yield ServerSentEventMessage(data=None, comment="keep-alive", sep="\n")
            case End():
                yield ServerSentEventMessage(data="[DONE]", sep="\n")
            case ReflexError():  # the SDK raises what stands under `error`
                yield ServerSentEventMessage(data=msgspec.json.encode(item.body()), sep="\n")


def _metadata_filter(query: Iterable[tuple[str, Any]]) -> tuple[dict[str, str], bool]:
    """Return the pairs of `metadata[k]=v`, and whether `metadata=null` asks for jobs that have none."""
    pairs: dict[str, str] = {}
    bare = False
    for name, value in query:
        if pair := METADATA_PAIR.fullmatch(name):
            if pairs.setdefault(pair[1], value) != value:
                raise InvalidRequest("A key of metadata is asked for with two values", param=name)
            if len(pairs) > MAX_METADATA_PAIRS:
                raise InvalidRequest(f"A job has at most {MAX_METADATA_PAIRS} pairs of metadata", param="metadata")
        elif name == "metadata" and value == "null":
            bare = True
        elif name.startswith("metadata"):
            raise InvalidRequest("Write metadata[key]=value, or metadata=null for jobs without any", param=name)
    return pairs, bare
