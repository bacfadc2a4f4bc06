"""Shows that a tuning may be killed at any moment: tuning_kills.py with a few kills, and with ten by hand."""

from __future__ import annotations

import pytest

from tests.integration import tuning_kills


@pytest.mark.timeout(600)
def test_three_kills() -> None:
    assert tuning_kills.run(3, seed=3) == []


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_ten_kills() -> None:
    assert tuning_kills.run(10, seed=10) == []
