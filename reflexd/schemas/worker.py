"""Decides the JSON lines between the daemon and a training process: one RunSpec in, events out until the last one.

A run is one stage of one job. Its last line is Prepared, Trained or Failed; a process that ends before it has died.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from reflexd.schemas.reflex import Mode

Stage = Literal["prepare", "train"]


class LLMAccess(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the local LLM answers OpenAI's /v1/completions, for as long as a run goes on."""

    url: str
    """Up to and with /v1."""
    key: str
    model: str
    """What requests call it."""
    concurrency: int
    """Requests in flight that keep it busy; more only wait."""
    answer_seconds: float
    """How long one answer may take."""
    patience_seconds: float
    """How long it may not be reached at all, as while it is started again."""
    seeds: bool = True
    """Whether a request may bring a seed of its own."""
    parameters: int = 0
    """Of the model, as far as they are known: what can be asked of it depends on that."""


class RunSpec(Struct, kw_only=True, forbid_unknown_fields=True):
    """One stage to run; every path is absolute and made by the daemon, never from a user's text."""

    job_id: str
    stage: Stage
    run_dir: str
    models_dir: str
    model_id: str
    backbone: str
    """Directory of the exported encoder (engine/backbone.py)."""
    backbone_fp32: str = ""
    """The same encoder's in fp32, where it is to be seen whether the model had better be served in it."""
    checkpoint: str
    """Directory of the weights that it was exported from: config.json, model.safetensors, tokenizer.json."""
    seed: int
    threads: int
    budget_seconds: float = 0.0
    """Nominal seconds that the encoder may be tuned for; 0 leaves it as it is."""
    keep_rows: int = 0
    """Rows of each label that the model keeps for models that start from it."""
    plugins_allow: list[str] = field(default_factory=list)
    lineage: dict[str, Any] = field(default_factory=dict)
    llm: LLMAccess | None = None
    """Of a prepare stage whose source needs it."""


class Ready(Struct, tag_field="event", tag="ready"):
    """The process has imported its libraries and waits for a RunSpec."""

    pid: int


class Message(Struct, tag_field="event", tag="message"):
    """A sentence for the user, stored as an event of type `message`."""

    message: str
    level: Literal["info", "warn", "error"] = "info"
    data: dict[str, Any] = field(default_factory=dict)


class Metrics(Struct, tag_field="event", tag="metrics"):
    """A point of the loss curve or a score, stored as an event of type `metrics`."""

    message: str
    data: dict[str, Any]


class Prepared(Struct, tag_field="event", tag="prepared"):
    """The prepare stage has written all rows and fsynced them."""

    labels: list[str]
    examples: int
    mode: Mode = "single_label"


class Trained(Struct, tag_field="event", tag="trained"):
    """The train stage has published the model directory `models_dir/model_id`."""

    labels: list[str]
    mode: Mode
    examples: int
    tokens: int
    backbone: str
    precision: str
    result: dict[str, Any]


HEADLINE = (
    "accuracy",
    "accuracy_of",
    "scored_against",
    "own_rows",
    "f1_score",
    "micro_f1",
    "n",
    "interval",
    "method",
    "baseline",
    "calibration",
    "ece",
)
"""The parts of a result that a model shows too; the rest is its job's."""


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """Return the few numbers of a job's result that go with its model: all models' are in memory and in their list."""
    return {name: result[name] for name in HEADLINE if name in result}


class Failed(Struct, tag_field="event", tag="failed"):
    """The job cannot succeed; the triple becomes its `error`."""

    code: str
    message: str
    param: str | None = None
    reusable: bool = False
    """Whether the process is as good as before: the job's data is why it failed."""


Event = Ready | Message | Metrics | Prepared | Trained | Failed
Terminal = Prepared | Trained | Failed

decode_event = msgspec.json.Decoder(Event).decode
decode_spec = msgspec.json.Decoder(RunSpec).decode


def encode_line(line: Event | RunSpec) -> bytes:
    """Encode one line, newline included."""
    return msgspec.json.encode(line) + b"\n"
