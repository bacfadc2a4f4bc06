"""Decides what a fake of a language model's server does in tests of its keeper: it breaks on command.

`python llm_server.py PORT FOLDER`. The files in FOLDER say how it misbehaves: `broken` ends it at once with a word,
`deaf` lets /health hang, `slow` lets it start for seconds. It writes its pid and its child's to FOLDER/pids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, FOLDER = int(sys.argv[1]), Path(sys.argv[2])


class Handler(BaseHTTPRequestHandler):
    """Answers as little as is asked of it."""

    def do_GET(self) -> None:
        """Answer /health."""
        if (FOLDER / "deaf").exists():
            time.sleep(60)
        self._answer({})

    def do_POST(self) -> None:
        """Answer /v1/completions."""
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"choices": [{"text": "B"}], "pid": os.getpid()})

    def _answer(self, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(200 if self.path == "/health" or self.headers["authorization"] == "Bearer " + KEY else 401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    if (FOLDER / "broken").exists():
        sys.exit("no memory for it")
    KEY = os.environ["KEY"]
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with (FOLDER / "pids").open("a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    if (FOLDER / "slow").exists():
        time.sleep(4)
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
