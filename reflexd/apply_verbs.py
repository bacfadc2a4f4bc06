"""Decides the words of `reflexd apply`: an edit is merged into a file, then shown, checked or written, or refused."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reflexd.terminal import printable

if TYPE_CHECKING:
    from reflexd.engine.apply.refusal import Refusal

MOST_BYTES = 4 << 20
"""Of the file, and of the update: what a daemon takes, too, where its configuration says nothing else."""
CONTEXT = 3
"""Lines of the file around a change that a diff shows."""
MOST_CANDIDATES, MOST_RANGES, MOST_SHOWN_CHARS = 10, 20, 200
COLOURS = {"-": "red", "+": "green", "@": "cyan"}

ADVICE = {
    "ambiguous": "repeat lines of the file before and behind the line that is in doubt, as far as they tell one place "
    "from another, and put a marker such as `... existing code ...` wherever lines are left out.",
    "empty_update": "the lines that are new, with a line of the file before or behind them.",
    "only_markers": "the lines that are new, with a line of the file before or behind them.",
    "empty_marker": "lines of the file on both sides of the marker, or leave it out where nothing is left out.",
    "no_anchor": "the lines of the file that stand right before or behind these.",
    "foreign_update": "lines of this file around what is new; or see whether the update is for another file, or for an "
    "older version of this one.",
    "unbounded_deletion": "lines right before and behind what is to go that stand in the file only once, or a marker "
    "where the lines are to stay.",
    "too_large": "nothing: give fewer lines, such as only those around each change.",
    "invalid_result": "what the update leaves open, such as a bracket, a quote or the lines of a block.",
}
OTHERWISE = "more lines of the file around each change."


class Unusable(click.ClickException):
    """What was given cannot be read as the text of a file."""

    exit_code = 2


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--update",
    required=True,
    type=click.Path(path_type=Path),
    help='The file with the edit; "-" reads it from stdin.',
)
@click.option("--write", is_flag=True, help="Change FILE, and say which lines.")
@click.option("--check", is_flag=True, help="Only say whether the update can be applied.")
def apply(file: Path, update: Path, write: bool, check: bool) -> None:
    """Merge an edit into FILE that leaves code out, exactly or not at all.

    Without --write or --check, the change is shown as a unified diff. An update that can be understood in more than
    one way is refused: the exit status is 1, and FILE is as it was. No daemon and no network is needed.
    """
    if write and check:
        raise click.UsageError("--write and --check exclude each other")
    content = _content(file)
    original, edit = _text(content, file), _text(_update(update), update)
    from reflexd.engine.apply.merge import merge
    from reflexd.engine.apply.refusal import Refusal

    try:
        text = merge(original, edit).text
    except Refusal as refusal:
        click.echo("\n".join(told(refusal, file, original, edit)), err=True)
        sys.exit(1)
    before, after = _lines(original), _lines(text)
    if before == after:
        click.echo(f"{_name(file)}: the update changes nothing", err=True)
    elif write:
        _write(file, text.encode(), content)
        click.echo(f"wrote {_name(file)}: {_counted(before, after)}")
    elif check:
        click.echo(f"would write {_name(file)}: {_counted(before, after)}")
    else:
        _show(diff(before, after, file))


def told(refusal: Refusal, file: Path, original: str, update: str) -> Iterator[str]:
    """Yield the lines that tell of a refusal: why, which line of the update, which places of the file, what to add.

    A place is told with the lines around it, for it is often these in which the places differ.
    """
    yield f"reflexd: refused ({refusal.reason}), {_name(file)} is as it was. {refusal.message}."
    lines = update.split("\n")
    if refusal.line is not None and 0 <= refusal.line < len(lines):
        yield "The update's line that is in doubt:"
        yield from _excerpt(lines, refusal.line, 0)
    lines = original.removesuffix("\n").split("\n")
    places = sorted({place for place in refusal.candidates if 0 <= place <= len(lines)})
    for place in places[:MOST_CANDIDATES]:
        yield f"A place in {_name(file)}:" if place < len(lines) else f"The end of {_name(file)}:"
        yield from _excerpt(lines, place, 1)
    if len(places) > MOST_CANDIDATES:
        yield f"and {len(places) - MOST_CANDIDATES} more places"
    yield f"To add: {ADVICE.get(refusal.reason, OTHERWISE)}"


def diff(before: Sequence[str], after: Sequence[str], file: Path) -> Iterator[str]:
    """Yield the lines of a unified diff, each with what ends it; `before` and `after` are lines with their ends."""
    name = quoted(file)
    yield f"--- {name}\n"
    yield f"+++ {name}\n"
    same, last = _ends(before, after)
    start = max(0, same - CONTEXT)
    stop = max(0, last - CONTEXT)
    old, new = before[start : len(before) - stop], after[start : len(after) - stop]
    for group in SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT):
        ranges = (group[0][1] + start, group[-1][2] + start), (group[0][3] + start, group[-1][4] + start)
        yield "@@ -{} +{} @@\n".format(*(_range(*one) for one in ranges))
        for tag, i, j, k, m in group:
            if tag == "equal":
                yield from map(_ended, (" " + line for line in old[i:j]))
                continue
            yield from map(_ended, ("-" + line for line in old[i:j]))
            yield from map(_ended, ("+" + line for line in new[k:m]))


def quoted(file: Path) -> str:
    """Return a file's name as git and patch read it in a diff: quoted where it has other than printable characters."""
    name = os.fsencode(file)
    if str(file).isprintable() and not set(b'"\\') & set(name):
        return str(file) + ("\t" if " " in str(file) else "")
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in name)
    return f'"{"".join(plain)}"'


def _content(file: Path) -> bytes:
    try:
        kind = file.stat().st_mode
        if stat.S_ISDIR(kind):
            raise Unusable(f"{_name(file)} is a directory")
        if not stat.S_ISREG(kind):
            raise Unusable(f"{_name(file)} is no regular file")
        with file.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{_name(file)} cannot be read: {error.strerror or error}") from error


def _update(path: Path) -> bytes:
    """Return the content of any file, also of one that a shell's `<(...)` names."""
    if str(path) == "-":
        if sys.stdin is None:
            raise Unusable("stdin is closed")
        return sys.stdin.buffer.read(MOST_BYTES + 1)
    try:
        with path.open("rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{_name(path)} cannot be read: {error.strerror or error}") from error


def _text(content: bytes, path: Path) -> str:
    if len(content) > MOST_BYTES:
        raise Unusable(f"{_name(path)} is too large: it may have {MOST_BYTES >> 20} MiB")
    if (place := content.find(b"\0")) >= 0:
        raise Unusable(f"{_name(path)} is binary: byte {place} is zero")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unusable(f"{_name(path)} is not UTF-8: line {line} has the byte {content[error.start]:#04x}") from error


def _name(path: Path) -> str:
    return printable("stdin" if str(path) == "-" else str(path))


def _lines(text: str) -> list[str]:
    """Return lines with their ends; no other character than a line feed ends one."""
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _ended(line: str) -> str:
    return line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"


def _ends(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Return how many lines are the same at the beginning and, of the others, at the end.

    To compare them costs little; what comes between costs more, the square in the worst case.
    """
    most = min(len(before), len(after))
    same = next((place for place in range(most) if before[place] != after[place]), most)
    last = 0
    while last < most - same and before[-1 - last] == after[-1 - last]:
        last += 1
    return same, last


def _range(start: int, stop: int) -> str:
    """Return lines `start` to `stop`, from 0, as a diff counts them."""
    return str(start + 1) if stop - start == 1 else f"{start + (stop > start)},{stop - start}"


def _counted(before: Sequence[str], after: Sequence[str]) -> str:
    """Return which lines of `after` are new, and how many of `before` are gone."""
    same, last = _ends(before, after)
    matcher = SequenceMatcher(None, before[same : len(before) - last], after[same : len(after) - last])
    codes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    gone = sum(code[2] - code[1] for code in codes)
    new = [(code[3] + same + 1, code[4] + same) for code in codes if code[4] > code[3]]
    said = ", ".join(str(one) if one == other else f"{one}-{other}" for one, other in new[:MOST_RANGES])
    if len(new) > MOST_RANGES:
        said += f" and {len(new) - MOST_RANGES} more places"
    lines = "line" if len(new) == 1 and new[0][0] == new[0][1] else "lines"
    parts = [f"{lines} {said} new"] if new else []
    return ", ".join(parts + ([f"{gone} {'line' if gone == 1 else 'lines'} gone"] if gone else []))


def _excerpt(lines: Sequence[str], place: int, around: int) -> Iterator[str]:
    for number in range(max(0, place - around), min(len(lines), place + around + 1)):
        line = lines[number].rstrip("\r")
        more = " ..." if len(line) > MOST_SHOWN_CHARS else ""
        mark = ">" if around and number == place else " "
        yield f" {mark}{number + 1:6} | {printable(line[:MOST_SHOWN_CHARS])}{more}"


def _show(lines: Iterator[str]) -> None:
    """Print a diff: byte for byte, or on a terminal in colours and with nothing in it that a terminal would obey."""
    if not sys.stdout.isatty():
        click.echo("".join(lines).encode(errors="surrogateescape"), nl=False)
        return
    for number, line in enumerate(lines):
        shown = printable(line.rstrip("\r\n"))
        if not os.environ.get("NO_COLOR"):
            shown = click.style(shown, bold=True) if number < 2 else click.style(shown, fg=COLOURS.get(line[0]))
        click.echo(shown.encode(sys.stdout.encoding, "backslashreplace"))


def _write(file: Path, content: bytes, was: bytes) -> None:
    from reflexd.registry.files import FileChanged, rewrite_file

    try:
        rewrite_file(file, content, was)
    except FileChanged as error:
        raise click.ClickException(f"{_name(file)} has changed since it was read, and is left as it is") from error
    except OSError as error:
        raise click.ClickException(f"{_name(file)} cannot be written: {error.strerror or error}") from error
