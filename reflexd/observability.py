"""Decides what a log line looks like, and which metrics there are: neither holds a text, a key, a name or a prompt.

Log lines are JSON when stderr is no terminal. Metrics are Prometheus's; all of them are declared here.

An exception's message may quote a user's text, so only the messages of our own errors and of the system's are shown; of
any other exception the type and the places it came through.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import traceback
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Literal

import structlog
from prometheus_client import Counter, Gauge, Histogram

from reflexd.errors import JobFailure, ReflexError, StartupError, WorkerDied

REQUEST_ID: ContextVar[str] = ContextVar("request_id")
"""Of the request that is answered; each has a context of its own."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

PREDICT_SECONDS = Histogram(
    "reflexd_predict_seconds",
    "Seconds of predict requests by stage: wait (for a thread), compute (from the first text to the last)",
    ["stage"],
    buckets=_SECONDS,
)
PREDICT_TEXTS = Histogram(
    "reflexd_predict_texts", "Texts in one predict request", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
PREDICT_WAITING = Gauge("reflexd_predict_waiting", "Predict requests that are classified or waiting now")
PREDICT_REFUSED = Counter("reflexd_predict_refused", "Predict requests answered 429", ["limit"])
RESIDENT_MODELS = Gauge("reflexd_resident_models", "Classifiers in memory")
RESIDENT_BYTES = Gauge("reflexd_resident_bytes", "Memory of the classifiers in memory, adapters among them, about")
MODEL_READS = Counter("reflexd_model_reads", "Classifiers read from the disk because they were not in memory")
WEBHOOK_ATTEMPTS = Counter(
    "reflexd_webhook_attempts", "Attempts to deliver a webhook: delivered, postponed, or failed for good", ["outcome"]
)
BATCHES_UNFINISHED = Gauge("reflexd_batches_unfinished", "Batches that wait or are worked on")
BATCH_ROWS = Counter("reflexd_batch_rows", "Rows of batches that are done, by outcome: completed, failed", ["outcome"])
APPLY_WAITING = Gauge("reflexd_apply_waiting", "Updates that are applied or waiting now")
APPLY_ANSWERS = Counter(
    "reflexd_apply_answers", "Updates that were applied or not: deterministic, model, refused, timeout", ["outcome"]
)
_WAIT, _COMPUTE = PREDICT_SECONDS.labels("wait"), PREDICT_SECONDS.labels("compute")

QUOTABLE = (ReflexError, StartupError, WorkerDied, JobFailure, OSError, sqlite3.Error)


def configure_logging(level: str, form: Literal["auto", "json", "console"]) -> None:
    """Send structlog's and the standard library's lines to stderr in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_request,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _tell_exception,
    ]
    last: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(timestamp_key="ts") if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "apscheduler", "aiosqlite", "asyncio", "httpx2", "httpcore2"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)


def _name_request(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (request_id := REQUEST_ID.get("")) and "request_id" not in event:
        event["request_id"] = request_id
    return event


def observe_prediction(texts: int, waited: float, computed: float) -> None:
    """Count a predict request that was computed, with the seconds of its stages."""
    PREDICT_TEXTS.observe(texts)
    _WAIT.observe(waited)
    _COMPUTE.observe(computed)


def _tell_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        event["exception"] = type(error).__name__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        if isinstance(error, QUOTABLE):
            event["why"] = str(error)
    return event
