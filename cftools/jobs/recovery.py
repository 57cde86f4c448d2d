"""What processes that died left behind: tasks nobody works on any more."""

from __future__ import annotations

import time

from cftools.facts import presence
from cftools.jobs.job import Job
from cftools.model.errors import LockHeld
from cftools.remote.transport import RemoteFault
from cftools.state import tasks
from cftools.state.locks import run_lock, source_lock
from cftools.state.tasks import Task


def live_tasks(job: Job) -> list[Task]:
    """The unfinished tasks that a living process works on, or will."""
    held = {holder.lock for holder in job.locks.held()}
    return [
        task
        for task in tasks.unfinished(job.database)
        if (source_lock(task.copy.source) if task.state == "working" else run_lock(task.run)) in held
    ]


def settle_dead_tasks(job: Job) -> None:
    """Ends the tasks of dead processes: ready ones, and the working ones by looking at their destinations. A source
    whose lock is held is alive and left alone."""
    tasks.drop_ready(job.database, lambda run: job.locks.holder(run_lock(run)) is not None, time.time())
    job.locks.clear(run_lock("*"))
    for source in sorted({task.copy.source for task in tasks.unfinished(job.database) if task.state == "working"}):
        try:
            with job.locks.hold(source_lock(source)):
                settle_source(job, source)
        except LockHeld:
            continue


def settle_source(job: Job, source: str) -> None:
    """Ends the working tasks of a source; call it holding the source's lock, where they are those of dead processes."""
    for task in tasks.working_of(job.database, source):
        _settle(job, task)


def _settle(job: Job, task: Task) -> None:
    row = task.copy
    settings = next((server for server in job.destinations if server.name == row.destination), None)
    detail = "its run died; what arrived is kept"
    found = None
    if settings is not None:
        try:
            found = presence.see(job.fleet.transport(row.destination), settings.roots[0], [row.name]).get(row.name)
        except RemoteFault as fault:
            detail = f"its run died; whether the file arrived is not known: {fault.detail}"
    if found and found.regular and found.size == row.size:
        tasks.finish(job.database, task, "done", "its run died; the file is there", time.time())
    else:
        tasks.finish(job.database, task, "failed", detail, time.time())
