"""Commands that tell what is: parse-history, hot-files, inventory, heartbeat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cftools.cli.settings import duration, moment, opened_job, settings_of, show, stop_flag

AT = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="Run as of this moment (ISO 8601 or epoch seconds).")
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("parse-history")(parse_history)
    app.command("hot-files")(hot_files)
    app.command("inventory")(inventory)
    app.command("heartbeat")(heartbeat)


def parse_history(
    context: typer.Context,
    history: Annotated[Path | None, typer.Option(help="The history (default: inputs.hitcount_history).")] = None,
    grades: Annotated[Path | None, typer.Option(help="The grades (default: inputs.grade_info).")] = None,
) -> None:
    """Join the hit-count history with the grades: one `file` row a file, best rank first.

    Example: cftools parse-history | head
    """
    from cftools.cli.output import Writer
    from cftools.jobs import parse_history as job

    settings = settings_of(context)
    stop_flag()
    found = job.read(settings.config(), history, grades)
    for line in job.remarks(found):
        settings.detail(line)
    writer = Writer(settings)
    if writer.format == "ndjson":
        writer.write_files(job.begin(found), found, job.end(found))
    else:
        show(context, job.rows(found))


def hot_files(
    context: typer.Context,
    at: AT = None,
    window: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How far back (default: hot_files.window).")
    ] = None,
    min_hits: Annotated[
        int | None, typer.Option(min=1, help="Hits that make a file hot (default: hot_files.min_hits).")
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="Folder of the event logs (default: inputs.event_log_dir).")
    ] = None,
) -> None:
    """Count hits in the load balancer's event logs: one `hot` row a hot file, most hits first.

    Example: cftools hot-files --at 1527953525 --window 10m --min-hits 5
    """
    from cftools.jobs import hot_files as job

    settings = settings_of(context)
    stop_flag()
    options = job.Options(moment(at), duration("--window", window), min_hits, log_dir)
    show(context, job.run(settings.config(), options, settings.detail))


def inventory(
    context: typer.Context,
    server: Annotated[list[str] | None, typer.Option(help="Only this server; may be given again.")] = None,
) -> None:
    """List every source and destination over SSH: `server` and `holding` rows.

    Example: cftools inventory --server dst1
    """
    from cftools.jobs import inventory as job

    with opened_job(context, "inventory") as opened:
        show(context, job.run(opened, server or []))


def heartbeat(context: typer.Context) -> None:
    """Check every server; the others remember the answer, and what a dead one was to do is released.

    Example: cftools heartbeat
    """
    from cftools.jobs import heartbeat as job

    with opened_job(context, "heartbeat") as opened:
        show(context, job.run(opened))
