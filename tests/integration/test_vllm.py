"""Shows `generate` on a real vLLM with SmolLM2's weights, where one is installed, and kills of it.

RFX_VLLM names the `llm` folder of a data directory in which `reflexd llm install` ran; RFX_SYNTHESIS_KILLS as in
synthesis_kills.py, and each of them takes the minute in which vLLM starts again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import jobs
from tests.checkpoints import smollm2_packed
from tests.daemons import Daemon, running
from tests.integration import synthesis_kills
from tests.integration.synthesis_kills import KILLS
from tests.integration.test_holding import rests
from tests.integration.test_made_labels import LABELS, LINES, made_rows

INSTALLED = os.environ.get("RFX_VLLM", "")
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed here: see RFX_VLLM above"),
    pytest.mark.timeout(600 + 150 * KILLS),
]
MODULES = ["vllm.entrypoints.openai.api_server", "VLLM::EngineCore"]


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    """A daemon with SmolLM2 imported, which uses the installed vLLM."""
    environment = (Path(INSTALLED) / "vllm").resolve()
    with running(REFLEXD_LLM__ENGINE="vllm", REFLEXD_LLM__IDLE_SECONDS="120") as daemon:
        daemon.cli("llm", "import", smollm2_packed(), "--name", "smol", seconds=300)
        folder = daemon.data_dir / "llm"
        (folder / environment.name).symlink_to(environment)
        (folder / "vllm").symlink_to(environment.name)
        yield daemon


def create(daemon: Daemon, **more: Any) -> Any:
    with daemon.openai() as client:
        return client.fine_tuning.jobs.create(
            model="morph-reflex-v1", training_file="", extra_body={"labels": LABELS, **more}
        )


def test_rows_are_written_and_trained_on(served: Daemon) -> None:
    given = {"description": "what people say", "label_descriptions": LINES, "examples_per_label": 5}
    job = create(served, generate=given, suffix="written")
    with served.openai() as client, served.http() as http:
        jobs.wait_for_status(client, job.id, "succeeded")
        made = made_rows(client, http, job.id)
        assert jobs.predict(client, "written", "how many calories are in a banana")["label"] == "calories"
    assert {name: sum(row["label"] == name for row in made) for name in LABELS} == dict.fromkeys(LABELS, 5)


def test_kills_lose_no_text_and_leave_no_orphan(served: Daemon) -> None:
    wanted = 5 + 4 * KILLS
    given = {"description": "what people say", "label_descriptions": LINES, "examples_per_label": wanted}
    job = create(served, generate=given, suffix="killed", auto_train=False)
    synthesis_kills.kill(served, job.id, MODULES, range(KILLS))
    with served.openai() as client, served.http() as http:
        rests(http, job.id, 600)
        made = made_rows(client, http, job.id)
    synthesis_kills.check_answers(served, job.id)
    assert {name: sum(row["label"] == name for row in made) for name in LABELS} == dict.fromkeys(LABELS, wanted)
