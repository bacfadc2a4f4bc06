"""Decides that a child process ends when the daemon does, even by SIGKILL."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def end_with_parent(on_input: Callable[[bytes], None] | None = None) -> None:
    """End this process when its parent does; what arrives on stdin meanwhile goes to `on_input`.

    Two ropes: the kernel's parent-death signal, and end-of-file on stdin for the moment before it is set. os.read and
    not sys.stdin: a thread inside the buffered reader aborts the interpreter at exit.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while chunk := os.read(0, 1 << 16):
            if on_input is not None:
                on_input(chunk)
        os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
