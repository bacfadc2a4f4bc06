"""Decides whether an import that an explanation deletes is one that the new file still uses.

Only where a line tells by what name the file calls what it imports: Python, JavaScript and TypeScript, Java, Go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.definitions import is_named
from reflexd.engine.apply.original import Original
from reflexd.engine.apply.scopes import BESIDES
from reflexd.engine.apply.snippet import Snippet

FROM = re.compile(r"from\s+[\w.]+\s+import\s+\(?(?P<names>[\w\s,]+)\)?$")
JAVA = re.compile(r"import\s+(?:static\s+)?(?:\w+\.)*(?P<names>\w+);$")
PLAIN = re.compile(r"import\s+(?P<names>[\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+(?:\s+as\s+\w+)?)*)$")
SCRIPT = re.compile(
    r"(?:import\s+(?:type\s+)?|(?:const|let|var)\s+)(?P<names>[\w$\s{},:*]+?)\s*(?:\bfrom\b|=\s*require\()"
)
GO = re.compile(r'(?:import\s+)?(?:(?P<alias>\w+)\s+)?"(?:[\w.-]+/)*(?P<names>\w+)"$')
GO_BLOCK = "import ("
MOST_CHARACTERS = 300
FORMS = (FROM, JAVA, PLAIN, SCRIPT, GO)
RENAMED = re.compile(r".*(?:\bas\s|:)", re.DOTALL)
USED = r"(?<![\w./\"'-])%s\b(?![\"'/-])"
"""A name outside a text or a path."""


def lost_import(pieces: Sequence[Piece], edit: Snippet, file: Original, lines: Sequence[str]) -> int | None:
    """Return an import of the file that is deleted though `lines`, the answer's, use what it alone names.

    Where a part of the edit does nothing but delete, that is what it is for.
    """
    gone = {place: names for place in _deleted(pieces, edit, file) if (names := imported(file.stripped[place], file))}
    if not gone:
        return None
    # A name that a new line says may be defined there.
    using, naming = list[str](), list[str]()
    for text in map(str.strip, lines):
        if imported(text, file):
            naming.append(text)
        elif not BESIDES.match(text):
            using.append(text)
            if text not in file.places:
                naming.append(text)
    used, named = "\n".join(using), "\n".join(naming)
    for place, names in gone.items():
        if all(re.search(USED % re.escape(one), used) and not is_named(one, named) for one in names):
            return place
    return None


def _deleted(pieces: Sequence[Piece], edit: Snippet, file: Original) -> Iterator[int]:
    """Yield the lines that are deleted beside a part of the edit, between two markers, that has new ones."""
    part = [0, *accumulate(edit.markers)]
    new = {part[piece.line] for piece in pieces if piece.line >= 0 and piece.start < 0}
    at = row = 0
    for piece in [*pieces, Piece(len(file.lines), len(file.lines))]:
        row = max(row, piece.line)
        if piece.start >= 0:
            if at < piece.start and part[row] in new:
                yield from range(at, piece.start)
            at = piece.end


def imported(text: str, file: Original) -> set[str]:
    """Return the names by which a file calls what an import line is of; none where it is no such line."""
    for form in FORMS if len(text) <= MOST_CHARACTERS else ():
        found = form.match(text)
        if found and (form is not GO or GO_BLOCK in file.places or text.startswith("import")):
            given = found.groupdict()
            listed = [given.get("alias") or given["names"]] if form is GO else re.split(r"[{},]", given["names"])
            names = {RENAMED.sub("", one).strip() for one in listed}
            names = {one.split(".")[0] if form is PLAIN else one for one in names} - {"", "_", "self"}
            return names if all(re.fullmatch(r"[\w$]+", one) for one in names) else set()
    return set()
