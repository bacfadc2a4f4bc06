"""Shows what the engine makes of lazy edits as agents write them: the one right file, or the right refusal."""

from __future__ import annotations

import pytest

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import is_marker
from tests.unit import (
    apply_cases_bytes,
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
from tests.unit.apply_cases import Case

CASES = [
    *apply_cases_bytes.CASES,
    *apply_cases_comments.CASES,
    *apply_cases_config.CASES,
    *apply_cases_javascript.CASES,
    *apply_cases_native.CASES,
    *apply_cases_objects.CASES,
    *apply_cases_python.CASES,
    *apply_cases_scripts.CASES,
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
