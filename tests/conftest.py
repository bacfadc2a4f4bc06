"""Decides what a test may ask for (a shared daemon, others, keys, strict clients) and what a failure shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import openai
import pytest

from tests.daemons import ALIVE, Daemon, embedded, running

_names = itertools.count(1)

LONG = (
    "test_tuning_kills", "test_made_labels", "test_batches", "test_fuzz", "test_backbones", "test_decoders",
    "test_registration", "test_base_models", "test_llm_verbs", "test_kill_loop", "test_scheduling", "test_demo",
    "test_interval", "test_file_jobs", "test_runner", "test_tuned_training", "test_quantisation",
)  # fmt: skip
"""Files that take half a minute or more, the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Export the embedded encoder once, before several processes begin: a job in a daemon would wait for it."""
    if not hasattr(session.config, "workerinput"):
        for precision in ("int8", "fp32"):
            embedded(precision)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, for a file's tests stay together: what ends last then is short."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """The daemon that tests share; each works in a tenant of its own and leaves no job running."""
    with running(REFLEXD_TRAINING__SLOTS="2") as started:
        yield started


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts another daemon, `start_daemon(ready=True, **env)`; all end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(**options))


@pytest.fixture
def new_key(daemon: Daemon) -> Callable[[], str]:
    """Return a function that makes a key in a new tenant of the shared daemon."""
    return lambda: daemon.create_key(f"test-{next(_names)}")


@pytest.fixture
def key(new_key: Callable[[], str]) -> str:
    """A key in a new, empty tenant of the shared daemon."""
    return new_key()


@pytest.fixture
def client(daemon: Daemon, key: str) -> Iterator[openai.OpenAI]:
    """The official SDK in strict mode, in a tenant of its own; its jobs are deleted afterwards."""
    with daemon.openai(key) as strict:
        yield strict
        for job in strict.fine_tuning.jobs.list(limit=100):
            strict.delete(f"/fine_tuning/jobs/{job.id}", cast_to=object)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of each live daemon's stderr with a failure."""
    report = yield
    if report.failed:
        report.sections += [(f"stderr of {daemon.url}", daemon.log()[-6000:]) for daemon in ALIVE]
    return report
