"""`dedup`: of a file that several destinations hold, keep one copy."""

from __future__ import annotations

from collections.abc import Generator

from cftools.jobs import deletion
from cftools.jobs.gather import Facts
from cftools.jobs.job import Job
from cftools.model.rows import Delete, Row
from cftools.plans.dedup import plan_dedup
from cftools.plans.values import Plan


def run(job: Job, options: deletion.Options) -> Generator[Row, None, None]:
    """See `cftools.jobs.deletion.run`."""
    return deletion.run(job, options, deletion.Kind("dedup", "duplicate", make, wants_hot=False))


def make(job: Job, facts: Facts) -> Plan[Delete]:
    """The plan for these facts."""
    plan = plan_dedup(facts.node, job.config.dedup.deletes_per_file)
    for note in plan.notes:
        job.detail(f"dedup: {note}")
    return plan
