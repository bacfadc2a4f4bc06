"""Shows which lines of an uploaded file become rows, and that what is wrong with any other is told with its number."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from reflexd.config import Limits
from reflexd.hookspecs import Example, InputFile, InvalidInput, where
from reflexd_plugins.jsonl import MAX_BLANK_LINES, MAX_LINE_BYTES, FileRows

GOOD = '{"text": "It crashes", "label": "bug"}'


def file_of(folder: Path, content: bytes) -> InputFile:
    path = folder / "content"
    path.write_bytes(content)
    return InputFile(path=path, filename="rows.jsonl", bytes=len(content))


def read(folder: Path, content: bytes) -> list[Example]:
    return list(FileRows().check(file_of(folder, content), []))


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (GOOD, Example("It crashes", "bug")),
        ('{"id": 7, "label": "bug", "text": "x"}', Example("x", "bug")),
        ('{"text": "x", "labels": ["a", "b"]}', Example("x", None, ("a", "b"))),
        ('{"text": "x", "labels": []}', Example("x", None, ())),
        (r'{"text": "\ud83d\ude00\u0000", "label": "\u00e9"}', Example("😀\0", "é")),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " a "}]}',
            Example("x", " a "),
        ),
        (
            '{"messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": "no"}, {"role":'
            ' "assistant", "content": "no"}, {"role": "user", "content": [{"type": "text", "text": "x"}, {"type":'
            ' "text", "text": "y"}]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}',
            Example("x\ny", "a"),
        ),
    ],
)
def test_each_form_becomes_a_row(tmp_path: Path, line: str, row: Example) -> None:
    assert read(tmp_path, line.encode()) == [row]


def test_blank_lines_a_byte_order_mark_and_other_line_ends_are_no_obstacle(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n  {GOOD}  \n \t\n{GOOD}".encode()
    file = file_of(tmp_path, content)
    assert list(FileRows().check(file, [])) == [Example("It crashes", "bug")] * 3
    assert [where(FileRows(), file, number) for number in range(3)] == ["line 1", "line 3", "line 5"]
    assert where(FileRows(), file, 3) == "row 3"
    assert read(tmp_path, b"") == read(tmp_path, b"\n\n") == read(tmp_path, b"\xef\xbb\xbf") == []


BAD: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"text,label", "not valid JSON"),
    "half an object": (b'{"text": "x", "label":', "not valid JSON"),
    "two objects": (f"{GOOD}{GOOD}".encode(), "not valid JSON"),
    "old line ends": (f"{GOOD}\r{GOOD}".encode(), "not valid JSON"),
    "NaN": (b'{"text": "x", "label": NaN}', "not valid JSON"),
    "invalid UTF-8": (b'{"text": "\xff", "label": "a"}', "not valid JSON"),
    "UTF-16": ('{"text": "x"}'.encode("utf-16"), "not valid JSON"),
    "a second byte order mark": (b"\xef\xbb\xbf" + GOOD.encode(), "not valid JSON"),
    "a lone surrogate": (rb'{"text": "\ud800", "label": "a"}', "not valid JSON"),
    "a lone surrogate in what is ignored": (rb'{"text": "x", "label": "a", "z": "\udfff"}', "not valid JSON"),
    "a deep nest": (b'{"text": ' + b"[" * 100_000, "(in text)"),
    "a deep nest in what is ignored": (b'{"z": ' + b"[" * 100_000, "not valid JSON"),
    "invalid UTF-8 in what is ignored": (b'{"text": "x", "label": "a", "z": "\xff"}', "not valid JSON"),
    "half a list": (b'["x", ', "not valid JSON"),
    "a number for a line": (b"3", "JSON object"),
    "null for a text": (b'{"text": null, "label": "a"}', "(in text)"),
    "nothing": (b"{}", "`text`"),
    "a list": (b'["x", "a"]', "JSON object"),
    "a string": (b'"x"', "JSON object"),
    "null": (b"null", "JSON object"),
    "no text": (b'{"label": "a"}', "`text`"),
    "a number for a text": (b'{"text": 3, "label": "a"}', "(in text)"),
    "a number for a label": (b'{"text": "x", "label": 3}', "(in label)"),
    "a string for labels": (b'{"text": "x", "labels": "a"}', "(in labels)"),
    "a number among labels": (b'{"text": "x", "labels": ["a", 3]}', "(in labels[1])"),
    "no list of messages": (b'{"messages": "x"}', "(in messages)"),
    "no messages": (b'{"messages": []}', "user message"),
    "no user": (b'{"messages": [{"role": "assistant", "content": "a"}]}', "user message"),
    "no assistant": (b'{"messages": [{"role": "user", "content": "x"}]}', "assistant message"),
    "the user has the last word": (
        b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "x"}]}',
        "assistant message",
    ),
    "an unknown role": (b'{"messages": [{"role": "tool", "content": "x"}]}', "(in messages[0].role)"),
    "no content": (b'{"messages": [{"role": "user", "content": null}]}', "(in messages[0].content)"),
    "an image": (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}',
        "(in messages[0].content[0].type)",
    ),
    "a chat with a label": (b'{"messages": [], "label": "a"}', "leave label out"),
    "a chat with nothing for a label": (b'{"messages": [], "label": null}', "leave label out"),
    "a chat with labels and a text": (b'{"text": "x", "labels": [], "messages": []}', "leave labels out"),
    "a line without end": (b'{"text": "' + b"x" * MAX_LINE_BYTES, "more than 8 MB"),
    "millions of labels": (b'{"text": "x", "labels": [' + b'"a",' * 2_000_000 + b'"a"]}', "quotation marks"),
    "millions of messages": (
        b'{"messages": [' + b'{"role":"user","content":[]},' * 280_000 + b"{}]}",
        "quotation marks",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, kind: str) -> None:
    line, said = BAD[kind]
    content = f"{GOOD}\n\n{GOOD}\n".encode() + line + f"\n{GOOD}\n".encode()
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content)
    assert refused.value.message.startswith("line 4: ")
    assert said in refused.value.message
    assert refused.value.param == ""
    assert len(refused.value.message) < 300


def test_the_longest_row_of_the_default_limits_is_read_however_it_is_written(tmp_path: Path) -> None:
    limits = Limits()
    for character, escaped in (("😀", r"\ud83d\ude00"), ('"', r"\"")):
        text, label = character * limits.text_chars, character * limits.label_chars
        labels = ",".join([f'"{escaped * limits.label_chars}"'] * limits.labels)
        line = f'{{"text": "{escaped * limits.text_chars}", "labels": [{labels}]}}'
        assert read(tmp_path, line.encode()) == [Example(text, None, (label,) * limits.labels)]


def test_nothing_is_built_of_what_is_ignored(tmp_path: Path) -> None:
    """While objects are built nobody else in the daemon has a turn; memory tells how many they are."""
    line = b'{"text": "x", "label": "a", "z": [' + b"[]," * 2_000_000 + b"[]]}"
    file = file_of(tmp_path, line)
    tracemalloc.start()
    try:
        assert list(FileRows().check(file, [])) == [Example("x", "a")]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(line), "two million lists would take 100 MB and more"


def test_a_file_of_blank_lines_alone_is_not_read_for_ever(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"line {MAX_BLANK_LINES + 1}: "):
        read(tmp_path, b"\n" * (MAX_BLANK_LINES + 5))


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    rows = iter(FileRows().check(file_of(tmp_path, f"{GOOD}\n{{".encode()), []))
    assert next(rows) == Example("It crashes", "bug")
    with pytest.raises(InvalidInput, match="line 2"):
        next(rows)
