"""Measures the claim: the 10-row job takes at most 3 times a bare script's embedding and fitting, plus one second.

Baseline: a process that has its libraries and the daemon's own exported encoder loaded embeds the ten texts (ONNX
Runtime, one thread) and fits scikit-learn's LogisticRegression(C=10). Against it: POST to a real daemon over HTTP until
the job's status is succeeded, by the wall clock, polled every 5 ms. The first job after the start is told apart.
Before each measurement the daemon comes to rest (training processes that it warms would slow down either side);
--back-to-back leaves that out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict

from benchmarks.appliance import Appliance, Connection, exported_folder
from benchmarks.process import Process
from benchmarks.runner import Side, add_arguments, compare, finish, options_of

FACTOR, EXTRA_SECONDS = 3.0, 1.0
SCRIPT_TIMES = 25
"""The script's time in a round is the median of so many in a row: caches are warm, which favours the script."""
ROWS = {
    "I need a refund for my order": "billing",
    "Charged me twice this month": "billing",
    "Cancel my subscription": "billing",
    "Update my card on file": "billing",
    "The invoice amount is wrong": "billing",
    "The app crashed on launch": "bug",
    "Submit button does nothing": "bug",
    "Page never finishes loading": "bug",
    "Getting a 500 error on save": "bug",
    "Login fails every time": "bug",
}
BODY = {
    "model": "morph-reflex-v1",
    "suffix": "support-classifier",
    "training_file": "",
    "training_data": [{"text": text, "label": label} for text, label in ROWS.items()],
}
Steps = dict[str, list[float]]


def run_job(connection: Connection, steps: Steps | None = None) -> float:
    """Create the job and wait until it has succeeded; return the seconds, and add each step's to `steps`."""
    started = time.perf_counter()
    job = connection.call("POST", "/v1/fine_tuning/jobs", BODY)
    answered = time.perf_counter()
    _, seen = connection.finish(job)
    if steps is not None:
        moments = [("POST answered", answered), *list(seen.items())[1:]]
        before = started
        for name, moment in moments:
            steps[f"to {name}"].append(moment - before)
            before = moment
    return seen["succeeded"] - started


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, rounds=21)
    parser.add_argument("--back-to-back", action="store_true", help="do not wait until the daemon is at rest")
    arguments = parser.parse_args()
    steps: Steps = defaultdict(list)
    with Appliance() as daemon:
        connection = daemon.connect()
        first = run_job(connection)
        with Process("benchmarks.bare", str(exported_folder("int8"))) as bare:

            def rest() -> None:
                if not arguments.back_to_back:
                    daemon.rest()

            def script() -> float:
                rest()
                answer = bare.ask(do="fit", texts=list(ROWS), labels=list(ROWS.values()), times=SCRIPT_TIMES)
                return float(statistics.median(answer["took"]))

            def job() -> float:
                rest()
                return run_job(connection, steps)

            sides = [Side("bare script", script), Side("job over HTTP", job)]
            report = compare("10-row quick start", sides, options_of(arguments))
    script_seconds, job_side = report.sides["bare script"].median, report.sides["job over HTTP"]
    limit = FACTOR * script_seconds + EXTRA_SECONDS
    report.notes = {
        "first job after the start": f"{first:.3f} s",
        "the job's steps as polled, median": {k: f"{statistics.median(v) * 1e3:.0f} ms" for k, v in steps.items()},
        "limit": f"{FACTOR:g} x {script_seconds:.3f} s + {EXTRA_SECONDS:g} s = {limit:.3f} s",
        "p90 within the limit": job_side.p90 <= limit,
    }
    return finish(report, job_side.median <= limit, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
