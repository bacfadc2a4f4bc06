"""Decides what the verbs of the command line share: their options, how they reach a data directory, what they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reflexd.config import Config, load_config

F = TypeVar("F", bound=Callable[..., Any])


def config_options(command: F) -> F:
    """Add the options that every verb about a data directory takes."""
    for option in (
        click.option("--data-dir", type=click.Path(), help="Data directory. [env: REFLEXD_STORAGE__DATA_DIR]"),
        click.option("--config", "config_file", type=click.Path(path_type=Path), help="[env: REFLEXD_CONFIG]"),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def read_config(data_dir: str | None, file: Path | None, more: dict[str, Any] | None = None) -> Config:
    """Return the configuration in force, with `more` as flags by their dotted keys."""
    return load_config({"storage.data_dir": data_dir, **(more or {})}, file=file)[0]


def call_admin(data_dir: str | None, config_file: Path | None, verb: str, **arguments: Any) -> Any:
    """Run a verb on the data directory, by the daemon or without one; raises ClickException with its refusal."""
    from reflexd import admin

    try:
        return admin.call(read_config(data_dir, config_file), verb, **arguments)
    except admin.AdminError as error:
        raise click.ClickException(str(error)) from error


def print_json(value: Any, indent: int = 2) -> None:
    """Print a value as JSON; with an indent of 0 on one line."""
    import msgspec

    text = msgspec.json.encode(value)
    click.echo((msgspec.json.format(text, indent=indent) if indent else text).decode())


def printable(text: str) -> str:
    """Return a text that a terminal only shows: characters that are not printable are escaped, but for tabs."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def print_table(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    """Print these columns of the rows, or the whole rows as JSON."""
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(", ".join(map(str, c)) if isinstance(c, list) else "" if c is None else str(c) for c in cells))
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "200"))
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)
