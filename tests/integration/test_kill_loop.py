"""Shows that the daemon may be killed at any moment: kill_loop.py with a few kills, and with many by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemons import environment, shared_cache


def run(kills: int, seed: int) -> None:
    script = Path(__file__).with_name("kill_loop.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", str(kills), "--seed", str(seed)],
        env=environment(REFLEXD_TEST_CACHE=str(shared_cache())),
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills" in done.stdout


def test_three_kills() -> None:
    run(3, seed=5)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_thirty_kills() -> None:
    run(30, seed=30)
