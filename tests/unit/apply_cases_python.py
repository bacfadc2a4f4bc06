"""Shows lazy edits of a Python file, with the answer or the refusal that each must get."""

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
CASES = [
    applied(
        "python body replaced between markers",
        LEDGER,
        """\
# ... existing code ...

class Ledger:
    # ... existing code ...

    def total(self):
        return sum((entry.amount for entry in self.entries), Decimal(0))

    # ... existing code ...
""",
        (
            """\
        total = Decimal(0)
        for entry in self.entries:
            total += entry.amount
        return total
""",
            "        return sum((entry.amount for entry in self.entries), Decimal(0))\n",
        ),
    ),
    applied(
        "python header renamed with a parameter",
        LEDGER,
        """\
# ... existing code ...

def load(path, separator=","):
    with open(path) as lines:
        return [line.split(separator) for line in lines]


# ... existing code ...
""",
        ("def load(path):", 'def load(path, separator=","):'),
        ('line.split(",")', "line.split(separator)"),
    ),
    applied(
        "python header alone changed",
        LEDGER,
        """\
# ... existing code ...
    def add(self, entry: Entry) -> Entry:
        # ... existing code ...
        self.entries.append(entry)
        return entry
# ... rest of the file ...
""",
        ("def add(self, entry):", "def add(self, entry: Entry) -> Entry:"),
    ),
    refused(
        "python method appended to a class",
        LEDGER,
        """\
class Ledger:
    # ... existing methods ...

    def clear(self):
        self.entries = []

    def __len__(self):
        return len(self.entries)


# ... existing code ...
""",
        "lost_definition",
    ),
    refused(
        "python import beside another",
        LEDGER,
        """\
import os
import csv
from decimal import Decimal

# ... rest of file unchanged ...
""",
        "ambiguous",
    ),
    refused(
        "python import without anything around it",
        LEDGER,
        """\
import csv

# ... existing code ...
""",
        "no_anchor",
        "ambiguous",
    ),
    refused(
        "python import and use of it far below",
        LEDGER,
        """\
import os
import csv
from decimal import Decimal

# ... existing code ...

def load(path):
    with open(path) as lines:
        return list(csv.reader(lines))

# ... existing code ...
""",
        "ambiguous",
    ),
    applied(
        "python dedented method",
        LEDGER,
        """\
# ... existing code ...
def add(self, entry):
    # ... zero is allowed, see the manual ...
    if entry in self.entries:
        raise ValueError("twice")
    self.entries.append(entry)
    return entry
# ... existing code ...
""",
        (
            "        self.entries.append(entry)\n",
            '        if entry in self.entries:\n            raise ValueError("twice")\n'
            "        self.entries.append(entry)\n",
        ),
    ),
    applied("python update equal to the file", LEDGER, LEDGER),
    refused(
        "python update for another file",
        LEDGER,
        """\
# ... existing code ...
class Invoice(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)

    def pay(self):
        self.paid = True
        self.save()
# ... existing code ...
""",
        "no_anchor",
        "foreign_update",
    ),
    refused("python markers only", LEDGER, "# ... existing code ...\n\n# ... existing code ...\n", "only_markers"),
    refused(
        "python return that stands in two methods",
        """\
def first(x):
    y = x + 1
    return y


def second(x):
    y = x + 1
    return y
""",
        "# ... existing code ...\n    y = x + 1\n    print(y)\n    return y\n# ... existing code ...\n",
        "ambiguous",
    ),
]
