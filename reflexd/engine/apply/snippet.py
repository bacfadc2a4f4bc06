"""Decides what a lazy edit says: which of its lines stand for code that is left out, and what the others are.

A marker is a comment in any language's style whose words say that code is left out. A line that stands in the file is
never one. What a line defines, a function or the key of a configuration, is its name in the file, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from msgspec import Struct

TAB = 4
MOST_MARKER_CHARS = 120
OPENING = re.compile(r"^(?://+|/\*+|\{/\*+|<!--+|#+|--+|;+|%+|\(\*|<%--|\{#|\{\{!--|\"\"\"|''')\s*")
CLOSING = re.compile(r"\s*(?:\*+/\}?|--+>|\*\)|--%>|#\}|--\}\}|\"\"\"|''')\s*[;,]?$")
DOTS = re.compile(r"\.{3,}|\N{HORIZONTAL ELLIPSIS}")
LEFT_OUT = re.compile(
    r"\b(?:existing|rest|remaining|remainder|remains?|unchanged|same|other|others|previous|keep|kept|omitted|elided|"
    r"more|skip|skipped|snip|code|stays?|before|after|above|below|continued?|here|etc|no changes?)\b",
    re.IGNORECASE,
)
WITHOUT_DOTS = re.compile(
    r"\W*(?:(?:the\s+)?(?:rest|remainder|remaining|other)\b[\w\s]{0,60}\b(?:unchanged|same|here|code|file|methods|functions|"
    r"imports|class|function)|(?:keep\s+)?(?:the\s+)?existing\s+[\w\s]{0,30}?(?:code|methods|functions|imports|logic|"
    r"implementation|content)(?:\s+(?:here|unchanged|remains?|stays?)[\w\s]{0,20})?|unchanged(?:\s+code)?|no\s+changes?|"
    r"(?:code|file)\s+(?:remains?|stays?)\s+(?:the\s+same|unchanged))\W*",
    re.IGNORECASE,
)
WORDS = (
    r"(?:export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\([\w:]+\))?|unsafe|extern|"
    r"inline|constexpr|virtual|override|readonly|declare|open|sealed|data|suspend|local)\s+"
)
DEFINITION = re.compile(
    rf"^(?:{WORDS})*(def|class|function\*?|fn|func|struct|interface|type|enum|trait|union|module|namespace|macro_rules!|"
    rf"const|let|var|val|impl)\s+(?:\([^)]*\)\s*)?((?:mut\s+)?[\w$.:<>]+)"
)
KEY = re.compile(r"""^(?:-\s+)?(["']?[\w$@./-]+["']?)\s*(?::(?!:)|\??:|=(?!=)|:=|\+=)\s*(?=\S)""")
BLOCK_KEY = re.compile(r"""^(["']?[\w$@./-]+["']?)\s*[:=]\s*[\[{(]?$""")


class Snippet(Struct, frozen=True):
    """The lines of an edit [m], which of them are markers, and how far each is indented (markers, too)."""

    lines: list[str]
    markers: list[bool]
    indents: list[int]


def read(update: Sequence[str], original: Collection[str]) -> Snippet:
    """Tell an edit's markers from its other lines; `original` holds the file's lines without space around them.

    Empty lines beside a marker go with it: they set it apart and stand for nothing.
    """
    found = [is_marker(line) and line.strip() not in original for line in update]
    blank = [not line.strip() for line in update]
    kept: list[int] = []
    for place in range(len(update)):
        if blank[place]:
            before = next((found[p] for p in range(place - 1, -1, -1) if not blank[p]), True)
            after = next((found[p] for p in range(place + 1, len(update)) if not blank[p]), True)
            if before or after:
                continue
        if found[place] and kept and found[kept[-1]]:  # two in a row say what one says
            continue
        kept.append(place)
    lines = [update[place] for place in kept]
    return Snippet(lines, [found[place] for place in kept], [indent(line) for line in lines])


def is_marker(line: str) -> bool:
    """Whether a line is a comment that says that code is left out."""
    text = line.strip()
    if not text or len(text) > MOST_MARKER_CHARS:
        return False
    opened = OPENING.match(text)
    inner = CLOSING.sub("", text[opened.end() :] if opened else text).strip()
    if opened is None:
        # Without a comment only what no language means: "... existing code ...".
        return bool(DOTS.match(inner) and LEFT_OUT.search(inner) and len(inner.split()) <= 8)
    dots = DOTS.search(inner)
    if dots is None:
        return bool(WITHOUT_DOTS.fullmatch(inner))
    words = DOTS.sub(" ", inner).strip()
    if not words:
        return True
    begins, ends = DOTS.match(inner) is not None, DOTS.search(inner[-4:]) is not None
    return (
        (begins and (ends or LEFT_OUT.search(words) is not None or len(words.split()) <= 4))
        or (ends and LEFT_OUT.search(words) is not None and len(words.split()) <= 10)
        or (inner.startswith("(") and LEFT_OUT.search(words) is not None)
    )


def indent(line: str) -> int:
    """Return the columns before a line's first character, of an empty line -1."""
    text = line.lstrip(" \t")
    if not text.strip():
        return -1
    columns = 0
    for character in line[: len(line) - len(text)]:
        columns += TAB - columns % TAB if character == "\t" else 1
    return columns


def name_of(line: str) -> str:
    """Return what a line defines, "" if nothing: the same in the file and in the edit."""
    text = line.strip()
    if found := DEFINITION.match(text):
        return f"{found[1]} {found[2]}"
    if found := KEY.match(text) or BLOCK_KEY.match(text):
        return f"= {found[1]}"
    return ""
