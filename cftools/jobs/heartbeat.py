"""`heartbeat`: which servers can be used; what a dead one was to do is released at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cftools.jobs.gather import check_heartbeats
from cftools.jobs.job import Job
from cftools.model.errors import Unreachable
from cftools.model.rows import End, Row
from cftools.state import tasks


def run(job: Job) -> Iterator[Row]:
    """A `heartbeat` row for each server. Raises Unreachable, after the rows, when not one server answered."""
    yield job.begin([])
    found = check_heartbeats(job)
    yield from found
    failed = [one.server for one in found if not one.ok]
    released = tasks.release(job.database, failed, "its server does not answer", time.time())
    for task in released:
        job.say(f"copy of {task.copy.name} from {task.copy.source} to {task.copy.destination} released")
    yield End(job.command, True, {"heartbeat": len(found), "failed": len(failed), "released": len(released)})
    if failed and len(failed) == len(found):
        raise Unreachable("no server answered")
