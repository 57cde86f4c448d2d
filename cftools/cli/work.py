"""Commands that plan and act: plan-distribute, distribute, dedup, evict, cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cftools.cli.settings import duration, moment, opened_job, show, unless_busy

if TYPE_CHECKING:
    from cftools.jobs.gather import Given

AT = Annotated[
    str | None, typer.Option("--at", metavar="TIME", help="Run as of this moment (ISO 8601 or epoch seconds).")
]
FILES = Annotated[
    str | None,
    typer.Option(
        "--files", metavar="FILE", help="`file` rows of parse-history; - is stdin (default: read the inputs)."
    ),
]
HOT = Annotated[
    str | None, typer.Option("--hot", metavar="FILE", help="`hot` rows of hot-files (default: read the logs).")
]
INVENTORY = Annotated[
    str | None, typer.Option("--inventory", metavar="FILE", help="Rows of inventory (default: list the servers).")
]
APPLY = Annotated[bool, typer.Option("--apply", help="Do it. Without this nothing is changed anywhere.")]
OVERRIDE = Annotated[
    list[str] | None,
    typer.Option("--override", metavar="GUARD", help="Pass over this guard in this run; may be given again."),
]
IF_FREE = Annotated[
    bool, typer.Option("--if-free", help="When the same job runs already, end quietly with 0 instead of 75 (for cron).")
]
FOR = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="Begin no copy later than this; the last ones are finished."),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("plan-distribute")(plan_distribute)
    app.command("distribute")(distribute)
    app.command("dedup")(dedup)
    app.command("evict")(evict)
    app.command("cycle")(cycle)


def _given(files: str | None, hot: str | None, inventory: str | None) -> Given:
    from cftools.jobs.gather import Given

    return Given(files, hot, inventory)


def plan_distribute(
    context: typer.Context,
    limit: Annotated[int | None, typer.Option(min=0, help="At most that many copies.")] = None,
    files: FILES = None,
    hot: HOT = None,
    inventory: INVENTORY = None,
    at: AT = None,
) -> None:
    """Plan copies: hot files first, then by rank, each to a destination with room. `copy` rows, best first.

    Example: cftools plan-distribute --limit 20
    """
    from cftools.jobs import plan_distribute as job

    with opened_job(context, "plan-distribute", moment(at)) as opened:
        show(context, job.run(opened, _given(files, hot, inventory), limit))


def distribute(
    context: typer.Context,
    plan: Annotated[
        str | None, typer.Argument(metavar="[PLAN | -]", help="`copy` rows; without them it plans for itself.")
    ] = None,
    seconds: FOR = None,
    source: Annotated[list[str] | None, typer.Option(help="Only copies from this source; may be given again.")] = None,
    if_free: IF_FREE = False,
    files: FILES = None,
    hot: HOT = None,
    inventory: INVENTORY = None,
    at: AT = None,
) -> None:
    """Carry copies out, one at a time a source; without PLAN plan again and again until nothing is left.

    Example: cftools distribute --for 55s
    """
    from cftools.jobs import distribute as job

    limit = duration("--for", seconds)
    with unless_busy(context, if_free), opened_job(context, "distribute", moment(at)) as opened:
        options = job.Options(_given(files, hot, inventory), plan, limit, tuple(source or ()))
        show(context, job.run(opened, options))


def dedup(
    context: typer.Context,
    plan: Annotated[
        str | None, typer.Argument(metavar="[PLAN | -]", help="`delete` rows; without them it plans for itself.")
    ] = None,
    apply: APPLY = False,
    override: OVERRIDE = None,
    if_free: IF_FREE = False,
    files: FILES = None,
    inventory: INVENTORY = None,
    at: AT = None,
) -> None:
    """Keep one copy of each file: delete the others, from the lowest address up. Plans only, without --apply.

    Example: cftools dedup --apply
    """
    from cftools.jobs import dedup as job
    from cftools.jobs.deletion import Options

    with unless_busy(context, if_free), opened_job(context, "dedup", moment(at)) as opened:
        show(context, job.run(opened, Options(_given(files, None, inventory), plan, apply, tuple(override or ()))))


def evict(
    context: typer.Context,
    plan: Annotated[
        str | None, typer.Argument(metavar="[PLAN | -]", help="`delete` rows; without them it plans for itself.")
    ] = None,
    apply: APPLY = False,
    override: OVERRIDE = None,
    if_free: IF_FREE = False,
    files: FILES = None,
    hot: HOT = None,
    inventory: INVENTORY = None,
    at: AT = None,
) -> None:
    """Keep disks under their limit: delete the lowest ranked files where it is exceeded. Plans only, without --apply.

    Example: cftools evict --apply
    """
    from cftools.jobs import evict as job
    from cftools.jobs.deletion import Options

    with unless_busy(context, if_free), opened_job(context, "evict", moment(at)) as opened:
        show(context, job.run(opened, Options(_given(files, hot, inventory), plan, apply, tuple(override or ()))))


def cycle(
    context: typer.Context,
    apply: APPLY = False,
    seconds: FOR = None,
    override: OVERRIDE = None,
    if_free: IF_FREE = False,
    at: AT = None,
) -> None:
    """Run the main job in one process: heartbeat, inventory, dedup, evict, plan-distribute, distribute.

    Example: cftools cycle --apply --for 55s
    """
    from cftools.jobs import cycle as job

    limit = duration("--for", seconds)
    with unless_busy(context, if_free), opened_job(context, "cycle", moment(at)) as opened:
        show(context, job.run(opened, job.Options(apply, limit, tuple(override or ()))))
