"""Decides the command line: its words, its exit codes, and that `--help` imports neither litestar nor torch."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from reflexd import __version__
from reflexd.apply_verbs import apply
from reflexd.backbone_verbs import backbones
from reflexd.config import load_config
from reflexd.errors import ServerUnreachable, StartupError
from reflexd.llm_verbs import llm
from reflexd.terminal import call_admin, config_options, json_option, print_json, print_table, read_config
from reflexd.webhook_verbs import webhooks


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
    config = read_config(data_dir, config_file, {"http.host": host, "http.port": port})
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
        print_json(answer)
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
    rows = call_admin(data_dir, config_file, "jobs.list", limit=limit)
    print_table(rows, ["id", "status", "suffix", "source", "trained_examples", "created_at"], as_json)


@jobs.command("show")
@config_options
@click.argument("job_id")
@json_option
def jobs_show(data_dir: str | None, config_file: Path | None, job_id: str, as_json: bool) -> None:
    """Show one job."""
    row = call_admin(data_dir, config_file, "jobs.show", job_id=job_id)
    if as_json:
        print_json(row)
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
        ended = call_admin(data_dir, config_file, "jobs.show", job_id=job_id)["finished_at"] is not None
        rows = call_admin(data_dir, config_file, "jobs.logs", job_id=job_id, after=after)
        for row in rows:
            after = row["n"]
            if as_json:
                print_json(row, indent=0)
            else:
                at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["created_at"]))
                click.echo(f"{at}  {row['level']:5}  {row['message']}")
        if rows:
            continue  # there may be more pages
        if ended or not follow:
            return
        time.sleep(0.5)


@jobs.command("report")
@config_options
@click.argument("job_id")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [default: stdout]")
def jobs_report(data_dir: str | None, config_file: Path | None, job_id: str, out: Path | None) -> None:
    """Make one HTML page of what is known of a job: its score, its errors, warnings on its rows."""
    from reflexd import report_page

    found = call_admin(data_dir, config_file, "jobs.report", job_id=job_id)
    page = report_page.render(found["job"], found["events"], found["manifest"])
    if out is None:
        click.echo(page, nl=False)
        return
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror or error}") from error


@jobs.command("cancel")
@config_options
@click.argument("job_id")
def jobs_cancel(data_dir: str | None, config_file: Path | None, job_id: str) -> None:
    """Cancel a job that has not ended."""
    click.echo(call_admin(data_dir, config_file, "jobs.cancel", job_id=job_id)["status"])


@cli.group()
def models() -> None:
    """Trained models of all tenants."""


@models.command("list")
@config_options
@json_option
def models_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List served names with their latest version."""
    rows = call_admin(data_dir, config_file, "models.list")
    print_table(rows, ["name", "version", "labels", "backbone", "precision", "job_id"], as_json)


cli.add_command(apply)
cli.add_command(backbones)
cli.add_command(llm)
cli.add_command(webhooks)


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
    click.echo(call_admin(data_dir, config_file, "keys.create", name=name, tenant=tenant, scopes=given))


@keys.command("list")
@config_options
@json_option
def keys_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List keys by their first characters."""
    rows = call_admin(data_dir, config_file, "keys.list")
    print_table(rows, ["name", "tenant", "hint", "scopes", "revoked_at", "id"], as_json)


@keys.command("revoke")
@config_options
@click.argument("key")
def keys_revoke(data_dir: str | None, config_file: Path | None, key: str) -> None:
    """Revoke the key with this name, id or first characters; its tenant's jobs and models stay."""
    row = call_admin(data_dir, config_file, "keys.revoke", which=key)
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

    rows = PluginManager(read_config(data_dir, config_file).plugins.allow).listing()
    print_table(rows, ["name", "from", "hooks"], as_json)


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
    for section in ("llm", "apply"):
        if sections[section]["api_key"]:
            sections[section]["api_key"] = "(hidden)"
    rows = [
        {"key": path, "value": sections[path.partition(".")[0]][path.partition(".")[2]], "origin": where}
        for path, where in origins.items()
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        value = msgspec.json.encode(row["value"]).decode()
        click.echo(f"{row['key']:32} = {value}" + (f"    # {row['origin']}" if origin else ""))
