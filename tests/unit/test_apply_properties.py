"""Shows that whatever file and edit the engine is given, it answers or refuses, and no untouched line is lost."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import is_doubtful, is_marker
from tests.unit import (
    apply_cases_comments,
    apply_cases_config,
    apply_cases_javascript,
    apply_cases_native,
    apply_cases_objects,
    apply_cases_python,
    apply_cases_scripts,
    apply_cases_systems,
    apply_cases_typescript,
)

MARKER = "# ... existing code ..."
QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
REAL = [
    apply_cases_python.LEDGER,
    apply_cases_comments.WORKER,
    apply_cases_javascript.CART,
    apply_cases_typescript.STORE,
    apply_cases_typescript.PANEL,
    apply_cases_systems.POOL_GO,
    apply_cases_systems.SHAPES_RS,
    apply_cases_native.QUEUE_CPP,
    apply_cases_objects.MAILER_JAVA,
    apply_cases_scripts.ORDER_RB,
    apply_cases_config.DEPLOY,
    apply_cases_config.PACKAGE,
    apply_cases_config.THEME,
]
FEW_LINES = ["", "a = 1", "    a = 1", "    b = 2", "}", "    }", "def f(x):", "\treturn x", "end", "key: 1", "{"]
ENDS = st.sampled_from(["\n", "\r\n"])
ODD = ["\r", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\ufeff", "\ud800", "\U0001f600", "\xa0"]
GARBAGE = st.one_of(
    st.text(alphabet=st.characters(), max_size=200),
    st.lists(
        st.sampled_from([*ODD, "\n", "\n", " ", "\t", "a = 1", "...", "#", "// ...", "{", "def f", ":", MARKER])
    ).map("".join),
    st.lists(st.sampled_from([*FEW_LINES, MARKER, "// ...", "/* ... */", "..."]), max_size=30).map("\n".join),
)


@st.composite
def lazy_edits(draw: st.DrawFn) -> tuple[str, str, list[str]]:
    """A file, a lazy edit of a few places of it, and the lines that the edit leaves out, as their texts."""
    if draw(st.booleans()):
        lines = draw(st.sampled_from(REAL)).split("\n")[:-1]
    else:
        lines = draw(st.lists(st.sampled_from(FEW_LINES), min_size=3, max_size=40))
    context = draw(st.integers(0, 4))
    shown, out, kept = draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=3)), list[str](), list[str]()
    near = {place for one in shown for place in range(one - context, one + context + 1)}
    for place, line in enumerate(lines):
        if place not in near:
            kept.append(line)
            if not out or out[-1] != MARKER:
                out.append(MARKER)
            continue
        change = draw(st.sampled_from(["replace", "delete", "insert"])) if place in shown else "keep"
        if change in ("keep", "insert"):
            out.append(line)
        if change in ("replace", "insert"):
            out.append(draw(st.sampled_from(["new_line = 7", "    new_line = 7", "added()"])))
    return "\n".join(lines) + "\n", "\n".join(out) + "\n", kept


def texts(lines: list[str]) -> Counter[str]:
    return Counter(line.strip() for line in lines if line.strip())


@QUICK
@given(lazy_edits(), ENDS, st.booleans())
def test_no_line_is_lost_that_the_edit_leaves_out(case: tuple[str, str, list[str]], end: str, ended: bool) -> None:
    original, update, kept = case
    original = original.replace("\n", end)
    if not ended:
        original = original.removesuffix(end)
    try:
        text = merge(original, update).text
    except Refusal:
        return
    after = text.split("\n")
    assert not texts([line for line in after if is_marker(line)]) - texts(original.split("\n"))
    assert text.endswith("\n") == original.endswith("\n")
    assert ("\r" in text) == (end == "\r\n" and "\n" in text)
    missing = texts(kept) - texts(after)
    # What stands elsewhere in the edit, too, may be what the edit was taken to replace.
    assert not missing - texts(update.split("\n"))


@QUICK
@given(GARBAGE, GARBAGE)
def test_anything_is_answered_or_refused(original: str, update: str) -> None:
    known = {line.strip() for line in original.split("\n")}
    try:
        answer = merge(original, update)
    except Refusal:
        return
    new = [line for line in answer.text.split("\n") if is_marker(line) and line.strip() not in known]
    assert not [line for line in new if not is_doubtful(line)]
    assert 0 <= answer.confidence <= 1


@QUICK
@given(st.one_of(GARBAGE, st.sampled_from(REAL)))
def test_a_file_as_its_own_update_stays_as_it_is(text: str) -> None:
    try:
        answer = merge(text, text).text
    except Refusal:
        return
    assert answer == text


@QUICK
@given(st.sampled_from(REAL), st.sampled_from(ODD), st.integers(0, 10**6), st.booleans())
def test_odd_characters_of_kept_lines_stay(text: str, odd: str, place: int, whole: bool) -> None:
    lines = text.split("\n")[:-1]
    place %= len(lines)
    lines[place] += f" {odd}x"
    original = "\n".join(lines) + "\n"
    last = next(number for number in range(len(lines) - 1, -1, -1) if len(lines[number].strip()) > 3)
    shown = range(max(0, last - 6), len(lines))
    if place in shown:
        return
    update = [MARKER, *(lines[number] for number in shown[:-1]), lines[-1]]
    try:
        answer = merge(original, "\n".join(update) + "\n").text
    except Refusal:
        return
    assert answer == original


def code(lines: int) -> list[str]:
    """Functions that differ, as many as fill so many lines."""
    drawn = random.Random(7)
    out: list[str] = []
    for number in range(lines // 5):
        out += [
            f"def function_{number}(a, b):",
            f"    value = a + {drawn.randrange(9)}",
            f"    value += b * {drawn.randrange(9)}",
            f"    return value_{number}(value)",
            "",
        ]
    return out


def test_a_line_that_stands_ten_thousand_times_is_refused() -> None:
    with pytest.raises(Refusal) as told:
        merge("x = 1\n" * 10_000, f"{MARKER}\nx = 1\ny = 2\nx = 1\n{MARKER}\n")
    assert told.value.reason == "ambiguous"


def test_two_hundred_lines_for_twenty_thousand() -> None:
    lines = code(20_000)
    update = [MARKER, *lines[10_000:10_099], "changed = 1", *lines[10_099:10_195], MARKER]
    answer = merge("\n".join(lines) + "\n", "\n".join(update) + "\n")
    assert answer.text.split("\n")[:-1] == [*lines[:10_099], "changed = 1", *lines[10_099:]]
    assert answer.changed == [(10_100, 10_100)]


def test_twenty_thousand_lines_rewritten() -> None:
    lines = code(20_000)
    new = [f"{line}  # {number}" if number % 70 == 3 else line for number, line in enumerate(lines)]
    assert merge("\n".join(lines) + "\n", "\n".join(new) + "\n").text == "\n".join(new) + "\n"


def test_two_thousand_lines_for_three_thousand() -> None:
    lines = code(3_000)
    update = [*lines[:1_000], "new = 1", MARKER, *lines[1_500:2_495], MARKER]
    answer = merge("\n".join(lines) + "\n", "\n".join(update) + "\n").text
    assert answer.split("\n")[:-1] == [*lines[:1_000], "new = 1", *lines[1_000:]]


def test_more_than_fits_is_refused() -> None:
    lines = code(20_000)
    with pytest.raises(Refusal) as told:
        merge("\n".join(lines), "\n".join([MARKER, *lines[:1_000], MARKER]))
    assert told.value.reason == "too_large"
