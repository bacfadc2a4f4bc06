"""Decides what a lazy edit says: which of its lines stand for code that is left out, and what the others are.

A marker is a comment in any language's style whose words say that code is left out. A line that stands in the file is
never one. What a line defines, a function or the key of a configuration, is its name in the file, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from msgspec import Struct

TAB = 4
ANY_LEVEL = 1 << 20
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
SURELY = re.compile(
    r"\b(?:existing|unchanged|same|here|no\s+changes?|rest|remain(?:s|der|ing)?\b.*\b(?:code|file))\b", re.IGNORECASE
)
"""What a marker without dots says that is no heading."""
ABOUT_THE_FILE = re.compile(
    r"^(?:(?:all|the|and|keep|with)\s+)*(?:rest|remainder|remaining|existing|other|others|previous|unchanged|same|omitted|"
    r"snip)\b|\b(?:unchanged|omitted|elided|as before|the same|existing code|as is)$",
    re.IGNORECASE,
)
WORDS = (
    r"(?:export|default|public|private|protected|internal|static|final|abstract|async|pub(?:\([\w:]+\))?|unsafe|extern|"
    r"inline|constexpr|virtual|override|readonly|declare|open|sealed|data|suspend|local)\s+"
)
DEFINITION = re.compile(
    rf"^(?:{WORDS})*(def|defp|class|function\*?|fn|fun|func|sub|struct|interface|type|enum|trait|union|module|namespace|macro_rules!|"
    rf"const|let|var|val|impl)\s+(?:\([^)]*\)\s*)?((?:mut\s+)?[\w$.:<>]+)"
)
VALUES = ("= ", "const ", "let ", "var ", "val ")
"""How the names of values begin."""
KEY = re.compile(r"""^(?:-\s+)?(["']?[\w$@./-]+["']?)\s*(?::(?!:)|\??:|=(?!=)|:=|\+=)\s*(?=\S)""")
BLOCK_KEY = re.compile(r"""^(["']?[\w$@./-]+["']?)\s*[:=]\s*[\[{(]?$""")


BEFORE = re.compile(r"@|#\[|//|/?\*|#\s|--\s")
"""How comments and annotations begin, which stand before what they are of."""


class Snippet(Struct, frozen=True):
    """The lines of an edit [m], which of them are markers, and how far each is indented (markers, too).

    `apart` tells whether an empty line stood before it, which a marker's are not among the lines; `rows` which line of
    the edit it was.
    """

    lines: list[str]
    markers: list[bool]
    indents: list[int]
    apart: list[bool]
    rows: list[int]

    def level(self, row: int) -> int:
        """Return how far at most what a marker stands for is indented to begin with.

        That is as far as the marker, but many write it at the line's begin: then as far as the lines before it, and
        behind a line that opens something, as an item of a list, any further.
        """
        own = self.indents[row]
        if row == 0 or self.markers[row - 1]:
            return own
        before = next((place for place in range(row - 1, -1, -1) if self.lines[place].strip()), 0)
        if self.indents[before] >= own and (opens(self.lines[before]) or is_item(self.lines[before])):
            return ANY_LEVEL
        start = before
        while start and not self.markers[start - 1]:
            start -= 1
        return max(own, min(indent for indent in self.indents[start:row] if indent >= 0))

    def is_apart(self, row: int, *, behind: bool) -> bool:
        """Whether a row is a marker that an empty line stands before, or `behind`."""
        if not (0 <= row < len(self.markers) and self.markers[row]):
            return False
        return self.apart[row] if not behind else row + 1 < len(self.rows) and self.apart[row + 1]

    def headed(self, row: int) -> int:
        """Return the line that comments and annotations from a row on are of; the last of these where none follows."""
        while BEFORE.match(self.lines[row].strip()) and row + 1 < len(self.lines) and not self.markers[row + 1]:
            row += 1
        return row

    def header(self, row: int) -> int:
        """Return the nearest line before one, up to a marker, that is indented less; -1 for none."""
        for place in range(row - 1, -1, -1):
            if self.markers[place]:
                break
            if 0 <= self.indents[place] < self.indents[row]:
                return place
        return -1


def read(update: Sequence[str], original: Collection[str], *, doubtful: bool = True) -> Snippet:
    """Tell an edit's markers from its other lines; `original` holds the file's lines without space around them.

    Whether doubtful ones are markers is for the caller to say.
    Empty lines beside a marker go with it: they set it apart and stand for nothing.
    """
    found = [is_marker(line) and line.strip() not in original for line in update]
    if not doubtful:
        found = [one and not is_doubtful(line) for one, line in zip(found, update, strict=True)]
    blank = [not line.strip() for line in update]
    beside = _beside(found, blank)
    kept: list[int] = []
    for place in range(len(update)):
        if beside[place]:
            continue
        if found[place] and kept and found[kept[-1]]:  # two in a row say what one says
            continue
        kept.append(place)
    lines = [update[place] for place in kept]
    apart = [place > 0 and blank[place - 1] for place in kept]
    return Snippet(lines, [found[place] for place in kept], [indent(line) for line in lines], apart, kept)


def _beside(markers: Sequence[bool], blank: Sequence[bool]) -> list[bool]:
    """Return which empty lines have a marker, or nothing, for their neighbour that is not empty."""
    out = [False] * len(blank)
    for places in (range(len(blank)), range(len(blank) - 1, -1, -1)):
        marker = True
        for place in places:
            if blank[place]:
                out[place] |= marker
            else:
                marker = markers[place]
    return out


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


def opens(line: str) -> bool:
    """Whether lines that are indented further follow a line: it ends in a bracket or colon, or begins a definition."""
    text = line.rstrip()
    return text.endswith(("{", "(", "[", ":")) or DEFINITION.match(text.lstrip()) is not None


def is_item(line: str) -> bool:
    """Whether a line begins an item of a list, whose other keys are indented further."""
    return line.lstrip().startswith("- ")


def is_doubtful(line: str) -> bool:
    """Whether a marker may as well be a comment on the code.

    That is a sentence that ends in dots and is not about the file, and a heading without dots such as "Other imports".
    """
    text = line.strip()
    opened = OPENING.match(text)
    inner = CLOSING.sub("", text[opened.end() :] if opened else text).strip()
    if opened is None or DOTS.match(inner) or inner.startswith("("):
        return False
    if DOTS.search(inner) is None:
        return SURELY.search(inner) is None
    return ABOUT_THE_FILE.search(DOTS.sub(" ", inner).strip()) is None


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


def defines(line: str) -> bool:
    """Whether a line begins what has a name of its own, as a function: a variable or a key may be defined anywhere."""
    name = name_of(line)
    return bool(name) and not name.startswith(VALUES)
