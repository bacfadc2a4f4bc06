"""Shows that a tuning may be killed at any moment: tuning_kills.py with one kill, and with ten by hand."""

from __future__ import annotations

import pytest

from tests.integration import tuning_kills


@pytest.mark.timeout(600)
def test_a_kill() -> None:
    assert tuning_kills.run(1, seed=3) == []


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_ten_kills() -> None:
    assert tuning_kills.run(10, seed=10) == []
