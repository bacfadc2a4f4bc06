"""Measures what 500 slow connections cost a client that is not slow: predict alone, and beside them, in turns.

A third of the slow ones is silent, a third drips a head, a third drips a body, a byte a second; the daemon closes them
at its deadlines and they come back. A measurement is the median of many requests in a row on one keep-alive connection;
the 99th percentile of the same requests has a ratio and a control of its own. The claim: a p99 of at most 1.5 times the
one alone.
"""

from __future__ import annotations

import argparse
import sys
import time

import msgspec
import numpy as np

from benchmarks.appliance import Appliance
from benchmarks.process import Process
from benchmarks.quick_start import BODY
from benchmarks.runner import CONTROL, Ratio, Side, add_arguments, compare, finish, options_of, ratio

TEXT = "My card was charged twice again"
MAX_P99_RATIO = 1.5


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--requests", type=int, default=1000, help="in one measurement")
    parser.add_argument("--connections", type=int, default=500, help="slow ones")
    arguments = parser.parse_args()
    tails: dict[int, list[float]] = {0: [], arguments.connections: []}
    renewed = 0
    with Appliance(HTTP__HEAD_TIMEOUT_SECONDS="2", HTTP__BODY_TIMEOUT_SECONDS="2") as daemon:
        connection = daemon.connect()
        connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", BODY))
        daemon.rest()
        with Process("benchmarks.slow_side", str(daemon.port), daemon.key) as slow:

            def request(connections: int) -> float:
                nonlocal renewed
                slow.ask(count=connections)
                body = msgspec.json.encode({"model": "support-classifier", "text": TEXT})
                took = []
                for _ in range(arguments.requests):
                    started = time.perf_counter()
                    status, _ = connection.exchange("POST", "/v1/reflex/predict", body)
                    took.append(time.perf_counter() - started)
                    assert status == 200
                renewed += slow.ask(count=0)["renewed"]
                tails[connections].append(float(np.quantile(took, 0.99)) * 1e3)
                return float(np.median(took)) * 1e3

            beside = f"beside {arguments.connections} slow connections"
            sides = [Side("alone", lambda: request(0)), Side(beside, lambda: request(arguments.connections))]
            report = compare("predict beside slow clients", sides, options_of(arguments), "ms")
    p99, control = ratios_of_tails(tails[0], tails[arguments.connections], arguments.warmups, arguments.seed)
    report.notes = {
        "p99 alone": f"{np.median(tails[0]):.2f} ms",
        f"p99 {beside}": f"{np.median(tails[arguments.connections]):.2f} ms",
        "p99 ratio": f"{p99.median:.2f}x ({p99.low:.2f} to {p99.high:.2f})",
        f"p99 alone{CONTROL}": f"{control.median:.2f}x ({control.low:.2f} to {control.high:.2f})",
        "slow connections that the daemon closed meanwhile": renewed,
    }
    off = abs(control.median - 1)
    if off > arguments.tolerance and report.void is None:
        report.void = f"the A/A control of the p99 is off by {off:.1%}, over {arguments.tolerance:.0%}"
    return finish(report, p99.median <= MAX_P99_RATIO, arguments.json)


def ratios_of_tails(alone: list[float], beside: list[float], warmups: int, seed: int) -> tuple[Ratio, Ratio]:
    """Return the p99 beside slow clients to the one alone, by rounds, and the second one alone to the first.

    Both lists are in the order measured: `warmups` of each, then two of each a round.
    """
    each = [np.reshape(values[warmups:], (-1, 2)) for values in (alone, beside)]
    sums = [values.sum(axis=1).tolist() for values in each]
    return ratio(sums[1], sums[0], seed), ratio(each[0][:, 1].tolist(), each[0][:, 0].tolist(), seed)


if __name__ == "__main__":
    sys.exit(main())
