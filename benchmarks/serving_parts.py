"""Decides what each part of the serving benchmark measures, against what, and what it must come to.

Each part returns its findings: what was measured, the bound, and whether it holds; a comparison whose A/A control
drifts is void. The daemon is reached over HTTP alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.appliance import Appliance, checkpoint_folder, resident_mib
from benchmarks.process import Process
from benchmarks.runner import Options, Ratio, Report, Side, as_text, compare, ratio
from benchmarks.serving_texts import exactly, log_uniform

PREDICT, BATCH = "/v1/reflex/predict", "/v1/reflex/synchronous_predict_batch"
PEERS = {"pipeline": ("FastAPI + pipeline", 0.5), "setfit": ("FastAPI + SetFit", None), "infinity": ("infinity", None)}
"""What each peer is called, and what is claimed of the ratio to it."""
CORES = os.cpu_count() or 1


class Finding(Struct):
    """One line of the result; `holds` is None where nothing is claimed, and where the run is void."""

    what: str
    value: str
    bound: str = ""
    holds: bool | None = None


class Ground(Struct):
    """What the parts work on."""

    daemon: Appliance
    load: Process
    bare: Process
    options: Options
    peers: Mapping[str, str]
    """The interpreter of each peer that there is an environment for."""
    requests: int

    def target(self, name: str, bodies: Sequence[Any], path: str = PREDICT) -> None:
        """Name requests to the daemon."""
        encoded = [msgspec.json.encode(body).decode() for body in bodies]
        given = {"port": self.daemon.port, "key": self.daemon.key, "path": path, "bodies": encoded}
        self.load.ask(do="target", target=name, **given)

    def lone(self, name: str, times: int | None = None) -> list[float]:
        """Return the milliseconds of requests, one after the other."""
        took = self.load.ask(do="lone", target=name, times=times or self.requests)
        return [1e3 * seconds for seconds in took]


def latencies(
    ground: Ground, title: str, sides: Mapping[str, Callable[[], list[float]]]
) -> tuple[Report, dict[str, Ratio]]:
    """Compare sides that return milliseconds of many requests by their medians; and return each side's p99 ratio."""
    tails: dict[str, list[float]] = {name: [] for name in sides}

    def side(name: str) -> Side:
        def measure() -> float:
            took = sides[name]()
            tails[name].append(float(np.quantile(took, 0.99)))
            return statistics.median(took)

        return Side(name, measure)

    report = compare(title, [side(name) for name in sides], ground.options, "ms")
    print(as_text(report), flush=True)
    first, *others = sides
    rounds = {
        name: np.reshape(values[ground.options.warmups :], (-1, 2)).sum(axis=1).tolist()
        for name, values in tails.items()
    }
    return report, {name: ratio(rounds[name], rounds[first], ground.options.seed) for name in others}


def claim(report: Report, what: str, found: Ratio, bound: float) -> Finding:
    """Return a finding about a ratio of a report."""
    value = f"{found.median:.3f}x ({found.low:.3f} to {found.high:.3f})"
    if report.void:
        return Finding(what, f"{value} VOID", f"<= {bound}")
    return Finding(what, value, f"<= {bound}", found.median <= bound)


def speed(report: Report, of: str) -> Ratio:
    """Return how fast reflexd is, as a share of a side that was measured beside it."""
    first = next(iter(report.sides))
    if of == first:
        found = report.ratios["reflexd"]
        return Ratio(1 / found.median, 1 / found.high, 1 / found.low)
    return ratio(report.sides[of].values, report.sides["reflexd"].values, report.options.seed)


def lone(ground: Ground) -> Iterator[Finding]:
    """One row of 64 tokens, one client: against the bare forward and the peers."""
    text = exactly(64)
    ground.target("lone", [{"model": "base", "text": text}])
    sides: dict[str, Callable[[], list[float]]] = {
        "bare forward": lambda: [1e3 * s for s in ground.bare.ask(do="forward", text=text, times=ground.requests)],
        "reflexd": partial(ground.lone, "lone"),
    }
    report, tails = latencies(ground, "one row of 64 tokens, one client", sides)
    yield claim(report, "one client, p50 to the bare forward", report.ratios["reflexd"], 1.10)
    yield claim(report, "one client, p99 to the bare p99", tails["reflexd"], 1.25)
    for kind, (name, bound) in PEERS.items():
        if kind not in ground.peers:
            continue
        with peer(ground, kind, text):
            sides = {name: partial(ground.lone, kind, 40), "reflexd": partial(ground.lone, "lone")}
            report, _ = latencies(ground, f"one row of 64 tokens, beside {name}", sides)
            found = report.ratios["reflexd"]
            if bound is not None:
                yield claim(report, f"one client, p50 to {name}", found, bound)
            else:
                value = f"{found.median:.3f}x ({found.low:.3f} to {found.high:.3f})"
                yield Finding(f"one client, p50 to {name}", value)


@contextmanager
def peer(ground: Ground, kind: str, text: str) -> Iterator[None]:
    """Run a peer server, and name a request to it."""
    port = ground.daemon.port + 1
    command = [ground.peers[kind], "-m", "benchmarks.serving_peers", kind, str(checkpoint_folder()), str(port)]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet, cwd=Path(__file__).parents[1])
    path, body = ("/embeddings", {"input": [text]}) if kind == "infinity" else ("/predict", {"text": text})
    given = {"port": port, "key": "", "path": path, "bodies": [msgspec.json.encode(body).decode()]}
    try:
        ground.load.ask(do="target", target=kind, **given)
        deadline = time.monotonic() + 120
        while not ground.load.ask(do="answers", target=kind):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the peer {kind} does not answer")
            time.sleep(0.5)
        yield
    finally:
        server.terminate()
        server.wait()


def clients(ground: Ground) -> Iterator[Finding]:
    """64 clients with texts of 32 to 256 tokens: texts a second against the offline loop."""
    texts = log_uniform(600, 32, 256)
    ground.target("clients", [{"model": "base", "text": text} for text in texts])
    offline = partial(ground.bare.ask, do="offline", texts=texts, threads=CORES)
    sides = [Side(f"offline, {size} a forward", partial(offline, batch=size)) for size in (1, 8)]
    sides.append(Side("reflexd", lambda: ground.load.ask(do="closed", target="clients", clients=64, count=len(texts))))
    report = compare("600 texts of 32 to 256 tokens, 64 clients", sides, ground.options)
    print(as_text(report), flush=True)
    best = min((s for s in report.sides if s != "reflexd"), key=lambda name: report.sides[name].median)
    found = speed(report, best)
    value = f"{found.median:.3f}x ({found.low:.3f} to {found.high:.3f}) of {best}"
    holds = None if report.void else found.median >= 0.9
    yield Finding("64 clients, texts a second to the offline loop", value, ">= 0.90", holds)


def many(ground: Ground) -> Iterator[Finding]:
    """Many classifiers on one text, and many adapted ones in a batch."""
    text = exactly(64)
    heads = [f"head-{number}" for number in range(1000)]
    bodies = {k: {"models": heads[:k], "text": text} for k in (1, 100, 1000)}
    for k, body in bodies.items():
        ground.target(f"K={k}", [body])
    sides = {f"{k} classifiers": partial(ground.lone, f"K={k}", 60) for k in bodies}
    report, _ = latencies(ground, "K classifiers on one text of 64 tokens, to the last byte", sides)
    yield claim(report, "100 classifiers to one", report.ratios["100 classifiers"], 1.10)
    yield claim(report, "1,000 classifiers to one", report.ratios["1000 classifiers"], 1.6)
    texts = log_uniform(32, 32, 128)
    rows = {
        "32 rows, one bias adapter": ["biases-0"] * 32,
        "32 rows, 32 bias adapters": [f"biases-{number}" for number in range(32)],
        "32 rows, one low-rank adapter": ["low-rank-0"] * 32,
        "32 rows, 32 low-rank adapters": [f"low-rank-{number}" for number in range(32)],
        "32 rows, the untouched encoder": ["base"] * 32,
    }
    for name, models in rows.items():
        asked = [{"id": str(n), "model": m, "text": t} for n, (m, t) in enumerate(zip(models, texts, strict=True))]
        ground.target(name, [{"requests": asked}], BATCH)
    report, _ = latencies(ground, "a batch of 32 rows", {name: partial(ground.lone, name, 5) for name in rows})
    yield claim(report, "32 rows for 32 bias adapters to one", report.ratios["32 rows, 32 bias adapters"], 1.15)
    for kind in ("biases", "low-rank"):
        ground.target(f"32 {kind}", [{"models": [f"{kind}-{number}" for number in range(32)], "text": text}])
    sides = {
        "one classifier": partial(ground.lone, "K=1", 20),
        "32 bias adapters": partial(ground.lone, "32 biases", 5),
        "32 low-rank adapters": partial(ground.lone, "32 low-rank", 5),
    }
    report, _ = latencies(ground, "32 adapted classifiers on one text of 64 tokens", sides)
    for name, found in report.ratios.items():
        yield Finding(f"{name} on one text to one classifier", f"{found.median:.1f}x on {CORES} cores")


def fleet(ground: Ground, models: int) -> Iterator[Finding]:
    """Uniform random access to very many models, their memory, and the first answer of a cold one."""
    text, random = exactly(64), np.random.default_rng(0)
    pid = ground.daemon.processes()[0]
    ground.target("one", [{"model": "head-0", "text": text}])
    ground.lone("one", 200)
    ground.daemon.rest()
    before = resident_mib(pid)
    half = models // 2
    ground.target("cold", [{"model": f"head-{number}", "text": text} for number in range(half, half + 400)])
    ground.target("warm", [{"model": f"head-{number}", "text": text} for number in range(half, half + 400)])
    cold = ground.lone("cold", 400)
    warm = ground.lone("warm", 400)
    more = statistics.median(cold) - statistics.median(warm)
    tail = float(np.quantile(cold, 0.99) - np.quantile(warm, 0.99))
    value = f"warm + {more:.2f} ms (p99: + {tail:.2f})"
    yield Finding("a cold model's first answer", value, "<= warm + 5 ms", more <= 5)
    ground.target("each", [{"model": f"head-{number}", "text": "a"} for number in range(models)])
    ground.lone("each", models)
    ground.daemon.rest()
    each = (resident_mib(pid) - before) * 1024 / (models - 401)
    yield Finding("memory of one more resident head", f"{each:.1f} kB", "<= 64 kB", each <= 64)
    ground.target("random", [{"model": f"head-{random.integers(models)}", "text": text} for _ in range(5000)])
    sides = {"one model": partial(ground.lone, "one"), f"{models} models": partial(ground.lone, "random")}
    report, tails = latencies(ground, f"uniform random access to {models} models", sides)
    yield claim(report, f"{models} models, p50 to one", report.ratios[f"{models} models"], 1.10)
    yield claim(report, f"{models} models, p99 to one", tails[f"{models} models"], 1.5)
