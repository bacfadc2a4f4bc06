"""Decides the parts of the serving benchmark that load the daemon: bulk, training beside it, and an overload."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.appliance import resident_mib
from benchmarks.few_shot import read
from benchmarks.process import Process
from benchmarks.runner import Options, Side, as_text, compare, ratio
from benchmarks.serving_parts import BATCH, CORES, Finding, Ground, speed
from benchmarks.serving_texts import exactly, log_uniform
from reflexd.scheduler.periodic import TRIM_EVERY_SECONDS

BULK_ROWS = 10_000
BUSY = 0.2
"""The share of the capacity that interactive requests take beside a batch."""
OVER = 3.0
CONNECTIONS = 10_000
MORE_MIB = 50
"""What the memory may have grown by: the interpreter keeps some of what a rush of connections needed."""


def capacity(ground: Ground, target: str) -> float:
    """Return the requests a second that clients get who always have one under way, 32 of them."""
    count = 400
    return float(
        statistics.median(
            count / ground.load.ask(do="closed", target=target, clients=32, count=count) for _ in range(3)
        )
    )


def batch(ground: Ground) -> Iterator[Finding]:
    """A batch of 10,000 rows alone and beside interactive requests.

    The offline loop reads one text a forward, as the daemon does: several at once share int8's activation scales, and
    give other vectors (by up to .03). What that would bring is reported beside it.
    """
    texts = [row.text for row in read("banking77", "train")[:BULK_ROWS]]
    rows = [{"id": str(number), "model": "base", "text": text} for number, text in enumerate(texts)]
    bulk = {"requests": rows, "fields": ["label", "confidence"]}
    ground.target("bulk", [bulk], BATCH)
    ground.target("prompt", [{"model": "base", "text": text} for text in log_uniform(200, 16, 64)])
    offline = {name: size for size, name in ((1, "offline"), (8, "offline, batches of 8"))}
    sides = [
        Side(name, partial(ground.bare.ask, do="offline", texts=texts, threads=CORES, batch=size))
        for name, size in offline.items()
    ]
    sides.append(Side("reflexd", lambda: sum(ground.load.ask(do="lone", target="bulk", times=1))))
    options = Options(rounds=3, warmups=0, tolerance=ground.options.tolerance)
    report = compare(f"a batch of {len(texts)} rows", sides, options)
    print(as_text(report), flush=True)
    for name, size in offline.items():
        found = speed(report, name)
        holds = None if size > 1 or report.void else found.median >= 0.95
        bound = ">= 0.95" if size == 1 else ""
        yield Finding(f"a batch alone, rows a second to {name}", f"{found.median:.3f}x", bound, holds)
    rate = BUSY * capacity(ground, "prompt")
    alone = ground.load.ask(do="open", target="prompt", rate=rate, seconds=30, connections=64, seed=1)
    seconds = 0.8 * report.sides["reflexd"].median
    took: list[float] = []
    with Process("benchmarks.serving_load") as other:
        given = {"port": ground.daemon.port, "key": ground.daemon.key, "path": BATCH}
        other.ask(do="target", target="bulk", bodies=[msgspec.json.encode(bulk).decode()], **given)
        thread = threading.Thread(target=lambda: took.extend(other.ask(do="lone", target="bulk", times=1)))
        thread.start()
        time.sleep(0.5)
        beside = ground.load.ask(do="open", target="prompt", rate=rate, seconds=seconds, connections=64, seed=2)
        thread.join()
    tails = [p99(alone), p99(beside)]
    value = f"{tails[1] / tails[0]:.2f}x ({tails[1]:.1f} and {tails[0]:.1f} ms)"
    yield Finding("interactive p99 beside a batch to alone", value, "<= 2.5", tails[1] <= 2.5 * tails[0])
    share = report.sides["offline"].median / took[0]
    what = "a batch beside 20 % interactive load, rows a second to offline"
    yield Finding(what, f"{share:.3f}x", ">= 0.75", share >= 0.75)


def p99(found: dict[str, Any]) -> float:
    """Return the milliseconds that 99 of 100 requests of an open run took at most."""
    return float(np.quantile([took for _, took in found["answers"]], 0.99)) * 1e3


def training(ground: Ground) -> Iterator[Finding]:
    """The p99 while three jobs train, at the same arrival rate as alone."""
    ground.target("beside", [{"model": "base", "text": exactly(64, seed)} for seed in range(50)])
    rate = 0.25 * capacity(ground, "beside")
    rows = [{"text": row.text, "label": row.label} for row in read("banking77", "train")]
    pairs = []
    for number in range(3):
        alone = ground.load.ask(do="open", target="beside", rate=rate, seconds=20, connections=64, seed=number)
        body = {"training_data": rows, "hyperparameters": {"budget_seconds": 600}}
        connection = ground.daemon.connect()
        jobs = [connection.call("POST", "/v1/fine_tuning/jobs", body | {"suffix": f"t{n}"}) for n in range(3)]
        time.sleep(6)
        running = Counter(connection.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")["status"] for job in jobs)
        beside = ground.load.ask(do="open", target="beside", rate=rate, seconds=20, connections=64, seed=number)
        for job in jobs:
            connection.call("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        ground.daemon.rest()
        pairs.append([p99(alone), p99(beside)])
        print(f"   alone {pairs[-1][0]:.1f} ms, beside training {pairs[-1][1]:.1f} ms; {dict(running)}", flush=True)
    found = ratio([pair[1] for pair in pairs], [pair[0] for pair in pairs], 0)
    yield Finding("p99 while three jobs train to alone", f"{found.median:.2f}x", "<= 1.5", found.median <= 1.5)


def overload(ground: Ground, seconds: float) -> Iterator[Finding]:
    """Three times the capacity for a minute, and ten thousand connections at once."""
    ground.target("over", [{"model": "base", "text": exactly(64, seed)} for seed in range(50)])
    peak = capacity(ground, "over")
    pid = ground.daemon.processes()[0]
    ground.load.ask(do="at_once", target="over", connections=200)  # what a daemon that has seen a rush keeps
    ground.daemon.rest()
    memory, files = resident_mib(pid), _files(pid)
    found = ground.load.ask(do="open", target="over", rate=OVER * peak, seconds=seconds, connections=2_000, seed=3)
    by_status = Counter(status for status, _ in found["answers"])
    good = by_status[200] / seconds
    refused = [took * 1e3 for status, took in found["answers"] if status in (429, 503)]
    print(f"   peak {peak:.0f}/s; sent late by {found['late'] * 1e3:.1f} ms (p99)")
    answered = found["never"] == 0 and set(by_status) <= {200, 429, 503}
    yield Finding("overload: every request answered", f"{dict(by_status)}, {found['never']} never", "all", answered)
    yield Finding("overload: goodput to the peak", f"{good / peak:.3f}", ">= 0.80", good >= 0.8 * peak)
    tail = float(np.quantile(refused, 0.99)) if refused else 0.0
    yield Finding("overload: rejections p99", f"{tail:.1f} ms", "<= 100 ms", tail <= 100)
    rush = ground.load.ask(do="at_once", target="over", connections=CONNECTIONS)
    statuses = {int(status): count for status, count in rush["statuses"].items()}
    whole = sum(statuses.values()) == CONNECTIONS and set(statuses) <= {200, 429, 503}
    what = f"{CONNECTIONS} connections at once: every request answered"
    yield Finding(what, f"{statuses} in {rush['seconds']:.1f} s", "all", whole)
    ground.daemon.rest()
    time.sleep(2 * TRIM_EVERY_SECONDS + 5)
    more, left = resident_mib(pid) - memory, _files(pid) - files
    value = f"{more:+.0f} MiB, {left:+d} descriptors"
    yield Finding("memory and descriptors after", value, f"<= +{MORE_MIB}, 0", more <= MORE_MIB and left <= 0)


def _files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
