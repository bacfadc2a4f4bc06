"""Decides what an operator may do with the webhooks of all tenants: endpoints, secrets, the delivery log, replay."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from reflexd.errors import InvalidRequest
from reflexd.schemas.webhooks import CreateEndpoint, UpdateEndpoint
from reflexd.service.decoding import convert
from reflexd.store.store import Store
from reflexd.store.webhooks import Delivery

if TYPE_CHECKING:
    from reflexd.service.webhooks import WebhookService

MOST_ROWS = 10_000


class WebhookVerbs:
    """The verbs of `reflexd webhooks`, by name in `table`; each raises a ReflexError with the sentence to be read."""

    def __init__(self, store: Store, webhooks: Callable[[], WebhookService]) -> None:
        """`webhooks` gives the service; making one loads the plugins, which most other verbs can do without."""
        self._store = store
        self._webhooks = webhooks
        self.table: dict[str, Callable[..., Awaitable[Any]]] = {
            "webhooks.list": self.list_endpoints,
            "webhooks.create": self.create,
            "webhooks.update": self.update,
            "webhooks.enable": self.enable,
            "webhooks.delete": self.delete,
            "webhooks.secret": self.secret,
            "webhooks.rotate": self.rotate,
            "webhooks.test": self.test,
            "webhooks.deliveries": self.deliveries,
            "webhooks.replay": self.replay,
        }

    async def list_endpoints(self) -> list[dict[str, Any]]:
        """List the newest endpoints of all tenants."""
        found, _ = await self._store.webhooks.page(None, MOST_ROWS)
        names = await self._store.keys.tenants()
        return [msgspec.to_builtins(endpoint) | {"tenant": names[endpoint.tenant_id]} for endpoint in found]

    async def create(self, tenant: str, name: str, url: str, event_types: list[str]) -> dict[str, Any]:
        """Add an endpoint to a tenant and return it with the tenant's signing secret."""
        given: CreateEndpoint = convert({"name": name, "url": url, "event_types": event_types}, CreateEndpoint)
        endpoint, secret = await self._webhooks().create(await self._tenant(tenant), given)
        return {**msgspec.to_builtins(endpoint), "signing_secret": secret.secret}

    async def update(self, endpoint_id: str, change: dict[str, Any]) -> dict[str, Any]:
        """Change an endpoint, and let it be used again."""
        webhooks = self._webhooks()
        given: UpdateEndpoint = convert(change, UpdateEndpoint)
        row: dict[str, Any] = msgspec.to_builtins(await webhooks.update(await webhooks.get(endpoint_id), given))
        return row

    async def enable(self, endpoint_id: str) -> dict[str, Any]:
        """Let an endpoint be used again."""
        return await self.update(endpoint_id, {})

    async def delete(self, endpoint_id: str) -> dict[str, Any]:
        """Remove an endpoint."""
        webhooks = self._webhooks()
        endpoint = await webhooks.get(endpoint_id)
        await webhooks.delete(endpoint)
        row: dict[str, Any] = msgspec.to_builtins(endpoint)
        return row

    async def secret(self, tenant: str) -> str:
        """Return the secret that signs a tenant's webhooks."""
        return (await self._store.webhooks.secret(await self._tenant(tenant))).secret

    async def rotate(self, tenant: str, keep_old: bool = False) -> str:
        """Give a tenant a new signing secret and return it."""
        return (await self._store.webhooks.rotate(await self._tenant(tenant), keep_old=keep_old)).secret

    async def test(self, endpoint_id: str, event_type: str) -> int:
        """Send a sample event and return the receiver's status."""
        webhooks = self._webhooks()
        return await webhooks.test(await webhooks.get(endpoint_id), event_type)

    async def deliveries(
        self,
        limit: int = 20,
        tenant: str | None = None,
        endpoint_id: str | None = None,
        object_id: str | None = None,
        status: str | None = None,
    ) -> list[dict[str, Any]]:
        """List the newest deliveries, of all tenants unless one is named."""
        tenant_id = None if tenant is None else await self._tenant(tenant)
        where = {"endpoint_id": endpoint_id, "object_id": object_id, "status": status}
        found, _ = await self._webhooks().deliveries(tenant_id, limit, **where)
        return [{name: value for name, value in _row(delivery).items() if name != "body"} for delivery in found]

    async def replay(self, delivery_id: str) -> dict[str, Any]:
        """Send a delivery again, as it was."""
        webhooks = self._webhooks()
        return _row(await webhooks.replay(await webhooks.delivery(delivery_id)))

    async def _tenant(self, name: str) -> str:
        for tenant_id, known in (await self._store.keys.tenants()).items():
            if name in (tenant_id, known):
                return tenant_id
        raise InvalidRequest(f"There is no tenant {name}: `reflexd keys list` shows them")


def _row(delivery: Delivery) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(delivery)
    return {**row, "body": msgspec.json.decode(delivery.body)}
