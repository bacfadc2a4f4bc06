"""Decides which lines of an edit tell for sure where it belongs: those shown to be found that the file has once."""

from __future__ import annotations

from reflexd.engine.apply.original import WORD, Original
from reflexd.engine.apply.snippet import Snippet, defines


def pins(edit: Snippet, file: Original) -> dict[int, int]:
    """Return lines of the edit beside a marker, or at an end of it, that the file has once, each with its place there.

    There an edit shows what it does not change; but a line of a new definition may be as one of another by chance.
    """
    return {row: found[0] for row in _edges(edit) if (found := _places(row, edit, file))}


def _places(row: int, edit: Snippet, file: Original) -> list[int]:
    places = file.places.get(edit.lines[row].strip(), [])
    if len(places) != 1 or file.weights[places[0]] < WORD:
        return []
    header = edit.header(row)
    while header >= 0:
        text = edit.lines[header].strip()
        if text not in file.places and defines(text):
            return []
        header = edit.header(header)
    return places


def _edges(edit: Snippet) -> set[int]:
    rows = [row for row, line in enumerate(edit.lines) if line.strip()]
    beside = [edit.markers[row] for row in rows]
    return {
        row
        for row, before, behind in zip(rows, [True, *beside], [*beside[1:], True], strict=False)
        if not edit.markers[row] and (before or behind)
    }
