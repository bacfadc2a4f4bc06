"""Decides what the product costs beside the LLM itself: tokens a second against a bare script, rows a second, shares.

    python -m benchmarks.llm_throughput --llm PATH [--engine vllm --vllm D/llm] [--prompts 64] [--each 25]

First `generate` writes rows for six classes of CLINC150: accepted rows a second, and how much of the time was judging.
Then one server is driven in turns by what the plugin drives it with and by a bare script, with the same prompts and as
many requests at once. It holds where the product brings at least .9 of the bare script's tokens a second, and judging
takes at most 30 % of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from benchmarks import runner
from benchmarks.appliance import Appliance, Connection
from benchmarks.label_lines import LINES
from benchmarks.made_labels import classes, link
from reflexd.config import Llm
from reflexd.engine.device import Device
from reflexd.engine.llm import launch
from reflexd.engine.llm.client import Client
from reflexd.engine.llm.keeper import Keeper
from reflexd.registry.data_directory import DataDirectory
from reflexd.schemas.worker import LLMAccess
from reflexd_plugins.label_words import described
from reflexd_plugins.writing import Ask

LEAST_SHARE, MOST_JUDGING = 0.9, 0.3
SEED = 7


def main() -> int:
    """Run both parts on one daemon's LLM; exit 0 where the claims hold, 1 where not, 3 where the run is void."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--engine", default="auto", choices=["auto", "vllm", "transformers"])
    parser.add_argument("--vllm", type=Path, help="a data directory's llm folder with an installed vLLM")
    parser.add_argument("--prompts", type=int, default=64, help="of one measurement")
    parser.add_argument("--each", type=int, default=25, help="rows that generate writes for each label")
    runner.add_arguments(parser, rounds=5)
    given = parser.parse_args()
    with Appliance(LLM__ENGINE=given.engine, LLM__IDLE_SECONDS="10", TRAINING__NICE="0") as daemon:
        if given.vllm is not None:
            link(given.vllm, daemon.data_dir / "llm")
        verb = [sys.executable, "-m", "reflexd", "llm", "import", str(given.llm), "--data-dir", str(daemon.data_dir)]
        subprocess.run(verb, check=True)
        judging = written(daemon, daemon.connect(), given.each)
        subprocess.run([*verb[:4], "stop", "--data-dir", str(daemon.data_dir)], check=True)
        report = asyncio.run(driven(DataDirectory(daemon.data_dir).llm, given))
    report.notes["judging"] = f"{judging:.0%} of the time in which rows were made"
    fast = report.ratios["reflexd"].median <= 1 / LEAST_SHARE
    return runner.finish(report, fast and judging <= MOST_JUDGING, given.json)


def written(daemon: Appliance, connection: Connection, each: int) -> float:
    """Have rows written, tell how fast, and return the share of the time that judging took."""
    labels = classes(6, SEED)
    given = {"description": "what people write to an assistant", "examples_per_label": each}
    given["label_descriptions"] = {label: LINES[label] for label in labels}
    job = connection.call(
        "POST", "/v1/fine_tuning/jobs", {"labels": labels, "generate": given, "suffix": "written", "auto_train": False}
    )
    while job["status"] in ("queued", "running"):
        time.sleep(0.2)
        job = connection.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")
    for event in connection.call("GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100")["data"]:
        print(f"  {event['message']}")
    run_dir = daemon.data_dir / "runs" / job["id"]
    # A file is opened when its batch begins and has its last answer when that ends; a batch follows the other.
    began = first_answer(run_dir / "llm-write-0.jsonl")
    ends = {path.stem: path.stat().st_mtime for path in run_dir.glob("llm-*.jsonl")}
    order = sorted(ends.items(), key=lambda one: one[1])
    judged: float = sum(end - before for (_, before), (name, end) in itertools.pairwise(order) if "judge" in name)
    took: float = max(ends.values()) - began
    print(f"{job['trained_examples']} rows accepted in {took:.0f} s, {job['trained_examples'] / took:.2f} a second")
    return judged / took


def first_answer(path: Path) -> float:
    """Return when the first answer of a batch was begun, in unix seconds."""
    lines = msgspec.json.Decoder(dict[str, Any]).decode_lines(path.read_bytes())
    return float(min(line["response"]["body"]["created"] for line in lines))


async def driven(root: Path, given: argparse.Namespace) -> runner.Report:
    """Start a server as the daemon does and drive it by both; what is measured is the time of a thousand tokens."""
    options = Llm(engine=given.engine)
    keeper = Keeper(options, lambda: launch.find_model(options, root, 0), root / "benchmark.log", Device(False))
    labels = classes(6, SEED)
    about = described(labels, None, {label: LINES[label] for label in labels})
    asks = [Ask(f"{place}", about[place % len(about)], (), SEED) for place in range(given.prompts)]
    try:
        async with keeper.lease() as access:
            sides = [
                runner.Side("bare script", lambda: asyncio.run(bare(access, asks))),
                runner.Side("reflexd", lambda: ours(access, asks)),
            ]
            title = f"{given.prompts} texts written by {(await keeper.status())['engine']}"
            options_of = runner.options_of(given)
            return await asyncio.to_thread(runner.compare, title, sides, options_of, "s for 1,000 tokens")
    finally:
        await keeper.close()


def ours(access: LLMAccess, asks: Sequence[Ask]) -> float:
    """Return the seconds for a thousand tokens through what a data source is given."""
    with tempfile.TemporaryDirectory() as folder:
        client = Client(access, Path(folder), threading.Event())
        began = time.perf_counter()
        answers = list(client.batch("write", (ask.request() for ask in asks)))
        took = time.perf_counter() - began
    return 1000 * took / sum(int(answer.body["usage"]["completion_tokens"]) for answer in answers)


async def bare(access: LLMAccess, asks: Sequence[Ask]) -> float:
    """Return the same by requests that are simply sent, as many at once."""
    at_once = asyncio.Semaphore(access.concurrency)
    bodies = [{**ask.request().body, "model": access.model} for ask in asks]
    if not access.seeds:
        for body in bodies:
            body.pop("seed")
    limits = httpx2.Limits(max_connections=access.concurrency)
    headers = {"authorization": f"Bearer {access.key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=600, limits=limits, trust_env=False) as http:

        async def ask(body: dict[str, Any]) -> int:
            async with at_once:
                answer = await http.post(f"{access.url}/completions", json=body)
            return int(answer.raise_for_status().json()["usage"]["completion_tokens"])

        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*map(ask, bodies)))
        return 1000 * (time.perf_counter() - began) / tokens


if __name__ == "__main__":
    sys.exit(main())
