"""Shows what a training process keeps out of the way of its jobs: broken tuning, and collections over all of torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from reflexd.schemas.worker import RunSpec

BEGINNING = """
import gc, sys
sys.argv = ["worker", "0"]
from reflexd.engine import stages, worker
from reflexd.schemas.worker import Failed
frozen = []
gc.freeze = lambda: frozen.append(1)
def run(self, spec):
    if spec.job_id == "tunes":
        sys.modules["torch"] = sys
    if spec.job_id == "fills":
        open("/dev/full", "wb", 0).write(b"x")
    if spec.job_id == "fails":
        raise ConnectionError
    return Failed("told", str(len(frozen)), reusable=True)
stages.Stages.run = run
"""


class Worker:
    """A training process whose jobs answer how often what lives was frozen."""

    def __init__(self, child: subprocess.Popen[bytes], folder: Path) -> None:
        self.child, self._folder = child, str(folder)

    def read(self) -> bytes:
        """Return its next line."""
        assert self.child.stdout is not None
        return self.child.stdout.readline()

    def run(self, job: str) -> str:
        """Run a job and return its answer."""
        spec = RunSpec(
            job_id=job,
            stage="train",
            run_dir=self._folder,
            models_dir=self._folder,
            model_id="m",
            backbone="",
            checkpoint="",
            seed=1,
            threads=1,
        )
        assert self.child.stdin is not None
        self.child.stdin.write(msgspec.json.encode(spec) + b"\n")
        self.child.stdin.flush()
        message: str = msgspec.json.decode(self.read())["message"]
        return message


@contextmanager
def worker(folder: Path, more: str = "") -> Iterator[Worker]:
    code = f"{BEGINNING}{more}\nworker.main()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        made = Worker(child, folder)
        assert b'"ready"' in made.read()
        yield made
    finally:
        child.kill()
        child.communicate()


def test_what_a_tuning_job_imports_is_frozen_once_after_it(tmp_path: Path) -> None:
    with worker(tmp_path, "worker.STANDING_BY_SECONDS = 600") as child:
        jobs = ("plain", "plain", "tunes", "tunes", "plain")
        assert [child.run(job) for job in jobs] == ["1", "1", "1", "2", "2"]


def test_a_process_stands_by_between_two_jobs_that_did_not_tune_and_once_at_most(tmp_path: Path) -> None:
    counted = """
def stand_by():
    print("standing by", file=sys.stderr, flush=True)
stages.Stages.stand_by = staticmethod(stand_by)
worker.STANDING_BY_SECONDS = 2.0
"""
    with worker(tmp_path, counted) as child:
        assert child.run("plain") == "1"
        assert child.child.stderr is not None
        assert child.child.stderr.readline() == b"standing by\n"
        assert [child.run(job) for job in ("plain", "tunes", "plain")] == ["2", "2", "2"]
        time.sleep(2.5)
        child.child.kill()
        assert child.child.stderr.read() == b""


def test_a_process_whose_tuning_is_broken_runs_other_jobs(tmp_path: Path) -> None:
    broken = """
def stand_by():
    print("standing by", file=sys.stderr, flush=True)
    raise OSError("libtorch.so: cannot open shared object file")
stages.Stages.stand_by = staticmethod(stand_by)
worker.STANDING_BY_SECONDS = 0.01
"""
    with worker(tmp_path, broken) as child:
        assert child.child.stderr is not None
        assert child.child.stderr.readline() == b"standing by\n"
        assert child.run("plain") == "2"


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    with worker(tmp_path) as child:
        assert child.run("fills").startswith("The disk became full")
        assert not list(tmp_path.iterdir())
    with worker(tmp_path) as child:
        assert "unexpected ConnectionError" in child.run("fails")
        assert (tmp_path / "worker.log").read_text().endswith("ConnectionError\n")
