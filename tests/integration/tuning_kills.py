"""Shows that a training process killed with SIGKILL while it tunes an encoder goes on to the very same model.

`python tests/integration/tuning_kills.py --kills 10 --seed 7` prints what it found and exits 1 where something is
wrong. One job is left in peace; another one with the same rows and seed has its training process killed: when tuning
begins, when the first state of each fold and that of the tuning on all rows lie there, and then at random moments.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reflexd.registry import artifacts, runs
from tests.daemons import Daemon, running, wait_for
from tests.rows import questions

JOBS = "/v1/fine_tuning/jobs"
ENDED = ("succeeded", "failed", "cancelled")
DEADLINE = 600.0
LONGEST_WAIT = 8.0
"""Seconds of tuning before a random kill: state is written every three."""


def run(kills: int, seed: int) -> list[str]:
    """Train a job in peace and one that is killed so many times; print a summary and return what is wrong."""
    # Five questions a row: a fold then takes longer than what is between two states.
    body = {"training_data": questions(8, joined=5), "seed": 11, "hyperparameters": {"budget_seconds": 120}}
    options = {"SLOTS": 1, "THREADS": 1, "WARM_CHILDREN": 0, "MAX_ATTEMPTS": kills + 2}
    moments = random.Random(seed)
    done: list[str] = []
    settings = {f"REFLEXD_TRAINING__{name}": str(value) for name, value in options.items()}
    with running(**settings) as daemon, daemon.http() as http:
        in_peace, killed = (Watched(daemon, http, http.post(JOBS, json=body).json()["id"]) for _ in range(2))
        wait_for(in_peace.ended, "the job in peace has ended", DEADLINE)
        while len(done) < kills and (moment := killed.kill(len(done), moments)) is not None:
            done.append(moment)
        wait_for(killed.ended, "the killed job has ended", DEADLINE)
        wrong = differences(in_peace, killed)
        if killed.told("queued again") != len(done):
            wrong.append(f"{len(done)} kills, and {killed.told('queued again')} deaths are told")
    if len(done) < min(kills, 3):
        wrong.append(f"only {len(done)} of {kills} kills met the job while it tuned")
    for number, moment in enumerate(done, 1):
        print(f"kill {number}: {moment}")
    print(f"{len(done)} kills of {kills} asked for; {len(wrong)} things wrong")
    return wrong


class Watched:
    """A job of the daemon, looked at over its API and in its run directory."""

    def __init__(self, daemon: Daemon, http: httpx2.Client, job_id: str) -> None:
        self.daemon, self.http, self.id = daemon, http, job_id
        self.folder = daemon.data_dir / "runs" / job_id / runs.TUNING

    def job(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"{JOBS}/{self.id}").json()
        return found

    def ended(self) -> bool:
        return self.job()["status"] in ENDED

    def told(self, part: str) -> int:
        """Return how many of the job's events say this."""
        events = self.http.get(f"{JOBS}/{self.id}/events", params={"limit": 100}).json()["data"]
        return sum(part in event["message"] for event in events)

    def manifest(self) -> artifacts.Manifest:
        models = self.daemon.data_dir / "models"
        every = [artifacts.read_manifest(models, name) for name in self.daemon.models()]
        (own,) = [one for one in every if one.lineage["job_id"] == self.id]
        return own

    def states(self) -> dict[str, int]:
        """Return the step that each state lies at."""
        return {path.stem: steps_of(path) for path in sorted(self.folder.glob("[!.]*.safetensors"))}

    def has_begun(self, part: int) -> bool:
        """Return whether the state of a fold, or of the tuning on all rows after them, lies there."""
        return any(name.endswith(f"-{part - 1}") for name in self.states())

    def kill(self, number: int, moments: random.Random) -> str | None:
        """Kill the training process for the `number`th time and say when; None where the job ended before."""
        looks: list[tuple[str, Callable[[], bool]]] = [
            ("tuning begins", self.folder.is_dir),
            *(
                (f"a first state of tuning {part} of 4", partial(self.has_begun, part))  # three folds, then all rows
                for part in range(1, 5)
            ),
        ]
        wait_for(lambda: self.told("Tuning the encoder") > number or self.ended(), "it tunes again", DEADLINE)
        if number < len(looks):
            said, look = looks[number]
            wait_for(lambda: look() or self.ended(), said, DEADLINE)
        else:
            wait = moments.uniform(0.0, LONGEST_WAIT)
            time.sleep(wait)  # not a wait for something: the moment is the experiment
            said = f"{wait:.1f} s into it"
        before = self.states()
        for pid in self.daemon.training_processes():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.told("queued again") > number or self.ended(), "the death was noticed", DEADLINE)
        return f"{said}, with states at {before}" if self.told("queued again") > number else None


def steps_of(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        state: dict[str, int] = json.loads(file.metadata()["state"])
    return state["step"]


def differences(one: Watched, other: Watched) -> list[str]:
    """Return in what two ended jobs with the same rows and seed differ."""
    wrong = [f"{each.id} {each.job()['status']}: {each.job()['error']}" for each in (one, other)]
    wrong = [said for said in wrong if "succeeded" not in said]
    if wrong:
        return wrong
    left, right = one.manifest(), other.manifest()
    if left.adapter is None:
        wrong.append("the job in peace has no adapter, so that nothing was tested")
    if left.files != right.files:
        wrong.append(f"files differ: {left.files} and {right.files}")
    if left.result != right.result or one.job()["result"] != other.job()["result"]:
        wrong.append(f"results differ: {left.result} and {right.result}")
    for field in ("adapter", "head", "calibration", "thresholds", "in_domain", "labels", "seed"):
        if getattr(left, field) != getattr(right, field):
            wrong.append(f"{field} differs: {getattr(left, field)} and {getattr(right, field)}")
    if right.files.keys() != {path.name for path in other.daemon.data_dir.glob("models/*/*")} - {artifacts.MANIFEST}:
        wrong.append("there are files that the manifests do not name")
    text = {"text": "Where is the Nile?"}
    answers = [each.http.post("/v1/reflex/predict", json={"model": each.id, **text}).json() for each in (one, other)]
    if "label" not in answers[0] or answers[0]["scores"] != answers[1]["scores"]:
        wrong.append(f"the two predict differently: {answers}")
    return wrong


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = run(given.kills, given.seed)
    for said in wrong:
        print(f"WRONG: {said}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
