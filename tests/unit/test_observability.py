"""Shows that a log line is JSON off a terminal, and that no exception quotes a text in it."""

from __future__ import annotations

import json
import subprocess
import sys

SECRET = "my private diary"

CODE = f"""
import logging, structlog
from reflexd.errors import StartupError
from reflexd.observability import configure_logging
configure_logging("info", "auto")
log = structlog.get_logger("x")
def fail(error):
    try:
        raise error
    except Exception as caught:
        return caught
log.info("hello", job_id="j")
log.error("ours", exc_info=fail(StartupError("a sentence of ours")))
log.error("theirs", exc_info=fail(ValueError("{SECRET}")))
try:
    raise KeyError("{SECRET}")
except KeyError:
    logging.getLogger("some.library").exception("library")
log.debug("not at this level")
"""


def test_lines_off_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = {line["event"]: line for line in map(json.loads, done.stderr.splitlines())}
    assert set(lines) == {"hello", "ours", "theirs", "library"}
    assert lines["hello"]["job_id"] == "j"
    assert lines["hello"]["level"] == "info"
    assert lines["hello"]["ts"].endswith("Z")
    assert lines["ours"]["why"] == "a sentence of ours"
    assert lines["theirs"]["exception"] == "ValueError"
    assert lines["library"]["exception"] == "KeyError"
    assert lines["theirs"]["frames"]
    assert SECRET not in done.stderr
