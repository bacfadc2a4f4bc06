"""Decides how a side runs in a process of its own, its libraries loaded before it is timed: JSON lines in and out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any


class Process:
    """A module that runs `serve`, for as long as the `with` lasts."""

    def __init__(self, module: str, *arguments: str, under: Sequence[str] = ()) -> None:
        """`under` is a command that runs another one, such as a profiler."""
        command = [*under, sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def ask(self, **request: Any) -> Any:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate()


def serve(answer: Callable[..., Any]) -> None:
    """Answer each line of stdin on stdout until stdin ends; the module of a Process calls this."""
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
