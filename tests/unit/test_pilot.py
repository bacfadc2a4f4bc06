"""Shows that a pilot on many rows bears a rare label and a small encoder, and says the same again after a kill."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from reflexd.engine.budget import Work
from reflexd.engine.encoder import Encoder
from reflexd.engine.evaluation import split
from reflexd.engine.plan import Plan
from reflexd.engine.tuned import PILOT_ROWS, PILOT_ROWS_OF_LABEL, Rows, Tuner
from reflexd.schemas.worker import Message, Metrics, RunSpec
from tests.unit.tunings import weights

WORKS = [Work("biases", Plan(8, 16, 4e-3, 0.5), 1.0), Work("low_rank", Plan(8, 16, 2e-3, 0.5), 1.0)]


@pytest.fixture
def tuner(encoder: Encoder, tmp_path: Path) -> tuple[Tuner, Rows, list[Message | Metrics]]:
    """A tuner of 3,000 rows, of which 8 have the second label; the rows repeat a few texts, which a pilot may."""
    few = [f"{what} {n}" for n in range(20) for what in ("refund", "crash")]
    features = encoder.embed_all(few, 1)[0]
    places = np.arange(3_000) % 40
    rare = np.arange(3_000) % 375 == 1
    rows = Rows([few[place] for place in places], rare.astype(np.int64), 2, features[places])
    (tmp_path / "run").mkdir()
    spec = RunSpec(
        job_id="j", stage="train", run_dir=str(tmp_path / "run"), models_dir="", model_id="m", backbone="",
        checkpoint=str(weights()), seed=0, threads=1,
    )  # fmt: skip
    events: list[Message | Metrics] = []
    return Tuner(rows, encoder, spec, events.append), rows, events


def test_a_rare_label_is_in_every_sample(tuner: tuple[Tuner, Rows, list[Message | Metrics]]) -> None:
    made, rows, _ = tuner
    sample = made._sample(np.arange(3_000))
    assert rows.targets[sample].sum() >= PILOT_ROWS_OF_LABEL
    assert PILOT_ROWS <= len(sample) == len(set(sample.tolist())) <= PILOT_ROWS + 2 * PILOT_ROWS_OF_LABEL


def test_a_pilot_s_verdict_outlives_the_process(
    tuner: tuple[Tuner, Rows, list[Message | Metrics]], tmp_path: Path
) -> None:
    made, rows, events = tuner
    parts = split(rows.targets, 2, 0, once=True)
    assert parts is not None
    folder = tmp_path / "run" / "tuning"
    folder.mkdir()
    train, held = parts.parts[0]
    first = made._piloted(WORKS, train[:200], held[:60])
    assert [event for event in events if "After a quarter of the steps" in event.message]
    said = msgspec.json.decode((folder / "pilot.json").read_bytes())
    assert said == [work.kind for work in first]
    (folder / "pilot.json").write_bytes(b'["low_rank"]')
    assert made._piloted(WORKS, train[:200], held[:60]) == WORKS[1:], "what was said stands"
