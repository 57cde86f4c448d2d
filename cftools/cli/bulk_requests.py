"""bulk-delete: the commands that take requests in and show what became of them."""

from __future__ import annotations

from typing import Annotated

import typer

from cftools.cli.settings import duration, opened_job, settings_of, show

KEY = Annotated[str, typer.Argument(metavar="KEY", help="The request's key.")]
ANY_KEY = Annotated[str, typer.Argument(metavar="[KEY]", help="The request's key (default: all).")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("submit")(submit)
    app.command("collect")(collect)
    app.command("receive")(receive)
    app.command("status")(status)
    app.command("wait")(wait)
    app.command("dead")(dead)
    app.command("retry")(retry)


def submit(
    context: typer.Context,
    request: Annotated[
        str, typer.Option("--request", metavar="KEY", help="Your name for it; sent again it changes nothing.")
    ],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="A target of the config.")],
    file: Annotated[
        str, typer.Argument(metavar="[FILE | -]", help="Names: one a line, JSON rows with `resource`, or a JSON array.")
    ] = "-",
    form: Annotated[str, typer.Option("--input", help="lines, ndjson or json (default: as it begins).")] = "",
    via: Annotated[str, typer.Option("--via", help="state: store it here; broker: publish it there.")] = "state",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it; store nothing.")] = False,
) -> None:
    """Accept a request to delete files; it is durable when this returns, and no server is asked. A `request` row.

    Example: find-files-of-album 7 | cftools bulk-delete submit --request album-7 --target images
    """
    from cftools.jobs import bulk_submit as job

    with opened_job(context, "bulk-delete submit") as opened:
        show(context, job.run(opened, job.Options(file, request, target, form, via, dry_run)))


def collect(
    context: typer.Context,
    source: Annotated[str, typer.Option("--source", metavar="NAME", help="One of bulk_delete.outboxes.")],
) -> None:
    """Take requests from an application's own PostgreSQL table. A `request` row each.

    Example: cftools bulk-delete collect --source shop
    """
    from cftools.jobs import bulk_collect as job

    with opened_job(context, "bulk-delete collect") as opened:
        show(context, job.run(opened, source))


def receive(
    context: typer.Context,
    seconds: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Go on so long (default: until the queue is empty).")
    ] = None,
) -> None:
    """Take requests from the RabbitMQ queue. A `request` row each.

    Example: cftools bulk-delete receive --for 55s
    """
    from cftools.jobs import bulk_receive as job

    limit = duration("--for", seconds)
    with opened_job(context, "bulk-delete receive") as opened:
        show(context, job.run(opened, limit))


def status(context: typer.Context, key: ANY_KEY = "") -> None:
    """Show how far requests are, and what each server has before it.

    Example: cftools bulk-delete status album-7
    """
    from cftools.jobs import bulk_status as job

    with opened_job(context, "bulk-delete status") as opened:
        show(context, job.status(opened, key))


def wait(
    context: typer.Context,
    key: KEY,
    timeout: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait no longer than this.")] = None,
) -> None:
    """Wait until a request is over. Ends with 1 when files were given up on, with 75 when it takes too long.

    Example: cftools bulk-delete wait album-7 --timeout 10m
    """
    from cftools.cli.output import watched_request
    from cftools.jobs import bulk_status as job

    limit = duration("--timeout", timeout)
    with opened_job(context, "bulk-delete wait") as opened, watched_request(settings_of(context)) as seen:
        show(context, job.wait(opened, key, limit, seen))


def dead(context: typer.Context, key: ANY_KEY = "") -> None:
    """List the files that were given up on, with their last error.

    Example: cftools bulk-delete dead album-7
    """
    from cftools.jobs import bulk_status as job

    with opened_job(context, "bulk-delete dead") as opened:
        show(context, job.dead(opened, key))


def retry(context: typer.Context, key: KEY) -> None:
    """Try the files of a request again that were given up on.

    Example: cftools bulk-delete retry album-7
    """
    from cftools.jobs import bulk_status as job

    with opened_job(context, "bulk-delete retry") as opened:
        show(context, job.retry(opened, key))
