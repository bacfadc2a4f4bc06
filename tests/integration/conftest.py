"""Decides which daemons integration tests share: one with countable processes, one on which nothing else goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemons import Daemon, running

BODY_LIMIT = 1 << 20


@pytest.fixture(scope="session")
def quiet() -> Iterator[Daemon]:
    """A daemon that takes bodies of 1 MB within 3 s; a test leaves no job on it, so all that is written is seen."""
    with running(REFLEXD_HTTP__MAX_BODY_BYTES=str(BODY_LIMIT), REFLEXD_HTTP__BODY_TIMEOUT_SECONDS="3") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def cold() -> Iterator[Daemon]:
    """A daemon with room for five jobs; its training processes are those at work, and at most one kept from before."""
    with running(REFLEXD_TRAINING__SLOTS="5", REFLEXD_TRAINING__WARM_CHILDREN="0") as daemon:
        yield daemon
