"""Shows how much of files a tenant may have, what of them stays on the disk, and how their names are shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflexd.config import Files
from reflexd.errors import FileNotFound, FilesFull, InvalidRequest, RateLimited, StorageFull
from reflexd.registry.blobs import Blobs
from reflexd.service.files import FileService
from reflexd.service.uploads import NAME_CHARS, Uploads, shown_name
from reflexd.store.files import BLOCK_BYTES, File, Taken
from reflexd.store.keys import Key
from reflexd.store.store import Store
from tests.unit.test_store import make_key

pytestmark = pytest.mark.anyio


class Cabinet:
    """The files of all tenants, of which each may have four of the smallest, and `key`, which opens one tenant's."""

    def __init__(self, store: Store, key: Key, folder: Path) -> None:
        folder.mkdir()
        self.key = key
        self.folder = folder
        self.files = FileService(store, Blobs(folder))
        self.uploads = Uploads(store, self.files, Files(tenant_bytes=4 * BLOCK_BYTES, uploads=3, uploads_per_tenant=2))

    async def upload(self, content: str, purpose: str = "fine-tune") -> str:
        upload = await self.uploads.begin(self.key.tenant_id)
        try:
            await upload.write(content.encode())
            return (await upload.finish("rows.csv", purpose, None)).id
        finally:
            await upload.discard()


@pytest.fixture
async def cabinet(store: Store, tmp_path: Path) -> Cabinet:
    return Cabinet(store, await make_key(store, "cabinet"), tmp_path / "files")


async def test_expired_files_go_with_the_contents_that_no_other_has(cabinet: Cabinet, store: Store) -> None:
    shared, alone, _ = [await cabinet.upload(content) for content in ("shared", "alone", "shared")]
    assert len(list(cabinet.folder.iterdir())) == 2

    async def expire(tx: Any) -> None:
        await tx.run("UPDATE files SET expires_at = 1 WHERE id IN (?, ?)", (shared, alone))

    await store.database.write(expire)
    await cabinet.files.delete_expired()
    (left,) = cabinet.folder.iterdir()
    assert left.read_text() == "shared"
    assert left.stat().st_mode & 0o222 == 0, "who has a link to it must not change it for the others"


async def test_a_repeated_deletion_is_one_for_an_hour(cabinet: Cabinet, store: Store) -> None:
    file_id = await cabinet.upload("gone")
    await cabinet.files.delete(cabinet.key, file_id, retried=True)
    await cabinet.files.delete(cabinet.key, file_id, retried=True)
    await cabinet.files.delete_expired()
    await cabinet.files.delete(cabinet.key, file_id, retried=True)

    async def age(tx: Any) -> None:
        await tx.run("UPDATE deleted_files SET deleted_at = deleted_at - 3600")

    await store.database.write(age)
    with pytest.raises(FileNotFound):
        await cabinet.files.delete(cabinet.key, file_id, retried=True)
    await cabinet.files.delete_expired()
    assert await store.database.rows("SELECT * FROM deleted_files") == []


async def test_what_has_arrived_counts_no_longer_once_it_is_discarded(cabinet: Cabinet) -> None:
    for _ in range(3):
        first, second = [await cabinet.uploads.begin(cabinet.key.tenant_id) for _ in range(2)]
        await first.write(b"x" * 10_000)
        with pytest.raises(FilesFull):
            await second.write(b"y" * (4 * BLOCK_BYTES - 9_999))
        await second.discard()
        await first.discard()
    assert not cabinet.uploads.arriving
    assert list(cabinet.folder.iterdir()) == []


async def test_a_full_disk_is_said_and_leaves_nothing(cabinet: Cabinet, store: Store) -> None:
    upload = await cabinet.uploads.begin("full")
    upload._incoming._file.close()
    upload._incoming._file = Path("/dev/full").open("wb")  # noqa: ASYNC230, SIM115 - it is no file, and discard closes it
    await upload.write(b"x" * 1_000)
    with pytest.raises(StorageFull):
        await upload.finish("a", "batch", None)
    await upload.discard()
    assert list(cabinet.folder.iterdir()) == []
    assert await store.files.taken("full") == Taken(0, 0)
    await cabinet.upload("x")  # nor does it keep a place


async def test_uploads_under_way_are_bounded_for_a_tenant_and_in_all(cabinet: Cabinet, store: Store) -> None:
    other = await make_key(store, "other")
    mine = [await cabinet.uploads.begin(cabinet.key.tenant_id) for _ in range(2)]
    with pytest.raises(RateLimited, match="uploads_per_tenant"):
        await cabinet.uploads.begin(cabinet.key.tenant_id)
    theirs = await cabinet.uploads.begin(other.tenant_id)
    with pytest.raises(RateLimited, match=r"\[files\] uploads allows"):
        await cabinet.uploads.begin(other.tenant_id)
    await mine[0].discard()
    await mine[0].discard()
    mine[0] = await cabinet.uploads.begin(cabinet.key.tenant_id)
    with pytest.raises(RateLimited, match=r"\[files\] uploads allows"):
        await cabinet.uploads.begin(other.tenant_id)
    for upload in (*mine, theirs):
        await upload.write(b"x")
        await upload.finish("a", "batch", None)
        await upload.discard()
    await cabinet.upload("y")


async def test_the_smallest_file_counts_a_block(cabinet: Cabinet, store: Store) -> None:
    for n in range(4):
        await cabinet.upload(str(n))
    assert await store.files.taken(cabinet.key.tenant_id) == Taken(4, 4 * BLOCK_BYTES)
    with pytest.raises(FilesFull, match="tenant_bytes"):
        await cabinet.uploads.begin(cabinet.key.tenant_id)


async def test_a_tenants_files_have_a_bound_that_uploads_at_once_do_not_pass(cabinet: Cabinet, store: Store) -> None:
    uploads = Uploads(store, cabinet.files, Files(files_per_tenant=2))
    under_way = [await uploads.begin(cabinet.key.tenant_id) for _ in range(4)]
    for number, upload in enumerate(under_way):
        await upload.write(b"%d" % number)
    ends = (upload.finish("a", "fine-tune", None) for upload in under_way)
    ended = await asyncio.gather(*ends, return_exceptions=True)
    refused = [end for end in ended if isinstance(end, FilesFull)]
    made = [end for end in ended if isinstance(end, File)]
    assert (len(made), len(refused)) == (2, 2)
    assert "files_per_tenant" in refused[0].message
    for upload in under_way:
        await upload.discard()
    assert {entry.name for entry in cabinet.folder.iterdir()} == {file.sha256 for file in made}
    with pytest.raises(FilesFull):
        await uploads.begin(cabinet.key.tenant_id)
    await cabinet.files.delete(cabinet.key, made[0].id, retried=False)
    await (await uploads.begin(cabinet.key.tenant_id)).discard()


async def test_a_refused_file_takes_no_content_along_that_another_has(cabinet: Cabinet, store: Store) -> None:
    uploads = Uploads(store, cabinet.files, Files(files_per_tenant=1))
    under_way = [await uploads.begin(cabinet.key.tenant_id) for _ in range(2)]
    for upload in under_way:
        await upload.write(b"the same")
    kept = await under_way[0].finish("a", "batch", None)
    with pytest.raises(FilesFull):
        await under_way[1].finish("a", "batch", None)
    assert cabinet.files.content(kept).read_bytes() == b"the same"
    for upload in under_way:
        await upload.discard()


async def test_an_empty_file_is_refused(cabinet: Cabinet) -> None:
    with pytest.raises(InvalidRequest, match="empty") as refused:
        await cabinet.upload("")
    assert refused.value.param == "file"
    assert list(cabinet.folder.iterdir()) == []


@given(st.text(max_size=300))
def test_a_shown_name_is_printable_short_and_no_path(filename: str) -> None:
    shown = shown_name(filename)
    assert shown.isprintable()
    assert 1 <= len(shown) <= NAME_CHARS
    assert not set(shown) & set("/\\\0\n")
    assert shown.strip(" .")
