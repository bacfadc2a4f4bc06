"""Decides the command line: its words, its exit codes, and that `--help` imports neither litestar nor torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from reflexd import __version__
from reflexd.config import Config, load_config
from reflexd.errors import ServerUnreachable, StartupError

F = TypeVar("F", bound=Callable[..., Any])


class PluginGroup(click.Group):
    """The top command; a plugin's verbs are loaded when they are asked for or listed."""

    _loaded = False

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb of ours, else a plugin's."""
        if cmd_name not in self.commands:
            self._load()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List our verbs and the plugins'."""
        self._load()
        return super().list_commands(ctx)

    def _load(self) -> None:
        from reflexd.plugins import PluginManager

        try:
            if not self._loaded:
                self._loaded = True
                PluginManager(load_config()[0].plugins.allow).add_cli_commands(self)
        except StartupError as error:
            click.echo(f"reflexd: {error}", err=True)


def config_options(command: F) -> F:
    """Add the options that every verb about a data directory takes."""
    for option in (
        click.option("--data-dir", type=click.Path(), help="Data directory. [env: REFLEXD_STORAGE__DATA_DIR]"),
        click.option("--config", "config_file", type=click.Path(path_type=Path), help="[env: REFLEXD_CONFIG]"),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def main() -> None:
    """Run the command line; every known failure is one sentence on stderr and an exit code."""
    try:
        sys.exit(cli.main(prog_name="reflexd", standalone_mode=False))
    except (StartupError, ServerUnreachable) as error:
        click.echo(f"reflexd: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


@click.group(cls=PluginGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Train text classifiers in seconds and run them in milliseconds, on this machine."""


@cli.command()
@config_options
@click.option("--host", help="Address to listen on. [default: 127.0.0.1; env: REFLEXD_HTTP__HOST]")
@click.option("--port", type=int, help="Port to listen on. [default: 7335; env: REFLEXD_HTTP__PORT]")
def serve(data_dir: str | None, config_file: Path | None, host: str | None, port: int | None) -> None:
    """Run the daemon in the foreground."""
    config = _config(data_dir, config_file, {"http.host": host, "http.port": port})
    from reflexd import daemon

    daemon.run(config)


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the temporary data directory and print where it is.")
def demo(keep: bool) -> None:
    """Train and use a classifier in a temporary daemon."""
    from reflexd import demo as show

    show.run(keep)


@cli.command()
@click.argument("model")
@click.argument("text")
@json_option
def predict(model: str, text: str, as_json: bool) -> None:
    """Classify TEXT with MODEL; "-" reads the text from stdin. [env: REFLEXD_URL, REFLEXD_API_KEY]"""
    from reflexd import client

    given = sys.stdin.read() if text == "-" else text
    answer = client.from_environment().post("/v1/reflex/predict", {"model": model, "text": given})
    if as_json:
        _print_json(answer)
        return
    click.echo(f"{answer['label']}  {answer['confidence']:.3f}")
    for row in sorted(answer["classes"], key=lambda r: -r["score"])[:10]:
        click.echo(f"  {row['score']:.3f}  {row['label']}", err=True)


@cli.command()
def healthcheck() -> None:
    """Exit 0 when the daemon at REFLEXD_URL is ready, 1 when it is not, 69 when nothing answers."""
    from reflexd import client

    status, body = client.from_environment().readiness()
    click.echo("ready" if status == 200 else f"not ready: {'; '.join(body['reasons'].values())}")
    sys.exit(0 if status == 200 else 1)


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"reflexd {__version__}")


# --- jobs, models, keys: through admin.sock, or in the data directory itself when no daemon runs ---------------------


@cli.group()
def jobs() -> None:
    """Training jobs of all tenants."""


@jobs.command("list")
@config_options
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@json_option
def jobs_list(data_dir: str | None, config_file: Path | None, limit: int, as_json: bool) -> None:
    """List the newest jobs."""
    rows = _admin(data_dir, config_file, "jobs.list", limit=limit)
    _table(rows, ["id", "status", "suffix", "source", "trained_examples", "created_at"], as_json)


@jobs.command("show")
@config_options
@click.argument("job_id")
@json_option
def jobs_show(data_dir: str | None, config_file: Path | None, job_id: str, as_json: bool) -> None:
    """Show one job."""
    row = _admin(data_dir, config_file, "jobs.show", job_id=job_id)
    if as_json:
        _print_json(row)
        return
    for name, value in row.items():
        click.echo(f"{name:17} {value}")


@jobs.command("logs")
@config_options
@click.argument("job_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@json_option
def jobs_logs(data_dir: str | None, config_file: Path | None, job_id: str, follow: bool, as_json: bool) -> None:
    """Print a job's events."""
    import time

    after = 0
    while True:
        ended = _admin(data_dir, config_file, "jobs.show", job_id=job_id)["finished_at"] is not None
        rows = _admin(data_dir, config_file, "jobs.logs", job_id=job_id, after=after)
        for row in rows:
            after = row["n"]
            if as_json:
                _print_json(row, indent=0)
            else:
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["created_at"]))
                click.echo(f"{at}  {row['level']:5}  {row['message']}")
        if rows:
            continue  # there may be more pages
        if ended or not follow:
            return
        time.sleep(0.5)


@jobs.command("cancel")
@config_options
@click.argument("job_id")
def jobs_cancel(data_dir: str | None, config_file: Path | None, job_id: str) -> None:
    """Cancel a job that has not ended."""
    click.echo(_admin(data_dir, config_file, "jobs.cancel", job_id=job_id)["status"])


@cli.group()
def models() -> None:
    """Trained models of all tenants."""


@models.command("list")
@config_options
@json_option
def models_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List served names with their latest version."""
    rows = _admin(data_dir, config_file, "models.list")
    _table(rows, ["name", "version", "labels", "backbone", "precision", "job_id"], as_json)


@cli.group()
def keys() -> None:
    """API keys and their tenants."""


@keys.command("create")
@config_options
@click.argument("name")
@click.option("--tenant", help="Tenant that the key's objects belong to. [default: the tenant named like the key]")
@click.option("--scope", "scopes", multiple=True, help="May be repeated. [default: all but admin]")
def keys_create(
    data_dir: str | None, config_file: Path | None, name: str, tenant: str | None, scopes: tuple[str, ...]
) -> None:
    """Make an API key and print it, this once, alone on stdout."""
    given = list(scopes) or None
    click.echo(_admin(data_dir, config_file, "keys.create", name=name, tenant=tenant, scopes=given))


@keys.command("list")
@config_options
@json_option
def keys_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List keys by their first characters."""
    rows = _admin(data_dir, config_file, "keys.list")
    _table(rows, ["name", "tenant", "hint", "scopes", "revoked_at", "id"], as_json)


@keys.command("revoke")
@config_options
@click.argument("key")
def keys_revoke(data_dir: str | None, config_file: Path | None, key: str) -> None:
    """Revoke the key with this name, id or first characters; its tenant's jobs and models stay."""
    row = _admin(data_dir, config_file, "keys.revoke", which=key)
    click.echo(f"revoked {row['name']} ({row['hint']})")


@cli.group()
def plugins() -> None:
    """Installed plugins."""


@plugins.command("list")
@config_options
@json_option
def plugins_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List the plugins that load, where they come from and what they hook."""
    from reflexd.plugins import PluginManager

    rows = PluginManager(_config(data_dir, config_file).plugins.allow).listing()
    _table(rows, ["name", "from", "hooks"], as_json)


@cli.group("config")
def config_group() -> None:
    """The configuration in force."""


@config_group.command("show")
@config_options
@click.option("--origin", is_flag=True, help="Say where each value came from.")
@json_option
def config_show(data_dir: str | None, config_file: Path | None, origin: bool, as_json: bool) -> None:
    """Print every key with its value."""
    import msgspec

    config, origins = load_config({"storage.data_dir": data_dir}, file=config_file)
    sections = msgspec.to_builtins(config)
    rows = [
        {"key": path, "value": sections[path.partition(".")[0]][path.partition(".")[2]], "origin": where}
        for path, where in origins.items()
    ]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        value = msgspec.json.encode(row["value"]).decode()
        click.echo(f"{row['key']:32} = {value}" + (f"    # {row['origin']}" if origin else ""))


def _config(data_dir: str | None, file: Path | None, more: dict[str, Any] | None = None) -> Config:
    return load_config({"storage.data_dir": data_dir, **(more or {})}, file=file)[0]


def _admin(data_dir: str | None, config_file: Path | None, verb: str, **arguments: Any) -> Any:
    from reflexd import admin
    from reflexd.registry.data_directory import DataDirectory, default_data_dir

    config = _config(data_dir, config_file)
    directory = DataDirectory(Path(config.storage.data_dir or default_data_dir()).expanduser())
    try:
        return admin.call(directory, verb, **arguments)
    except admin.AdminError as error:
        raise click.ClickException(str(error)) from error


def _print_json(value: Any, indent: int = 2) -> None:
    import msgspec

    text = msgspec.json.encode(value)
    click.echo((msgspec.json.format(text, indent=indent) if indent else text).decode())


def _table(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        cells = (row[column] for column in columns)
        table.add_row(*(", ".join(map(str, c)) if isinstance(c, list) else "" if c is None else str(c) for c in cells))
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "200"))
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)
