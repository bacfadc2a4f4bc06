"""Decides what keeping and deleting a file means for its row and its content, which files of one content share."""

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

    async def get(self, tenant_id: str, file_id: str) -> File:
        """Return a file of the tenant; raises FileNotFound."""
        file = await self._store.files.get(tenant_id, file_id)
        if file is None:
            raise FileNotFound
        return file

    async def page(
        self, tenant_id: str, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> tuple[list[File], bool]:
        """Return files of the tenant behind the file `after`, and whether more follow."""
        cursor = None if after is None else await self._store.files.get(tenant_id, after)
        if after is not None and cursor is None:
            raise InvalidRequest("after is not the id of a file of yours", param="after")
        return await self._store.files.page(tenant_id, limit, cursor.seq if cursor else None, order, purpose)

    def content(self, file: File) -> Path:
        """Return where a file's content lies for as long as the file is not deleted."""
        return self.blobs.path(file.sha256)

    async def delete(self, key: Key, file_id: str) -> None:
        """Delete a file; what has made a copy or a link of its content keeps that. Raises FileNotFound."""
        async with self._lock:
            file = await self._store.files.delete(key.tenant_id, file_id)
            if file is None:
                raise FileNotFound
            await self._drop({file.sha256})

    async def delete_expired(self) -> None:
        """Delete the files whose time is over."""
        async with self._lock:
            await self._drop(await self._store.files.delete_expired())

    async def _drop(self, contents: set[str]) -> None:
        for sha256 in contents:
            if not await self._store.files.has_content(sha256):
                await asyncio.to_thread(self.blobs.remove, sha256)
