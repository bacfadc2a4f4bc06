"""Decides the routes of /v1/files, and how a file comes out of a multipart body while that arrives.

The framework would read the whole body before its handler sees any of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.params import Parameter
from litestar.response import Stream

from reflexd.api.job_objects import make_page
from reflexd.api.multipart_form import FileForm
from reflexd.errors import FileNotFound, FileTooLarge
from reflexd.schemas.files import FileObject
from reflexd.schemas.openai import Deleted, Page
from reflexd.service.files import FileService
from reflexd.service.uploads import Uploads
from reflexd.store.files import File, Order
from reflexd.store.keys import Key

AROUND_BYTES = 1 << 18
"""What a body may have around the file: boundaries, headers, the other fields."""
READ_BYTES = 1 << 18


class FilesController(Controller):
    """Files of tenants."""

    path = "/v1/files"
    opt = {"scope": ("predict", "train")}  # noqa: RUF012 - Litestar reads it from the class

    @post(status_code=200, request_max_body_size=None)
    async def create(self, request: Request[Any, Any, Any], key: Key, uploads: Uploads) -> FileObject:
        """Upload a file; it is written to disk while it arrives."""
        most = uploads.limits.max_bytes + AROUND_BYTES
        too_large = FileTooLarge(
            f"The file is larger than {uploads.limits.max_bytes} bytes, which [files] max_bytes allows"
        )
        if (request.content_length or 0) > most:
            raise too_large
        form = FileForm(request.headers.get("content-type", ""), key)
        upload = await uploads.begin(key.tenant_id)
        try:
            arrived = 0
            async for chunk in request.stream():
                arrived += len(chunk)
                if arrived > most:
                    raise too_large
                for piece in form.feed(chunk):
                    await upload.write(piece)
            filename, purpose, expires_after = form.end()
            return file_object(await upload.finish(filename, purpose, expires_after))
        finally:
            await upload.discard()

    @get()
    async def page(
        self,
        key: Key,
        files: FileService,
        limit: Annotated[int, Parameter(ge=1, le=10_000)] = 10_000,
        after: str | None = None,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> Page[FileObject]:
        """List the tenant's files, newest first unless `order` says otherwise."""
        found, more = await files.page(key, limit, after, order, purpose)
        return make_page([file_object(file) for file in found], more)

    @get("/{file_id:str}")
    async def retrieve(self, file_id: str, key: Key, files: FileService) -> FileObject:
        """Show one file."""
        return file_object(await files.get(key, file_id))

    @get("/{file_id:str}/content")
    async def content(self, file_id: str, key: Key, files: FileService) -> Response[Any]:
        """Return a file's content, byte for byte."""
        file = await files.get(key, file_id)
        opened = await asyncio.to_thread(_open, files.content(file))
        headers = {
            "content-length": str(file.bytes),
            "content-disposition": "attachment",
            "x-content-type-options": "nosniff",
        }
        return Stream(_pieces(opened), media_type="application/octet-stream", headers=headers)

    @delete("/{file_id:str}", status_code=200)
    async def remove(self, file_id: str, key: Key, files: FileService, retried: bool) -> Deleted:
        """Delete a file; a job that was made of it goes on."""
        await files.delete(key, file_id, retried=retried)
        return Deleted(id=file_id, object="file")


def file_object(file: File) -> FileObject:
    """Return the wire form of a file."""
    return msgspec.convert(file, FileObject, from_attributes=True)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:  # deleted just now
        raise FileNotFound from error


async def _pieces(opened: BinaryIO) -> AsyncGenerator[bytes, None]:
    """Yield what an open file holds; it stays readable when it is deleted meanwhile."""
    with contextlib.closing(opened):
        while piece := await asyncio.to_thread(opened.read, READ_BYTES):
            yield piece
