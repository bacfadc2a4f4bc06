"""Decides the parts of the serving benchmark that load the daemon: bulk, training beside it, and more than it can take."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.appliance import resident_mib
from benchmarks.few_shot import read
from benchmarks.process import Process
from benchmarks.runner import Side, as_text, compare, ratio
from benchmarks.serving_parts import BATCH, CORES, Finding, Ground
from benchmarks.serving_texts import exactly, log_uniform

BULK_ROWS = 10_000
BUSY = 0.2
"""The share of the capacity that interactive requests take beside a batch."""
OVER = 3.0
CONNECTIONS = 10_000


def capacity(ground: Ground, target: str) -> float:
    """Return the requests a second that clients get who always have one under way, 32 of them."""
    count = 400
    return float(
        statistics.median(
            count / ground.load.ask(do="closed", target=target, clients=32, count=count) for _ in range(3)
        )
    )


def batch(ground: Ground) -> Iterator[Finding]:
    """A batch of 10,000 rows alone and beside interactive requests."""
    texts = [row.text for row in read("banking77", "train")[:BULK_ROWS]]
    fields = ["label", "confidence"]
    rows = [{"id": str(number), "model": "base", "text": text} for number, text in enumerate(texts)]
    ground.target("bulk", [{"requests": rows, "fields": fields}], BATCH)
    ground.target("prompt", [{"model": "base", "text": text} for text in log_uniform(200, 16, 64)])
    sides = [
        Side("offline", lambda: ground.bare.ask(do="offline", texts=texts, threads=CORES, batch=1)),
        Side("offline, batches of 8", lambda: ground.bare.ask(do="offline", texts=texts, threads=CORES, batch=8)),
        Side("reflexd", lambda: sum(ground.load.ask(do="lone", target="bulk", times=1))),
    ]
    options = ground.options
    report = compare(
        f"a batch of {len(texts)} rows", sides, type(options)(rounds=3, warmups=0, tolerance=options.tolerance)
    )
    print(as_text(report), flush=True)
    for name in ("offline", "offline, batches of 8"):
        found = ratio(report.sides[name].values[:6], report.sides["reflexd"].values, options.seed)
        claimed = name == "offline"
        holds = found.median >= 0.95 if claimed and not report.void else None
        yield Finding(
            f"a batch alone, rows a second to {name}", f"{found.median:.3f}x", ">= 0.95" if claimed else "", holds
        )
    rate = BUSY * capacity(ground, "prompt")
    alone = ground.load.ask(do="open", target="prompt", rate=rate, seconds=30, connections=64, seed=1)
    with Process("benchmarks.serving_load") as other:
        given = {"port": ground.daemon.port, "key": ground.daemon.key}
        encoded = _encoded({"requests": rows, "fields": fields})
        other.ask(do="target", target="bulk", path=BATCH, bodies=[encoded], **given)
        took: list[float] = []
        thread = threading.Thread(target=lambda: took.extend(other.ask(do="lone", target="bulk", times=1)))
        thread.start()
        time.sleep(0.5)
        beside = ground.load.ask(
            do="open", target="prompt", rate=rate, seconds=0.8 * report.sides["reflexd"].median, connections=64, seed=2
        )
        thread.join()
    tails = [float(np.quantile([s for _, s in found["answers"]], 0.99)) * 1e3 for found in (alone, beside)]
    yield Finding(
        "interactive p99 beside a batch to alone",
        f"{tails[1] / tails[0]:.2f}x ({tails[1]:.1f} and {tails[0]:.1f} ms)",
        "<= 2.5",
        tails[1] <= 2.5 * tails[0],
    )
    share = report.sides["offline"].median / took[0]
    yield Finding(
        "a batch beside 20 % interactive load, rows a second to offline", f"{share:.3f}x", ">= 0.75", share >= 0.75
    )


def _encoded(body: object) -> str:
    import msgspec

    return msgspec.json.encode(body).decode()


def training(ground: Ground) -> Iterator[Finding]:
    """The p99 while three jobs train, at the same arrival rate as alone."""
    ground.target("beside", [{"model": "base", "text": exactly(64, seed)} for seed in range(50)])
    rate = 0.25 * capacity(ground, "beside")
    rows = [{"text": row.text, "label": row.label} for row in read("banking77", "train")]
    connection = ground.daemon.connect()
    pairs = []
    for number in range(3):
        alone = ground.load.ask(do="open", target="beside", rate=rate, seconds=20, connections=64, seed=number)
        body = {"training_data": rows, "hyperparameters": {"budget_seconds": 600}}
        jobs = [connection.call("POST", "/v1/fine_tuning/jobs", body | {"suffix": f"t{n}"}) for n in range(3)]
        time.sleep(6)
        running = Counter(connection.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")["status"] for job in jobs)
        beside = ground.load.ask(do="open", target="beside", rate=rate, seconds=20, connections=64, seed=number)
        for job in jobs:
            connection.call("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        ground.daemon.rest()
        pairs.append([float(np.quantile([s for _, s in found["answers"]], 0.99)) * 1e3 for found in (alone, beside)])
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
    print(
        f"   peak {peak:.0f}/s; {dict(by_status)}, {found['never']} never; sent late by p99 {found['late'] * 1e3:.1f} ms"
    )
    answered = found["never"] == 0 and set(by_status) <= {200, 429, 503}
    yield Finding("overload: every request answered", f"{dict(by_status)}, {found['never']} never", "all", answered)
    yield Finding("overload: goodput to the peak", f"{good / peak:.3f}", ">= 0.80", good >= 0.8 * peak)
    tail = float(np.quantile(refused, 0.99)) if refused else 0.0
    yield Finding("overload: rejections p99", f"{tail:.1f} ms", "<= 100 ms", tail <= 100)
    rush = ground.load.ask(do="at_once", target="over", connections=CONNECTIONS)
    statuses = {int(status): count for status, count in rush["statuses"].items()}
    whole = sum(statuses.values()) == CONNECTIONS and set(statuses) <= {200, 429, 503}
    yield Finding(
        "10,000 connections at once: every request answered", f"{statuses} in {rush['seconds']:.1f} s", "all", whole
    )
    ground.daemon.rest()
    time.sleep(2)
    after, left = resident_mib(pid), _files(pid)
    yield Finding(
        "memory and descriptors after",
        f"{after - memory:+.0f} MiB, {left - files:+d}",
        "<= +50, 0",
        after - memory <= 50 and left <= files,
    )


def _files(pid: int) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(Path(f"/proc/{pid}/fd")))
    return 0
