"""Shows a decoder in the real daemon: added for the processor, trained on and served beside an encoder's models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import jobs
from tests.checkpoints import smollm2
from tests.daemons import Daemon
from tests.rows import TICKETS

TEXT = "the app freezes"


def has_torch(daemon: Daemon) -> bool:
    return "libtorch" in Path(f"/proc/{daemon.pid}/maps").read_text()


@pytest.mark.slow
def test_the_daemon_serves_a_decoder_and_imports_torch_only_then(start_daemon: Callable[..., Daemon]) -> None:
    checkpoint = smollm2()
    daemon = start_daemon()
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "first")
        before = jobs.predict(client, "first", TEXT)["all_scores"]
    said = daemon.cli("backbones", "add", checkpoint, "--name", "smol", "--cpu")
    assert said.startswith("added smol (30 layers, 576 wide, last_token pooling; fingerprint ")
    assert not has_torch(daemon)

    assert daemon.stop() == 0
    daemon.env["REFLEXD_TRAINING__BACKBONE"] = "smol"
    daemon.start()
    with daemon.openai() as client:
        jobs.train(client, TICKETS, "second", hyperparameters={"budget_seconds": 0})
        assert client.models.retrieve("second").model_extra["backbone"] == "smol"
        assert jobs.predict(client, "second", TEXT)["label"] == "bug"
        assert jobs.predict(client, "second", "I was charged twice")["label"] == "billing"
        assert jobs.predict(client, "first", TEXT)["all_scores"] == before, "an old model answers as it did"
    assert has_torch(daemon)
