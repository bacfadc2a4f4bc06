"""Decides how a batch looks on the wire: as Morph's status object, and as OpenAI's Batch."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from reflexd.schemas.batches import (
    Batch,
    BatchProblem,
    BatchProblems,
    OpenAIStatus,
    ReflexBatch,
    ReflexStatus,
    RequestCounts,
)
from reflexd.schemas.openai import Page
from reflexd.store import batches as stored


def reflex_batch(batch: stored.Batch) -> ReflexBatch:
    """Return the status object of an upload."""
    return ReflexBatch(**_shared(batch), status=cast(ReflexStatus, batch.status))


def openai_batch(batch: stored.Batch) -> Batch:
    """Return the SDK's object; `queued` is `validating` there, since the lines are checked first."""
    status = "validating" if batch.status == "queued" else batch.status
    return Batch(
        **_shared(batch),
        status=cast(OpenAIStatus, status),
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id or "",
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        finalizing_at=batch.finalizing_at,
        metadata=batch.metadata,
    )


def batch_page(found: list[stored.Batch], more: bool) -> Page[Batch]:
    """Return one page with the cursors that OpenAI's lists carry."""
    ids = [batch.id for batch in found]
    return Page(
        data=[openai_batch(batch) for batch in found],
        has_more=more,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )


def _shared(batch: stored.Batch) -> dict[str, Any]:
    problems = [BatchProblem(**msgspec.structs.asdict(error)) for error in batch.errors or ()]
    return {
        "id": batch.id,
        "request_counts": RequestCounts(total=batch.total, completed=batch.completed, failed=batch.failed),
        "created_at": batch.created_at,
        "in_progress_at": batch.in_progress_at,
        "cancelling_at": batch.cancelling_at,
        "expires_at": batch.expires_at,
        "errors": BatchProblems(data=problems) if problems else None,
        # What ended it is the one time of an end that is there.
        **{
            f"{end}_at": batch.finished_at if batch.status == end else None
            for end in ("completed", "failed", "cancelled", "expired")
        },
    }
