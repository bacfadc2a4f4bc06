"""Shows what the engine makes of lazy edits as agents write them: the one right file, or the right refusal."""

from __future__ import annotations

import pytest

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import is_marker
from tests.unit import (
    apply_cases_blocks,
    apply_cases_bytes,
    apply_cases_comments,
    apply_cases_config,
    apply_cases_edges,
    apply_cases_javascript,
    apply_cases_members,
    apply_cases_native,
    apply_cases_neighbours,
    apply_cases_objects,
    apply_cases_python,
    apply_cases_replacing,
    apply_cases_scripts,
    apply_cases_siblings,
    apply_cases_systems,
    apply_cases_typescript,
)
from tests.unit.apply_cases import Case

CASES = [
    *apply_cases_blocks.CASES,
    *apply_cases_bytes.CASES,
    *apply_cases_comments.CASES,
    *apply_cases_config.CASES,
    *apply_cases_edges.CASES,
    *apply_cases_javascript.CASES,
    *apply_cases_members.CASES,
    *apply_cases_native.CASES,
    *apply_cases_neighbours.CASES,
    *apply_cases_objects.CASES,
    *apply_cases_python.CASES,
    *apply_cases_replacing.CASES,
    *apply_cases_scripts.CASES,
    *apply_cases_siblings.CASES,
    *apply_cases_systems.CASES,
    *apply_cases_typescript.CASES,
]
MARKERS = [
    "// ... existing code ...",
    "# ... rest of the file ...",
    "/* ... */",
    "<!-- existing content -->",
    "{/* ... other elements ... */}",
    "-- ... unchanged ...",
    "; ... (unchanged) ...",
    "% ... other rules ...",
    "(* ... rest unchanged ... *)",
    "\N{HORIZONTAL ELLIPSIS} existing code \N{HORIZONTAL ELLIPSIS}",
    "... existing code ...",
    "# ...",
    "// rest of the code remains the same",
    "# (rest of the methods stay as they are...)",
    "// keep existing imports...",
    "# unchanged",
    "// ... previous code here",
    "# the rest of the code stays the same ...",
]
NO_MARKERS = [
    "# wait a little longer...",
    "// the rest of the queue is sent later",
    "# see the existing code in main.py",
    "x = ...",
    "...",
    "    ...",
    "print('... existing code ...')",
    "// TODO: handle the remaining cases",
    "# keep it short",
]


@pytest.mark.parametrize("marker", MARKERS)
def test_marker(marker: str) -> None:
    update = apply_cases_bytes.UPDATE.replace("# ... existing code ...", marker)
    assert merge(apply_cases_bytes.PLAIN, update).text == apply_cases_bytes.PLAIN.replace(
        apply_cases_bytes.ONE, apply_cases_bytes.TWO
    )


@pytest.mark.parametrize("line", NO_MARKERS)
def test_no_marker(line: str) -> None:
    assert not is_marker(line)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    if case.expected is None:
        with pytest.raises(Refusal) as told:
            merge(case.original, case.update)
        assert told.value.reason in case.reasons
    else:
        assert merge(case.original, case.update).text == case.expected


FUNCTIONS = "".join(f"def f{number}():\n    return {number}\n\n\n" for number in range(20))


@pytest.mark.parametrize(
    ("original", "update"),
    [
        (FUNCTIONS, FUNCTIONS.partition("def f17")[0].replace("return 3\n", "return 99\n")),
        ("x = 1\ny = 2\nz = 3\nw = 4\n", "x = 1\ny = 5  # ... existing code ...\nw = 4\n"),
        ("def a():\n    one()\n    two()\n    three()\n", "def a():\n    ...\n    three()\n"),
        ('{\n "a": [\n  "one",\n  "two",\n  "three"\n ]\n}\n', '{\n "a": [\n  "...",\n  "three"\n ]\n}\n'),
        (
            "int f(void) {\n  one();\n  two();\n  return 3;\n}\n\nint g(void) {\n  return 1;\n}\n",
            "int f(void) {\n  // your existing code here\n  return 4;\n}\n\nint g(void) {\n  return 1;\n}\n",
        ),
    ],
)
def test_what_may_stand_for_code_in_unforeseen_words_or_places_is_refused(original: str, update: str) -> None:
    with pytest.raises(Refusal):
        merge(original, update)


def test_new_lines_that_only_look_like_such_are_written() -> None:
    original = "class A:\n    def a(self):\n        return 1\n"
    update = "# ... existing code ...\n    def a(self):\n        return 1\n\n    def b(self):\n        ...\n"
    assert merge(original, update).text == original + "\n    def b(self):\n        ...\n"
    original = "a = 1\nb = 2\nc = 3\nd = 4\n"
    update = original.replace("b = 2", "b = 2  # see https://example.com/...")
    assert merge(original, update).text == update


def test_a_new_body_does_not_stand_above_the_old_one() -> None:
    body = "    value = STORE[key]\n    return value\n"
    original = f"import os\nimport sys\n\n\ndef get(key):\n{body}\n\ndef put(key):\n    STORE[key] = 1\n"
    with pytest.raises(Refusal, match="more of this block"):
        merge(original, "def get(key):\n    return STORE.get(key)\n")


def test_a_longer_version_of_a_line_is_not_put_beside_it() -> None:
    original = "FROM debian\nCOPY . .\nRUN make\nCMD run\nUSER me\n"
    with pytest.raises(Refusal, match="stand for one like it"):
        merge(original, "COPY . .\nRUN make install\n# ... existing code ...\n")


def test_a_heading_that_reads_like_a_marker_is_a_line() -> None:
    original = "# Guide\n\nIt is short.\n\n## Standard imports\n\nUse os.\n\n## Usage\n\nRun it.\n\nAgain.\n"
    update = "<!-- ... existing text ... -->\n\nUse os.\n\n## Other imports\n\nUse numpy.\n\n## Usage\n\n<!-- ... -->\n"
    assert merge(original, update).text == original.replace("Use os.\n", "Use os.\n\n## Other imports\n\nUse numpy.\n")


CODE = "import os\n\n\ndef first(a):\n    return a\n\n\ndef second(b):\n    return b\n\n\ndef third(c):\n    return c\n"


@pytest.mark.parametrize(
    ("update", "reason", "line", "candidates"),
    [
        ("# ...\ndef first(a):\n    return (a\n\n\ndef second(b):\n# ...\n", "invalid_result", 2, [4]),
        ("# ...\ndef first(a):\n    return a +\n\n\ndef second(b):\n# ...\n", "invalid_result", 2, []),
        (
            "# ...\ndef first(a):\n    return a\n\n\ndef third(x):\n    return x\n\n\ndef second(b):\n# ...\n",
            "doubled_definition",
            5,
            [11],
        ),
        ("# ...\ndef first(a):\n    return a\n\n\n}\ndef third(c):\n    return 3\n", "invalid_result", 5, [7]),
    ],
)
def test_a_refusal_names_the_lines_in_doubt(update: str, reason: str, line: int | None, candidates: list[int]) -> None:
    with pytest.raises(Refusal) as told:
        merge(CODE, update)
    assert (told.value.reason, told.value.line, told.value.candidates) == (reason, line, candidates)


def test_a_definition_that_would_be_lost_is_named_with_its_line() -> None:
    original = "module.exports = {\n  root: true,\n  limits: {\n    size: 20\n  },\n  folder: 'out'\n}\n"
    with pytest.raises(Refusal, match="folder") as told:
        merge(original, "// ... existing code ...\n    size: 20\n  }\n}\n")
    assert (told.value.reason, told.value.line, told.value.candidates) == ("lost_definition", 3, [5])
