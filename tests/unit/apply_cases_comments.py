"""Shows lazy edits of Python files with sloppy indentation, moved code and comments that look like markers."""

from __future__ import annotations

from tests.unit.apply_cases import applied, refused

LEDGER = '''\
"""Keeps a ledger."""

import os
from decimal import Decimal


class Entry:
    def __init__(self, amount, memo=""):
        self.amount = Decimal(amount)
        self.memo = memo


class Ledger:
    """All entries of one account."""

    def __init__(self, owner):
        self.owner = owner
        self.entries = []

    def add(self, entry):
        # ... zero is allowed, see the manual ...
        self.entries.append(entry)
        return entry

    def total(self):
        total = Decimal(0)
        for entry in self.entries:
            total += entry.amount
        return total

    def clear(self):
        self.entries = []


def load(path):
    with open(path) as lines:
        return [line.split(",") for line in lines]


def save(path, ledger):
    with open(path, "w") as out:
        for entry in ledger.entries:
            out.write(f"{entry.amount},{entry.memo}\\n")
'''
WORKER = """\
import time

class Worker:
    retries = 3

    def run(self, job):
        print("starting")
        for attempt in range(self.retries):
            try:
                return job()
            except OSError:
                time.sleep(1)
        raise RuntimeError("gave up")

    def stop(self):
        print("stopping")
        self.done = True

    def status(self):
        return "done" if self.done else "running"
"""
CASES = [
    applied(
        "python comment that only looks like a marker is kept",
        LEDGER,
        """\
# ... existing code ...
    def add(self, entry):
        # ... zero is allowed, see the manual ...
        self.entries.append(entry)
        self.changed = True
        return entry
# ... existing code ...
""",
        ("self.entries.append(entry)\n", "self.entries.append(entry)\n        self.changed = True\n"),
    ),
    applied(
        "python comment that only looks like a marker is removed",
        LEDGER,
        """\
# ... existing code ...
    def add(self, entry):
        self.entries.append(entry)
        return entry
# ... existing code ...
""",
        ("        # ... zero is allowed, see the manual ...\n", ""),
    ),
    applied(
        "python new comment that ends in dots",
        WORKER,
        """\
# ... existing code ...
            except OSError:
                # wait a little longer...
                time.sleep(5)
        raise RuntimeError("gave up")
# ... existing code ...
""",
        (
            "                time.sleep(1)\n",
            "                # wait a little longer...\n                time.sleep(5)\n",
        ),
    ),
    applied(
        "python new comment with a marker's words",
        WORKER,
        """\
# ... existing code ...
            except OSError:
                # keep trying before we give up...
                time.sleep(1)
        raise RuntimeError("gave up")
# ... existing code ...
""",
        (
            "                time.sleep(1)\n",
            "                # keep trying before we give up...\n                time.sleep(1)\n",
        ),
    ),
    refused(
        "python comment with a marker's words in place of code",
        WORKER,
        """\
# ... existing code ...
    def run(self, job):
        # keep going until the rest is done...
        raise RuntimeError("gave up")

    def stop(self):
# ... existing code ...
""",
        "ambiguous",
    ),
    applied(
        "python tabs in the update, spaces in the file",
        WORKER,
        """\
# ... existing code ...
\tdef stop(self):
\t\tprint("stopping")
\t\tself.done = True
\t\tself.retries = 0

\tdef status(self):
# ... existing code ...
""",
        ("        self.done = True\n", "        self.done = True\n        self.retries = 0\n"),
    ),
    applied(
        "python block deleted by its context",
        WORKER,
        """\
# ... existing code ...
        raise RuntimeError("gave up")

    def status(self):
        return "done" if self.done else "running"
""",
        ('    def stop(self):\n        print("stopping")\n        self.done = True\n\n', ""),
    ),
    refused(
        "python method moved up",
        WORKER,
        """\
import time

class Worker:
    retries = 3

    def status(self):
        return "done" if self.done else "running"

    def run(self, job):
        # ... existing code ...
        raise RuntimeError("gave up")

    def stop(self):
        print("stopping")
        self.done = True
""",
        "doubled_definition",
    ),
    applied(
        "python whole file rewritten",
        WORKER,
        WORKER.replace("print(", "log.info(").replace(
            "import time\n", "import logging\nimport time\n\nlog = logging\n"
        ),
        ("import time\n", "import logging\nimport time\n\nlog = logging\n"),
        ('print("starting")', 'log.info("starting")'),
        ('print("stopping")', 'log.info("stopping")'),
    ),
    applied(
        "python body wrapped and indented anew",
        WORKER,
        """\
# ... existing code ...
    def stop(self):
        if not self.done:
            print("stopping")
            self.done = True

    def status(self):
# ... existing code ...
""",
        (
            '        print("stopping")\n        self.done = True\n',
            '        if not self.done:\n            print("stopping")\n            self.done = True\n',
        ),
    ),
    applied(
        "python constant changed in a class",
        WORKER,
        "# ... existing code ...\n\nclass Worker:\n    retries = 5\n\n    # ... existing code ...\n",
        ("retries = 3", "retries = 5"),
    ),
    applied(
        "python decorator added",
        WORKER,
        """\
# ... other methods ...

    @property
    def status(self):
        return "done" if self.done else "running"
""",
        ("    def status(self):", "    @property\n    def status(self):"),
    ),
]
