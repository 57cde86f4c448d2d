"""bulk-delete: the commands that act on servers."""

from __future__ import annotations

from typing import Annotated

import typer

from cftools.cli.settings import duration, moment, opened_job, show, unless_busy


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("drain")(drain)
    app.command("restore")(restore)
    app.command("empty-trash")(empty_trash)


def drain(
    context: typer.Context,
    seconds: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Go on so long (default: until nothing is due)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be asked of each server.")] = False,
) -> None:
    """Delete what was requested: a `partition` row a call, an `outcome` row for each file that could not be deleted.

    Example: cftools bulk-delete drain --for 55s
    """
    from cftools.jobs import bulk_drain as job

    limit = duration("--for", seconds)
    with opened_job(context, "bulk-delete drain") as opened:
        show(context, job.preview(opened) if dry_run else job.run(opened, limit))


def restore(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The request's key.")],
) -> None:
    """Bring the files of a request back from the trash; what was not deleted yet stays. Overwrites nothing.

    Example: cftools bulk-delete restore album-7
    """
    from cftools.jobs import bulk_trash as job

    with opened_job(context, "bulk-delete restore") as opened:
        show(context, job.restore(opened, key))


def empty_trash(
    context: typer.Context,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Run as of this moment.")] = None,
    if_free: Annotated[bool, typer.Option("--if-free", help="End quietly when another copy runs (for cron).")] = False,
) -> None:
    """Delete for good what has lain in the trash longer than its target says.

    Example: cftools bulk-delete empty-trash
    """
    from cftools.jobs import bulk_trash as job

    with unless_busy(context, if_free), opened_job(context, "bulk-delete empty-trash", moment(at)) as opened:
        show(context, job.empty(opened))
