"""Counts what serving costs in instructions, which do not depend on what else the machine does.

`python -m benchmarks.serving_instructions`, where valgrind is installed. The daemon answers requests of 64 tokens over
HTTP, and the bare forward runs, each in a process under valgrind's callgrind, which counts once all is loaded and warm.
Neither the kernel's instructions are counted nor what a processor waits for. Valgrind 3.19 shows programs a processor
with AVX2 and nothing newer, so a forward takes more instructions there than where there is VNNI: look at what a request
takes more than the forward, not at how the two are related.

A forward takes two seconds under callgrind, in which the daemon's timers do what they do in two seconds: as many
seconds without a request are counted too, and taken off. All of it is done twice in fresh processes; how far the two
differ is the noise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.appliance import Appliance, exported_folder
from benchmarks.process import Process
from benchmarks.quick_start import BODY
from benchmarks.runner import PASS, VOID, describe_machine, table
from benchmarks.serving_parts import PREDICT
from benchmarks.serving_texts import exactly

TOKENS = 64
WARM = 3
PARTS = {
    "onnxruntime": "ONNX Runtime",
    "tokenizers": "tokenizer",
    "libpython": "interpreter",
    "python3": "interpreter",
    "libc.so": "libc",
}
"""What a file that holds code is part of, by how its name begins."""
REST = "all else"

Counts = Mapping[str, float]
"""Instructions by part."""


class Callgrind:
    """A valgrind that counts the instructions of a process while it is told to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.command = (
            *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
            "--fair-sched=yes",  # else a thread that computes keeps the event loop from its turn
            *("--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={folder}/%p"),
        )

    def start(self, pid: int) -> None:
        """Switch counting on."""
        self._tell(pid, "--instr=on")

    def zero(self, pid: int) -> None:
        """Forget what was counted."""
        self._tell(pid, "--zero")

    def take(self, pid: int) -> Counter[str]:
        """Return what was counted since, by part, and forget it."""
        self._tell(pid, "--dump")
        newest = max(self._folder.glob(f"{pid}.*"), key=lambda path: int(path.suffix[1:]))
        return by_part(newest.read_text())

    @staticmethod
    def _tell(pid: int, what: str) -> None:
        subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=120)


def by_part(dump: str) -> Counter[str]:
    """Return the instructions of a callgrind dump with uncompressed names and positions by what they are part of."""
    found: Counter[str] = Counter()
    file, called = "", False
    for line in dump.splitlines():
        if line.startswith("ob="):
            file = Path(line[3:]).name
        elif line.startswith("calls="):
            called = True  # the next line is what the called one cost, which is counted where it lies
        elif line[:1].isdigit():
            if not called:
                part = next((part for start, part in PARTS.items() if file.startswith(start)), REST)
                found[part] += int(line.split()[1])
            called = False
    return found


def forwards(valgrind: Callgrind, text: str, times: int) -> Counts:
    """Return the instructions of one bare forward."""
    with Process("benchmarks.serving_bare", str(exported_folder("int8")), under=valgrind.command) as bare:

        def counted(times: int) -> Counter[str]:
            valgrind.zero(bare.pid)
            bare.ask(do="forward", text=text, times=times)
            return valgrind.take(bare.pid)

        bare.ask(do="forward", text=text, times=WARM)
        valgrind.start(bare.pid)
        bare.ask(do="forward", text=text, times=WARM)
        # The difference: what an order costs, and spelling the text for it, is in both.
        few, many = counted(times), counted(2 * times)
        return {part: (many[part] - few[part]) / times for part in many}


def requests(valgrind: Callgrind, text: str, times: int) -> Counts:
    """Return the instructions of one request that the daemon answers."""
    with Appliance() as daemon:
        connection = daemon.connect()
        connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", BODY | {"suffix": "base"}))
        daemon.under = valgrind.command
        daemon.change(lambda _: None)
        connection, pid = daemon.connect(), daemon.processes()[0]

        def ask(times: int) -> None:
            for _ in range(times):
                connection.call("POST", PREDICT, {"model": "base", "text": text})

        def counted(work: Callable[[], None]) -> tuple[Counter[str], float]:
            valgrind.zero(pid)
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            return valgrind.take(pid), seconds

        ask(WARM)
        daemon.rest()
        valgrind.start(pid)
        ask(WARM)
        busy, seconds = counted(lambda: ask(times))
        idle, rested = counted(lambda: time.sleep(seconds))
        return {part: (busy[part] - idle[part] * seconds / rested) / times for part in busy}


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--forwards", type=int, default=5)
    parser.add_argument("--runs", type=int, default=2)
    arguments = parser.parse_args()
    if not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        print("VOID: there is no valgrind")
        return VOID
    text = exactly(TOKENS)
    runs: list[tuple[Counts, Counts]] = []
    with tempfile.TemporaryDirectory(prefix="reflexd-callgrind-") as folder:
        valgrind = Callgrind(Path(folder))
        for number in range(arguments.runs):
            # The daemon first: at the very first start it exports the encoder.
            whole = requests(valgrind, text, arguments.requests)
            bare = forwards(valgrind, text, arguments.forwards)
            runs.append((bare, whole))
            print(f"-- run {number + 1}: {millions(total(bare))} and {millions(total(whole))} million", flush=True)
    print(f"\ninstructions of one row of {TOKENS} tokens, in millions, {describe_machine()}, {version()}")
    rows = [line(part, [(bare.get(part, 0), whole.get(part, 0)) for bare, whole in runs]) for part in parts()]
    rows.append(line("in all", [(total(bare), total(whole)) for bare, whole in runs]))
    print(table(["", "bare forward", "request", "request less forward", "runs differ by"], rows))
    ratios = [total(whole) / total(bare) for bare, whole in runs]
    print("request to bare forward: " + ", ".join(f"{ratio:.4f}x" for ratio in ratios))
    return PASS


def parts() -> list[str]:
    """Return the names of the parts, in order."""
    return [*dict.fromkeys(PARTS.values()), REST]


def total(counts: Counts) -> float:
    """Return the instructions of all parts."""
    return sum(counts.values())


def line(name: str, runs: list[tuple[float, float]]) -> list[str]:
    """Return a row: the means over the runs, and how far apart the runs are in what a request takes more."""
    bare, whole = (sum(values) / len(runs) for values in zip(*runs, strict=True))
    more = [request - forward for forward, request in runs]
    return [name, millions(bare), millions(whole), millions(whole - bare), millions(max(more) - min(more))]


def millions(count: float) -> str:
    """Return a count in millions."""
    return f"{count / 1e6:.3f}"


def version() -> str:
    """Return valgrind's own name of its version."""
    return subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
