"""Shows what keeps the daemon from starting: one sentence that names the cause, an exit status, nothing changed."""

from __future__ import annotations

import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, free_port, new_directory, reflexd, wait_for


@pytest.fixture
def folder() -> Iterator[Path]:
    with new_directory() as path:
        yield path


def refuse(status: int, *words: str | Path, **env: str) -> str:
    """Run `reflexd serve`; check its exit status and that it says one sentence, which is returned."""
    done = reflexd("serve", *words, seconds=60, **env)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("reflexd: ")
    return lines[0]


@pytest.fixture
def stopped(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that has run once and has been stopped."""
    daemon = start_daemon(REFLEXD_TRAINING__WARM_CHILDREN="0")
    assert daemon.stop() == 0
    return daemon


def serve(daemon: Daemon, status: int, *words: str) -> str:
    return refuse(status, "--data-dir", daemon.data_dir, "--port", str(free_port()), *words)


def test_a_second_daemon_on_the_same_data_directory(daemon: Daemon) -> None:
    said = serve(daemon, 75)
    assert str(daemon.data_dir) in said
    assert daemon.is_ready(), "the first one goes on"


def test_a_data_directory_that_cannot_be_written() -> None:
    # Below /proc nobody can make a folder, not even root, whom permissions do not stop.
    said = refuse(78, "--data-dir", "/proc/reflexd-test", "--port", str(free_port()))
    assert "/proc/reflexd-test" in said


def test_a_data_directory_that_is_a_file(folder: Path) -> None:
    (folder / "d").write_text("somebody's file")
    assert str(folder / "d") in refuse(78, "--data-dir", folder / "d", "--port", str(free_port()))
    assert (folder / "d").read_text() == "somebody's file"


def test_a_folder_that_holds_something_else(folder: Path) -> None:
    (folder / "thesis.txt").write_text("draft")
    folder.chmod(0o755)
    said = refuse(78, "--data-dir", folder, "--port", str(free_port()))
    assert str(folder) in said
    assert [entry.name for entry in folder.iterdir()] == ["thesis.txt"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_newer_database(stopped: Daemon) -> None:
    path = stopped.data_dir / "reflexd.db"
    with sqlite3.connect(path) as database:
        known = database.execute("PRAGMA user_version").fetchone()[0]
        database.execute("PRAGMA user_version=999")
    database.close()
    said = serve(stopped, 78)
    assert "999" in said
    assert f"only {known}" in said
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone()[0] == 999
    database.close()


def test_a_database_that_is_none(stopped: Daemon) -> None:
    path = stopped.data_dir / "reflexd.db"
    path.write_bytes(b"this is no SQLite file" * 1_000)
    assert str(path) in serve(stopped, 78)
    assert path.read_bytes().startswith(b"this is no SQLite file")


def test_a_public_address_before_there_is_a_key(folder: Path) -> None:
    said = refuse(78, "--data-dir", folder, "--host", "0.0.0.0", "--port", str(free_port()))
    assert "0.0.0.0" in said
    assert "reflexd keys create" in said
    assert not (folder / "initial-api-key").exists(), "no key is made for a daemon that did not start"


def test_a_public_address_with_a_key(start_daemon: Callable[..., Daemon], folder: Path) -> None:
    made = reflexd("keys", "create", "first", "--data-dir", folder / "d")
    assert made.returncode == 0, made.stderr
    daemon = Daemon(folder / "d", REFLEXD_HTTP__HOST="0.0.0.0")
    try:
        daemon.spawn()
        wait_for(lambda: daemon.events("listening"), "it listens")
        assert daemon.events("listening")[0]["url"] == f"http://0.0.0.0:{daemon.port}"
    finally:
        daemon.kill()
        daemon.close()
    assert not (folder / "d" / "initial-api-key").exists(), "there was a key already"


def test_a_port_in_use_is_a_plain_failure_that_a_later_try_may_mend(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refuse(1, "--data-dir", folder / "d", "--port", str(port))
    assert f"127.0.0.1:{port}" in said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nprot = 1\n", ("prot", "$.http")),
        ("[htpp]\nport = 1\n", ("htpp",)),
        ('[http]\nport = "many"\n', ("$.http.port",)),
        ("[training]\nslots = -1\n", ("$.training.slots",)),
        ("[http\n", ("line 1",)),
    ],
    ids=["unknown key", "unknown table", "wrong type", "out of bounds", "no TOML"],
)
def test_a_bad_file(folder: Path, text: str, named: tuple[str, ...]) -> None:
    file = folder / "reflexd.toml"
    file.write_text(text)
    said = refuse(78, "--config", file, "--data-dir", folder / "d")
    for word in (str(file), *named):
        assert word in said
    assert not (folder / "d").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REFLEXD_HTTP__PROT", "1"),
        ("REFLEXD_HTPP__PORT", "1"),
        ("REFLEXD_HTTP__PORT", "many"),
        ("REFLEXD_HTTP__PORT_FILE", "/nonexistent/port"),
        ("REFLEXD_TRAINING__SLOTS", "-1"),
    ],
)
def test_a_bad_environment_variable(folder: Path, name: str, value: str) -> None:
    said = refuse(78, "--data-dir", folder / "d", **{name: value})
    assert name in said
    assert not (folder / "d").exists()


def test_a_file_that_is_not_there(folder: Path) -> None:
    assert "/nonexistent.toml" in refuse(78, "--config", "/nonexistent.toml", "--data-dir", folder / "d")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import a_module_that_nobody_has", "a_module_that_nobody_has"),
        ("raise RuntimeError('it is broken')", "it is broken"),
        ("from reflexd import hookimpl\n@hookimpl\ndef register_data_surces(register): ...", "register_data_surces"),
        (
            "from reflexd import hookimpl\nfrom reflexd_plugins.inline import InlineRows\n"
            "@hookimpl\ndef register_data_sources(register): register(InlineRows())",
            "training_data",
        ),
        ("from reflexd import hookimpl\n@hookimpl\ndef startup(data_dir): 1 / 0", "ZeroDivisionError"),
    ],
    ids=["import failure", "raises", "misspelt hook", "name collision", "startup raises"],
)
def test_a_broken_plugin_is_named(folder: Path, source: str, named: str) -> None:
    (folder / "strange_plugin.py").write_text(source)
    about = folder / "strange_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: strange-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reflexd]\nstranger = strange_plugin\n")
    words = ("--data-dir", folder / "d", "--port", str(free_port()))
    said = refuse(78, *words, PYTHONPATH=str(folder))
    assert "plugin stranger" in said
    assert named in said


def test_a_backbone_that_nobody_registers(folder: Path) -> None:
    env = {"REFLEXD_TRAINING__BACKBONE": "no-such-encoder"}
    said = refuse(78, "--data-dir", folder / "d", "--port", str(free_port()), **env)
    assert "no-such-encoder" in said
    assert "all-MiniLM-L6-v2" in said


def test_a_precision_that_takes_a_gpu_where_there_is_none(folder: Path) -> None:
    env = {"REFLEXD_BACKBONE__PRECISION": "bf16", "CUDA_VISIBLE_DEVICES": ""}
    said = refuse(78, "--data-dir", folder / "d", "--port", str(free_port()), **env)
    assert "bf16 takes a GPU, and torch sees none" in said
    assert "[backbone] precision" in said
