"""Decides what may be done with webhook endpoints, signing secrets and deliveries, by a tenant and by the operator."""

from __future__ import annotations

import time
from typing import Any, get_args

from reflexd.egress.sender import Sender
from reflexd.errors import DeliveryNotFound, EndpointNotFound, EndpointUnreachable, InvalidRequest, NotAllowedOut
from reflexd.schemas.webhooks import CreateEndpoint, EventType, UpdateEndpoint
from reflexd.service.decoding import convert
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.outbox import event_body
from reflexd.store.store import Store
from reflexd.store.webhooks import Delivery, Endpoint, SigningSecret

EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
SAMPLES: dict[str, dict[str, Any]] = {
    "fine_tuning.job": {
        "id": "ftjob-test",
        "object": "fine_tuning.job",
        "fine_tuned_model": None,
        "suffix": None,
        "labels": [],
        "result": None,
        "error": None,
    },
    "batch": {"id": "batch_test", "object": "batch"},
}
"""The data of a sample event, by what the type begins with."""


class WebhookService:
    """Webhook endpoints, and what was sent to them."""

    def __init__(self, store: Store, sender: Sender, endpoints_per_tenant: int) -> None:
        self._store = store
        self._sender = sender
        self._most = endpoints_per_tenant

    def check_url(self, url: str, param: str) -> None:
        """Raise InvalidRequest where nothing would ever be sent to this URL."""
        try:
            self._sender.check_url(url)
        except NotAllowedOut as error:
            raise InvalidRequest(f"{param} cannot be used: {error}", param=param) from error

    async def create(self, tenant_id: str, given: CreateEndpoint) -> tuple[Endpoint, SigningSecret]:
        """Add an endpoint, and return it with the tenant's signing secret, which is made with the first one."""
        _check_name(given.name)
        self.check_url(given.url, "url")
        secret = await self._store.webhooks.secret(tenant_id)
        types = list(dict.fromkeys(given.event_types))
        return await self._store.webhooks.create(tenant_id, given.name, given.url, types, self._most), secret

    async def get(self, endpoint_id: str, tenant_id: str | None = None) -> Endpoint:
        """Return an endpoint, of the tenant where one is given; raises EndpointNotFound."""
        endpoint = await self._store.webhooks.get(endpoint_id, tenant_id)
        if endpoint is None:
            raise EndpointNotFound
        return endpoint

    async def page(self, key: Key, limit: int, after: str | None) -> tuple[list[Endpoint], bool]:
        """Return endpoints of the key's tenant, newest first, created before `after`; and whether more follow."""
        before = None
        if after is not None:
            last = await self._store.webhooks.get(after, key.tenant_id)
            if last is None:
                raise InvalidRequest("after is not the id of a webhook endpoint of yours", param="after")
            before = last.seq
        return await self._store.webhooks.page(key.tenant_id, limit, before)

    async def secret(self, tenant_id: str) -> SigningSecret:
        """Return the secret that signs all webhooks of a tenant."""
        return await self._store.webhooks.secret(tenant_id)

    async def update(self, endpoint: Endpoint, given: UpdateEndpoint) -> Endpoint:
        """Change an endpoint, and let it be used again where it was disabled."""
        change: dict[str, Any] = {}
        if isinstance(given.name, str):
            _check_name(given.name)
            change["name"] = given.name
        if isinstance(given.url, str):
            self.check_url(given.url, "url")
            change["url"] = given.url
        if isinstance(given.event_types, list):
            change["event_types"] = list(dict.fromkeys(given.event_types))
        updated = await self._store.webhooks.update(endpoint, **change)
        if updated is None:
            raise EndpointNotFound
        return updated

    async def delete(self, endpoint: Endpoint) -> None:
        """Remove an endpoint; what waits to be sent to it is given up."""
        if not await self._store.webhooks.delete(endpoint):
            raise EndpointNotFound

    async def rotate(self, tenant_id: str, *, keep_old: bool, retried: bool) -> SigningSecret:
        """Give a tenant a new signing secret; with `keep_old` the old one signs beside it for a day."""
        return await self._store.webhooks.rotate(tenant_id, keep_old=keep_old, retried=retried)

    async def test(self, endpoint: Endpoint, event_type: str) -> int:
        """Send a sample event once, and return the endpoint's status; raises EndpointUnreachable."""
        kind: EventType = convert(event_type, EventType, "event_type")
        area, _, ending = kind.rpartition(".")
        now = time.time()
        event_id = new_id("evt_test_")
        body = event_body(event_id, kind, SAMPLES[area] | {"status": ending}, now)
        secret = await self._store.webhooks.secret(endpoint.tenant_id)
        attempt = await self._sender.send(endpoint.url, event_id, body, secret.in_force(now), now)
        if attempt.status is None:
            raise EndpointUnreachable(f"The endpoint was not reached: {attempt.error}")
        return attempt.status

    async def delivery(self, delivery_id: str, tenant_id: str | None = None) -> Delivery:
        """Return a delivery, of the tenant where one is given; raises DeliveryNotFound."""
        delivery = await self._store.webhooks.delivery(delivery_id, tenant_id)
        if delivery is None:
            raise DeliveryNotFound
        return delivery

    async def deliveries(
        self, tenant_id: str | None, limit: int, after: str | None = None, **where: str | None
    ) -> tuple[list[Delivery], bool]:
        """Return deliveries, newest first, made before the delivery `after`; and whether more follow.

        `where` restricts them by `endpoint_id`, `object_id` (of a job or batch) or `status`.
        """
        before = None
        if after is not None:
            last = await self._store.webhooks.delivery(after, tenant_id)
            if last is None:
                raise InvalidRequest("after is not the id of a webhook delivery of yours", param="after")
            before = last.seq
        return await self._store.webhooks.log(tenant_id, limit, before, **where)

    async def replay(self, delivery: Delivery) -> Delivery:
        """Send a delivery again, with the id and the body that it had."""
        again = await self._store.webhooks.replay(delivery)
        if again is None:
            raise DeliveryNotFound
        return again


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable():
        raise InvalidRequest("name must hold printable characters, and not only spaces", param="name")
