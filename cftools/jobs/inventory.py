"""`inventory`: what stands where, read live."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from cftools.facts import inventory
from cftools.jobs.job import Job
from cftools.model.errors import Unreachable, UsageFault
from cftools.model.rows import End, Row


def run(job: Job, only: Sequence[str]) -> Generator[Row, None, None]:
    """A `server` row for each server asked (all, when ``only`` is empty), then its `holding` rows.

    Raises UsageFault for an unknown name, Unreachable (after the rows) when not one server could be listed.
    """
    wanted = [server for server in [*job.sources, *job.destinations] if not only or server.name in only]
    unknown = set(only) - {server.name for server in wanted}
    if unknown:
        known = ", ".join(server.name for server in [*job.sources, *job.destinations])
        raise UsageFault(f"no server {sorted(unknown)[0]!r} in the config; there are: {known}")
    yield job.begin([])
    taken = inventory.take(job.fleet, wanted, job.config.guards.mount_marker, time.time())
    yield from taken.servers.values()
    yield from inventory.holding_rows(taken, job.fleet.servers)
    failed = [row for row in taken.servers.values() if row.state != "ok"]
    counts = {"server": len(taken.servers), "holding": taken.holdings.height, "failed": len(failed)}
    yield End(job.command, not failed, counts)
    if len(failed) == len(taken.servers):
        raise Unreachable("no server could be listed")
