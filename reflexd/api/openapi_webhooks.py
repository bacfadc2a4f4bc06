"""Decides what the published description says of webhook endpoints and deliveries."""

from __future__ import annotations

from typing import Any

from reflexd.api.openapi_operation import BAD_LIMIT, BODY, LIMIT, PRIVATE, STORED, Operation
from reflexd.errors import (
    DeliveryNotFound,
    EndpointLimit,
    EndpointNotFound,
    EndpointUnreachable,
    InvalidRequest,
    RouteNotFound,
)
from reflexd.schemas.webhooks import CreateEndpoint, RotateSecret, SendTest, UpdateEndpoint

ENDPOINT_ID = "we_0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
DELIVERY_ID = "whd_0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01"
TYPES = ["fine_tuning.job.succeeded", "fine_tuning.job.failed"]
ENDPOINT: dict[str, Any] = {
    "id": ENDPOINT_ID,
    "object": "webhook_endpoint",
    "name": "ci",
    "url": "https://hooks.example.com/reflexd",
    "event_types": TYPES,
    "created_at": 1_750_000_000,
    "updated_at": 1_750_000_000,
    "signing_secret_hint": "whsec_...9nQ8",
    "disabled_reason": None,
}
WITH_SECRET = ENDPOINT | {"signing_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="}
DELIVERY: dict[str, Any] = {
    "id": DELIVERY_ID,
    "object": "webhook_delivery",
    "event": {"id": "evt_0197c2d4-1c00-7a3b-9f10-5b6c7d8e9f01", "object": "event", "type": TYPES[0]},
    "endpoint_id": ENDPOINT_ID,
    "url": "https://hooks.example.com",
    "status": "delivered",
    "attempts": 1,
    "last_status": 200,
    "last_error": None,
    "created_at": 1_750_000_000,
    "finished_at": 1_750_000_001,
    "next_attempt_at": None,
}


def _page(one: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": [one], "has_more": False, "first_id": one["id"], "last_id": one["id"]}


ENDPOINT_PARAMETER = {"endpoint_id": {"description": "The id of a webhook endpoint of yours.", "example": ENDPOINT_ID}}
DELIVERY_PARAMETER = {"delivery_id": {"description": "The id of a delivery of yours.", "example": DELIVERY_ID}}
ONE_ENDPOINT = (*STORED, EndpointNotFound(), RouteNotFound())
ONE_DELIVERY = (*STORED, DeliveryNotFound(), RouteNotFound())
BAD_URL = InvalidRequest(
    "url cannot be used: 127.0.0.1 is no public address, and [network] allow does not list it", param="url"
)

WEBHOOK_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/webhook_endpoints"): Operation(
        id="createWebhookEndpoint",
        tag="Webhooks",
        answer=WITH_SECRET,
        errors=(
            *STORED,
            *BODY,
            BAD_URL,
            EndpointLimit("There are 20 webhook endpoints already, and no more are allowed"),
        ),
        body=CreateEndpoint,
        requests={"Jobs that end": {"name": "ci", "url": ENDPOINT["url"], "event_types": TYPES}},
    ),
    ("GET", "/v1/webhook_endpoints"): Operation(
        id="listWebhookEndpoints",
        tag="Webhooks",
        answer=_page(ENDPOINT),
        errors=(*STORED, BAD_LIMIT),
        parameters={"limit": LIMIT, "after": {"description": "The id of an endpoint: the page begins behind it."}},
    ),
    ("GET", "/v1/webhook_endpoints/{endpoint_id}"): Operation(
        id="retrieveWebhookEndpoint",
        tag="Webhooks",
        answer=ENDPOINT,
        errors=ONE_ENDPOINT,
        parameters=ENDPOINT_PARAMETER,
    ),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}"): Operation(
        id="updateWebhookEndpoint",
        tag="Webhooks",
        answer=ENDPOINT,
        errors=(*ONE_ENDPOINT, *BODY, BAD_URL),
        body=UpdateEndpoint,
        requests={"Another address": {"url": "https://hooks.example.com/other"}},
        parameters=ENDPOINT_PARAMETER,
    ),
    ("DELETE", "/v1/webhook_endpoints/{endpoint_id}"): Operation(
        id="deleteWebhookEndpoint",
        tag="Webhooks",
        answer={"id": ENDPOINT_ID, "object": "webhook_endpoint.deleted", "deleted": True},
        errors=ONE_ENDPOINT,
        parameters=ENDPOINT_PARAMETER,
    ),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/rotate_secret"): Operation(
        id="rotateWebhookSecret",
        tag="Webhooks",
        answer=WITH_SECRET,
        errors=(*ONE_ENDPOINT, *BODY),
        body=RotateSecret,
        requests={"Let both be valid for a day": {"keep_old_secret_active_for_24_hours": True}},
        parameters=ENDPOINT_PARAMETER,
    ),
    ("POST", "/v1/webhook_endpoints/{endpoint_id}/test"): Operation(
        id="testWebhookEndpoint",
        tag="Webhooks",
        answer={
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": ENDPOINT_ID,
            "event_type": TYPES[0],
            "status_code": 200,
            "success": True,
        },
        errors=(
            *ONE_ENDPOINT,
            *BODY,
            EndpointUnreachable("The endpoint was not reached: no answer within 15 seconds"),
        ),
        body=SendTest,
        requests={"As if a job had succeeded": {"event_type": TYPES[0]}},
        parameters=ENDPOINT_PARAMETER,
    ),
    ("GET", "/v1/webhook_event_types"): Operation(
        id="listWebhookEventTypes",
        tag="Webhooks",
        answer={"object": "list", "data": TYPES},
        errors=PRIVATE,
    ),
    ("GET", "/v1/webhook_deliveries"): Operation(
        id="listWebhookDeliveries",
        tag="Webhooks",
        answer=_page(DELIVERY),
        errors=(*STORED, BAD_LIMIT),
        parameters={
            "limit": LIMIT,
            "after": {"description": "The id of a delivery: the page begins behind it."},
            "endpoint_id": {"description": "Only those to this endpoint."},
            "object_id": {"description": "Only those that tell of this job or batch."},
            "status": {"description": "Only those of this status."},
        },
    ),
    ("GET", "/v1/webhook_deliveries/{delivery_id}"): Operation(
        id="retrieveWebhookDelivery",
        tag="Webhooks",
        answer=DELIVERY,
        errors=ONE_DELIVERY,
        parameters=DELIVERY_PARAMETER,
    ),
    ("POST", "/v1/webhook_deliveries/{delivery_id}/replay"): Operation(
        id="replayWebhookDelivery",
        tag="Webhooks",
        answer=DELIVERY | {"status": "pending", "attempts": 0, "last_status": None, "finished_at": None},
        errors=ONE_DELIVERY,
        parameters=DELIVERY_PARAMETER,
    ),
}
