"""Decides what must hold when daemon and language model are killed at random moments while rows are made."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

from tests.daemons import Daemon, is_alive, processes, wait_for

DAEMON, LLM, BOTH = range(3)
KILLS = int(os.environ.get("RFX_SYNTHESIS_KILLS", "3"))
"""Of daemon, language model and both in turn."""


def kill(daemon: Daemon, job_id: str, modules: Sequence[str], numbers: Sequence[int]) -> None:
    """Kill what each of the numbers says, each time after some more answers; all that was there stays as it was.

    `modules` are those that the language model's processes run; the first is the daemon's own child, and is killed.
    """
    run_dir = daemon.data_dir / "runs" / job_id
    chance = random.Random(3)
    for number in numbers:
        enough = _answers(run_dir) + chance.randint(1, 5)
        wait_for(lambda enough=enough: _answers(run_dir) >= enough, f"{enough} answers are there", 240)  # type: ignore[misc]
        before = _lines(run_dir)
        servers = [pid for module in modules for pid, _ in processes(module)]
        own = [pid for pid, parent in processes(modules[0]) if parent == daemon.pid]
        if number % 3 != LLM:
            daemon.signal(signal.SIGKILL)
        if number % 3 != DAEMON:
            for pid in own:
                os.kill(pid, signal.SIGKILL)
        if number % 3 != LLM:
            daemon.ended()
        if servers and own:
            wait_for(lambda: not any(map(is_alive, servers)), "no orphan is left")  # noqa: B023
        if number % 3 != LLM:
            daemon.start()
        after = _lines(run_dir)
        assert all(after[name][: len(lines)] == lines for name, lines in before.items()), "what was there stays"


def check_answers(daemon: Daemon, job_id: str) -> None:
    """Nothing was asked twice that was answered, and no text was accepted twice."""
    for name, lines in _lines(daemon.data_dir / "runs" / job_id).items():
        ids = [json.loads(line)["text" if name == "rows.jsonl" else "custom_id"] for line in lines]
        assert len(ids) == len(set(ids)), name


def _answers(run_dir: Path) -> int:
    return sum(len(lines) for name, lines in _lines(run_dir).items() if name != "rows.jsonl")


def _lines(run_dir: Path) -> dict[str, list[str]]:
    """Return the whole lines of each file of answers, and of the rows that were accepted."""
    found = {}
    for path in (*run_dir.glob("llm-*.jsonl"), *run_dir.glob("rows.jsonl")):
        content = path.read_text()
        found[path.name] = content[: content.rfind("\n") + 1].splitlines()
    return found
