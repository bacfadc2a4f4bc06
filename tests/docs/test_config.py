"""Shows that reflexd.toml says what config.py decides: every key, its default, and a comment above each."""

from __future__ import annotations

import tomllib
import typing

import msgspec

from reflexd.config import Config, Section
from tests.daemons import ROOT

TEXT = (ROOT / "reflexd.toml").read_text(encoding="utf-8")
FILE = tomllib.loads(TEXT)


def sections() -> dict[str, type[Section]]:
    return typing.get_type_hints(Config)


def test_its_values_are_the_defaults() -> None:
    assert msgspec.convert(FILE, Config) == Config()


def test_it_holds_every_key_in_the_order_of_the_structs() -> None:
    found = {section: list(table) for section, table in FILE.items()}
    wanted = {section: list(struct.__struct_fields__) for section, struct in sections().items()}

    assert found == wanted
    assert list(found) == list(wanted)


def test_each_value_has_the_type_of_its_default() -> None:
    for section, table in msgspec.to_builtins(Config()).items():
        for key, default in table.items():
            assert type(FILE[section][key]) is type(default), f"{section}.{key}"


def test_each_key_has_a_sentence_above_it() -> None:
    lines = TEXT.splitlines()
    keys = [number for number, line in enumerate(lines) if line[:1].isalpha()]

    assert len(keys) == sum(len(table) for table in FILE.values())
    for number in keys:
        comment = lines[number - 1]
        assert comment.startswith("# "), f"{lines[number]!r} has no comment line above it"
        assert comment.endswith("."), f"{comment!r} is no sentence"
