"""Decides what a training process does: import what every job needs, say so, run stages as they come on stdin.

`python -m reflexd.engine.worker NICE`. It has no database and no listener; it talks JSON lines (schemas/worker.py) and
ends with the daemon. One process runs many jobs' stages, one after the other; any failure it does not expect ends it.
What only tuning needs is imported by the job that tunes, or while no job comes.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path

from reflexd.engine.lifeline import end_with_parent, give_way
from reflexd.errors import JobFailure, StartupError
from reflexd.registry import runs
from reflexd.schemas.worker import Event, Failed, Ready, RunSpec, Terminal, decode_spec, encode_line

STANDING_BY_SECONDS = 1.0
"""A process that was started for a job hears of it sooner."""
FULL = (errno.ENOSPC, errno.EDQUOT)
TUNING = "torch"
"""The module that is imported where what only tuning needs has been."""


def main() -> None:
    """Run until stdin closes."""
    # Anything a library prints must not be taken for a line of the protocol: descriptor 1 becomes stderr.
    out = os.dup(1)
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    _split_into(lines)
    give_way(int(sys.argv[1]))
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            view = memoryview(encode_line(event))
            while view:
                view = view[os.write(out, view) :]

    from reflexd.engine.stages import Stages  # the imports that a warm process spares its jobs

    cancelled = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: cancelled.set())
    stages = Stages(send, cancelled)
    gc.freeze()  # what the imports made stays; collections need not look at it again
    send(Ready(os.getpid()))
    ready = False  # for a job that tunes
    while True:
        line = None if ready else _soon(lines)
        if line is None and not ready:
            _stand_by(stages)
            ready = True
        spec = decode_spec(line or lines.get())
        end = _run(stages, spec)
        if cancelled.is_set():
            os._exit(0)  # nobody waits for the outcome any more
        send(end)
        # After the answer, not before it: a full collection over torch's objects took 250 of a small job's 300 ms.
        gc.collect()
        if not ready and TUNING in sys.modules:
            ready = True
            gc.freeze()  # the job imported what stays, as standing by would have


def _soon(lines: queue.SimpleQueue[bytes]) -> bytes | None:
    """Return the next stage if it comes at once, as it does to a process that was started for a job."""
    with contextlib.suppress(queue.Empty):
        return lines.get(timeout=STANDING_BY_SECONDS)
    return None


def _stand_by(stages: object) -> None:
    """Prepare for any job, as none has come: before the first one or, after jobs that did not tune, between two."""
    from reflexd.engine.stages import Stages

    assert isinstance(stages, Stages)
    with contextlib.suppress(Exception):  # of a broken installation: a job that tunes tells of it, others need it not
        stages.stand_by()
    gc.freeze()


def _run(stages: object, spec: RunSpec) -> Terminal:
    from reflexd.engine.stages import Stages

    assert isinstance(stages, Stages)
    try:
        return stages.run(spec)
    except JobFailure as failure:
        return Failed(failure.code, failure.message, failure.param, reusable=True)
    except StartupError as error:
        return Failed("configuration_error", str(error))
    except MemoryError:
        return Failed("out_of_memory", "The machine has not enough memory for this job")
    except OSError as error:
        if error.errno not in FULL:
            return _unexpected(error, spec)
        return Failed("storage_full", "The disk became full while the job ran: make room, then create the job again")
    except Exception as error:  # the job must end with a reason
        return _unexpected(error, spec)


def _unexpected(error: Exception, spec: RunSpec) -> Failed:
    """Log an error for the operator; what the user is told of it shows neither the user's text nor our paths."""
    with (Path(spec.run_dir) / runs.WORKER_LOG).open("a") as log:
        traceback.print_exception(error, file=log)
    where = "The data source" if spec.stage == "prepare" else "Training"
    return Failed(
        "internal_error",
        f"{where} stopped on an unexpected {type(error).__name__}; the operator finds it in the job's worker.log",
    )


def _split_into(lines: queue.SimpleQueue[bytes]) -> None:
    buffer = bytearray()

    def feed(chunk: bytes) -> None:
        buffer.extend(chunk)
        while (end := buffer.find(b"\n")) >= 0:
            lines.put(bytes(buffer[:end]))
            del buffer[: end + 1]

    end_with_parent(feed)


if __name__ == "__main__":
    main()
