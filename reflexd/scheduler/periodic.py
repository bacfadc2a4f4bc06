"""Decides what the clock sets off; every timer of the daemon is here, and none survives it."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reflexd.store.signals import QUEUED
from reflexd.store.store import Store

SAFETY_TICK_SECONDS = 15
FORGET_EVERY_HOURS = 6
SWEEP_EVERY_MINUTES = 10
TRIM_EVERY_SECONDS = 30
TRIM_ABOVE_BYTES = 32 * 2**20
"""Memory is trimmed once it has grown by this much over the least that was ever enough."""
TRIM_TRIES = 2
"""What as many trims in a row cannot give back is in use."""


def build_timers(store: Store, sweeps: Mapping[str, Callable[[], Awaitable[None]]]) -> AsyncIOScheduler:
    """Return the timers, not yet started.

    The dispatcher's safety tick, in case a wake-up could not be acted on; the forgetting of deleted names; giving back
    the memory that a rush of connections or large answers has left behind; and the `sweeps`, by name, which remove what
    is due.
    """
    timers = AsyncIOScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )
    timers.add_job(
        store.signals.wake, "interval", args=[QUEUED], seconds=SAFETY_TICK_SECONDS, id="dispatcher-safety-tick"
    )
    timers.add_job(store.deletions.forget_old, "interval", hours=FORGET_EVERY_HOURS, id="forget-deleted-names")
    for name, sweep in sweeps.items():
        timers.add_job(sweep, "interval", minutes=SWEEP_EVERY_MINUTES, id=name)
    timers.add_job(_Trimmer(), "interval", seconds=TRIM_EVERY_SECONDS, id="trim-memory")
    return timers


class _Trimmer:
    """Lets the C library give free memory back to the system; it keeps what lies between used parts otherwise."""

    def __init__(self) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        self._least = _resident_bytes()
        self._in_vain = 0

    def __call__(self) -> None:
        """Trim where that is worth while; runs in a thread of the scheduler's, and without the interpreter."""
        before = _resident_bytes()
        if self._trim is not None and before - self._least > TRIM_ABOVE_BYTES:
            self._trim(0)
            self._in_vain = self._in_vain + 1 if before - _resident_bytes() < TRIM_ABOVE_BYTES / 8 else 0
            if self._in_vain == TRIM_TRIES:
                self._least, self._in_vain = _resident_bytes(), 0
        self._least = min(self._least, _resident_bytes())


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
