"""Decides what the clock sets off; every timer of the daemon is here, and none survives it."""

from __future__ import annotations

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reflexd.store.signals import QUEUED
from reflexd.store.store import Store

SAFETY_TICK_SECONDS = 15
FORGET_EVERY_HOURS = 6


def build_timers(store: Store) -> AsyncIOScheduler:
    """Return the timers, not yet started.

    The dispatcher's safety tick, in case a wake-up could not be acted on; and the forgetting of deleted names.
    """
    timers = AsyncIOScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )
    timers.add_job(
        store.signals.wake, "interval", args=[QUEUED], seconds=SAFETY_TICK_SECONDS, id="dispatcher-safety-tick"
    )
    timers.add_job(store.deletions.forget_old, "interval", hours=FORGET_EVERY_HOURS, id="forget-deleted-names")
    return timers
