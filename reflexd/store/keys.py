"""Decides who may call: API keys as SHA-256 digests, each in a tenant, all of them in memory for the request path.

A key holds 256 random bits, so a fast digest is enough; it is looked up by digest, so nothing compares secrets.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from reflexd.store.database import Database, Transaction
from reflexd.store.identifiers import new_id
from reflexd.store.signals import Signals, key_topic

SCOPES = ("predict", "train", "admin", "fine-tuning:read", "fine-tuning:write")
ORDINARY_SCOPES = ("predict", "train", "fine-tuning:read", "fine-tuning:write")
PREFIX = "rfx_"


class Key(Struct, frozen=True, kw_only=True):
    """An API key as the store knows it; the key itself is not kept."""

    id: str
    tenant_id: str
    tenant: str
    name: str
    hint: str
    scopes: tuple[str, ...]
    created_at: int
    revoked_at: int | None = None


_SELECT = "SELECT keys.*, tenants.name AS tenant FROM keys JOIN tenants ON tenants.id = keys.tenant_id"


class KeyStore:
    """The table of keys and its copy in memory."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        self._by_digest: dict[str, Key] = {}
        self._ids: set[str] = set()

    async def load(self) -> None:
        """Read every key that is not revoked into memory."""
        rows = await self._database.rows(f"{_SELECT} WHERE revoked_at IS NULL")
        self._by_digest = {row["digest"]: _key(row) for row in rows}
        self._ids = {key.id for key in self._by_digest.values()}

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret, unless it is unknown or revoked; touches no database."""
        return self._by_digest.get(digest(secret))

    def is_valid(self, key_id: str) -> bool:
        """Whether the key with this id is in use; what a key has opened looks here whether it still may be open."""
        return key_id in self._ids

    @property
    def empty(self) -> bool:
        """Whether no key can be used at present."""
        return not self._by_digest

    async def ever_made(self) -> bool:
        """Whether any key exists, revoked ones included."""
        return await self._database.row("SELECT 1 FROM keys LIMIT 1") is not None

    async def tenants(self) -> dict[str, str]:
        """Return the name of each tenant by its id."""
        return {row["id"]: row["name"] for row in await self._database.rows("SELECT id, name FROM tenants")}

    async def create(self, name: str, tenant: str | None = None, scopes: Sequence[str] = ORDINARY_SCOPES) -> str:
        """Make a key in `tenant` (default: the tenant named like the key; made when new) and return its secret.

        The secret is returned this once and never stored.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        now = int(time.time())

        async def work(tx: Transaction) -> Key:
            wanted = tenant or name
            found = await tx.row("SELECT id FROM tenants WHERE name = ?", (wanted,))
            tenant_id = found["id"] if found else new_id("org-")
            if found is None:
                await tx.run("INSERT INTO tenants (id, name, created_at) VALUES (?, ?, ?)", (tenant_id, wanted, now))
            made = Key(
                id=new_id("key-"),
                tenant_id=tenant_id,
                tenant=wanted,
                name=name,
                hint=secret[: len(PREFIX) + 4],
                scopes=tuple(scopes),
                created_at=now,
            )
            await tx.run(
                "INSERT INTO keys (id, tenant_id, name, digest, hint, scopes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (made.id, tenant_id, name, digest(secret), made.hint, msgspec.json.encode(made.scopes).decode(), now),
            )
            return made

        def committed(made: Key) -> None:
            self._by_digest[digest(secret)] = made
            self._ids.add(made.id)

        await self._database.write(work, committed)
        return secret

    async def revoke(self, which: str) -> Key | None:
        """Revoke the key with this id, name or hint; return it, or None when that names no single key in use."""
        matches = [k for k in self._by_digest.values() if which in (k.id, k.name, k.hint)]
        if len(matches) != 1:
            return None
        key = matches[0]

        async def work(tx: Transaction) -> None:
            await tx.run("UPDATE keys SET revoked_at = ? WHERE id = ?", (int(time.time()), key.id))

        def committed(_: None) -> None:
            self._by_digest = {d: k for d, k in self._by_digest.items() if k.id != key.id}
            self._ids.discard(key.id)
            self._signals.wake(key_topic(key.id))

        await self._database.write(work, committed)
        return key

    async def all(self) -> list[Key]:
        """Return every key, revoked ones included, oldest first."""
        return [_key(row) for row in await self._database.rows(f"{_SELECT} ORDER BY keys.created_at, keys.id")]


def digest(secret: str) -> str:
    """Return the hex SHA-256 under which a secret is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: sqlite3.Row) -> Key:
    given = dict(row)
    given["scopes"] = tuple(msgspec.json.decode(given["scopes"]))
    return msgspec.convert(given, Key)
