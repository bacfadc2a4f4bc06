"""Decides how much may be uploaded, what an uploaded file is for, what it is called and when it goes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from reflexd.config import Files
from reflexd.errors import FilesFull, FileTooLarge, InsufficientScope, InvalidRequest, RateLimited, StorageFull
from reflexd.registry.blobs import Incoming
from reflexd.service.files import SCOPES, FileService, purposes_of
from reflexd.store.files import BLOCK_BYTES, File, Taken
from reflexd.store.keys import Key
from reflexd.store.store import Store

PURPOSES = ("fine-tune", "batch")
BATCH_EXPIRES_SECONDS = 30 * 86_400
"""OpenAI's own default for files of this purpose; others stay until they are deleted."""
LEAST_EXPIRES_SECONDS, MOST_EXPIRES_SECONDS = 3_600, 2_592_000
NAME_CHARS = 255
WRITE_BYTES = 1 << 20
"""What arrives is gathered up to about this much before a thread writes it: one for each piece would cost more."""


class Uploads:
    """Takes files from tenants: so many at once, and the bytes that are still arriving count too."""

    def __init__(self, store: Store, files: FileService, limits: Files) -> None:
        self._store = store
        self.files = files
        self.limits = limits
        self.arriving: Counter[str] = Counter()
        """Bytes by tenant."""
        self._under_way: Counter[str] = Counter()
        """Uploads by tenant: each holds a connection and an open file for as long as its sender likes, or nearly."""

    async def begin(self, tenant_id: str) -> Upload:
        """Begin a file; `discard` must follow, whatever comes of it. Raises RateLimited, FilesFull and StorageFull."""
        if self._under_way.total() >= self.limits.uploads:
            raise RateLimited(
                "The daemon takes as many uploads at once as [files] uploads allows: try again in a moment"
            )
        if self._under_way[tenant_id] >= self.limits.uploads_per_tenant:
            raise RateLimited(
                f"{self.limits.uploads_per_tenant} files of yours are being uploaded already, and [files]"
                " uploads_per_tenant allows no more: try again in a moment"
            )
        self._under_way[tenant_id] += 1
        try:
            taken = await self._store.files.taken(tenant_id)
            self.check_room(taken, BLOCK_BYTES)
            return Upload(self, tenant_id, taken, await asyncio.to_thread(self.files.blobs.new))
        except OSError as error:
            self.end(tenant_id)
            raise StorageFull from error
        except BaseException:
            self.end(tenant_id)
            raise

    def end(self, tenant_id: str) -> None:
        """Give the place of an upload to the next."""
        self._under_way[tenant_id] -= 1
        if not self._under_way[tenant_id]:
            del self._under_way[tenant_id]

    async def check_output(self, tenant_id: str) -> None:
        """Raise FilesFull where a tenant has no room for a file that a batch makes, were it the smallest."""
        self.check_room(await self._store.files.taken(tenant_id), BLOCK_BYTES, "the batch's output")

    def check_room(self, taken: Taken, more: int, what: str = "this file") -> None:
        """Raise FilesFull where there is no room for `more` bytes beside what a tenant has."""
        limits = self.limits
        if taken.files >= limits.files_per_tenant:
            raise FilesFull(
                f"With {what} your files would be more than {limits.files_per_tenant}, which [files] files_per_tenant"
                " allows: delete some"
            )
        if taken.bytes + more > limits.tenant_bytes:
            raise FilesFull(
                f"With {what} your files would have more than {limits.tenant_bytes} bytes, which [files] tenant_bytes"
                " allows: delete some"
            )


class Upload:
    """One file on its way to the disk; nothing of it is held in memory but what is next to be written."""

    def __init__(self, uploads: Uploads, tenant_id: str, taken: Taken, incoming: Incoming) -> None:
        self._uploads = uploads
        self._tenant_id = tenant_id
        self._taken = taken
        self._incoming = incoming
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._bytes = 0
        self._ended = False

    async def write(self, piece: bytes) -> None:
        """Take a piece; raises FileTooLarge and FilesFull as soon as it is too much, and StorageFull."""
        limits, arriving = self._uploads.limits, self._uploads.arriving
        self._bytes += len(piece)
        arriving[self._tenant_id] += len(piece)
        if self._bytes > limits.max_bytes:
            raise FileTooLarge(f"The file is larger than {limits.max_bytes} bytes, which [files] max_bytes allows")
        self._uploads.check_room(self._taken, arriving[self._tenant_id])
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        if self._waiting_bytes >= WRITE_BYTES:
            await self._flush()

    async def finish(self, filename: str, purpose: str, expires_after: int | None) -> File:
        """Make a file of what was written; `expires_after` is in seconds.

        Raises what `write` does, and InvalidRequest where nothing was written: nothing could be done with such a file.
        """
        if not self._bytes:
            raise InvalidRequest("The file is empty", param="file")
        await self._flush()
        if expires_after is None and purpose == "batch":
            expires_after = BATCH_EXPIRES_SECONDS
        expires_at = None if expires_after is None else int(time.time()) + expires_after
        size = max(self._bytes, BLOCK_BYTES)
        return await self._uploads.files.keep(
            self._tenant_id,
            filename,
            purpose,
            self._incoming,
            expires_at,
            lambda taken: self._uploads.check_room(taken, size),  # others may have ended meanwhile
        )

    async def discard(self) -> None:
        """Forget what was not made a file of; harmless after `finish`, and the second time."""
        if self._ended:
            return
        self._ended = True
        arriving = self._uploads.arriving
        arriving[self._tenant_id] -= self._bytes
        if not arriving[self._tenant_id]:
            del arriving[self._tenant_id]
        self._bytes = 0
        self._waiting.clear()
        try:
            await asyncio.to_thread(self._incoming.discard)
        finally:
            self._uploads.end(self._tenant_id)

    async def _flush(self) -> None:
        content, self._waiting, self._waiting_bytes = b"".join(self._waiting), [], 0
        try:
            await asyncio.to_thread(self._incoming.write, content)
        except OSError as error:
            raise StorageFull from error


def check_purpose(purpose: str, key: Key) -> str:
    """Return what a key may upload a file for; raises InvalidRequest, and InsufficientScope."""
    if purpose not in PURPOSES:
        raise InvalidRequest(f"The purpose of an uploaded file must be {' or '.join(PURPOSES)}", param="purpose")
    if purpose not in purposes_of(key):
        needed = " or ".join(SCOPES[purpose])
        raise InsufficientScope(
            f"This API key lacks the scope {needed}, which a file for {purpose} needs", param="purpose"
        )
    return purpose


def check_expiry(anchor: str | None, seconds: str | None) -> int | None:
    """Return after how many seconds a file expires; raises InvalidRequest for what is half given or out of range."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("A file expires some time after created_at", param="expires_after[anchor]")
    given = int(seconds) if seconds and len(seconds) < 10 and seconds.isascii() and seconds.isdigit() else 0
    if not LEAST_EXPIRES_SECONDS <= given <= MOST_EXPIRES_SECONDS:
        raise InvalidRequest(
            f"expires_after[seconds] must be a whole number from {LEAST_EXPIRES_SECONDS} to {MOST_EXPIRES_SECONDS}",
            param="expires_after[seconds]",
        )
    return given


def shown_name(filename: str) -> str:
    """Return a file's name as it is kept: the last part of a path, what cannot be shown replaced, of bounded length.

    It is only ever shown: no path is made of it.
    """
    last = filename.replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(character if character.isprintable() else "_" for character in last)
    return shown[:NAME_CHARS] if shown.strip(" .") else "file"
