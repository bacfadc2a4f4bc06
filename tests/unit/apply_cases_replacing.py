"""Shows lazy edits whose lines replace what is there, or stand for a part of a small file, with what must come."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

CHART = """\
function draw(room) {
    var points = load(room);
    if ($('#chart').length) {
        window.chart = $('#chart').plot({
            type: 'area',
            height: 250,
            data: [
                {values: points}
            ]
        });
    }
}

function listen(room) {
    stream(room, draw);
}
"""
PLOT = """\
    if ($('#chart').length) {
        window.chart = $('#chart').plot({
            type: 'area',
            height: 250,
            data: [
                {values: points}
            ]
        });
    }
"""
PLAIN = """\

    window.chart = $('#chart').plot({
        type: 'area',
        height: 250,
        data: [
            {values: points}
        ]
    });
"""
SERVE = """\
import json
import os
import sys
import time

PORT = 8000


def read(path):
    with open(path) as file:
        return json.load(file)


def serve(port=PORT):
    server = Server(port)
    server.run()
    return server


def main():
    server = serve(int(os.environ.get("PORT", PORT)))
    while server.busy():
        time.sleep(1)
    sys.exit(server.status)
"""
MIDDLE = SERVE[SERVE.index("PORT = 8000") : SERVE.index("\n\ndef main")]

CASES = [
    applied(
        "javascript a block taken out of its condition",
        CHART,
        "// ... existing code ...\n    var points = load(room);\n"
        f"{PLAIN}}}\n\nfunction listen(room) {{\n// ... existing code ...\n",
        (PLOT, PLAIN),
    ),
    applied(
        "python most of a small file, from its middle",
        SERVE,
        MIDDLE.replace("open(path)", 'open(path, encoding="utf-8")'),
        ("open(path)", 'open(path, encoding="utf-8")'),
    ),
    applied(
        "python the greater part of a small file, from its beginning",
        SERVE,
        SERVE[: SERVE.index("\n\ndef main")].replace("PORT = 8000", "PORT = 8080"),
        ("PORT = 8000", "PORT = 8080"),
    ),
    refused(
        "python a small file without its last function, and nothing else new",
        SERVE,
        SERVE[: SERVE.index("\n\ndef main")],
        "ambiguous",
    ),
    refused(
        "python a small file whose last function has become another",
        SERVE,
        SERVE[: SERVE.index("def main")] + "def run_all():\n    for port in (PORT, PORT + 1):\n        serve(port)\n",
        "ambiguous",
    ),
]
