"""Shows that plugins load by entry point, in order, and that each way to be broken names the plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from reflexd.errors import StartupError
from reflexd.plugins import PluginManager

Write = Callable[..., EntryPoint]

SOURCE = """
from reflexd import hookimpl, Example
class Source:
    name = {name!r}
    def check(self, payload, labels): return None
    def rows(self, payload, context): return [Example("t", "l")]
@hookimpl
def register_data_sources(register): register(Source())
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def make(module: str, text: str, entry: str | None = None) -> EntryPoint:
        (tmp_path / f"{module}.py").write_text(text)
        return EntryPoint(entry or module, module, "reflexd")

    yield make
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_the_built_ins_load_like_any_other() -> None:
    manager = PluginManager()
    assert "training_data" in manager.data_sources
    assert "all-MiniLM-L6-v2" in manager.checkpoints
    assert "local" in manager.executors
    listed = {row["name"]: row for row in manager.listing()}
    assert listed["inline"]["hooks"] == "register_data_sources"
    assert listed["inline"]["from"].startswith("reflexd ")


def test_the_allow_list_restricts_and_must_be_installed() -> None:
    manager = PluginManager(["checkpoints"])
    assert manager.data_sources == {}
    assert [row["name"] for row in manager.listing()] == ["checkpoints"]
    with pytest.raises(StartupError, match="nonesuch"):
        PluginManager(["nonesuch"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_at_all", "cannot be imported: No module named 'no_such_module_at_all'"),
        ("1/0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("from reflexd import hookimpl\n@hookimpl\ndef register_data_source(register): ...", "register_data_source"),
        ("from reflexd import hookimpl\n@hookimpl\ndef register_data_sources(rgister): ...", "rgister"),
        (
            "from reflexd import hookimpl\n@hookimpl\ndef register_data_sources(register): raise KeyError('x')",
            "KeyError",
        ),
        ("from reflexd import hookimpl\n@hookimpl\ndef register_data_sources(register): register(3)", "AttributeError"),
        (SOURCE.format(name=""), "printable name"),
    ],
)
def test_a_broken_plugin_is_named(write: Write, text: str, said: str) -> None:
    with pytest.raises(StartupError) as caught:
        PluginManager(found=[write("broken_one", text)])
    assert "plugin broken_one" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_given_twice_names_both(write: Write) -> None:
    points = [write("first_one", SOURCE.format(name="csv")), write("second_one", SOURCE.format(name="csv"))]
    with pytest.raises(StartupError, match=r"plugin second_one.*first_one.*'csv'"):
        PluginManager(found=points)


def test_two_plugins_of_one_name_are_refused(write: Write) -> None:
    points = [write("one_a", "", "same"), write("one_b", "", "same")]
    with pytest.raises(StartupError, match="plugin same"):
        PluginManager(found=points)


def test_life_cycle_and_commands(write: Write, tmp_path: Path) -> None:
    text = """
from reflexd import hookimpl
seen = []
@hookimpl
def startup(data_dir): seen.append(data_dir)
@hookimpl
def shutdown(): seen.append("end")
@hookimpl
def register_cli_commands(group):
    @group.command()
    def greet(): ...
"""
    manager = PluginManager(found=[write("living_one", text)])
    manager.startup(tmp_path)
    manager.shutdown()
    group = click.Group()
    manager.add_cli_commands(group)
    assert sys.modules["living_one"].seen == [tmp_path, "end"]
    assert list(group.commands) == ["greet"]


def test_a_plugin_that_cannot_start_is_named(write: Write, tmp_path: Path) -> None:
    text = "from reflexd import hookimpl\n@hookimpl\ndef startup(): raise RuntimeError('no licence')"
    manager = PluginManager(found=[write("sulking_one", text)])
    with pytest.raises(StartupError, match="plugin sulking_one: startup failed: RuntimeError: no licence"):
        manager.startup(tmp_path)


def test_a_plugin_that_cannot_stop_spoils_nothing(write: Write) -> None:
    text = "from reflexd import hookimpl\n@hookimpl\ndef shutdown(): raise RuntimeError('stuck')"
    manager = PluginManager(found=[write("stuck_one", text)])
    assert manager.shutdown() == ["plugin stuck_one: shutdown failed: RuntimeError: stuck"]


def test_a_plugin_cannot_take_a_command(write: Write) -> None:
    text = """
from reflexd import hookimpl
@hookimpl
def register_cli_commands(group):
    @group.command()
    def serve(): ...
"""
    manager = PluginManager(found=[write("greedy_one", text)])
    group = click.Group(commands={"serve": click.Command("serve")})
    with pytest.raises(StartupError, match="plugin greedy_one: there is a command 'serve' already"):
        manager.add_cli_commands(group)


REFLEX = """
from reflexd import DefaultReflex, hookimpl
@hookimpl
def register_default_reflexes(register): register(DefaultReflex({name!r}, "folder", {aliases!r}))
"""


def test_default_reflexes_are_collected_by_name(write: Write) -> None:
    texts = [REFLEX.format(name="spam", aliases=("junk",)), REFLEX.format(name="mood", aliases=())]
    manager = PluginManager(found=[write(f"reflex_{number}", text) for number, text in enumerate(texts)])
    assert list(manager.default_reflexes) == ["spam", "mood"]
    assert manager.default_reflexes["spam"].aliases == ("junk",)
    assert PluginManager(found=[]).default_reflexes == {}


@pytest.mark.parametrize(("name", "aliases"), [("junk", ()), ("mood", ("spam",)), ("mood", ("x", "junk"))])
def test_a_default_reflex_takes_no_name_or_alias_of_another(write: Write, name: str, aliases: tuple[str, ...]) -> None:
    first = write("first_one", REFLEX.format(name="spam", aliases=("junk",)))
    second = write("second_one", REFLEX.format(name=name, aliases=aliases))
    with pytest.raises(StartupError, match=r"plugin second_one.*first_one.*'(spam|junk)'"):
        PluginManager(found=[first, second])


def test_an_alias_that_is_no_name_is_refused(write: Write) -> None:
    for number, aliases in enumerate((("spam",), ("",), (3,))):
        with pytest.raises(StartupError, match=f"plugin lone_{number}"):
            PluginManager(found=[write(f"lone_{number}", REFLEX.format(name="spam", aliases=aliases))])
