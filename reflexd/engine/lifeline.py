"""Decides that a child process ends when the daemon does, even by SIGKILL, gives way to it, and leaves nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from reflexd.engine import huge_pages

PR_SET_PDEATHSIG = 1
AUTOGROUP = Path("/proc/self/autogroup")
"""Where the kernel schedules sessions by group, as desktops and plain terminals do, the niceness of this one's."""
AUTOGROUP_TRIES = 20


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment of a child process that imports torch: no hub, no telemetry, no folder of torch's own.

    On import already torch makes a folder for what it compiles, which is nothing here: one that exists it leaves as it
    is. Its large tensors lie in huge pages (engine/huge_pages.py): each step of training asks for them anew, and they
    are then filled with zeros by the piece and not by the page.
    """
    return {
        **huge_pages.allocation(),
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TORCHINDUCTOR_CACHE_DIR": tempfile.gettempdir(),
        **more,
    }


def die_with_parent() -> None:
    """Have the kernel end this process by SIGKILL when its parent ends; that survives an exec, but no fork."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended just before that
        os._exit(0)


def end_with_parent(on_input: Callable[[bytes], None] | None = None) -> None:
    """End this process when its parent does; what arrives on stdin meanwhile goes to `on_input`.

    Two ropes: the kernel's parent-death signal, and end-of-file on stdin for the moment before it is set. os.read and
    not sys.stdin: a thread inside the buffered reader aborts the interpreter at exit.
    """
    die_with_parent()

    def watch() -> None:
        while chunk := os.read(0, 1 << 16):
            if on_input is not None:
                on_input(chunk)
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def give_way(nice: int) -> None:
    """Let the daemon have the processor first: its predictions are waited for.

    A child has a session of its own, so that no terminal ends it; where sessions are scheduled by group, niceness
    counts among the processes of one session only, and three training children slowed predictions fifteenfold.
    """
    os.nice(nice)
    if os.getsid(0) != os.getpid():
        return  # the session is somebody else's too
    for _ in range(AUTOGROUP_TRIES):
        try:
            AUTOGROUP.write_text(str(nice))
        except BlockingIOError:  # one session in a tenth of a second may ask for it, of all on the machine
            time.sleep(0.11)
            continue
        except OSError:  # no such scheduling here
            pass
        return
