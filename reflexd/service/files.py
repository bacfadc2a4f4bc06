"""Decides what keeping and deleting a file means for its row and its content, which files of one content share.

And which files a key sees: what a file is for says which scopes open it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from reflexd.errors import FileNotFound, FilesFull, InvalidRequest, StorageFull
from reflexd.registry.blobs import Blobs, Incoming
from reflexd.store.files import File, Order, Taken
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.store import Store

SCOPES = {
    "fine-tune": ("train",),
    "fine-tune-results": ("train",),
    "batch": ("predict", "train"),
    "batch_output": ("predict", "train"),
}
"""For each purpose those with any of which a key may have such files: a batch is no use without its own."""


def purposes_of(key: Key) -> list[str]:
    """Return the purposes of files that a key may have; those of others are like none for it."""
    return [purpose for purpose, scopes in SCOPES.items() if any(scope in key.scopes for scope in scopes)]


class FileService:
    """The files of tenants."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self.blobs = blobs
        self._lock = asyncio.Lock()
        """Held while a content comes or goes: the last file of one may be deleted while another is being kept."""

    async def keep(
        self,
        tenant_id: str,
        filename: str,
        purpose: str,
        incoming: Incoming,
        expires_at: int | None = None,
        check: Callable[[Taken], None] | None = None,
    ) -> File:
        """Make a file of what has arrived, durably; raises StorageFull.

        `check` gets what the tenant has without it, and raises FilesFull where it is too much.
        """
        try:
            sha256 = await asyncio.to_thread(incoming.finish)
            file = File(
                id=new_id("file-"),
                tenant_id=tenant_id,
                filename=filename,
                purpose=purpose,
                bytes=incoming.bytes,
                sha256=sha256,
                created_at=int(time.time()),
                expires_at=expires_at,
            )
            async with self._lock:
                await asyncio.to_thread(self.blobs.keep, incoming, sha256)
                try:
                    await self._store.files.insert(file, check)
                except FilesFull:
                    await self._drop({sha256})
                    raise
            return file
        except OSError as error:
            raise StorageFull from error
        finally:
            incoming.discard()

    async def find(self, tenant_id: str, file_id: str) -> File:
        """Return a file of the tenant, whatever it is for; raises FileNotFound."""
        file = await self._store.files.get(tenant_id, file_id)
        if file is None:
            raise FileNotFound
        return file

    async def get(self, key: Key, file_id: str) -> File:
        """Return a file that the key sees; raises FileNotFound."""
        file = await self.find(key.tenant_id, file_id)
        if file.purpose not in purposes_of(key):
            raise FileNotFound
        return file

    async def page(
        self, key: Key, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> tuple[list[File], bool]:
        """Return files that the key sees, of one purpose or all, behind the file `after`; and whether more follow."""
        try:
            behind = None if after is None else (await self.get(key, after)).seq
        except FileNotFound as error:
            raise InvalidRequest("after is not the id of a file of yours", param="after") from error
        purposes = [each for each in purposes_of(key) if purpose in (None, each)]
        return await self._store.files.page(key.tenant_id, limit, behind, order, purposes)

    def content(self, file: File) -> Path:
        """Return where a file's content lies for as long as the file is not deleted."""
        return self.blobs.path(file.sha256)

    async def delete(self, key: Key, file_id: str, *, retried: bool) -> None:
        """Delete a file; what has made a copy or a link of its content keeps that. Raises FileNotFound.

        One that went by an earlier sending of this request counts as deleted.
        """
        async with self._lock:
            try:
                await self.get(key, file_id)
            except FileNotFound:
                if retried and await self._store.files.was_deleted(key.tenant_id, file_id, purposes_of(key)):
                    return
                raise
            if not await self._delete(key.tenant_id, file_id):
                raise FileNotFound

    async def withdraw(self, file: File) -> None:
        """Delete a file that the daemon has made for a tenant and makes again; one that is gone is fine."""
        async with self._lock:
            await self._delete(file.tenant_id, file.id)

    async def delete_expired(self) -> None:
        """Delete the files whose time is over."""
        async with self._lock:
            await self._drop(await self._store.files.delete_expired())

    async def _delete(self, tenant_id: str, file_id: str) -> bool:
        file = await self._store.files.delete(tenant_id, file_id)
        if file is not None:
            await self._drop({file.sha256})
        return file is not None

    async def _drop(self, contents: set[str]) -> None:
        for sha256 in contents:
            if not await self._store.files.has_content(sha256):
                await asyncio.to_thread(self.blobs.remove, sha256)
