"""Decides what a job and an event are in memory, and how a row becomes one."""

from __future__ import annotations

import sqlite3
from typing import Any, Literal

import msgspec
from msgspec import Struct

Level = Literal["info", "warn", "error"]
Kind = Literal["message", "metrics"]


class Job(Struct, frozen=True, kw_only=True):
    """A row of `jobs`; times are unix seconds."""

    seq: int = 0
    id: str
    tenant_id: str
    key_id: str
    status: str = "queued"
    stage: Literal["prepare", "train"] = "prepare"
    paused: bool = False
    source: str
    suffix: str | None = None
    model: str
    base_model: str | None = None
    base_model_version: int | None = None
    labels: list[str]
    mode: str = "single_label"
    auto_train: bool = True
    seed: int
    metadata: dict[str, str] | None = None
    hyperparameters: dict[str, Any] = {}
    training_file: str
    validation_file: str | None = None
    result_files: list[str] = []
    webhook_url: str | None = None
    trained_examples: int = 0
    trained_tokens: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    attempts: int = 0
    interrupted: int = 0
    claims: int = 0
    idempotency_key: str | None = None
    body_sha256: str = ""
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None

    @property
    def served_name(self) -> str:
        """The name that its model answers to."""
        return self.suffix or self.id


class Event(Struct, frozen=True, kw_only=True):
    """A row of `events`; `n` counts from 1 within its job."""

    job_id: str
    n: int
    created_at: int
    level: Level
    type: Kind
    message: str
    data: dict[str, Any]


ACTIVE = ("queued", "running", "prepared")
"""Statuses of a job that has not ended."""
_JSON = ("labels", "metadata", "hyperparameters", "result_files", "result", "error")
_FLAGS = ("auto_train", "paused")


def job_of(row: sqlite3.Row | None) -> Job:
    """Return the job that a row of `jobs` holds."""
    assert row is not None
    given: dict[str, Any] = dict(row)
    for name in _JSON:
        given[name] = None if given[name] is None else msgspec.json.decode(given[name])
    for name in _FLAGS:
        given[name] = bool(given[name])
    return msgspec.convert(given, Job)


def columns_of(job: Job) -> dict[str, Any]:
    """Return the columns of a new job's row; `seq` is given by the table."""
    columns: dict[str, Any] = msgspec.to_builtins(job)
    del columns["seq"]
    for name in _JSON:
        columns[name] = None if columns[name] is None else encode_json(columns[name])
    return columns


def event_of(row: sqlite3.Row) -> Event:
    """Return the event that a row of `events` holds."""
    return msgspec.convert({**row, "data": msgspec.json.decode(row["data"])}, Event)


def encode_json(value: Any) -> str:
    """Return the text of a JSON column."""
    return msgspec.json.encode(value).decode()
