"""Decides what is remembered of webhooks: endpoints, a tenant's signing secret, and what became of each delivery."""

from __future__ import annotations

import base64
import secrets
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.errors import EndpointLimit
from reflexd.store.database import Database, Transaction
from reflexd.store.identifiers import new_id
from reflexd.store.outbox import receiver_of
from reflexd.store.records import encode_json
from reflexd.store.signals import DELIVERIES, Signals

SECRET_BYTES = 32
OVERLAP_SECONDS = 86_400
"""How long an old secret signs beside its successor, where that is asked for."""
RETRY_SECONDS = 600
"""How long a request that the SDK sends again stands for its first sending."""
DUE_ROWS = 512
"""Of due deliveries that are looked at, at once."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """A row of `webhook_endpoints`; times are unix seconds."""

    seq: int = 0
    id: str
    tenant_id: str
    name: str
    url: str
    event_types: list[str]
    created_at: int
    updated_at: int
    disabled_reason: str | None = None


class Delivery(Struct, frozen=True, kw_only=True):
    """A row of `deliveries`; `next_at` and the times are unix seconds."""

    seq: int
    id: str
    tenant_id: str
    event_id: str
    endpoint_id: str | None
    url: str
    receiver: str
    event_type: str
    object_id: str
    body: bytes
    status: str
    attempts: int
    next_at: float
    last_status: int | None
    last_error: str | None
    created_at: int
    finished_at: int | None


class SigningSecret(Struct, frozen=True):
    """A tenant's secret, and its predecessor as long as that signs too."""

    secret: str
    old_secret: str | None = None
    old_until: int | None = None

    def in_force(self, now: float) -> list[str]:
        """Return the secrets to sign with, the newest first."""
        if self.old_secret is None or self.old_until is None or self.old_until <= now:
            return [self.secret]
        return [self.secret, self.old_secret]


# The distinct receivers by skipping from one to the next on the index, then a few deliveries of each: a dead one's ten
# thousand pending ones are never looked at. Those that may not be sent to now are left out, and good ones are first,
# so that neither a backlog nor a crowd of dead receivers fills the page.
_DUE = """
WITH RECURSIVE receivers(name) AS (
    SELECT MIN(receiver) FROM deliveries WHERE status = 'pending'
    UNION ALL
    SELECT (SELECT MIN(receiver) FROM deliveries WHERE status = 'pending' AND receiver > receivers.name)
    FROM receivers WHERE receivers.name IS NOT NULL
)
SELECT deliveries.* FROM receivers JOIN deliveries ON deliveries.seq IN (
    SELECT seq FROM deliveries AS due
    WHERE due.status = 'pending' AND due.receiver = receivers.name AND due.next_at <= ?
    ORDER BY due.next_at LIMIT ?
)
WHERE receivers.name NOT IN (SELECT value FROM json_each(?))
ORDER BY receivers.name IN (SELECT value FROM json_each(?)) DESC, deliveries.next_at LIMIT ?
"""


class WebhookStore:
    """The tables of endpoints, signing secrets and deliveries."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals

    # --- endpoints --------------------------------------------------------------------------------------------------

    async def create(self, tenant_id: str, name: str, url: str, event_types: Sequence[str], most: int) -> Endpoint:
        """Add an endpoint; raises EndpointLimit where the tenant has `most` of them already."""
        now = int(time.time())

        async def work(tx: Transaction) -> Endpoint:
            count = await tx.row("SELECT COUNT(*) FROM webhook_endpoints WHERE tenant_id = ?", (tenant_id,))
            if count is not None and count[0] >= most:
                raise EndpointLimit(f"There are {most} webhook endpoints already, and no more are allowed")
            row = await tx.row(
                "INSERT INTO webhook_endpoints (id, tenant_id, name, url, event_types, created_at, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING *",
                (new_id("we_"), tenant_id, name, url, encode_json(list(event_types)), now, now),
            )
            return _endpoint(row)

        return await self._database.write(work)

    async def get(self, endpoint_id: str, tenant_id: str | None = None) -> Endpoint | None:
        """Return an endpoint, or None where it does not exist or belongs to another tenant."""
        row = await self._database.row("SELECT * FROM webhook_endpoints WHERE id = ?", (endpoint_id,))
        return _endpoint(row) if row is not None and tenant_id in (None, row["tenant_id"]) else None

    async def page(self, tenant_id: str | None, limit: int, before: int | None = None) -> tuple[list[Endpoint], bool]:
        """Return up to `limit` endpoints, newest first, with a smaller seq than `before`; and whether more follow."""
        rows = await self._database.rows(
            "SELECT * FROM webhook_endpoints WHERE tenant_id = COALESCE(?, tenant_id) AND seq < ? "
            "ORDER BY seq DESC LIMIT ?",
            (tenant_id, before if before is not None else 1 << 62, limit + 1),
        )
        return [_endpoint(row) for row in rows[:limit]], len(rows) > limit

    async def update(self, endpoint: Endpoint, **change: Any) -> Endpoint | None:
        """Change an endpoint and let it be used again; None where it is gone."""
        if "event_types" in change:
            change["event_types"] = encode_json(change["event_types"])
        sets = "".join(f"{name} = ?, " for name in change)
        sql = f"UPDATE webhook_endpoints SET {sets}updated_at = ?, disabled_reason = NULL WHERE id = ? RETURNING *"  # noqa: S608

        async def work(tx: Transaction) -> Endpoint | None:
            row = await tx.row(sql, (*change.values(), int(time.time()), endpoint.id))
            if "url" in change:  # what still waits goes to the new one
                await tx.run(
                    "UPDATE deliveries SET url = ?, receiver = ? WHERE endpoint_id = ? AND status = 'pending'",
                    (change["url"], receiver_of(endpoint.tenant_id, change["url"]), endpoint.id),
                )
            return _endpoint(row) if row is not None else None

        return await self._database.write(work)

    async def delete(self, endpoint: Endpoint) -> bool:
        """Remove an endpoint; what still waits to be sent to it is given up. False where it was gone."""

        async def work(tx: Transaction) -> bool:
            await self._give_up(tx, endpoint.id, "the endpoint was deleted")
            return await tx.row("DELETE FROM webhook_endpoints WHERE id = ? RETURNING id", (endpoint.id,)) is not None

        return await self._database.write(work)

    # --- secrets ----------------------------------------------------------------------------------------------------

    async def secret(self, tenant_id: str) -> SigningSecret:
        """Return a tenant's signing secret; it is made when it is first asked for."""
        row = await self._database.row("SELECT * FROM signing_secrets WHERE tenant_id = ?", (tenant_id,))
        if row is not None:
            return SigningSecret(row["secret"], row["old_secret"], row["old_until"])

        async def work(tx: Transaction) -> SigningSecret:
            made = await tx.row(
                "INSERT INTO signing_secrets (tenant_id, secret) VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET secret = secret RETURNING *",
                (tenant_id, _new_secret()),
            )
            assert made is not None
            return SigningSecret(made["secret"], made["old_secret"], made["old_until"])

        return await self._database.write(work)

    async def rotate(self, tenant_id: str, *, keep_old: bool, retried: bool = False) -> SigningSecret:
        """Give a tenant a new secret; with `keep_old` the old one signs beside it for a day.

        What is sent again because its answer was lost gets the secret that the first sending made.
        """
        await self.secret(tenant_id)
        now = int(time.time())

        async def work(tx: Transaction) -> SigningSecret:
            row = await tx.row("SELECT * FROM signing_secrets WHERE tenant_id = ?", (tenant_id,))
            assert row is not None
            if retried and keep_old and (row["old_until"] or 0) > now + OVERLAP_SECONDS - RETRY_SECONDS:
                return SigningSecret(row["secret"], row["old_secret"], row["old_until"])
            until = now + OVERLAP_SECONDS if keep_old else None
            made = SigningSecret(_new_secret(), row["secret"] if keep_old else None, until)
            await tx.run(
                "UPDATE signing_secrets SET secret = ?, old_secret = ?, old_until = ? WHERE tenant_id = ?",
                (made.secret, made.old_secret, made.old_until, tenant_id),
            )
            await tx.run("UPDATE webhook_endpoints SET updated_at = ? WHERE tenant_id = ?", (now, tenant_id))
            return made

        return await self._database.write(work)

    # --- deliveries -------------------------------------------------------------------------------------------------

    async def due(self, now: float, each: int, blocked: Sequence[str], good: Sequence[str]) -> list[Delivery]:
        """Return pending deliveries whose time has come, at most `each` to one receiver and none to a blocked one.

        Those to `good` receivers come first, then the longest due.
        """
        given = (now, each, encode_json(list(blocked)), encode_json(list(good)), DUE_ROWS)
        return [_delivery(row) for row in await self._database.rows(_DUE, given)]

    async def next_due(self, now: float) -> float | None:
        """Return when the next delivery after `now` is due."""
        row = await self._database.row(
            "SELECT MIN(next_at) FROM deliveries WHERE status = 'pending' AND next_at > ?", (now,)
        )
        return row[0] if row is not None else None

    async def delivered(self, delivery: Delivery, status: int) -> None:
        """Record that the receiver has taken it."""
        await self._record(delivery, status="delivered", last_status=status, finished_at=int(time.time()))

    async def postpone(self, delivery: Delivery, next_at: float, status: int | None, error: str | None) -> None:
        """Record an attempt that failed, and when the next one is due."""
        await self._record(delivery, next_at=next_at, last_status=status, last_error=error)

    async def fail(self, delivery: Delivery, status: int | None, error: str | None, disable: str | None = None) -> None:
        """Record the last attempt; with `disable` nothing more is sent to its endpoint, and that is why."""

        async def and_then(tx: Transaction) -> None:
            if disable is not None and delivery.endpoint_id is not None:
                same = await tx.row(  # it may have another url meanwhile
                    "UPDATE webhook_endpoints SET disabled_reason = ? WHERE id = ? AND url = ? RETURNING id",
                    (disable, delivery.endpoint_id, delivery.url),
                )
                if same is not None:
                    await self._give_up(tx, delivery.endpoint_id, disable)

        await self._record(
            delivery, and_then, status="failed", last_status=status, last_error=error, finished_at=int(time.time())
        )

    async def _record(self, delivery: Delivery, and_then: Any = None, **change: Any) -> None:
        """Count an attempt, as long as nobody else has ended or replayed the delivery meanwhile."""
        sets = "".join(f", {name} = ?" for name in change)
        sql = (
            f"UPDATE deliveries SET attempts = attempts + 1{sets} WHERE seq = ? AND status = 'pending' AND attempts = ?"  # noqa: S608
        )

        async def work(tx: Transaction) -> None:
            await tx.run(sql, (*change.values(), delivery.seq, delivery.attempts))
            if and_then is not None:
                await and_then(tx)

        await self._database.write(work)

    async def replay(self, delivery: Delivery) -> Delivery | None:
        """Send a delivery again from the start of its schedule, with the same id and body; None where it is gone."""

        async def work(tx: Transaction) -> Delivery | None:
            row = await tx.row(
                "UPDATE deliveries SET status = 'pending', attempts = 0, next_at = ?, finished_at = NULL, "
                "last_status = NULL, last_error = NULL WHERE id = ? RETURNING *",
                (time.time(), delivery.id),
            )
            return _delivery(row) if row is not None else None

        return await self._database.write(work, lambda _: self._signals.wake(DELIVERIES))

    async def delivery(self, delivery_id: str, tenant_id: str | None = None) -> Delivery | None:
        """Return a delivery, or None where it does not exist or belongs to another tenant."""
        row = await self._database.row("SELECT * FROM deliveries WHERE id = ?", (delivery_id,))
        return _delivery(row) if row is not None and tenant_id in (None, row["tenant_id"]) else None

    async def log(
        self, tenant_id: str | None, limit: int, before: int | None = None, **where: str | None
    ) -> tuple[list[Delivery], bool]:
        """Return up to `limit` deliveries, newest first; `where` restricts `endpoint_id`, `object_id` or `status`."""
        given = {"tenant_id": tenant_id, **where}
        asked = {name: value for name, value in given.items() if value is not None}
        sql = "".join(f" AND {name} = ?" for name in asked)
        rows = await self._database.rows(
            f"SELECT * FROM deliveries WHERE seq < ?{sql} ORDER BY seq DESC LIMIT ?",  # noqa: S608
            (before if before is not None else 1 << 62, *asked.values(), limit + 1),
        )
        return [_delivery(row) for row in rows[:limit]], len(rows) > limit

    async def forget_old(self, days: int) -> None:
        """Forget the deliveries that ended longer ago than so many days."""

        async def work(tx: Transaction) -> None:
            await tx.run("DELETE FROM deliveries WHERE finished_at < ?", (int(time.time()) - days * 86_400,))

        await self._database.write(work)

    @staticmethod
    async def _give_up(tx: Transaction, endpoint_id: str, why: str) -> None:
        await tx.run(
            "UPDATE deliveries SET status = 'failed', last_error = ?, finished_at = ? "
            "WHERE endpoint_id = ? AND status = 'pending'",
            (why, int(time.time()), endpoint_id),
        )


def _new_secret() -> str:
    """Return a secret that all libraries read alike: the prefix, then padded base64 of the usual alphabet."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def _endpoint(row: sqlite3.Row | None) -> Endpoint:
    assert row is not None
    return msgspec.convert({**row, "event_types": msgspec.json.decode(row["event_types"])}, Endpoint)


def _delivery(row: sqlite3.Row) -> Delivery:
    return msgspec.convert(dict(row), Delivery)
