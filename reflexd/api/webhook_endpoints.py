"""Decides the routes of /v1/webhook_endpoints and /v1/webhook_deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import Parameter

from reflexd.api.job_objects import make_page, shortened
from reflexd.schemas.openai import Page
from reflexd.schemas.webhooks import (
    CreateEndpoint,
    DeletedEndpoint,
    EndpointWithSecret,
    EventTypes,
    RotateSecret,
    SendTest,
    TestResult,
    UpdateEndpoint,
    WebhookDelivery,
    WebhookEndpoint,
)
from reflexd.service.decoding import decode
from reflexd.service.webhooks import EVENT_TYPES, WebhookService
from reflexd.store.keys import Key
from reflexd.store.webhooks import Delivery, Endpoint, SigningSecret

Limit = Annotated[int, Parameter(ge=1, le=100)]
HINT_CHARS = 4


class EndpointController(Controller):
    """Receivers of a tenant's webhooks."""

    path = "/v1/webhook_endpoints"
    opt = {"scope": "train"}  # noqa: RUF012 - Litestar reads it from the class

    @post(status_code=200)
    async def create(self, body: bytes, key: Key, webhooks: WebhookService) -> EndpointWithSecret:
        """Add an endpoint and show the secret that signs what is sent to it.

        A tenant has one signing secret, which its endpoints and the `webhook_url` of its jobs share.
        """
        endpoint, secret = await webhooks.create(key.tenant_id, decode(body, CreateEndpoint))
        return _with_secret(endpoint, secret)

    @get()
    async def page(
        self, key: Key, webhooks: WebhookService, limit: Limit = 20, after: str | None = None
    ) -> Page[WebhookEndpoint]:
        """List the tenant's endpoints, newest first."""
        found, more = await webhooks.page(key, limit, after)
        secret = await webhooks.secret(key.tenant_id) if found else SigningSecret("")
        return make_page([_shown(endpoint, secret) for endpoint in found], more)

    @get("/{endpoint_id:str}")
    async def retrieve(self, endpoint_id: str, key: Key, webhooks: WebhookService) -> WebhookEndpoint:
        """Show one endpoint."""
        endpoint = await webhooks.get(endpoint_id, key.tenant_id)
        return _shown(endpoint, await webhooks.secret(key.tenant_id))

    @post("/{endpoint_id:str}", status_code=200)
    async def update(self, endpoint_id: str, body: bytes, key: Key, webhooks: WebhookService) -> WebhookEndpoint:
        """Change an endpoint; one that was disabled is used again.

        What still waits to be sent to it goes to its new URL.
        """
        endpoint = await webhooks.get(endpoint_id, key.tenant_id)
        updated = await webhooks.update(endpoint, decode(body, UpdateEndpoint))
        return _shown(updated, await webhooks.secret(key.tenant_id))

    @delete("/{endpoint_id:str}", status_code=200)
    async def remove(self, endpoint_id: str, key: Key, webhooks: WebhookService) -> DeletedEndpoint:
        """Remove an endpoint; what still waits to be sent to it is given up."""
        await webhooks.delete(await webhooks.get(endpoint_id, key.tenant_id))
        return DeletedEndpoint(id=endpoint_id)

    @post("/{endpoint_id:str}/rotate_secret", status_code=200)
    async def rotate_secret(
        self, endpoint_id: str, body: bytes, key: Key, webhooks: WebhookService, retried: bool
    ) -> EndpointWithSecret:
        """Replace the tenant's signing secret, for all of its endpoints and jobs.

        With `keep_old_secret_active_for_24_hours` each webhook carries a signature of both for a day.
        """
        endpoint = await webhooks.get(endpoint_id, key.tenant_id)
        asked = decode(body, RotateSecret)
        keep_old = asked.keep_old_secret_active_for_24_hours
        secret = await webhooks.rotate(key.tenant_id, keep_old=keep_old, retried=retried)
        return _with_secret(await webhooks.get(endpoint.id, key.tenant_id), secret)

    @post("/{endpoint_id:str}/test", status_code=200)
    async def test(self, endpoint_id: str, body: bytes, key: Key, webhooks: WebhookService) -> TestResult:
        """Send a sample event, once and now, and tell what the endpoint answered."""
        endpoint = await webhooks.get(endpoint_id, key.tenant_id)
        event_type = decode(body, SendTest).event_type
        status = await webhooks.test(endpoint, event_type)
        return TestResult(webhook_endpoint_id=endpoint_id, event_type=event_type, status_code=status)


class DeliveryController(Controller):
    """The log of what was sent."""

    path = "/v1/webhook_deliveries"
    opt = {"scope": "train"}  # noqa: RUF012 - Litestar reads it from the class

    @get()
    async def page(
        self,
        key: Key,
        webhooks: WebhookService,
        limit: Limit = 20,
        after: str | None = None,
        endpoint_id: str | None = None,
        object_id: str | None = None,
        status: Literal["any", "pending", "delivered", "failed"] = "any",
    ) -> Page[WebhookDelivery]:
        """List the tenant's deliveries, newest first."""
        found, more = await webhooks.deliveries(
            key.tenant_id,
            limit,
            after,
            endpoint_id=endpoint_id,
            object_id=object_id,
            status=None if status == "any" else status,
        )
        return make_page([delivery_object(delivery) for delivery in found], more)

    @get("/{delivery_id:str}")
    async def retrieve(self, delivery_id: str, key: Key, webhooks: WebhookService) -> WebhookDelivery:
        """Show one delivery."""
        return delivery_object(await webhooks.delivery(delivery_id, key.tenant_id))

    @post("/{delivery_id:str}/replay", status_code=200)
    async def replay(self, delivery_id: str, key: Key, webhooks: WebhookService) -> WebhookDelivery:
        """Send a delivery again, with the same webhook-id and body, from the start of its schedule."""
        return delivery_object(await webhooks.replay(await webhooks.delivery(delivery_id, key.tenant_id)))


@get("/v1/webhook_event_types", opt={"scope": "train"})
async def webhook_event_types() -> EventTypes:
    """List the event types that an endpoint may ask for."""
    return EventTypes(data=list(EVENT_TYPES))


def delivery_object(delivery: Delivery) -> WebhookDelivery:
    """Return the wire form of a delivery."""
    event: dict[str, Any] = msgspec.json.decode(delivery.body)
    return WebhookDelivery(
        id=delivery.id,
        event=event,
        endpoint_id=delivery.endpoint_id,
        url=shortened(delivery.url),
        status=msgspec.convert(delivery.status, Literal["pending", "delivered", "failed"]),
        attempts=delivery.attempts,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        created_at=delivery.created_at,
        finished_at=delivery.finished_at,
        next_attempt_at=int(delivery.next_at) if delivery.finished_at is None else None,
    )


def _shown(endpoint: Endpoint, secret: SigningSecret) -> WebhookEndpoint:
    return WebhookEndpoint(**_fields(endpoint, secret))


def _with_secret(endpoint: Endpoint, secret: SigningSecret) -> EndpointWithSecret:
    return EndpointWithSecret(**_fields(endpoint, secret), signing_secret=secret.secret)


def _fields(endpoint: Endpoint, secret: SigningSecret) -> dict[str, Any]:
    names = ("id", "name", "url", "event_types", "created_at", "updated_at", "disabled_reason")
    return {name: getattr(endpoint, name) for name in names} | {
        "signing_secret_hint": f"whsec_...{secret.secret.rstrip('=')[-HINT_CHARS:]}"
    }
