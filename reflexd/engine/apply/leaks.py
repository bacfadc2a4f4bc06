"""Decides whether a new line of an answer may have been meant to stand for code that is left out.

What stands for code in words or places that nobody foresaw would be written into the file, and the code deleted. Some
of these lines are meant as they are; none is worth a file that has lost code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import LEFT_OUT, OPENING, indent, is_marker

INLINE = re.compile(r"(?:^|[\s{}();,])(?://|/\*|<!--|#|--)\s*(?:\.{3,}|\N{HORIZONTAL ELLIPSIS})(.*)$")
"""A comment that begins with dots, anywhere in a line."""
ALONE = re.compile(r"""(?P<quote>["']?)(?:\.{3}|\N{HORIZONTAL ELLIPSIS})(?P=quote)(?:\s*:\s*["'].*["'])?\s*,?""")
ELIDES = re.compile(
    r"\b(?:existing|unchanged|omitted|truncated|snip(?:ped)?|elided|brevity|as before|rest|remaining|remainder|"
    r"previous(?:ly)?|your \w+ code|(?:all )?other \w+)\b",
    re.IGNORECASE,
)
MOST_WORDS = 8
MESSAGE = (
    "This line looks as if it stood for code that is left out: give it a line of its own, as a comment between dots, or"
    " show the code"
)


def check_leaks(original: str, update: str, merged: str) -> None:
    """Raise Refusal for a new line that may stand for code, with its place in the update, from 0."""
    known = Counter(line.strip() for line in original.split("\n"))
    lines = update.split("\n")
    deletes = any(text for text in known - Counter(line.strip() for line in merged.split("\n")))
    for row, line in enumerate(lines):
        text = line.strip()
        if not text or text in known or is_marker(line):
            continue
        if (
            _inline(text)
            or (ALONE.fullmatch(text) and (deletes or not _is_body(lines, row)))
            or (deletes and _elides(text))
        ):
            raise Refusal("leaked_marker", MESSAGE, row)


def _inline(text: str) -> bool:
    found = INLINE.search(text)
    return found is not None and (LEFT_OUT.search(found[1]) is not None or not re.search(r"\w", found[1]))


def _elides(text: str) -> bool:
    return OPENING.match(text) is not None and ELIDES.search(text) is not None and len(text.split()) <= MOST_WORDS


def _is_body(lines: Sequence[str], row: int) -> bool:
    """Whether dots are all that a block of Python's has."""
    before = next((line for line in reversed(lines[:row]) if line.strip()), "")
    after = next((line for line in lines[row + 1 :] if line.strip()), "")
    return before.rstrip().endswith(":") and indent(after) < indent(lines[row])
