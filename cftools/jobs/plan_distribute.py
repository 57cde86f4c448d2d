"""`plan-distribute`: which copies to make, best first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from cftools.jobs.gather import Facts, Given, gather
from cftools.jobs.job import Job
from cftools.jobs.recovery import live_tasks
from cftools.model.rows import Copy, End, Row
from cftools.plans.distribute import plan_copies
from cftools.plans.values import CopyPolicy, Plan, Running
from cftools.state import tasks


def run(job: Job, given: Given, limit: int | None) -> Iterator[Row]:
    """The `copy` rows of a plan, and in `end` what was refused, by reason."""
    given.check()
    facts = gather(job, given)
    yield job.begin(facts.inputs)
    plan = make(job, facts, (), limit)
    yield from plan.rows
    for note in plan.notes:
        job.detail(note)
    yield End(job.command, facts.complete, {"copy": len(plan.rows)}, facts.skipped, plan.refused)


def make(
    job: Job, facts: Facts, done: Sequence[Running], limit: int | None, unusable: frozenset[str] = frozenset()
) -> Plan[Copy]:
    """Plans copies around what runs now in any process, around ``done`` (what this run has finished since the facts
    were gathered), and without the sources in ``unusable``."""
    running = [
        Running(task.copy.name, task.copy.size, task.copy.source, task.copy.destination, task.state)
        for task in live_tasks(job)
        if task.state in ("ready", "working")
    ]
    keys = job.config.distribute
    policy = CopyPolicy(job.config.evict.target_percent, keys.spread, tasks.cooling(job.database, time.time()))
    busy = [Running("", 0, source, "", "working") for source in unusable]
    return plan_copies(facts.node, policy, [*running, *done, *busy], limit)
