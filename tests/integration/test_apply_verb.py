"""Shows `reflexd apply` as people and scripts use it: what it shows, what it writes, and how it refuses."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reflexd.apply_verbs import MOST_BYTES, told
from reflexd.engine.apply.refusal import Refusal
from tests.daemons import DEADLINE, environment, new_directory

FILE = """\
def add(a, b):
    return a + b


def sub(a, b):
    return a - b


def mul(a, b):
    return a * b
"""
UPDATE = """\
# ... existing code ...

def sub(a, b):
    if b is None:
        return a
    return a - b

# ... existing code ...
"""
WANTED = FILE.replace("    return a - b\n", "    if b is None:\n        return a\n    return a - b\n")
REFUSED = "# ... existing code ...\nfound = look(it)\n# ... existing code ...\n"
"""An update of which nothing says where it belongs."""
DIFF = [
    "--- sums.py",
    "+++ sums.py",
    "@@ -3,6 +3,8 @@",
    " ",
    " ",
    " def sub(a, b):",
    "+    if b is None:",
    "+        return a",
    "     return a - b",
    " ",
    " ",
]


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_directory() as path:
        (path / "sums.py").write_text(FILE)
        (path / "update").write_text(UPDATE)
        (path / "refused").write_text(REFUSED)
        yield path


def apply(
    folder: Path, *words: str | bytes | Path, given: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the verb in a folder that has neither a configuration nor a daemon, and with none of its own."""
    return subprocess.run(
        [sys.executable, "-m", "reflexd", "apply", *words],
        env=environment(REFLEXD_STORAGE__DATA_DIR=str(folder / "data"), REFLEXD_URL="http://127.0.0.1:1", **env),
        cwd=folder,
        input=given,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def on_a_terminal(folder: Path, *words: str, **env: str) -> str:
    """Run the verb with a terminal as its stdout, and return what that is sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "reflexd", "apply", *words], env=environment(**env), cwd=folder, stdout=theirs
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # which is how a terminal ends that nobody has open any more
        while piece := os.read(ours, 65536):
            said += piece
    os.close(ours)
    assert process.wait(DEADLINE) == 0
    return said.decode().replace("\r\n", "\n")


def test_it_shows_the_change_and_makes_none(folder: Path) -> None:
    before = (folder / "sums.py").stat()
    done = apply(folder, "sums.py", "--update", "update")
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "\n".join(DIFF) + "\n", b"")
    assert (folder / "sums.py").read_text() == FILE
    assert (folder / "sums.py").stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(entry.name for entry in folder.iterdir()) == ["refused", "sums.py", "update"], "and no data directory"


@pytest.mark.parametrize("final", ["\n", ""], ids=["ended", "not ended"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize(
    "name", [b"sums.py", b"two words.py", b'a"b\\c.py', "größe.py".encode(), b"\x1b[31m\n.py", b"\xff.py"]
)
def test_what_it_shows_makes_of_the_file_what_it_writes(folder: Path, name: bytes, ending: str, final: str) -> None:
    path = folder / os.fsdecode(name)
    content = (FILE.removesuffix("\n") + final).replace("\n", ending).encode()
    wanted = (WANTED.removesuffix("\n") + final).replace("\n", ending).encode()
    path.write_bytes(content)
    shown = apply(folder, name, "--update", "-", given=UPDATE.encode())
    assert (shown.returncode, shown.stderr) == (0, b"")
    patched = subprocess.run(
        ["git", "apply", "-p0", "--whitespace=nowarn", "-"], cwd=folder, input=shown.stdout, capture_output=True
    )
    assert (patched.returncode, path.read_bytes()) == (0, wanted), patched.stderr

    path.write_bytes(content)
    done = apply(folder, name, "--update", "update", "--write")
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_bytes() == wanted
    (said,) = done.stdout.decode().splitlines()
    assert said.isprintable()
    assert said.endswith(": lines 6-7 new")


def test_a_last_line_that_does_not_end_is_shown_as_such(folder: Path) -> None:
    (folder / "sums.py").write_text(FILE.removesuffix("\n"))
    update = UPDATE.removesuffix("# ... existing code ...\n") + "\ndef mul(a, b):\n    check(a)\n    return a * b\n"
    done = apply(folder, "sums.py", "--update", "-", given=update.encode())
    assert done.stdout.decode().endswith("+    check(a)\n     return a * b\n\\ No newline at end of file\n")


def test_on_a_terminal_it_is_coloured_and_obeys_nothing(folder: Path) -> None:
    title = "\x1b]0;not yours\x07"
    (folder / "sums.py").write_text(FILE.replace("def sub(a, b):", f"def sub(a, b):  # {title}"))
    (folder / "update").write_text(UPDATE.replace("def sub(a, b):", f"def sub(a, b):  # {title}\n    # {title}new"))
    said = on_a_terminal(folder, "sums.py", "--update", "update")
    assert "\x1b[32m+    # \\x1b]0;not yours\\x07new\x1b[0m\n" in said
    assert "\x1b]" not in said
    assert "\x07" not in said
    assert "\n     return a - b\x1b[0m\n" in said, "what stays has no colour"
    assert said.startswith("\x1b[1m--- sums.py\x1b[0m\n\x1b[1m+++ sums.py\x1b[0m\n\x1b[36m@@ ")

    plain = on_a_terminal(folder, "sums.py", "--update", "update", NO_COLOR="1")
    assert "+    # \\x1b]0;not yours\\x07new\n" in plain
    assert "\x1b" not in plain
    odd = on_a_terminal(folder, "sums.py", "--update", "update", PYTHONIOENCODING="ascii")
    assert re.sub(r"\x1b\[\d*m", "", odd) == plain


def test_a_written_file_keeps_its_mode_and_a_symlink_leads_where_it_did(folder: Path) -> None:
    (folder / "far").mkdir()
    target = (folder / "sums.py").rename(folder / "far" / "real.py")
    target.chmod(0o751)
    (folder / "sums.py").symlink_to("far/real.py")
    done = apply(folder, "sums.py", "--update", "update", "--write")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"wrote sums.py: lines 6-7 new\n", b"")
    assert target.read_text() == WANTED
    assert target.stat().st_mode & 0o7777 == 0o751
    assert os.readlink(folder / "sums.py") == "far/real.py"
    assert [entry.name for entry in (folder / "far").iterdir()] == ["real.py"], "nothing is left beside it"


def test_a_written_file_keeps_its_extended_attributes(folder: Path) -> None:
    try:
        os.setxattr(folder / "sums.py", "user.note", b"mine")
    except OSError as error:
        pytest.skip(f"this file system has no extended attributes: {error}")
    assert apply(folder, "sums.py", "--update", "update", "--write").returncode == 0
    assert (folder / "sums.py").read_text() == WANTED
    assert os.getxattr(folder / "sums.py", "user.note") == b"mine"


def test_lines_that_go_are_counted(folder: Path) -> None:
    (folder / "sums.py").write_text(FILE.replace("    return a + b\n", "    print(a)\n    return a + b\n"))
    update = "def add(a, b):\n    return a + b\n\n# ... existing code ...\n"
    done = apply(folder, "sums.py", "--update", "-", "--write", given=update.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"wrote sums.py: 1 line gone\n", b"")
    assert (folder / "sums.py").read_text() == FILE


def test_an_update_that_changes_nothing_writes_nothing(folder: Path) -> None:
    before = (folder / "sums.py").stat()
    for words in ((), ("--write",), ("--check",)):
        done = apply(folder, "sums.py", "--update", "sums.py", *words)
        assert (done.returncode, done.stdout) == (0, b""), words
        assert done.stderr == b"sums.py: the update changes nothing\n"
    after = (folder / "sums.py").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_changes_meanwhile_is_left_alone(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    process = subprocess.Popen(
        [sys.executable, "-m", "reflexd", "apply", "sums.py", "--update", "pipe", "--write"],
        env=environment(),
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    with (folder / "pipe").open("w") as pipe:  # waits until the other side opens it, which has read the file then
        (folder / "sums.py").write_text(FILE + "# mine\n")
        pipe.write(UPDATE)
    _, said = process.communicate(timeout=DEADLINE)
    assert (process.returncode, len(said.splitlines())) == (1, 1)
    assert "sums.py has changed since it was read" in said
    assert (folder / "sums.py").read_text() == FILE + "# mine\n"
    assert sorted(entry.name for entry in folder.iterdir()) == ["pipe", "refused", "sums.py", "update"]


def test_a_check_tells_by_its_status_and_writes_nothing(folder: Path) -> None:
    before = (folder / "sums.py").stat()
    fits = apply(folder, "sums.py", "--update", "update", "--check")
    assert (fits.returncode, fits.stdout, fits.stderr) == (0, b"would write sums.py: lines 6-7 new\n", b"")
    does_not = apply(folder, "sums.py", "--update", "refused", "--check")
    assert (does_not.returncode, does_not.stdout) == (1, b"")
    assert does_not.stderr.startswith(b"reflexd: refused (")
    after = (folder / "sums.py").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("words", [(), ("--write",)])
def test_a_refusal_says_what_is_in_doubt_and_what_to_add(folder: Path, words: tuple[str, ...]) -> None:
    done = apply(folder, "sums.py", "--update", "refused", *words)
    assert (done.returncode, done.stdout) == (1, b"")
    first, *rest = done.stderr.decode().splitlines()
    assert re.fullmatch(r"reflexd: refused \(\w+\), sums.py is as it was\. .{20,}\.", first)
    assert "Traceback" not in done.stderr.decode()
    assert rest[:2] == ["The update's line that is in doubt:", "       2 | found = look(it)"]
    assert rest[-1].startswith("To add: ")
    assert (folder / "sums.py").read_text() == FILE


def test_a_refusal_shows_the_places_with_what_stands_around_them() -> None:
    original = "a\r\nsame\r\nb\r\nsame \x1b[2J\r\nc\r\n"
    refusal = Refusal("ambiguous", "It fits twice", 1, [3, 1, 5, 1, -1, 77])
    said = list(told(refusal, Path("odd\x1b.txt"), original, "x\n\x9bsame\n"))
    assert said[:-1] == [
        "reflexd: refused (ambiguous), odd\\x1b.txt is as it was. It fits twice.",
        "The update's line that is in doubt:",
        "       2 | \\x9bsame",
        "A place in odd\\x1b.txt:",
        "       1 | a",
        " >     2 | same",
        "       3 | b",
        "A place in odd\\x1b.txt:",
        "       3 | b",
        " >     4 | same \\x1b[2J",
        "       5 | c",
        "The end of odd\\x1b.txt:",
        "       5 | c",
    ]
    many = list(told(Refusal("of a later version", "No", None, range(30)), Path("f"), "x\n" * 40, "y"))
    assert sum(line.startswith(" >") for line in many) == 10
    assert many[-2:] == ["and 20 more places", "To add: more lines of the file around each change."]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.py", "--update", "update"], "gone.py cannot be read: No such file or directory"),
        ([".", "--update", "update"], ". is a directory"),
        (["pipe", "--update", "update"], "pipe is no regular file"),
        (["binary", "--update", "update"], "binary is binary: byte 2 is zero"),
        (["latin", "--update", "update"], "latin is not UTF-8: line 2 has the byte 0xe9"),
        (["huge", "--update", "update"], "huge is too large: it may have 4 MiB"),
        (["sums.py", "--update", "gone"], "gone cannot be read: No such file or directory"),
        (["sums.py", "--update", "."], ". cannot be read: Is a directory"),
        (["sums.py", "--update", "binary"], "binary is binary: byte 2 is zero"),
        (["sums.py", "--update", "huge"], "huge is too large: it may have 4 MiB"),
        (["sums.py", "--update", "-"], "stdin is not UTF-8: line 1 has the byte 0xff"),
        (["bad\x1b[2J\udcff", "--update", "update"], "bad\\x1b[2J\\udcff cannot be read: No such file or directory"),
        (["sums.py", "--update", "update", "--write", "--check"], "--write and --check exclude each other"),
        (["sums.py"], "Missing option '--update'."),
        (["--update", "update"], "Missing argument 'FILE'."),
    ],
)
def test_bad_usage_is_told_in_a_sentence(folder: Path, words: list[str], said: str) -> None:
    (folder / "binary").write_bytes(b"ab\0\0")
    (folder / "latin").write_bytes(b"# a\n# caf\xe9\n")
    (folder / "huge").write_bytes(b"x\n" * (MOST_BYTES // 2) + b"x")
    os.mkfifo(folder / "pipe")
    done = apply(folder, *map(os.fsencode, words), given=b"\xff")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines()[-1] == f"Error: {said}"
    assert (folder / "sums.py").read_text() == FILE


def test_a_closed_stdin_is_told(folder: Path) -> None:
    words = ["sh", "-c", 'exec "$0" -m reflexd apply sums.py --update - <&-', sys.executable]
    done = subprocess.run(words, env=environment(), cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "Error: stdin is closed\n")


def test_other_languages_and_line_separators_within_lines_are_kept(folder: Path) -> None:
    """What str.splitlines ends a line at is a part of one here, and in the diff."""
    content = "const a = '\u2028\x0c\x1e';\nconst ä = 1;\nconst c = '日本';\n"
    (folder / "odd.js").write_text("\ufeff" + content)
    update = content.replace("const ä = 1;", "const ä = 2;")
    shown = apply(folder, "odd.js", "--update", "-", given=update.encode())
    assert shown.stdout.decode().splitlines(keepends=True)[-1] == " const c = '日本';\n"
    done = apply(folder, "odd.js", "--update", "-", "--write", given=update.encode())
    assert (done.returncode, done.stdout) == (0, b"wrote odd.js: line 2 new, 1 line gone\n")
    assert (folder / "odd.js").read_bytes().decode() == "\ufeff" + update


def test_many_lines_that_repeat_are_shown_in_time(folder: Path) -> None:
    (folder / "long.txt").write_text("first\n" + "again\n" * 20_000 + "last\n")
    update = "first\nsecond\n... existing code ...\nlast but one\nlast\n"
    done = apply(folder, "long.txt", "--update", "-", given=update.encode())
    assert done.returncode == 0, done.stderr
    patched = subprocess.run(["git", "apply", "-p0", "-"], cwd=folder, input=done.stdout, check=True)
    assert patched.returncode == 0
    assert (folder / "long.txt").read_text() == "first\nsecond\n" + "again\n" * 20_000 + "last but one\nlast\n"


def test_its_help_does_not_load_the_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "reflexd", "apply", "--help"],
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "reflexd.apply_verbs" in imported, "the list of imports is read rightly"
    assert not {name for name in imported if name.startswith(("reflexd.engine", "numpy", "tree_sitter", "litestar"))}
    assert "--write" in done.stdout
