"""Shows that of a model's file only what the update says is believed: each line in its place, order and indentation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.verification import verify
from tests.unit.apply_cases_siblings import LAST_ROUTE, NEW_ROUTE, ROUTES
from tests.unit.test_apply_properties import ENDS, QUICK, lazy_edits

FILE = """\
import os
import sys

LIMIT = 10
NAMES = ["a", "b"]


def first(value):
    limit = LIMIT
    if value > limit:
        return limit
    return value


def second(value):
    limit = LIMIT
    if value > limit:
        return limit
    return value


def third():
    return sys.argv
"""
UPDATE = """\
# ... existing code ...
    limit = LIMIT
    value = abs(value)
    value = round(value)
    if value > limit:
        return limit
    # ... existing code ...
"""
NEW = "    value = abs(value)\n    value = round(value)\n"


def changed(place: int, file: str = FILE, new: str = NEW) -> str:
    """The file with the new lines behind so many of its lines."""
    lines = file.splitlines(keepends=True)
    return "".join([*lines[:place], new, *lines[place:]])


@pytest.mark.parametrize("place", [9, 16])
def test_a_model_says_which_of_two_places_is_meant(place: int) -> None:
    with pytest.raises(Refusal) as told:
        merge(FILE, UPDATE)
    assert told.value.reason == "ambiguous"
    told_by_model = verify(FILE, UPDATE, changed(place))
    assert (told_by_model.text, told_by_model.changed) == (changed(place), [(place + 1, place + 2)])
    assert told_by_model.confidence is None


@pytest.mark.parametrize("place", [place for place in range(25) if place not in (9, 16)])
def test_new_lines_anywhere_else_are_not_believed(place: int) -> None:
    refused(changed(place))


RIGHT = changed(9)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(changed(9, new="    value = round(value)\n    value = abs(value)\n"), id="swapped"),
        pytest.param(changed(9, new=NEW + NEW), id="twice"),
        pytest.param(changed(9, new=NEW.replace("    ", "        ")), id="deeper"),
        pytest.param(changed(9, new=NEW.replace("    ", "")), id="shallower"),
        pytest.param(changed(9, new="    value = abs(value)\n        value = round(value)\n"), id="one deeper"),
        pytest.param(changed(16, RIGHT.replace(NEW, "    value = abs(value)\n"), new=""), id="one left out"),
        pytest.param(changed(18, RIGHT), id="at both places"),
        pytest.param(changed(16, changed(9, new="    value = abs(value)\n"), "    value = round(value)\n"), id="apart"),
        pytest.param(RIGHT.replace("import os\n", ""), id="first line lost"),
        pytest.param(RIGHT.replace("    return sys.argv\n", "    pass\n"), id="last line replaced"),
        pytest.param(RIGHT.replace("LIMIT = 10\n", ""), id="a line lost"),
        pytest.param(RIGHT.replace("def third():\n    return sys.argv\n", ""), id="last function lost"),
        pytest.param(RIGHT.replace("import os\nimport sys\n", "import sys\nimport os\n"), id="kept lines swapped"),
        pytest.param(RIGHT.replace("import os\n", "import os\nimport os\n"), id="a kept line twice"),
        pytest.param(RIGHT.replace("value\n\n\ndef third", "value\n\n\n  def third"), id="a kept line indented"),
        pytest.param(RIGHT.replace("LIMIT = 10", "LIMIT = 11"), id="invented"),
        pytest.param("\n".join(reversed(RIGHT.split("\n"))), id="backwards"),
        pytest.param(FILE, id="as it was"),
        pytest.param("", id="nothing"),
        pytest.param("\n\n", id="empty lines"),
        pytest.param(UPDATE, id="the update"),
    ],
)
def test_what_the_update_does_not_say_is_not_believed(said: str) -> None:
    refused(said)


def test_a_line_of_the_update_that_the_file_has_elsewhere_must_come_where_it_says() -> None:
    update = "# ... existing code ...\ndef third():\n    limit = LIMIT\n    return sys.argv[:limit]\n"
    right = FILE.replace("    return sys.argv\n", "    limit = LIMIT\n    return sys.argv[:limit]\n")
    assert verify(FILE, update, right).text == right
    with pytest.raises(Refusal):
        verify(FILE, update, FILE.replace("    return sys.argv\n", "    return sys.argv[:limit]\n    limit = LIMIT\n"))


def test_empty_lines_and_the_space_at_the_ends_of_kept_lines_are_the_files() -> None:
    file = FILE.replace("LIMIT = 10\n", "LIMIT = 10  \n").replace("\n", "\r\n").removesuffix("\r\n")
    said = changed(9).replace("def third", "\ndef third").replace("import sys\n\n", "import sys\n")
    answer = verify(file, UPDATE, f"\n\n{said}\n\n")
    expected = changed(9).replace("LIMIT = 10\n", "LIMIT = 10  \n")
    assert answer.text == expected.replace("\n", "\r\n").removesuffix("\r\n")
    file = f"\ufeff\n{FILE}\n\n"
    assert verify(file, UPDATE, changed(9)).text == f"\ufeff\n{changed(9)}\n\n"


@QUICK
@given(lazy_edits(), ENDS, st.integers(0, 10**6))
def test_a_file_that_differs_from_every_reading_is_never_believed(
    case: tuple[str, str, list[str]], end: str, seed: int
) -> None:
    original, update, _ = case
    try:
        right = merge(original.replace("\n", end), update).text
    except Refusal:
        return
    drawn = random.Random(seed)
    lines = right.replace("\r", "").split("\n")[:-1]
    for broken in (
        [*lines, "invented"],
        [f"     {line}" if line.strip() == "new_line = 7" else line for line in lines],
        [line for line in lines if line.strip() not in ("new_line = 7", "added()")],
        drawn.sample(lines, len(lines)),
    ):
        try:
            answer = verify(original.replace("\n", end), update, "\n".join(broken)).text
        except Refusal:
            continue
        assert spoken(answer) == spoken("\n".join(broken))
        assert set(spoken(answer)) <= {*spoken(original), *spoken(right)}
        assert sorted(spoken(answer)) == sorted(spoken(right)), "only which of two equal lines is meant may differ"


def spoken(text: str) -> list[str]:
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def refused(said: str) -> None:
    with pytest.raises(Refusal):
        verify(FILE, UPDATE, said)


def test_a_line_s_next_version_stands_in_its_place_and_not_beside_it() -> None:
    file = f"import os\n\nPORT = 80\nHOST = 1\n\n{FILE}"
    update = "import os\n\nPORT = 81\n# ... existing code ...\n"
    assert verify(file, update, file.replace("80", "81")).text == file.replace("80", "81")
    with pytest.raises(Refusal):
        verify(file, update, file.replace("PORT = 80", "PORT = 81\nPORT = 80"))


@pytest.mark.parametrize(("name", "believed"), [("first", True), ("second", False)])
def test_a_marker_within_a_function_does_not_lead_into_the_next(name: str, believed: bool) -> None:
    update = (
        "# ... existing code ...\ndef first(value):\n    # ... existing code ...\n    log(value)\n    return value\n"
    )
    update += "# ... existing code ...\n"
    head, _, rest = FILE.partition(f"def {name}")
    said = f"{head}def {name}" + rest.replace("    return value", "    log(value)\n    return value", 1)
    if believed:
        assert verify(FILE, update, said).text == said
    else:
        with pytest.raises(Refusal):
            verify(FILE, update, said)


@pytest.mark.parametrize("update", ["", "\n\n", "# ... existing code ...\n"])
def test_an_update_that_says_nothing_has_no_right_file(update: str) -> None:
    with pytest.raises(Refusal) as told:
        verify(FILE, update, FILE)
    assert told.value.reason in ("empty_update", "only_markers")


def test_a_model_that_puts_a_new_block_in_the_place_of_one_like_it_is_not_believed() -> None:
    update = f"const routes = [\n  // ... existing code ...\n{NEW_ROUTE}];\n"
    beside, instead = f"{ROUTES[:-3]}{NEW_ROUTE}];\n", f"{ROUTES[: ROUTES.index(LAST_ROUTE)]}{NEW_ROUTE}];\n"
    assert LAST_ROUTE in beside
    assert verify(ROUTES, update, beside).text == beside
    with pytest.raises(Refusal):
        verify(ROUTES, update, instead)
