"""Decides the wire types of webhook endpoints (the SDK's client.webhooks) and of the log of their deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]
"""What is told by webhooks; the SDK knows more kinds of it, which never happen here."""
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Types = Annotated[list[EventType], Meta(min_length=1, max_length=64)]


class CreateEndpoint(Struct, kw_only=True):
    """Body of POST /v1/webhook_endpoints."""

    name: Name
    url: str
    event_types: Types


class UpdateEndpoint(Struct, kw_only=True):
    """Body of POST /v1/webhook_endpoints/{id}: what is to change."""

    name: Name | UnsetType = UNSET
    url: str | UnsetType = UNSET
    event_types: Types | UnsetType = UNSET


class RotateSecret(Struct, kw_only=True):
    """Body of POST /v1/webhook_endpoints/{id}/rotate_secret."""

    keep_old_secret_active_for_24_hours: bool = False


class SendTest(Struct, kw_only=True):
    """Body of POST /v1/webhook_endpoints/{id}/test."""

    event_type: EventType


class WebhookEndpoint(Struct, kw_only=True):
    """A receiver of webhooks; `disabled_reason` says why nothing is sent to it, and an update lets it be used again."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    disabled_reason: str | None = None


class EndpointWithSecret(WebhookEndpoint, kw_only=True):
    """The same with the tenant's signing secret, which all of its endpoints and jobs share."""

    signing_secret: str


class DeletedEndpoint(Struct, kw_only=True):
    """Answer to DELETE /v1/webhook_endpoints/{id}."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class TestResult(Struct, kw_only=True):
    """What the endpoint answered to a sample event."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class EventTypes(Struct, kw_only=True):
    """Answer of GET /v1/webhook_event_types."""

    object: Literal["list"] = "list"
    data: list[str]


class WebhookDelivery(Struct, kw_only=True):
    """One event on its way to one receiver; `endpoint_id` is null where the job's own webhook_url is that.

    `url` is shortened to the host, since the rest may hold a secret. `event` is what is sent, and its `id` the
    webhook-id. `next_attempt_at` is null once the delivery has ended.
    """

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    event: dict[str, Any] = field(default_factory=dict)
    endpoint_id: str | None
    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: int
    finished_at: int | None
    next_attempt_at: int | None
