"""`plan-distribute`: which copies to make, best first."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import msgspec

from cftools.jobs.gather import Facts, Given, gather
from cftools.jobs.job import Job
from cftools.jobs.recovery import live_tasks
from cftools.model.rows import Copy, End, Row
from cftools.plans.distribute import plan_copies
from cftools.plans.values import CopyPolicy, Plan, PlanServer, Running
from cftools.state import tasks


def run(job: Job, given: Given, limit: int | None) -> Generator[Row, None, None]:
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
    last = tasks.last_pair(job.database)
    cooling = tasks.cooling(job.database, time.time(), keys.cooldown, keys.cooldown_limit)
    policy = CopyPolicy(job.config.evict.target_percent, keys.spread, cooling, last.destination)
    node = msgspec.structs.replace(facts.node, servers=_after(facts.node.servers, last.source))
    busy = [Running("", 0, source, "", "working") for source in unusable]
    return plan_copies(node, policy, [*running, *done, *busy], limit)


def _after(servers: tuple[PlanServer, ...], source: str) -> tuple[PlanServer, ...]:
    """The servers with the source after ``source`` first: small plans, too, use the sources in turn."""
    sources = [server for server in servers if server.role == "source"]
    others = [server for server in servers if server.role != "source"]
    turn = next((place + 1 for place, server in enumerate(sources) if server.name == source), 0)
    return (*sources[turn:], *sources[:turn], *others)
