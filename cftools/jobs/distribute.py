"""`distribute`: carries copies out, one at a time a source, and goes straight on to the next."""

from __future__ import annotations

import queue
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from cftools.jobs.couriers import Couriers
from cftools.jobs.deletion import Tally
from cftools.jobs.gather import Facts, Given
from cftools.jobs.job import Job
from cftools.jobs.recovery import settle_dead_tasks
from cftools.jobs.supply import FromPlan, Planned, Supply
from cftools.model.errors import LockHeld, UsageFault
from cftools.model.rows import Copy, End, Outcome, Row
from cftools.state import tasks
from cftools.state.locks import run_lock, source_lock

LOOK_SECONDS = 0.2


class Options(NamedTuple):
    """``plan``: a stream of `copy` rows, or None to plan for itself; ``seconds``: no copy starts later, or None;
    ``sources``: only these, or all when empty."""

    given: Given = Given()
    plan: str | None = None
    seconds: float | None = None
    sources: tuple[str, ...] = ()


def run(job: Job, options: Options) -> Generator[Row, None, None]:
    """A `copy` row for each copy as it is accepted, and an `outcome` row as it ends.

    Raises LockHeld when every source it may use is busy with another process; Stopped after a signal, when the copies
    under way are given up in order.
    """
    options.given.check(options.plan)
    allowed = _allowed(job, options.sources)
    _require_a_free_source(job, allowed)
    settle_dead_tasks(job)
    if options.plan is not None:
        supply: Supply = FromPlan(job, options.plan, allowed)
    else:
        supply = Planned(job, options.given, allowed)
    yield job.begin(supply.inputs)
    tally = Tally("copy", "outcome")
    yield from tally.count(carry_out(job, supply, allowed, options.seconds))
    yield End(job.command, supply.complete, dict(tally.counts), supply.skipped, supply.refused)
    if not tally.counts["outcome"] - tally.counts["copy_skipped"]:
        _require_nobody_else(job, allowed, supply.refused, tally.counts["copy_skipped"])


def carry_out(job: Job, supply: Supply, allowed: list[str], seconds: float | None) -> Iterator[Copy | Outcome]:
    """Feeds couriers from the supply until nothing is left, the time is up or a signal arrived, and waits for what is
    under way. A `copy` row comes as each copy is accepted, its outcome as it ends."""
    with ExitStack() as stack:
        stack.enter_context(job.stop.step())  # a signal ends the copies in order, then this block
        # Held as long as this process lives: it tells others that the ready tasks of this run are no orphans.
        stack.enter_context(job.locks.hold(run_lock(job.run), remove=True))
        deadline = None if seconds is None else time.monotonic() + seconds
        couriers = stack.enter_context(Couriers(job, allowed, deadline, tell_unstarted=supply.tell_unstarted))
        while True:
            if not couriers.ending() and couriers.hungry() and supply.may_have_more(couriers):
                accepted = tasks.accept(job.database, job.run, supply.more(couriers), time.time())
                yield from (task.copy for task in accepted)
                couriers.take(accepted)
                supply.accepted(len(accepted))
            try:
                yield couriers.outcomes.get(timeout=LOOK_SECONDS)
                continue
            except queue.Empty:
                couriers.raise_fault()
            if couriers.at_rest() and (couriers.ending() or not supply.may_have_more(couriers)):
                return


def supply_from_facts(job: Job, facts: Facts) -> Planned:
    """What these facts ask for, and what newer ones will; for `cycle`."""
    return Planned(job, Given(), [source.name for source in job.sources], facts)


def _allowed(job: Job, wanted: tuple[str, ...]) -> list[str]:
    names = [source.name for source in job.sources]
    for name in wanted:
        if name not in names:
            raise UsageFault(f"no source {name!r} in the config; there are: {', '.join(names)}")
    return [name for name in names if not wanted or name in wanted]


def _require_nobody_else(job: Job, allowed: list[str], refused: dict[str, int], blocked: int) -> None:
    """A run that did nothing because another one is at it says so. ``blocked``: copies that were not begun.

    Raises LockHeld.
    """
    holders = [holder for name in allowed if (holder := job.locks.holder(source_lock(name)))]
    if holders and (blocked or {"copying", "source-busy"} & refused.keys()):
        raise LockHeld(*holders[0])


def _require_a_free_source(job: Job, allowed: list[str]) -> None:
    holders = [job.locks.holder(source_lock(name)) for name in allowed]
    if all(holders) and holders[0]:
        raise LockHeld(*holders[0])
