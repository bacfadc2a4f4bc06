"""Decides what the clock sets off; every timer of the daemon is here, and none survives it."""

from __future__ import annotations

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reflexd.store.signals import QUEUED, Signals

SAFETY_TICK_SECONDS = 15


def build_timers(signals: Signals) -> AsyncIOScheduler:
    """Return the timers, not yet started: the dispatcher's safety tick, in case a wake-up could not be acted on."""
    timers = AsyncIOScheduler(
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}, timezone="UTC"
    )
    timers.add_job(signals.wake, "interval", args=[QUEUED], seconds=SAFETY_TICK_SECONDS, id="dispatcher-safety-tick")
    return timers
