"""Decides the words of `reflexd webhooks`: endpoints, signing secrets, tests, the delivery log and replay."""

from __future__ import annotations

from pathlib import Path

import click

from reflexd.terminal import call_admin, config_options, json_option, print_json, print_table

ALL_OF_JOBS = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")


@click.group()
def webhooks() -> None:
    """Webhooks of all tenants: who is told of jobs and batches that end, and what was sent."""


@webhooks.command("list")
@config_options
@json_option
def webhooks_list(data_dir: str | None, config_file: Path | None, as_json: bool) -> None:
    """List endpoints, with the reason where one is disabled."""
    rows = call_admin(data_dir, config_file, "webhooks.list")
    print_table(rows, ["id", "tenant", "name", "url", "event_types", "disabled_reason"], as_json)


@webhooks.command("create")
@config_options
@click.argument("tenant")
@click.argument("url")
@click.option("--name", default="default", show_default=True)
@click.option("--event", "events", multiple=True, help="An event type; may be repeated. [default: those of jobs]")
def webhooks_create(
    data_dir: str | None, config_file: Path | None, tenant: str, url: str, name: str, events: tuple[str, ...]
) -> None:
    """Add an endpoint to TENANT; its id goes to stderr, and the tenant's signing secret alone to stdout."""
    given = list(events or ALL_OF_JOBS)
    row = call_admin(data_dir, config_file, "webhooks.create", tenant=tenant, name=name, url=url, event_types=given)
    click.echo(f"added {row['id']}; the secret that signs its webhooks:", err=True)
    click.echo(row["signing_secret"])


@webhooks.command("update")
@config_options
@click.argument("endpoint_id")
@click.option("--name")
@click.option("--url", help="What still waits to be sent goes there, too.")
@click.option("--event", "events", multiple=True, help="An event type; may be repeated. They replace all it had.")
def webhooks_update(
    data_dir: str | None,
    config_file: Path | None,
    endpoint_id: str,
    name: str | None,
    url: str | None,
    events: tuple[str, ...],
) -> None:
    """Change an endpoint; one that was disabled is used again."""
    given = {"name": name, "url": url, "event_types": list(events) or None}
    change = {field: value for field, value in given.items() if value is not None}
    if not change:
        raise click.UsageError("nothing is to change: give --name, --url or --event")
    row = call_admin(data_dir, config_file, "webhooks.update", endpoint_id=endpoint_id, change=change)
    click.echo(f"updated {row['id']}")


@webhooks.command("enable")
@config_options
@click.argument("endpoint_id")
def webhooks_enable(data_dir: str | None, config_file: Path | None, endpoint_id: str) -> None:
    """Let an endpoint be used again that was disabled because it answered 410."""
    click.echo(f"enabled {call_admin(data_dir, config_file, 'webhooks.enable', endpoint_id=endpoint_id)['id']}")


@webhooks.command("delete")
@config_options
@click.argument("endpoint_id")
def webhooks_delete(data_dir: str | None, config_file: Path | None, endpoint_id: str) -> None:
    """Remove an endpoint; what still waits to be sent to it is given up."""
    click.echo(f"deleted {call_admin(data_dir, config_file, 'webhooks.delete', endpoint_id=endpoint_id)['id']}")


@webhooks.command("secret")
@config_options
@click.argument("tenant")
def webhooks_secret(data_dir: str | None, config_file: Path | None, tenant: str) -> None:
    """Print the secret that signs all webhooks of TENANT, alone on stdout; it is made when it is first asked for."""
    click.echo(call_admin(data_dir, config_file, "webhooks.secret", tenant=tenant))


@webhooks.command("rotate")
@config_options
@click.argument("tenant")
@click.option("--keep-old", is_flag=True, help="Sign with the old secret too, for 24 hours.")
def webhooks_rotate(data_dir: str | None, config_file: Path | None, tenant: str, keep_old: bool) -> None:
    """Give TENANT a new signing secret and print it, alone on stdout."""
    click.echo(call_admin(data_dir, config_file, "webhooks.rotate", tenant=tenant, keep_old=keep_old))


@webhooks.command("test")
@config_options
@click.argument("endpoint_id")
@click.option("--event", default=ALL_OF_JOBS[0], show_default=True, help="The event type of the sample.")
def webhooks_test(data_dir: str | None, config_file: Path | None, endpoint_id: str, event: str) -> None:
    """Send a sample event to an endpoint and print the status that it answers."""
    status = call_admin(data_dir, config_file, "webhooks.test", endpoint_id=endpoint_id, event_type=event)
    click.echo(status)
    if not 200 <= status < 300:
        raise click.ClickException("only a status of 200 to 299 counts as delivered")


@webhooks.command("deliveries")
@config_options
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--tenant", help="Only those of this tenant, by its name or id.")
@click.option("--endpoint", "endpoint_id", help="Only those to this endpoint.")
@click.option("--object", "object_id", help="Only those that tell of this job or batch.")
@click.option("--status", type=click.Choice(["pending", "delivered", "failed"]))
@json_option
def webhooks_deliveries(
    data_dir: str | None,
    config_file: Path | None,
    limit: int,
    as_json: bool,
    **where: str | None,
) -> None:
    """List the newest deliveries and what became of them."""
    rows = call_admin(data_dir, config_file, "webhooks.deliveries", limit=limit, **where)
    print_table(
        rows, ["id", "status", "attempts", "last_status", "object_id", "event_type", "url", "last_error"], as_json
    )


@webhooks.command("replay")
@config_options
@click.argument("delivery_id")
@json_option
def webhooks_replay(data_dir: str | None, config_file: Path | None, delivery_id: str, as_json: bool) -> None:
    """Send a delivery again, with the same webhook-id and body."""
    row = call_admin(data_dir, config_file, "webhooks.replay", delivery_id=delivery_id)
    if as_json:
        print_json(row)
        return
    click.echo(f"{row['id']} is {row['status']}")
