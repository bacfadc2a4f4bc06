"""Shows that kill -9 of the daemon at random moments loses no acknowledged job and leaves nothing torn behind.

`python tests/integration/kill_loop.py --kills 30 --seed 7` prints what it found and exits 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import sqlite3
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx2

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reflexd.registry import artifacts
from tests.daemons import Daemon, new_directory
from tests.rows import TICKETS, made_up

MARK = "RFX_KILL_LOOP"
WRITERS = 3
LONGEST_PAUSE = 2.0
DEADLINE = 600.0
ENDED = ("succeeded", "failed", "cancelled")
JOBS = "/v1/fine_tuning/jobs"


class Writer(threading.Thread):
    """Creates jobs, and holds, cancels and deletes some, for as long as it may; tries again when the daemon is away."""

    def __init__(self, number: int, seed: int, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self.random = random.Random(f"{seed}-{number}")
        self.daemon_under_test = daemon
        self.stopped = threading.Event()
        self.acknowledged: dict[str, str] = {}
        """Id and served name of each job whose creation was answered 200."""
        self.deleting: set[str] = set()
        """Jobs whose deletion was asked for, whether or not an answer came."""
        self.cancelling: set[str] = set()
        self.odd: list[str] = []
        """Answers that should not have been given."""

    def run(self) -> None:
        with self.daemon_under_test.http() as http:
            while not self.stopped.is_set():
                try:
                    self.create(http)
                    self.stopped.wait(self.random.uniform(0, LONGEST_PAUSE))
                except httpx2.TransportError:
                    self.stopped.wait(0.05)

    def create(self, http: httpx2.Client) -> None:
        rows = made_up(150) if self.random.random() < 0.1 else TICKETS
        body: dict[str, object] = {"training_data": rows}
        if self.random.random() < 0.5:
            body["suffix"] = f"shared-{self.random.randrange(4)}"
        if self.random.random() < 0.2:
            body["base_model"] = f"shared-{self.random.randrange(4)}"
        answer = http.post(JOBS, json=body)
        if "base_model" in body and answer.status_code in (400, 409):  # there is none of this name, or not yet
            return
        if answer.status_code != 200:
            self.odd.append(f"create answered {answer.status_code}: {answer.text}")
            return
        job = answer.json()
        self.acknowledged[job["id"]] = job["suffix"] or job["id"]
        chance = self.random.random()
        victim = self.random.choice(list(self.acknowledged))
        if chance < 0.15:
            self.cancelling.add(victim)
            self.expect(http.post(f"{JOBS}/{victim}/cancel"), 200, 400, 404)
        elif chance < 0.3:
            self.deleting.add(victim)
            self.expect(http.delete(f"{JOBS}/{victim}"), 200, 404)
        elif chance < 0.6:
            self.expect(http.post(f"{JOBS}/{victim}/{'pause' if chance < 0.45 else 'resume'}"), 200, 400, 404)

    def expect(self, answer: httpx2.Response, *allowed: int) -> None:
        if answer.status_code not in allowed:
            self.odd.append(f"{answer.request.method} {answer.request.url.path} answered {answer.status_code}")


def live_jobs(http: httpx2.Client) -> dict[str, dict[str, object]]:
    """Return all jobs of the tenant by id."""
    found: dict[str, dict[str, object]] = {}
    after = ""
    while True:
        page = http.get(JOBS, params={"limit": 100, **({"after": after} if after else {})}).json()
        found |= {job["id"]: job for job in page["data"]}
        if not page["has_more"]:
            return found
        after = page["last_id"]


def wait_for_all(http: httpx2.Client) -> dict[str, dict[str, object]]:
    """Wait until every job has ended and return them all."""
    end = time.monotonic() + DEADLINE
    while True:
        found = live_jobs(http)
        for job_id in (job_id for job_id, job in found.items() if job["paused"]):
            http.post(f"{JOBS}/{job_id}/resume")
        if all(job["status"] in ENDED for job in found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def check_events(http: httpx2.Client, job_id: str) -> list[str]:
    """Return what is wrong with a job's history: a gap, or not exactly one ending, which is the last line."""
    events, after = [], ""
    while True:
        page = http.get(f"{JOBS}/{job_id}/events", params={"limit": 100, **({"after": after} if after else {})}).json()
        events += page["data"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    numbers = [int(event["id"].rpartition("-")[2]) for event in events]
    endings = [n for n, event in enumerate(events) if re.match(r"Job (succeeded|failed|cancelled)", event["message"])]
    wrong = []
    if numbers != list(range(1, len(events) + 1)):
        wrong.append(f"{job_id}: its events are numbered {numbers}")
    if endings != [len(events) - 1]:
        wrong.append(f"{job_id}: its endings are at {endings} of {len(events)} events")
    return wrong


def check_models(http: httpx2.Client, jobs: dict[str, dict[str, object]]) -> list[str]:
    """Return which succeeded jobs do not predict, with the version that they say."""
    wrong = []
    for job_id, job in jobs.items():
        if job["status"] != "succeeded":
            continue
        answer = http.post("/v1/reflex/predict", json={"model": job_id, "text": "the app freezes"})
        if answer.status_code != 200 or answer.json()["version"] != job["version"]:
            wrong.append(f"{job_id} succeeded as version {job['version']}, and predict answered {answer.text}")
    return wrong


def check_directory(data_dir: Path) -> list[str]:
    """Return what is wrong with the files and tables of a data directory that no daemon uses."""
    wrong = []
    database = sqlite3.connect(data_dir / "reflexd.db")
    with contextlib.closing(database):
        if (said := database.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            wrong.append(f"integrity_check: {said}")
        if said := database.execute("PRAGMA foreign_key_check").fetchall():
            wrong.append(f"foreign_key_check: {said}")
        versions = {row[0] for row in database.execute("SELECT id FROM model_versions")}
        jobs = {row[0] for row in database.execute("SELECT id FROM jobs WHERE status != 'cancelled'")}
    models = {entry.name for entry in (data_dir / "models").iterdir()}
    runs = {entry.name for entry in (data_dir / "runs").iterdir()}
    if models != versions:
        wrong.append(f"model directories without a row: {models - versions}; rows without one: {versions - models}")
    if runs != jobs:
        wrong.append(f"run directories without a job: {runs - jobs}; jobs without one: {jobs - runs}")
    for name in models & versions:
        try:
            artifacts.load(data_dir / "models", name)
        except artifacts.DamagedArtifact as error:
            wrong.append(f"model {name} is torn: {error}")
    return wrong


def marked_processes(mark: str) -> list[int]:
    """Return the pids of live processes that this loop's daemons have started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def run(kills: int, seed: int) -> list[str]:
    """Kill a daemon again and again, let what is left finish, print a summary and return what is wrong."""
    moments = random.Random(seed)
    mark = uuid.uuid4().hex
    with new_directory() as folder:
        daemon = Daemon(folder / "d", **{MARK: mark})
        try:
            daemon.start()  # once in peace, so that there is a key and an exported encoder
            daemon.stop()
            writers = [Writer(number, seed, daemon) for number in range(WRITERS)]
            for writer in writers:
                writer.start()
            for _ in range(kills):
                daemon.spawn()
                time.sleep(moments.uniform(0.2, 4))  # not a wait for something: the moment is the experiment
                daemon.kill()
            for writer in writers:
                writer.stopped.set()
            for writer in writers:
                writer.join()
            daemon.start()
            return summarise(daemon, writers, kills, mark)
        finally:
            daemon.close()


def summarise(daemon: Daemon, writers: list[Writer], kills: int, mark: str) -> list[str]:
    """Let the daemon finish, stop it, and check everything."""
    acknowledged = {job_id for writer in writers for job_id in writer.acknowledged}
    deleting = {job_id for writer in writers for job_id in writer.deleting}
    cancelling = {job_id for writer in writers for job_id in writer.cancelling}
    wrong = [said for writer in writers for said in writer.odd]
    with daemon.http() as http:
        jobs = wait_for_all(http)
        for job_id in sorted(acknowledged - deleting - set(jobs)):
            wrong.append(f"{job_id} was acknowledged and is gone")
        for job_id, job in jobs.items():
            if job["status"] not in ENDED:
                wrong.append(f"{job_id} is still {job['status']}")
            if job["status"] == "failed":
                wrong.append(f"{job_id} failed: {job['error']}")
            if job["status"] == "cancelled" and job_id not in cancelling:
                wrong.append(f"{job_id} is cancelled, and nobody asked for that")
            wrong += check_events(http, job_id)
        wrong += check_models(http, jobs)
    if not marked_processes(mark):
        wrong.append("the daemon's own processes are not recognised, so that none left behind would be")
    if (status := daemon.stop()) != 0:
        wrong.append(f"the daemon ended with status {status}")
    if orphans := marked_processes(mark):
        wrong.append(f"processes are left: {orphans}")
    wrong += check_directory(daemon.data_dir)
    wrong += [f"the log has an error: {line}" for line in daemon.log().splitlines() if '"level": "error"' in line]
    counts = Counter(str(job["status"]) for job in jobs.values())
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    print(
        f"{kills} kills, {len(acknowledged)} jobs acknowledged ({len(deleting)} of them deleted), {len(jobs)} left "
        f"({told}), {sum(1 for job in jobs if job not in acknowledged)} without their answer; {len(wrong)} things wrong"
    )
    return wrong


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wrong = run(given.kills, given.seed)
    for said in wrong:
        print(f"WRONG: {said}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
