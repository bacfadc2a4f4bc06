"""Decides which training jobs are admitted: what the request asks for, checked as far as it can be checked now."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_labels, check_rows
from reflexd.errors import InvalidRequest, LLMNotConfigured, NotSupportedYet, StartupError
from reflexd.hookspecs import DataSource, InvalidInput, needs_llm, payload_type, takes_file
from reflexd.registry import runs
from reflexd.schemas.openai import COLD_START, Method
from reflexd.schemas.reflex import Mode
from reflexd.service.decoding import convert, decode, decode_field
from reflexd.service.names import check_suffix
from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.records import Job

LATER = ("integrations",)
"""Fields of the contract that this version refuses rather than ignores."""
MAX_IDEMPOTENCY_KEY = 255
MAX_BUDGET_SECONDS = 86_400.0
TRAINING_FILE = "training_file"
"""The field that the OpenAI SDK makes everybody send: empty or unknown beside another input it is ignored."""
MAX_FIELD_BYTES = 4 << 20
"""Of a field beside the input: a thousand labels of the greatest length take 3 MB when every character is escaped."""

MAX_ID_BYTES = 256
MAX_METADATA_PAIRS = 16
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=MAX_METADATA_PAIRS)
]


class Hyperparameters(Struct):
    """What is heeded of the hyperparameters: the one knob, time. `n_epochs` and its like are chosen by the trainer."""

    budget_seconds: Annotated[float, Meta(ge=0, le=MAX_BUDGET_SECONDS)] | Literal["auto"] | None = None
    n_epochs: Any = None
    batch_size: Any = None
    learning_rate_multiplier: Any = None

    def heeded(self) -> dict[str, Any]:
        """Return those that a job goes by."""
        return {"budget_seconds": self.budget_seconds} if isinstance(self.budget_seconds, float) else {}

    def ignored(self) -> list[str]:
        """Return the names of those that were given and are not heeded."""
        names = ("n_epochs", "batch_size", "learning_rate_multiplier")
        return [name for name in names if getattr(self, name) not in (None, "auto")]


class CreateFields(Struct, kw_only=True):
    """The fixed fields of POST /v1/fine_tuning/jobs; the input's field is named by its data source."""

    model: str | None = None
    base_model: str | None = None
    suffix: str | None = None
    labels: list[str] | None = None
    mode: Mode | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    auto_train: bool | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    webhook_url: str | None = None
    validation_file: str | None = None


class Repeat(Struct, frozen=True):
    """What the headers say about an earlier sending of the same request."""

    idempotency_key: str | None = None
    retried: bool = False


class Base(Struct, frozen=True):
    """The model that the request names to start from, and the field that names it."""

    name: str
    param: str


class Admitted(Struct, frozen=True, kw_only=True):
    """A job that may be stored once its base model is found: its row, its input and what to tell about it."""

    job: Job
    given: runs.RunInput
    notes: list[str]
    base: Base | None
    training_file: str | None = None
    """The id of the file that the job is to be trained on; what is in it is still to be checked (job_files.py)."""
    validation_file: str | None = None
    beside: str | None = None
    """What stands in `training_file` beside another input."""


class Admission:
    """Checks create requests against the registered data sources and the limits; touches nothing that is stored.

    What files hold is checked by job_files.py.
    """

    def __init__(
        self,
        sources: Mapping[str, DataSource],
        limits: Limits,
        check_url: Callable[[str, str], None],
        max_budget_seconds: float = MAX_BUDGET_SECONDS,
        llm_missing: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Raise StartupError for a source that would take the name of one of the request's own fields.

        `check_url` raises InvalidRequest for a webhook_url that is never sent to; it is given the field's name too.
        `llm_missing` says what is to be done before a source can have the local LLM; None where it can.
        """
        for name, source in sources.items():
            if name in (*CreateFields.__struct_fields__, *LATER) or (name == TRAINING_FILE and not takes_file(source)):
                raise StartupError(
                    f"a plugin registers the data source {name!r}, which is a field of the request already"
                )
        self._sources = sources
        self._limits = limits
        self._check_url = check_url
        self._max_budget_seconds = max_budget_seconds
        self._llm_missing = llm_missing

    def admit(self, key: Key, body: bytes, body_sha256: str, repeat: Repeat) -> Admitted:
        """Return the job that a body asks for; raises InvalidRequest that names the field."""
        if repeat.idempotency_key is not None and not 1 <= len(repeat.idempotency_key) <= MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(
                f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY} characters", param="Idempotency-Key"
            )
        raw = decode(body, dict[str, msgspec.Raw])
        fixed = {name: _decode_fixed(name, raw[name]) for name in CreateFields.__struct_fields__ if name in raw}
        fields: CreateFields = convert(fixed, CreateFields)
        source = self._choose_source(raw)
        for name in LATER:
            if name in raw and bytes(raw[name]) not in (b"null", b"[]", b'""'):
                raise NotSupportedYet(f"{name} is not supported by this version of reflexd yet", param=name)
        heeded = {} if fields.hyperparameters is None else fields.hyperparameters.heeded()
        if heeded.get("budget_seconds", 0.0) > self._max_budget_seconds:
            raise InvalidRequest(
                f"At most {self._max_budget_seconds:g} seconds may be asked for",
                param="hyperparameters.budget_seconds",
            )
        base = base_of(fields)
        if fields.suffix is not None:
            check_suffix(fields.suffix)
        if fields.webhook_url:
            self._check_url(fields.webhook_url, "webhook_url")
        given_labels = fields.labels or []
        training_file = decode_field(source.name, raw[source.name], str) if takes_file(source) else None
        labels, mode, examples = self._check_input(source, raw[source.name], given_labels, fields.mode)
        job_id = new_id("ftjob-")
        job = Job(
            id=job_id,
            tenant_id=key.tenant_id,
            key_id=key.id,
            source=source.name,
            suffix=fields.suffix,
            model=base.name if base is not None and base.param == "model" else COLD_START,
            base_model=base.name if base is not None else None,
            labels=labels,
            mode=mode,
            auto_train=fields.auto_train is not False,
            seed=fields.seed if fields.seed is not None else secrets.randbelow(2**31),
            metadata=fields.metadata,
            webhook_url=fields.webhook_url or None,
            hyperparameters=heeded,
            training_file=training_file or f"file-inline-{job_id}",
            validation_file=fields.validation_file or None,
            trained_examples=examples,
            idempotency_key=repeat.idempotency_key,
            body_sha256=body_sha256,
            created_at=int(time.time()),
        )
        given = runs.RunInput(
            source=source.name,
            payload=raw[source.name],
            labels=given_labels,
            mode=fields.mode,
            limits=msgspec.to_builtins(self._limits),
        )
        ignored = [] if fields.hyperparameters is None else fields.hyperparameters.ignored()
        notes = [f"Hyperparameters ignored: {', '.join(ignored)}; the trainer chooses them"] if ignored else []
        return Admitted(
            job=job,
            given=given,
            notes=notes,
            base=base,
            training_file=training_file,
            validation_file=job.validation_file,
            beside=_id_in(raw.get(TRAINING_FILE)) if source.name != TRAINING_FILE else None,
        )

    def _choose_source(self, raw: Mapping[str, msgspec.Raw]) -> DataSource:
        named = [name for name in raw if name in self._sources and not _is_null(raw[name])]
        if TRAINING_FILE in named and (len(named) > 1 or bytes(memoryview(raw[TRAINING_FILE])[:2]) == b'""'):
            named.remove(TRAINING_FILE)
        if len(named) == 1:
            return self._sources[named[0]]
        choices = ", ".join(sorted(self._sources))
        if named:
            raise InvalidRequest(f"Exactly one input is allowed, and {' and '.join(named)} are given", param=named[1])
        raise InvalidRequest(f"One input is needed: {choices}", param="training_data")

    def _check_input(
        self, source: DataSource, payload: msgspec.Raw, labels: list[str], mode: Mode | None
    ) -> tuple[list[str], Mode, int]:
        """Return label order, mode and number of rows, as far as they are known before the job runs."""
        limits = self._limits
        try:
            check_labels(labels, limits)
        except BadRow as error:
            raise InvalidRequest(error.message, param="labels" + error.param) from error
        if takes_file(source):
            self._check_llm(source)
            return labels, mode or "single_label", 0
        try:
            rows = source.check(decode_field(source.name, payload, payload_type(source)), labels)
            self._check_llm(source)
            if rows is None:
                return labels, mode or "single_label", 0
            rows = rows if isinstance(rows, Sequence) else list(itertools.islice(rows, limits.rows + 1))
            return *check_rows(rows, labels, limits, mode), len(rows)
        except InvalidInput as error:
            # A field of the request itself (`labels`) is named from the top, a path inside the source's field is not.
            inside = not error.param or error.param.startswith((".", "["))
            raise InvalidRequest(error.message, param=source.name + error.param if inside else error.param) from error
        except BadRow as error:
            raise InvalidRequest(error.message, param=source.name + error.param) from error

    def _check_llm(self, source: DataSource) -> None:
        if needs_llm(source) and (missing := self._llm_missing()) is not None:
            raise LLMNotConfigured(f"{source.name} needs a local LLM, and none is set up: {missing}", param=source.name)


def base_of(fields: CreateFields) -> Base | None:
    """Return what the job starts from: `base_model`, or another `model` than the cold start (spec 7, rows 4 and 5)."""
    source = fields.model if fields.model not in (None, "", COLD_START) else None
    if fields.base_model and source and fields.base_model != source:
        raise InvalidRequest(
            "model and base_model name two models to start from: leave one of them out", param="base_model"
        )
    if fields.base_model:
        return Base(fields.base_model, "base_model")
    return Base(source, "model") if source else None


def _decode_fixed(name: str, raw: msgspec.Raw) -> Any:
    """Decode a field of the request's own, before its type is known to be right: small ones alone cannot do harm."""
    if len(memoryview(raw)) > MAX_FIELD_BYTES:
        raise InvalidRequest(f"{name} has more than {MAX_FIELD_BYTES >> 20} MB", param=name)
    return decode_field(name, raw)


def _id_in(raw: msgspec.Raw | None) -> str | None:
    """Return the text that a field holds that is to be ignored, if it is one that could be an id."""
    try:
        found = None if raw is None or len(memoryview(raw)) > MAX_ID_BYTES else msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, str) and found else None


def _is_null(raw: msgspec.Raw) -> bool:
    """Whether a field holds null, which is as good as leaving it out; the rest may be long and is not copied."""
    return bytes(memoryview(raw)[:5]) == b"null"
