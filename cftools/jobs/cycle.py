"""`cycle`: the main job of a node in one process, its facts read once.

heartbeat → inventory → dedup → evict → plan-distribute → distribute. Deletions that cannot be made (an incomplete
history, a broken guard, somebody else at it) do not hold the copies up; the cycle ends with their exit code.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import msgspec
import polars as pl

from cftools.jobs import dedup, deletion, distribute, evict, plan_distribute
from cftools.jobs.alive import check_heartbeats
from cftools.jobs.deletion import Tally
from cftools.jobs.gather import Facts, Given, gather, require_complete
from cftools.jobs.job import Job
from cftools.jobs.recovery import settle_dead_tasks
from cftools.model.errors import GuardRefused, InputUnusable, LockHeld
from cftools.model.rows import Delete, End, Row
from cftools.plans.values import Plan


class Options(NamedTuple):
    """``apply``: change something. ``seconds``: no copy starts later than that after the first, or None."""

    apply: bool = False
    seconds: float | None = None
    override: tuple[str, ...] = ()


def run(job: Job, options: Options) -> Generator[Row, None, None]:
    """Heartbeat and server rows, then the rows of dedup, evict and distribute, each with its outcomes.

    Raises, after everything else was done, what kept deletions from being made.
    """
    tally = Tally("delete", "copy", *(["outcome"] if options.apply else []))
    faults: list[GuardRefused | InputUnusable | LockHeld] = []
    refused: dict[str, int] = {}
    with deletion.only_one(job, "cycle", apply=options.apply):
        if options.apply:
            deletion.settle_open(job)
        checked = check_heartbeats(job)
        facts = gather(job, Given(), silent=checked.failed)
        yield job.begin(facts.inputs)
        yield from checked.heartbeats
        yield from facts.inventory.servers.values()
        taken: list[Delete] = []
        freed: list[Delete] = []
        for command in ("dedup", "evict"):
            try:
                require_complete(facts)
                plan = dedup.make(job, facts) if command == "dedup" else evict.make(job, facts, taken)
                refused |= {f"{command}: {reason}": count for reason, count in plan.refused.items()}
                step = Step(command, facts, plan)
                yield from _delete(job, options, step, tally)
                taken += step.taken
                freed += step.freed
            except (GuardRefused, InputUnusable, LockHeld) as fault:
                faults.append(fault)
        facts = without(facts, freed)
        if options.apply:
            settle_dead_tasks(job)
            supply = distribute.supply_from_facts(job, facts)
            yield from tally.count(distribute.carry_out(job, supply, supply.allowed, options.seconds))
            left = supply.refused
        else:
            copies = plan_distribute.make(job, facts, (), None)
            yield from tally.count(copies.rows)
            left = copies.refused
        refused |= {f"distribute: {reason}": count for reason, count in left.items()}
        yield End(job.command, facts.complete and not faults, dict(tally.counts), facts.skipped, refused)
    for other in faults[1:]:
        if str(other) != str(faults[0]):
            job.say(str(other))
    if faults:
        raise faults[0]


class Step:
    """One plan of deletions and what becomes of it: ``taken`` rows are, or may be, deleted; ``freed`` ones are."""

    def __init__(self, command: str, facts: Facts, plan: Plan[Delete]) -> None:
        self.command, self.facts, self.plan = command, facts, plan
        self.taken: list[Delete] = []
        self.freed: list[Delete] = []


def _delete(job: Job, options: Options, step: Step, tally: Tally) -> Iterator[Row]:
    rows, ground = step.plan.rows, deletion.ground_of(step.facts)
    yield from tally.count(rows)
    if not options.apply:
        deletion.warn(job, rows, ground)
        step.taken = step.freed = rows
        return
    states: dict[tuple[str, str], str] = {}
    with deletion.only_one(job, step.command, apply=True):
        for outcome in tally.count(deletion.carry_out(job, rows, ground, options.override)):
            states[outcome.server, outcome.name] = outcome.state
            yield outcome
    step.taken = [row for row in rows if states.get((row.server, row.name), "refused") != "refused"]
    step.freed = [row for row in rows if states.get((row.server, row.name)) in ("done", "already")]


def without(facts: Facts, gone: Sequence[Delete]) -> Facts:
    """The facts after these deletions: the holdings are gone and their bytes free."""
    if not gone:
        return facts
    holdings = facts.node.holdings
    deleted = pl.DataFrame(
        {"server": [row.server for row in gone], "name": [row.name for row in gone]},
        schema={"server": holdings.schema["server"], "name": pl.String},
    )
    freed = holdings.join(deleted, on=["server", "name"], how="semi").group_by("server").agg(pl.col("size").sum())
    bytes_free: dict[str, int] = {str(server): int(size) for server, size in freed.iter_rows()}
    servers = tuple(
        msgspec.structs.replace(
            server,
            used=server.used - bytes_free.get(server.name, 0),
            available=server.available + bytes_free.get(server.name, 0),
        )
        for server in facts.node.servers
    )
    left = holdings.join(deleted, on=["server", "name"], how="anti")
    return facts._replace(node=msgspec.structs.replace(facts.node, holdings=left, servers=servers))
