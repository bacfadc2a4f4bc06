"""Decides the whole plugin API: every hook, and the types that a plugin gives and gets.

A plugin is a module named by an entry point of the group "reflexd". It imports only what `reflexd/__init__.py` offers.
Registering must have no side effect: hooks are called in the daemon and again in every training process.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import pluggy
from msgspec import Meta, Struct

if TYPE_CHECKING:  # the command line loads this module for `--help`
    import click
    import numpy as np
    from numpy.typing import NDArray

    from reflexd.schemas.worker import Event, RunSpec

hookspec = pluggy.HookspecMarker("reflexd")
hookimpl = pluggy.HookimplMarker("reflexd")


class Example(Struct, frozen=True, omit_defaults=True):
    """One training row: a text, and either its one `label` or its `labels`, of which an empty list means none of them.

    Where any row of a job has `labels`, the job is multi_label, and a row with `label` then has that one label.
    """

    text: str
    label: str | None = None
    labels: tuple[str, ...] | None = None


BY_USER = "user"


class MadeRow(Example, frozen=True, kw_only=True, omit_defaults=True):
    """A row of a source with `needs_llm = True`: how likely its label is right, and who decided that it is this one.

    A row that the user has labelled says BY_USER: how often these come out right is told apart from the others.
    """

    probability: Annotated[float, Meta(ge=0, le=1)] | None = None
    decided_by: Annotated[str, Meta(max_length=64)] = ""


class InvalidInput(ValueError):
    """A data source refuses its field of the request; `param` is the path inside that field, like `[3].label`."""

    def __init__(self, message: str, param: str = "") -> None:
        self.message = message
        self.param = param
        super().__init__(message)


class InputFile(Struct, frozen=True, kw_only=True):
    """An uploaded file that a request names: where its content lies, its name as it was given, and its size.

    The content is to be read only: other files may share it.
    """

    path: Path
    filename: str
    bytes: int


class Embed(Protocol):
    """Turns texts into unit vectors of the sentence encoder."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return an array of shape [len(texts), width]."""
        ...


class LLMRequest(Struct, frozen=True):
    """A request to /v1/completions; `custom_id` tells it from the others of its batch, and `body` needs no model."""

    custom_id: str
    body: dict[str, Any]


class LLMAnswer(Struct, frozen=True):
    """What came of a request: the body that OpenAI's API answers, or the sentence with which it was refused."""

    custom_id: str
    body: dict[str, Any]
    error: str | None = None


class LLM(Protocol):
    """The local LLM, as a data source uses it."""

    parameters: int
    """Of the model; 0 where it is not known."""

    def batch(self, name: str, requests: Iterable[LLMRequest]) -> Iterator[LLMAnswer]:
        """Ask each request once and yield the answers in the order of the requests; many are under way at once.

        Answers are kept in the run directory in the format of OpenAI's Batch API, under `name` (letters, digits, -).
        When a restarted stage comes with the same name, what was answered is not asked again. Raises JobFailure where
        the LLM cannot be reached for long or does not answer in time, and stops when the job is cancelled.
        """
        ...


class SourceContext(Struct, frozen=True):
    """All that a data source may use while it makes rows, so that it imports nothing else of reflexd."""

    llm: LLM | None
    """The local LLM; there is one for a source with `needs_llm = True`."""
    embed: Embed
    emit: Callable[[str], None]
    """Tell the user something: it becomes an event of the job."""
    run_dir: Path
    """A directory of this job alone; what is written here survives a restart of the stage."""
    cancelled: threading.Event
    """Set a moment before the process is ended, when the job is cancelled: a long source looks at it between steps."""
    labels: Sequence[str]
    """The `labels` of the request; empty when it gave none."""
    text_chars: int = 0
    """The most characters that a row's text may have ([limits] text_chars)."""


class DataSource(Protocol):
    """Turns one field of the create request into labelled rows.

    A source may also have `payload_type`: the type that the field's JSON is decoded to by msgspec before it is given to
    `check` and `rows` (a Struct, list[Example], ...); without it the payload is plain JSON objects. With `payload_type
    = InputFile` the field holds the id of an uploaded file whose purpose is fine-tune, and both are given that file:
    in the daemon, where `check` runs in a thread, and in the training process, where the file is there even if it has
    been deleted since. Such a source may have a method `where(payload, number) -> str` too, which says where in the
    file row `number` (from 0) stands, like "line 17"; reflexd begins its own complaints with it. It also reads a
    `validation_file` for a job of its own.

    With `needs_llm = True` the field is checked, and refused with `llm_not_configured` where no local LLM is set up.
    """

    name: str
    """The field's name in the request body, and the source's name everywhere else."""

    def check(self, payload: Any, labels: Sequence[str]) -> Iterable[Example] | None:
        """Check the field's decoded JSON, in the daemon and within milliseconds; a file may take seconds.

        Return the rows where they are known without work, else None; reflexd then checks each row itself, naming
        `field[3].label` or `field[3].labels[1]`. An iterator of rows is read no further than as many as are allowed.
        Raise InvalidInput to answer 400 with the path inside the field (beginning with a dot or a bracket), or with
        another field of the request as it is, like `labels`; of a file, the message says where in it.
        """
        ...

    def rows(self, payload: Any, context: SourceContext) -> Iterable[Example]:
        """Yield the rows, in the training process.

        A restarted stage calls this again and skips as many rows as are already stored, so the order must be
        reproducible.
        """
        ...


class Checkpoint(Struct, frozen=True, kw_only=True):
    """A sentence encoder that stands in an installed Python distribution or in a directory.

    `files` maps each needed file name to the sha256 it must have (empty: any); all must lie in one folder. The pooling
    of a decoder is "last_token", and its precision "bf16" where it is to run on a GPU or "fp32" on the processor.
    """

    name: str
    distribution: str = ""
    directory: str = ""
    files: dict[str, str]
    license: str
    pooling: str = "mean"
    precision: str = ""
    """What it is exported in; "": what `[backbone] precision` says. An encoder in "bf16" runs on a GPU, too."""


class DefaultReflex(Struct, frozen=True):
    """A trained model that every tenant can use by its name or an alias; `directory` is the model's folder."""

    name: str
    directory: str
    aliases: tuple[str, ...] = ()


class Reply(Struct, frozen=True, kw_only=True):
    """A receiver's answer: its HTTP status, and its Retry-After header where it has one."""

    status: int
    retry_after: str = ""


class Post(Protocol):
    """The one guarded way out: a POST over http or https to what the operator's [network] lets be reached."""

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send the bytes as they are and return the answer; raises where the URL may not be or cannot be reached."""
        ...


class WebhookTransport(Protocol):
    """Delivers signed webhooks to the URLs of one scheme."""

    scheme: str

    async def deliver(self, url: str, body: bytes, headers: Mapping[str, str], post: Post) -> Reply:
        """Send the bytes as they are; a status of 200 to 299 means that they were taken, 410 that none is wanted.

        It is cancelled when it takes longer than [webhooks] timeout_seconds. What it raises counts as an attempt that
        failed. A transport over HTTP uses `post`, and opens no connection of its own.
        """
        ...


class Executor(Protocol):
    """Runs the stages of jobs somewhere: the built-in one in a child process of the daemon."""

    async def start(self) -> None:
        """Get ready, for example by warming a process."""
        ...

    def run(self, spec: RunSpec) -> AsyncGenerator[Event, None]:
        """Run one stage and yield its events, the terminal one last.

        Raise ExecutorUnavailable when no run can be started at present, WorkerDied when a started one ended by itself.
        Closing the generator early ends the run at once.
        """
        ...

    async def stop(self) -> None:
        """End every run and every standing-by process."""
        ...


class ExecutorOptions(Struct, frozen=True, kw_only=True):
    """What an executor is built with, from [training] of the configuration."""

    slots: int
    warm: int
    threads: int
    runs_per_child: int
    nice: int


ExecutorFactory = Callable[[ExecutorOptions], Executor]


def payload_type(source: DataSource) -> Any:
    """Return the type that a source's field is decoded to; `object` where the source names none."""
    return getattr(source, "payload_type", object)


def takes_file(source: DataSource) -> bool:
    """Return whether a source's field holds the id of an uploaded file."""
    return payload_type(source) is InputFile


def where(source: DataSource, file: InputFile, number: int) -> str:
    """Return where in a file the row of a number (from 0) stands, in words."""
    tell = getattr(source, "where", None)
    return f"row {number}" if tell is None else str(tell(file, number))


def needs_llm(source: DataSource) -> bool:
    """Return whether a source makes its rows with the local LLM."""
    return bool(getattr(source, "needs_llm", False))


@hookspec
def register_data_sources(register: Callable[[DataSource], None]) -> None:
    """Call `register(source)` for each data source; its name becomes a field of POST /v1/fine_tuning/jobs."""


@hookspec
def register_checkpoints(register: Callable[[Checkpoint], None]) -> None:
    """Call `register(checkpoint)` for each sentence encoder that `[training] backbone` may name."""


@hookspec
def register_default_reflexes(register: Callable[[DefaultReflex], None]) -> None:
    """Call `register(reflex)` for each trained model that comes with the plugin; no name or alias may stand twice."""


@hookspec
def register_webhook_transports(register: Callable[[WebhookTransport], None]) -> None:
    """Call `register(transport)` for each URL scheme that webhooks can be delivered to."""


@hookspec
def register_executors(register: Callable[[str, ExecutorFactory], None]) -> None:
    """Call `register(name, factory)` for each way to run training that `[training] executor` may name."""


@hookspec
def register_cli_commands(group: click.Group) -> None:
    """Add commands to the `reflexd` command line with `@group.command()`."""


@hookspec
def startup(data_dir: Path) -> None:
    """Be told that the daemon is about to listen; raise to stop the start with this plugin's name in the error."""


@hookspec
def shutdown() -> None:
    """Be told that the daemon has stopped listening and ended its training processes."""
