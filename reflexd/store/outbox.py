"""Decides how what has ended is told: one event, one delivery for each receiver, in the transaction of the end itself.

The event's id is the webhook-id and its body is stored as it will be sent, so that every attempt sends the same.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from reflexd.schemas.webhooks import EventType
from reflexd.schemas.worker import headline
from reflexd.store.database import Transaction
from reflexd.store.identifiers import new_id
from reflexd.store.records import Job

ENDED: dict[str, EventType] = {
    "succeeded": "fine_tuning.job.succeeded",
    "failed": "fine_tuning.job.failed",
    "cancelled": "fine_tuning.job.cancelled",
}
"""What tells of a job's end, by its status."""
MOST_BYTES = 20_000
"""Of a body, by the recommendation of Standard Webhooks; a thousand long labels are left out."""


async def enqueue(
    tx: Transaction,
    tenant_id: str,
    event_type: EventType,
    data: dict[str, Any],
    url: str | None = None,
) -> None:
    """Add a delivery for every endpoint of the tenant that wants this type, and one to `url`.

    `data` is the event's, with the `id` of the object that it tells of. One that waits for them is woken by the caller:
    Signals.wake(DELIVERIES) after the commit.
    """
    rows = await tx.rows(
        "SELECT id, url FROM webhook_endpoints WHERE tenant_id = ? AND disabled_reason IS NULL "
        "AND EXISTS (SELECT 1 FROM json_each(event_types) WHERE value = ?) ORDER BY seq",
        (tenant_id, event_type),
    )
    receivers: dict[str, str | None] = {row["url"]: row["id"] for row in reversed(rows)}
    if url is not None:
        receivers.setdefault(url, None)
    if not receivers:
        return
    event_id, now = new_id("evt_"), time.time()
    body = event_body(event_id, event_type, data, now)
    for where, endpoint_id in receivers.items():
        await tx.run(
            "INSERT INTO deliveries (id, tenant_id, event_id, endpoint_id, url, receiver, event_type, object_id, body, "
            "next_at, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new_id("whd_"),
                tenant_id,
                event_id,
                endpoint_id,
                where,
                receiver_of(tenant_id, where),
                event_type,
                data["id"],
                body,
                now,
                int(now),
            ),
        )


def receiver_of(tenant_id: str, url: str) -> str:
    """Return who is told by a tenant's deliveries to a URL: whatever its path, the same server answers."""
    scheme, _, rest = url.partition("://")
    return f"{tenant_id} {scheme}://{re.split('[/?]', rest, maxsplit=1)[0]}".lower()


def event_body(event_id: str, event_type: str, data: dict[str, Any], now: float) -> bytes:
    """Return an event's bytes: the keys that users of OpenAI, Standard Webhooks and Morph look for (spec 3.8)."""
    event = {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created_at": int(now),
        "timestamp": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": data,
    }
    body = msgspec.json.encode(event)
    if len(body) > MOST_BYTES and data.get("labels"):
        body = msgspec.json.encode({**event, "data": {**data, "labels": []}})
    return body


async def tell_of_job(tx: Transaction, job: Job) -> None:
    """Tell of a job that has just ended."""
    data = {
        "id": job.id,
        "object": "fine_tuning.job",
        "status": job.status,
        "fine_tuned_model": job.served_name if job.status == "succeeded" else None,
        "suffix": job.suffix,
        "labels": job.labels,
        "result": headline(job.result) if job.result else None,
        "error": job.error,
    }
    await enqueue(tx, job.tenant_id, ENDED[job.status], data, job.webhook_url)
