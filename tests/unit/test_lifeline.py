"""Shows that a child makes its own session give way, and never one that it shares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GROUP = Path("/proc/self/autogroup")
SCRIPT = """
import os
from pathlib import Path
from reflexd.engine.lifeline import give_way
give_way(7)
print(os.nice(0), Path("/proc/self/autogroup").read_text().split()[-1])
"""


@pytest.mark.skipif(not GROUP.exists(), reason="this kernel does not schedule sessions by group")
@pytest.mark.parametrize("own_session", [True, False])
def test_only_a_session_of_its_own_gets_the_niceness(own_session: bool) -> None:
    before = GROUP.read_text().split()[-1:]
    if not before:
        pytest.skip("this process is in no group")
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, start_new_session=own_session
    ).stdout.split()
    assert said == [str(min(19, os.nice(0) + 7)), "7" if own_session else before[0]]
    assert GROUP.read_text().split()[-1:] == before
