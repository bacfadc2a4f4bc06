"""Shows that the house rules hold which no other tool checks: short files that say what they decide, no odd names."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.daemons import ROOT

MAX_LINES = 350
NAMELESS = {"utils", "util", "helpers", "helper", "common", "lib", "misc"}
# Written in halves, so that this file does not name what it looks for.
HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "debian" + ".org",
    "py" + "torch.org",
]
HOSTS += ["pro" + "xy.golang.org", "crates" + ".io", "conda" + ".anaconda.org"]
PATHS = ["/opt/" + "wheels", "/opt/" + "pypi", "/work/" + "main", "/work/" + "shared", "/tmp/" + "v/"]


def committed() -> list[Path]:
    """Return every file that is or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    return sorted(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


FILES = committed()
MODULES = [path for path in FILES if path.suffix == ".py"]


def test_the_list_of_files_is_not_empty() -> None:
    assert ROOT / "reflexd" / "cli.py" in MODULES
    assert ROOT / "README.md" in FILES


def test_every_module_opens_with_a_sentence_that_says_what_it_decides() -> None:
    wrong = []
    for path in MODULES:
        folder = path.relative_to(ROOT).parts[0]
        if folder in ("reflexd", "plugins"):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if not said.startswith("Decides ") or "." not in said:
                wrong.append(str(path.relative_to(ROOT)))
    assert wrong == []


def test_every_test_and_benchmark_opens_with_a_sentence() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.relative_to(ROOT).parts[0] in ("tests", "benchmarks")
        and path.read_bytes().strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert wrong == []


def test_no_module_is_longer_than_a_reader_bears() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = {path: {*path.relative_to(ROOT).parts[:-1], path.stem} for path in MODULES}
    assert [str(path.relative_to(ROOT)) for path, parts in names.items() if parts & NAMELESS] == []


@pytest.mark.parametrize("word", HOSTS + PATHS)
def test_no_committed_text_names_a_registry_host_or_a_path_of_one_machine(word: str) -> None:
    naming = [str(path.relative_to(ROOT)) for path in FILES if word.encode() in path.read_bytes().lower()]
    assert naming == []
