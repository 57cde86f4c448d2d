"""Heartbeats as jobs use them: asked, remembered, and what dead servers were to do given free. Light to import."""

from __future__ import annotations

import time
from typing import NamedTuple

from cftools.facts import heartbeat
from cftools.jobs.job import Job
from cftools.model.rows import Heartbeat
from cftools.remote.transport import RemoteFault
from cftools.state import seen, tasks


class Checked(NamedTuple):
    """Heartbeats, and the tasks that were released because one of their servers failed its own."""

    heartbeats: list[Heartbeat]
    released: list[tasks.Task]

    @property
    def failed(self) -> list[str]:
        """The servers that did not answer."""
        return [one.server for one in self.heartbeats if not one.ok]


def check_heartbeats(job: Job, names: list[str] | None = None) -> Checked:
    """Asks these servers (all, without names) side by side, remembers the answers, and releases at once what the dead
    ones were to do."""
    wanted = {one.name: one for one in [*job.sources, *job.destinations] if names is None or one.name in names}
    timeout = job.config.heartbeat.timeout
    answers = job.fleet.each(wanted, lambda transport: heartbeat.check(transport, wanted[transport.server], timeout))
    found = [answer for answer in answers.values() if not isinstance(answer, RemoteFault)]
    seen.remember_heartbeats(job.database, found, time.time())
    failed = [one.server for one in found if not one.ok]
    return Checked(found, tasks.release(job.database, failed, "its server does not answer", time.time()))
