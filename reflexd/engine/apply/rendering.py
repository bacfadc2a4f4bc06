"""Decides what the lines of an answer are: the file's own bytes, and the edit's lines as the file would have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from msgspec import Struct

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.indentation import shifts
from reflexd.engine.apply.original import Original, read_original
from reflexd.engine.apply.snippet import Snippet, defines, indent

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


class File(Struct, frozen=True):
    """A file as its lines with what ends each, and as they are compared."""

    text: str
    raw: list[str]
    lines: Original
    ending: str
    said: list[str]
    """Its lines that are not empty, without space at their ends."""
    upto: list[int]
    """How many of these come before each line [n + 1]."""


def read(text: str) -> File:
    """Read a file: a line ends with a line feed, with or without a carriage return before it."""
    raw = text.split("\n")
    raw = [line + "\n" for line in raw[:-1]] + ([raw[-1]] if raw[-1] else [])
    windows = 2 * sum(line.endswith("\r\n") for line in raw) > len(raw)
    lines = read_original([line.rstrip("\r\n") for line in raw])
    upto = [0, *accumulate(map(bool, lines.stripped))]
    return File(text, raw, lines, "\r\n" if windows else "\n", said(lines.lines), upto)


def lines_of(update: str) -> list[str]:
    """Return the lines of an edit without empty ones before and behind them."""
    lines = [line.rstrip("\r") for line in update.removeprefix(BOM).split("\n")]
    said = [number for number, line in enumerate(lines) if line.strip()]
    return lines[said[0] : said[-1] + 1] if said else []


def said(lines: Iterable[str]) -> list[str]:
    """Return lines without empty ones and space at their ends."""
    return [line.rstrip() for line in lines if line.strip()]


def words_of(pieces: Sequence[Piece], edit: Snippet, file: File) -> list[str]:
    """Return the answer's lines without empty ones and space at their ends."""
    out: list[str] = []
    for start, end, line in parts(pieces, edit, file):
        if line is None:
            out += file.said[file.upto[start] : file.upto[end]]
        elif line.strip():
            out.append(line.rstrip())
    return out


def text_of(pieces: Sequence[Piece], edit: Snippet, file: File) -> list[str]:
    """Return the lines of the answer."""
    out: list[str] = []
    for start, end, line in parts(pieces, edit, file):
        out += file.raw[start:end] if line is None else [line + file.ending]
    return out


def set_apart(pieces: Sequence[Piece], lines: Sequence[str], edit: Snippet, file: File, flat: bool) -> list[str]:
    """Return an answer's lines with the empty ones by which the edit sets new lines apart from a marker's.

    In text, `flat`, they tell one paragraph from the next. In code many agents put them around a marker, or none
    before a definition: there it is a block of its own only if an empty line is at its other end, too.
    """
    out: list[str] = []
    at = 0
    for number, piece in enumerate(pieces):
        behind = piece.line >= 0
        if number and (pieces[number - 1].line >= 0) != behind and out[-1].strip() and lines[at].strip():
            place, step = (number, 1) if behind else (number - 1, -1)
            apart = edit.is_apart(pieces[place].line - step, behind=behind)
            if not flat:
                text = edit.lines[edit.headed(piece.line)] if behind else ""
                apart |= defines(text) or text.endswith("{")
                apart &= _is_block(pieces, place, step, edit)
            if apart and pieces[place].start < 0:
                out.append(file.ending)
        size = piece.end - piece.start if piece.line < 0 else 1
        out += lines[at : at + size]
        at += size
    return out


def _is_block(pieces: Sequence[Piece], place: int, step: int, edit: Snippet) -> bool:
    """Whether new lines from a place on end at an empty line, at one and a marker, or several of them at a bracket."""
    first = pieces[place].line
    while 0 <= place + step < len(pieces) and pieces[place].line >= 0 and pieces[place].start < 0:
        last, place = pieces[place].line, place + step
        text = edit.lines[pieces[place].line] if pieces[place].line >= 0 else None
        if text is None:
            return edit.is_apart(last + step, behind=step < 0)
        if pieces[place].start >= 0 and not any(map(str.isalnum, text)):
            return not text.strip() or last != first
    return False


def parts(pieces: Sequence[Piece], edit: Snippet, file: File) -> Iterator[tuple[int, int, str | None]]:
    """Yield from where to where lines of the file are in the answer, or a new line."""
    shift = shifts(pieces, edit, file.lines)
    for piece in pieces:
        if piece.line < 0:
            yield piece.start, piece.end, None
            continue
        line = edit.lines[piece.line]
        pad = shift[piece.line]
        if pad and line.strip():
            line = pad + line if not pad.startswith("-") else line[min(len(pad) - 1, len(line) - len(line.lstrip())) :]
        if piece.start >= 0 and file.lines.stripped[piece.start] == line.strip():
            own = file.lines.lines[piece.start]
            if indent(own) == indent(line) or not line.strip():
                yield piece.start, piece.start + 1, None
                continue
        yield 0, 0, line


def as_ended(text: list[str], file: File) -> str:
    """Return lines as a text that ends as the file does."""
    for number, line in enumerate(text[:-1]):
        if not line.endswith("\n"):  # the file's last line, which others follow now
            text[number] = line + file.ending
    if text and file.raw:
        ended = file.raw[-1].endswith("\n")
        if ended and not text[-1].endswith("\n"):
            text[-1] += file.ending
        elif not ended and text[-1].endswith("\n"):
            text[-1] = text[-1].removesuffix("\n").removesuffix("\r")
    return "".join(text)
