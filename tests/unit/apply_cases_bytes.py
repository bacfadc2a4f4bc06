"""Shows that an answer keeps the file's own bytes: line ends, the last one, a BOM, trailing space, odd letters."""

from __future__ import annotations

from tests.unit.apply_cases import Case, applied, refused

PLAIN = """\
def first():
    return 1


def second():
    return 2


def third():
    return 3
"""
UPDATE = """\
# ... existing code ...
def second():
    value = 2
    return value


# ... existing code ...
"""
ONE, TWO = "    return 2", "    value = 2\n    return value"
CASES = [
    applied("bytes of a file with LF", PLAIN, UPDATE, (ONE, TWO)),
    applied("bytes of a file with CRLF", PLAIN.replace("\n", "\r\n"), UPDATE, (ONE, TWO.replace("\n", "\r\n"))),
    applied("bytes of an update with CRLF", PLAIN, UPDATE.replace("\n", "\r\n"), (ONE, TWO)),
    applied(
        "bytes of a file with mostly CRLF and some LF",
        PLAIN.replace("\n", "\r\n").replace("def first():\r\n", "def first():\n"),
        UPDATE,
        (ONE, TWO.replace("\n", "\r\n")),
    ),
    applied(
        "bytes of a file with mostly LF and some CRLF",
        PLAIN.replace("    return 3\n", "    return 3\r\n"),
        UPDATE,
        (ONE, TWO),
    ),
    applied("bytes of a file with a BOM", "\ufeff" + PLAIN, UPDATE, (ONE, TWO)),
    applied("bytes of an update with a BOM", PLAIN, "\ufeff" + UPDATE, (ONE, TWO)),
    applied("bytes of a file without a last line end", PLAIN.rstrip("\n"), UPDATE, (ONE, TWO)),
    applied("bytes of a file with three last line ends", PLAIN + "\n\n", UPDATE, (ONE, TWO)),
    applied(
        "bytes of trailing space on kept lines", PLAIN.replace("second():\n", "second():  \t\n"), UPDATE, (ONE, TWO)
    ),
    applied(
        "bytes of a form feed and of line separators within lines",
        PLAIN.replace("return 1", 'return "\u2028\x0b\x85"').replace("\n\n\ndef third", "\n\x0c\n\ndef third"),
        UPDATE,
        (ONE, TWO),
    ),
    applied(
        "bytes of a file rewritten as a whole",
        PLAIN.replace("\n", "\r\n").rstrip("\r\n"),
        PLAIN.replace("return 3", "return 33"),
        ("return 3", "return 33"),
    ),
    applied(
        "bytes of a new last line where the file ends without a line end",
        "alpha = 1\nbeta = 2\ngamma = 3",
        "# ... existing code ...\nbeta = 2\ngamma = 3\ndelta = 4\n",
        ("gamma = 3", "gamma = 3\ndelta = 4"),
    ),
    refused("empty update", PLAIN, "\n  \n", "empty_update"),
    refused("empty file with a lazy update", "", UPDATE, "no_anchor", "foreign_update"),
    refused("one marker without dots", PLAIN, "# rest of the code remains unchanged\n", "only_markers"),
    Case("empty file with its whole text", "", PLAIN, PLAIN),
]
