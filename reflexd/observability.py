"""Decides what a log line looks like: JSON when stderr is no terminal, and never a text, a key or a prompt in it.

An exception's message may quote a user's text, so only the messages of our own errors and of the system's are shown; of
any other exception the type and the places it came through.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from reflexd.errors import JobFailure, ReflexError, StartupError, WorkerDied

QUOTABLE = (ReflexError, StartupError, WorkerDied, JobFailure, OSError, sqlite3.Error)


def configure_logging(level: str, form: Literal["auto", "json", "console"]) -> None:
    """Send structlog's and the standard library's lines to stderr in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
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
