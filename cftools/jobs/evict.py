"""`evict`: keep the disks of the destinations under their limit."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from cftools.jobs import deletion
from cftools.jobs.gather import Facts
from cftools.jobs.job import Job
from cftools.model.rows import Delete, Row
from cftools.plans.evict import plan_evict
from cftools.plans.values import EvictPolicy, Plan
from cftools.state import journal


def run(job: Job, options: deletion.Options) -> Generator[Row, None, None]:
    """See `cftools.jobs.deletion.run`."""
    return deletion.run(job, options, deletion.Kind("evict", "disk", make, wants_hot=True))


def make(job: Job, facts: Facts, taken: Sequence[Delete] = ()) -> Plan[Delete]:
    """The plan for these facts; ``taken``: what dedup deletes in the same cycle.

    What an earlier run asked to be deleted and could not settle may go as well: it is not evicted a second time.
    """
    keys = job.config.evict
    unsettled = [Delete(row.server, row.name, row.size, "disk") for row in journal.unsettled_deletes(job.database)]
    arrivals = journal.arrivals(job.database, job.now() - keys.min_residency, job.now())
    policy = EvictPolicy(keys.limit_percent, keys.target_percent, keys.min_residency)
    plan = plan_evict(facts.node, policy, [*taken, *unsettled], arrivals)
    for note in plan.notes:
        job.detail(f"evict: {note}")
    return plan
