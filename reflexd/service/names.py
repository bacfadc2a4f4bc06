"""Decides which names a model may be given, so that a name is never mistaken for an id, a version or a path."""

from __future__ import annotations

import unicodedata

from reflexd.errors import InvalidRequest

MAX_CHARS = 64
PUNCTUATION = frozenset("-_.:+() ")
RESERVED_PREFIXES = ("ftjob-", "morph-")


def check_suffix(suffix: str) -> str:
    """Return the suffix if it may become a served name; raise InvalidRequest that says why not."""
    problem = _problem(suffix)
    if problem:
        raise InvalidRequest(f"{problem}", param="suffix")
    return suffix


def _problem(suffix: str) -> str | None:
    if not suffix or len(suffix) > MAX_CHARS:
        return f"suffix must have 1 to {MAX_CHARS} characters"
    if not all(c in PUNCTUATION or unicodedata.category(c)[0] in "LNM" for c in suffix):
        return "suffix may hold letters, digits, spaces and - _ . : + ( ) only"
    if not suffix[0].isalnum() or suffix != suffix.rstrip():
        return "suffix must begin with a letter or digit and not end in a space"
    if ".." in suffix:
        return "suffix must not hold two dots in a row"
    if suffix.lower().startswith(RESERVED_PREFIXES):
        return "suffix must not begin with ftjob- or morph-, which name jobs and built-in models"
    if not unicodedata.is_normalized("NFC", suffix):
        return "suffix must be in Unicode normal form NFC"
    return None
