"""`heartbeat`: which servers can be used; what a dead one was to do is released at once."""

from __future__ import annotations

from collections.abc import Generator

from cftools.jobs.alive import check_heartbeats
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import Unreachable
from cftools.model.rows import End, Row


def run(job: Job) -> Generator[Row, None, None]:
    """A `heartbeat` row for each server. Raises Unreachable, after the rows, when not one server answered."""
    yield job.begin([])
    checked = check_heartbeats(job)
    yield from checked.heartbeats
    for task in checked.released:
        row = task.copy
        job.say(f"copy of {names.display(row.name)} from {row.source} to {row.destination} released")
    failed, asked = checked.failed, len(checked.heartbeats)
    yield End(job.command, True, {"heartbeat": asked, "failed": len(failed), "released": len(checked.released)})
    if failed and len(failed) == asked:
        raise Unreachable("no server answered")
