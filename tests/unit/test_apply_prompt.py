"""Shows how an apply prompt is taken apart, how a file is framed, and which of a model's files are believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflexd.engine.apply.changes import changed_lines, kept_lines
from reflexd.engine.apply.messages import Done, Edit, Failed, Proposal, Refused
from reflexd.engine.apply.model import file_of
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.verification import verify
from reflexd.engine.apply.worker import answer
from reflexd.errors import InvalidRequest
from reflexd.service.apply_prompt import frame, read_prompt

TAGLESS = st.text().filter(lambda text: not any(word in text for word in ("code>", "update>", "instruction")))


@given(code=TAGLESS, update=TAGLESS, between=st.sampled_from(["", "\n", " \r\n\t"]), last=TAGLESS)
def test_what_stands_between_the_tags_is_taken_as_it_is(code: str, update: str, between: str, last: str) -> None:
    found = read_prompt(f"<code>{code}</code>{between}<update>{update}</update>{last}")
    assert (found.instruction, found.code, found.update) == ("", code, update)


@given(code=TAGLESS, update=TAGLESS, said=TAGLESS)
def test_an_instruction_is_read_by_either_name(code: str, update: str, said: str) -> None:
    for name in ("instruction", "instructions"):
        found = read_prompt(f"\n<{name}>{said}</{name}>\n<code>{code}</code>\n<update>{update}</update>")
        assert (found.instruction, found.code, found.update) == (said.strip(), code, update)


SAMPLE = "see <code>x</code>\n<update>y</update> there"


@pytest.mark.parametrize(
    ("code", "update"),
    [
        ("a</code>b", "c"),
        ("a", "b</update>c"),
        ("a", "b<update>c"),
        ("a</code> b <update>c", "d"),
        ("<code>a</code>", "<code>b</code>"),
        (SAMPLE, "nothing"),
        ("nothing", SAMPLE),
        (SAMPLE, SAMPLE),
        (SAMPLE * 3, SAMPLE * 2),
        ("a<code>", "b"),
        ("a", "b <update>\nx\n</update>\nc"),
    ],
)
def test_tags_within_are_told_from_those_around(code: str, update: str) -> None:
    found = read_prompt(f"<code>{code}</code>\n<update>{update}</update>")
    assert (found.code, found.update) == (code, update)


def test_words_around_the_tags_are_read_over() -> None:
    for before, after in (("Please merge this:\n", "\nThank you."), ("Into ", " with <code>, <update> or neither")):
        found = read_prompt(f"{before}<code>see <code>a</code>.</code>\n<update>b</update>{after}")
        assert (found.code, found.update) == ("see <code>a</code>.", "b")


@pytest.mark.parametrize(
    "text",
    [
        "Hello.\n<instruction>do</instruction>\n<code>a</code><update>b</update>",
        "<instruction>do</instruction>\nThe file:\n<code>a</code><update>b</update>",
        "<instructions>do</instructions>\n<code>a</code><update>b</update>",
    ],
)
def test_an_instruction_may_stand_among_words(text: str) -> None:
    found = read_prompt(text)
    assert (found.instruction, found.code, found.update) == ("do", "a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "<code>a</code><update>b</code><update>c</update>",
        "<code>a</code> <update>b</update></code><update>c</update>",
        "<code>a</code>x<update>b</update>",
        "<code>a<update>b</update></code>",
        "<update></update><code></code>",
        "</code><code>a</code><update>b</update>",
        "<code>a</code><update>b",
        "<instruction>a<code>b</code><update>c</update>",
        "Change what is in <code>:\n<code>a</code>\n<update>b</update>",
        "Put <update> into <code>:\n<code>a</code>\n<update>b</update>",
        "<code>a</code>\n<update>b</update>\nAnswer without <update> and </update>",
        "<code>a</code>\n<update>b</update>  \r\nNo </update> in it",
        "<code>a</code>\n<update>b\n</update> The text up to </update> is the edit.",
        "<code>a</code>\n<update>b</update> is the update; stop at </update>",
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="<code>the whole file</code>"):
        read_prompt(text)


@given(st.text(st.sampled_from("ab \r\n")))
def test_a_frame_loses_nothing(text: str) -> None:
    framed = frame(text)
    assert framed.around(framed.file) == text
    assert not framed.file.startswith(("\r", "\n")) or not text.strip("\r\n")
    assert not framed.file.rstrip("\r\n").endswith(("\r", "\n"))
    assert len(framed.file) - len(framed.file.rstrip("\r\n")) <= 2


def test_a_hundred_thousand_tags_are_read_in_one_pass() -> None:
    many = "</code><update>" * 100_000
    with pytest.raises(InvalidRequest, match="cannot be known"):
        read_prompt(f"<code>a{many}b</update>")
    balanced = "<code>a</code><update>b</update>" * 100_000
    assert read_prompt(f"<code>{balanced}</code><update>c</update>").code == balanced


# --- a model's file -------------------------------------------------------------------------------------------------

FILE = "import os\n\n\ndef a():\n    return 1\n\n\ndef b():\n    return 2\n\n\ndef c():\n    return 3\n"
UPDATE = "# ... existing code ...\ndef a():\n    return 1\n\n\ndef c():\n    return 4\n"
"""Deletes b and changes c."""
GOOD = "import os\n\n\ndef a():\n    return 1\n\n\ndef c():\n    return 4\n"


def test_a_good_file_is_taken_with_its_changes() -> None:
    assert verify(FILE, UPDATE, GOOD) == Done(text=GOOD, changed=[(9, 9)])
    assert verify(FILE.replace("\n", "\r\n"), UPDATE, GOOD).text == GOOD.replace("\n", "\r\n")
    assert verify("\ufeff" + FILE.rstrip(), UPDATE, GOOD).text == "\ufeff" + GOOD.rstrip()
    mixed = FILE.replace("return 1\n", "return 1\r\n")
    assert verify(mixed, UPDATE, GOOD).text == GOOD.replace("return 1\n", "return 1\r\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text + "# ... rest of the code ...\n",
        lambda text: "# ... existing code ...\n" + text,
        lambda text: text + "print(1)\n",
        lambda text: text.replace("    return 4\n", "    return 3\n"),
        lambda text: text.replace("import os\n\n\n", ""),
        lambda text: text.replace("def a():", "def a("),
    ],
    ids=("nothing", "marker", "the update's marker", "invented", "forgotten", "lost", "broken"),
)
def test_a_bad_file_is_refused(change: Callable[[str], str]) -> None:
    with pytest.raises(Refusal) as caught:
        verify(FILE, UPDATE, change(GOOD))
    assert caught.value.reason == "invalid_output"


def test_a_line_of_the_file_that_reads_like_a_marker_may_stay() -> None:
    marked = FILE + "# ... existing code ...\n"
    update = "def b():\n    return 5\n\n\ndef c():\n# ... rest ...\n"
    whole = marked.replace("return 2", "return 5")
    assert verify(marked, update, whole).text == whole


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ("x\n", "x\n"),
        ("Sure:\n<updated-code>\nx\n</updated-code>\nDone", "\nx\n"),
        ("x\n</updated-code>", "x\n"),
        ("<updated-code>x", "x"),
        ("```py\nx\ny\n```\n", "x\ny"),
        ("```py\nx\n```\nand more", "```py\nx\n```\nand more"),
        ("", ""),
    ],
)
def test_the_file_is_found_in_what_a_model_says(said: str, file: str) -> None:
    assert file_of(said) == file


# --- lines ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_kept_and_changed_lines_are_all_there_is(before: list[str], after: list[str]) -> None:
    kept = kept_lines(before, after)
    for start, other, size in kept:
        assert before[start : start + size] == after[other : other + size]
    changed = {line for first, last in changed_lines(before, after) for line in range(first, last + 1)}
    same = {other + number + 1 for _, other, size in kept for number in range(size)}
    assert changed | same == set(range(1, len(after) + 1))
    assert not changed & same


def test_a_process_answers_whatever_it_is_asked() -> None:
    text = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    x = 1\n    return x\n"
    update = (
        "\n\n// ...\n// ...\n\n# ... existing code ...\n    x = 1\n    y = 2\n    return x\n# ... existing code ...\n"
    )
    found = answer(Edit(text, update))
    assert isinstance(found, Refused)
    assert found.line is not None
    assert update.split("\n")[found.line].strip() in ("x = 1", "y = 2", "return x", "# ... existing code ...")
    assert isinstance(answer(Edit("a = 1\n", "a = 1\n")), Done)
    assert isinstance(answer(Proposal("a = 1\n", "a = 2\n", "b = 1\n")), Refused)
    failed = answer(Edit(None, "x"))  # type: ignore[arg-type]
    assert isinstance(failed, Failed)
    assert failed.error == "AttributeError"
    assert any("merge.py" in place for place in failed.where)
