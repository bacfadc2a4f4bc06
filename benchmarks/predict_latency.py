"""Measures what a predict request costs beside its forward: one short text on one keep-alive connection.

Baseline: a bare process tokenises the text and runs the daemon's own exported encoder (ONNX Runtime, one thread).
Against it: POST /v1/reflex/predict to a real daemon, one request after the other, with the quick start's two labels and
with 77 labels. A measurement is the median of many requests in a row. No claim of the first release rests on it: it is
the figure that the goal "at most 1.05 times the forward" is worked towards with.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import msgspec

from benchmarks.appliance import Appliance, exported_folder
from benchmarks.process import Process
from benchmarks.quick_start import BODY
from benchmarks.runner import Side, add_arguments, compare, finish, options_of

TEXT = "My card was charged twice again"
LABELS = 77
MANY = [
    {"text": f"text {row} about topic {label}", "label": f"topic {label}"}
    for label in range(LABELS)
    for row in range(5)
]


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--requests", type=int, default=300, help="in one measurement")
    parser.add_argument("--text", default=TEXT)
    arguments = parser.parse_args()
    with Appliance() as daemon:
        connection = daemon.connect()
        for body in (BODY, {"suffix": "many", "training_data": MANY}):
            connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", body))
        with Process("benchmarks.bare", str(exported_folder("int8"))) as bare:

            def forward() -> float:
                took = bare.ask(do="forward", text=arguments.text, times=arguments.requests)["took"]
                return float(statistics.median(took)) * 1e3

            def request(model: str) -> float:
                body = msgspec.json.encode({"model": model, "text": arguments.text})
                took = []
                for _ in range(arguments.requests):
                    started = time.perf_counter()
                    status, _ = connection.exchange("POST", "/v1/reflex/predict", body)
                    took.append(time.perf_counter() - started)
                    assert status == 200
                return statistics.median(took) * 1e3

            daemon.rest()
            sides = [
                Side("bare forward", forward),
                Side("predict, 2 labels", lambda: request("support-classifier")),
                Side(f"predict, {LABELS} labels", lambda: request("many")),
            ]
            report = compare("predict latency", sides, options_of(arguments), "ms")
    baseline = report.sides["bare forward"].median
    over = {name: report.sides[name].median - baseline for name in report.ratios}
    report.notes = {f"{name}: over the forward": f"{value:.2f} ms" for name, value in over.items()}
    return finish(report, True, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
