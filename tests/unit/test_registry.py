"""Shows that model folders and run directories appear whole or not at all, and that a damaged one is never used."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import numpy as np
import pytest

from reflexd.hookspecs import Example
from reflexd.registry import artifacts, files, runs
from reflexd.registry.artifacts import BackboneRef, Calibration, DamagedArtifact, Head, Manifest
from reflexd.registry.files import new_directory, purge, remove_directory, replace_file, sweep

ROWS = [Example(f"text {n}", "ab"[n % 2]) for n in range(700)]


def manifest(labels: int = 2) -> Manifest:
    return Manifest(
        stack=1,
        labels=[f"l{n}" for n in range(labels)],
        mode="single_label",
        backbone=BackboneRef(name="b", fingerprint="f", precision="int8", width=3),
        calibration=Calibration(method="none", temperature=1.0, rows=0),
        data_sha256="",
        examples=10,
        seed=1,
        packages={},
        created_at=0,
    )


def publish(folder: Path) -> Path:
    head = Head(np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, dtype=np.float32))
    artifacts.publish(folder, "abc", head, manifest())
    return folder / "abc"


def test_a_published_model_loads_as_it_was(tmp_path: Path) -> None:
    publish(tmp_path)
    head, about = artifacts.load(tmp_path, "abc")
    assert head.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert about.labels == ["l0", "l1"]
    assert [p.name for p in tmp_path.iterdir()] == ["abc"]


@pytest.mark.parametrize("harm", ["missing", "head cut", "head changed", "no manifest", "torn manifest", "other shape"])
def test_a_damaged_model_is_refused(tmp_path: Path, harm: str) -> None:
    folder = publish(tmp_path)
    head = folder / "head.safetensors"
    match harm:
        case "missing":
            remove_directory(folder)
        case "head cut":
            head.write_bytes(head.read_bytes()[:-5])
        case "head changed":
            head.write_bytes(head.read_bytes()[:-1] + b"\x55")
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "torn manifest":
            (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:50])
        case "other shape":
            artifacts.publish(tmp_path, "def", Head(np.ones((2, 9), np.float32), np.ones(2, np.float32)), manifest())
            folder = tmp_path / "def"
    with pytest.raises(DamagedArtifact):
        artifacts.load(tmp_path, folder.name)


def test_a_crash_before_the_rename_leaves_only_what_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "fsync_directory", crash)
    (tmp_path / "models").mkdir()
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "models")
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".tmp-abc"]
    (tmp_path / "models" / "stranger").write_text("not ours to delete")
    (tmp_path / "models" / "kept").mkdir()
    models, aside = tmp_path / "models", tmp_path / "aside"
    assert sweep(models, {"kept", "abc"}, aside) == ["stranger"]
    assert [p.name for p in models.iterdir()] == ["kept"]
    assert [p.read_text() for p in aside.iterdir()] == ["not ours to delete"]
    purge(aside, days=1)
    assert list(aside.iterdir())
    purge(aside, days=0)
    assert not list(aside.iterdir())


def test_what_fails_while_it_is_made_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with new_directory(tmp_path / "model") as temporary:
            (temporary / "half").write_bytes(b"x")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_rows_go_on_after_a_torn_line(tmp_path: Path) -> None:
    list(runs.append_rows(tmp_path, ROWS[:300]))
    path = tmp_path / runs.ROWS
    path.write_bytes(path.read_bytes() + b'{"text":"half a li')
    assert runs.read_rows(tmp_path, Example) == ROWS[:300]
    list(runs.append_rows(tmp_path, ROWS[300:]))
    assert runs.read_rows(tmp_path, Example) == ROWS


def test_rows_are_on_disk_while_the_source_still_works(tmp_path: Path) -> None:
    appending = runs.append_rows(tmp_path, ROWS)
    for _ in range(runs.FSYNC_EVERY + 1):
        next(appending)
    assert len(runs.read_rows(tmp_path, Example)) >= runs.FSYNC_EVERY


def test_a_run_directory_keeps_the_payload_to_the_byte(tmp_path: Path) -> None:
    payload = '[{"text": "ä\\u00e4  ", "label":1e3}]'.encode()
    given = runs.RunInput(source="training_data", payload=msgspec.Raw(payload), labels=["a"], limits={"rows": 5})
    runs.create(tmp_path, "job", given)
    found = runs.read_input(tmp_path / "job")
    assert bytes(found.payload) == payload
    assert (found.source, found.labels, found.limits) == ("training_data", ["a"], {"rows": 5})
    assert (tmp_path / "job").stat().st_mode & 0o077 == 0
    assert runs.read_prepared(tmp_path / "job") is None
    runs.mark_prepared(tmp_path / "job", runs.PreparedRows(rows=1, labels=["a"], sha256=""))
    mark = runs.read_prepared(tmp_path / "job")
    assert mark is not None
    assert mark.rows == 1


def test_replacing_a_file_leaves_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    replace_file(target, b"old")
    (tmp_path / ".tmp-f").write_bytes(b"left by a crash")
    replace_file(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert target.read_bytes() == b"new"


def test_an_adopted_model_is_named_by_its_content_and_heals(tmp_path: Path) -> None:
    source, models = publish(tmp_path / "plugin"), tmp_path / "models"
    (source / "README").write_text("left out")
    models.mkdir()
    model_id = artifacts.adopt(models, source)
    assert len(model_id) == 32
    assert artifacts.adopt(models, source) == model_id
    assert [p.name for p in models.iterdir()] == [model_id]
    assert sorted(p.name for p in (models / model_id).iterdir()) == ["head.safetensors", "manifest.json"]
    assert artifacts.load(models, model_id)[1] == artifacts.load(source.parent, source.name)[1]
    (models / model_id / "head.safetensors").write_bytes(b"torn")
    assert artifacts.adopt(models, source) == model_id
    artifacts.load(models, model_id)


@pytest.mark.parametrize("harm", ["missing", "head changed", "seen changed", "stranger's file"])
def test_what_is_no_whole_model_is_not_adopted(tmp_path: Path, harm: str) -> None:
    (tmp_path / "plugin").mkdir()
    (tmp_path / "models").mkdir()
    head = Head(np.ones((2, 3), dtype=np.float32), np.ones(2, dtype=np.float32))
    artifacts.publish(tmp_path / "plugin", "abc", head, manifest(), np.array([7, 5, 7], dtype=np.uint64))
    source = tmp_path / "plugin" / "abc"
    match harm:
        case "missing":
            remove_directory(source)
        case "head changed":
            (source / "head.safetensors").write_bytes(b"x")
        case "seen changed":
            (source / "seen.safetensors").write_bytes(b"x")
        case _:
            text = (source / "manifest.json").read_text()
            (source / "manifest.json").write_text(text.replace('"seen.safetensors"', '"../../secret"'))
    with pytest.raises(DamagedArtifact):
        artifacts.adopt(tmp_path / "models", source)
    assert list((tmp_path / "models").iterdir()) == []


def test_what_a_model_has_seen_is_kept_once_and_verified(tmp_path: Path) -> None:
    head = Head(np.ones((2, 3), dtype=np.float32), np.ones(2, dtype=np.float32))
    artifacts.publish(tmp_path, "abc", head, manifest(), np.array([2**64 - 1, 5, 5], dtype=np.uint64))
    about = artifacts.load(tmp_path, "abc")[1]
    seen = artifacts.load_seen(tmp_path, "abc", about)
    assert seen is not None
    assert seen.tolist() == [5, 2**64 - 1]
    path = tmp_path / "abc" / "seen.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    artifacts.load(tmp_path, "abc")  # serving does not read it
    with pytest.raises(DamagedArtifact, match="seen"):
        artifacts.load_seen(tmp_path, "abc", about)


def test_a_manifest_without_the_newer_fields_still_loads(tmp_path: Path) -> None:
    path = publish(tmp_path) / "manifest.json"
    old = {name: value for name, value in msgspec.json.decode(path.read_bytes()).items() if name != "thresholds"}
    path.write_bytes(msgspec.json.encode(old))
    about = artifacts.load(tmp_path, "abc")[1]
    assert about.thresholds == []
    assert artifacts.load_seen(tmp_path, "abc", about) is None
    path.write_bytes(msgspec.json.encode(old | {"mode": "multi_label"}))
    with pytest.raises(DamagedArtifact, match="threshold"):
        artifacts.load(tmp_path, "abc")
