"""What dedup and evict share: taking a plan over, guarding it, carrying it out, remembering what was seen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple, TypeVar

from cftools import pipe
from cftools.actions import protocol, settling
from cftools.facts import presence
from cftools.facts.inventory import Inventory
from cftools.jobs.gather import Facts, Given, gather, read_inventory, require_complete
from cftools.jobs.inputs import opened, shown
from cftools.jobs.job import Job
from cftools.jobs.turns import delete_tools
from cftools.model.errors import GuardRefused, InputUnusable, UsageFault
from cftools.model.rows import Copy, Delete, End, Input, Outcome, Reason, Row
from cftools.plans import guards
from cftools.plans.batches import batches
from cftools.plans.known import still_there
from cftools.plans.values import Plan
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal, seen
from cftools.state.locks import DELETION, job_lock


class Options(NamedTuple):
    """``plan``: a stream of `delete` rows, or None to plan for itself. ``override``: guards passed over in this run."""

    given: Given = Given()
    plan: str | None = None
    apply: bool = False
    override: tuple[str, ...] = ()


class Ground(NamedTuple):
    """What a plan of deletions rests on: the inputs it was made from (history and grades first) and what stands where.

    ``history_files``: names in the history, or None when that is not known.
    """

    inputs: Sequence[Input]
    inventory: Inventory
    history_files: int | None


class Kind(NamedTuple):
    """One way to delete: the command, the reason of its rows, its planner, and whether that asks for hot files."""

    command: str
    reason: Reason
    make: Callable[[Job, Facts], Plan[Delete]]
    wants_hot: bool


def run(job: Job, options: Options, kind: Kind) -> Generator[Row, None, None]:
    """The `delete` rows of the plan; with ``apply`` an `outcome` row for each follows.

    Raises InputUnusable when history or grades are incomplete, GuardRefused, LockHeld.
    """
    options.given.check(options.plan)
    tally = Tally("delete", *(["outcome"] if options.apply else []))
    with only_one(job, kind.command, apply=options.apply):
        if options.apply:
            settle_open(job)
        if options.plan is not None:
            rows, ground = read_plan(job, options, kind.reason)
            skipped: dict[str, int] = {}
            refused: dict[str, int] = {}
            yield job.begin(list(ground.inputs))
        else:
            facts = gather(job, options.given, wants_hot=kind.wants_hot)
            require_complete(facts)
            plan = kind.make(job, facts)
            rows, ground, skipped, refused = plan.rows, ground_of(facts), facts.skipped, plan.refused
            yield job.begin(facts.inputs)
        yield from tally.count(rows)
        if options.apply:
            yield from tally.count(carry_out(job, rows, ground, options.override))
        else:
            warn(job, rows, ground)
        yield End(job.command, True, dict(tally.counts), skipped, refused)


def ground_of(facts: Facts) -> Ground:
    """The ground of a plan that was made from facts."""
    without = sum(count for cause, count in facts.files.skipped.items() if cause == "history_without_grade")
    return Ground(facts.files.inputs, facts.inventory, facts.files.frame.height + without)


class GivenPlan(NamedTuple):
    """A plan that was read, and its ground."""

    rows: list[Delete]
    ground: Ground


def read_plan(job: Job, options: Options, reason: Reason) -> GivenPlan:
    """The `delete` rows of a plan. Raises InputUnusable when it is cut off, incomplete, or another command's."""
    assert options.plan is not None
    path = shown(options.plan)
    with opened(options.plan) as stream:
        plan = pipe.read(stream, path, [Delete])
    if not plan.end.complete:
        raise InputUnusable(path, "its end row says that it is incomplete", "nothing is deleted on its word")
    for one in plan.begin.inputs if plan.begin else ():
        if not one.complete:
            raise InputUnusable(path, f"it was made from {one.path}, which was incomplete", "make the plan again")
    if plan.begin is None:
        raise InputUnusable(path, "no begin row, so it is not known what it was made from", "make the plan again")
    rows = [row for row in plan.rows if isinstance(row, Delete)]
    if len(rows) != plan.end.counts.get("delete", len(rows)):
        raise InputUnusable(path, pipe.CUT_OFF, pipe.RUN_AGAIN)
    for row in rows:
        if not 0 <= row.size < 2**63:
            raise InputUnusable(path, f"a row has the size {row.size}", "make the plan again")
        if row.reason != reason:
            raise InputUnusable(
                path, f"a row has the reason {row.reason!r}, not {reason!r}", "give each plan to its own command"
            )
    taken = read_inventory(job, options.given.inventory)
    return GivenPlan(rows, Ground(plan.begin.inputs, taken, None))


def guard(job: Job, rows: Sequence[Delete], ground: Ground, override: Sequence[str]) -> bool:
    """Looks at the whole plan and tells whether what it rests on may be remembered for the next one.

    Raises GuardRefused with one line a broken guard when the plan has rows, UsageFault for an unknown override.
    """
    try:
        checked = guards.check(_that_count(rows, ground), _guard_facts(job, rows, ground), limits_of(job), override)
    except ValueError as fault:
        raise UsageFault(str(fault)) from fault
    for line in checked.overridden:
        job.say(f"overridden guard {line}")
    if rows and checked.broken:
        raise GuardRefused(checked.broken)
    return not checked.broken


def warn(job: Job, rows: Sequence[Delete], ground: Ground) -> None:
    """Says which guards would refuse the plan, for a run that changes nothing."""
    checked = guards.check(_that_count(rows, ground), _guard_facts(job, rows, ground), limits_of(job))
    for line in checked.broken if rows else ():
        job.say(f"with --apply a guard would refuse this plan: {line}")


def _listed(ground: Ground) -> set[str]:
    return {row.server for row in ground.inventory.servers.values() if row.state == "ok"}


def _that_count(rows: Sequence[Delete], ground: Ground) -> list[Delete]:
    """The rows that may delete something: a history that is asked twice repeats those it had."""
    return still_there(ground.inventory.holdings, _listed(ground), rows)


def _standing(rows: Sequence[Delete], ground: Ground) -> tuple[Delete, ...]:
    """The rows that delete something by the inventory."""
    listed = _listed(ground)
    return tuple(row for row in _that_count(rows, ground) if row.server in listed)


def limits_of(job: Job) -> guards.GuardLimits:
    """The limits of the config."""
    keys = job.config.guards
    return guards.GuardLimits(
        keys.max_deletes,
        keys.max_delete_bytes,
        keys.max_delete_percent,
        keys.percent_from,
        keys.max_inventory_shrink_percent,
        keys.max_history_shrink_percent,
        keys.mount_marker,
        job.config.inputs.max_age,
        job.config.dedup.deletes_per_file == "one",
    )


def _markers(job: Job, taken: Inventory) -> Mapping[str, bool | None]:
    """Whether the mount marker stands in the roots of each server; asked now when the inventory was not taken now."""
    marker = job.config.guards.mount_marker
    if taken.live or not marker:
        return taken.marked

    def look(transport: Transport) -> bool:
        roots = job.fleet.servers[transport.server].roots
        return all(marker in presence.see(transport, root, [marker]) for root in roots)

    answers = job.fleet.each(taken.servers, look)
    return {name: None if isinstance(answer, RemoteFault) else answer for name, answer in answers.items()}


def _guard_facts(job: Job, rows: Sequence[Delete], ground: Ground) -> guards.GuardFacts:
    before = seen.inventory(job.database)
    marked = _markers(job, ground.inventory)
    history, grades = _dated(ground, 0, "history"), _dated(ground, 1, "grades")
    last = seen.history(job.database, history.path)
    same_generation = last is not None and last.generation == int(history.generation)
    taken = ground.inventory
    return guards.GuardFacts(
        now=job.now(),
        servers=tuple(
            guards.GuardedServer(row.server, row.files, before.get(row.server), marked.get(row.server))
            for row in taken.servers.values()
        ),
        inputs=(history, grades),
        history_lines=ground.history_files or 0,
        previous_history_lines=last.files if last and ground.history_files is not None else None,
        destinations=frozenset(_destinations(job)),
        previous_destinations=frozenset(last.destinations) if last and same_generation else None,
        acted=tuple(guards.Acted(*one) for one in seen.acted(job.database, history.path)),
        standing=_standing(rows, ground),
    )


def _dated(ground: Ground, place: int, name: str) -> guards.GuardedInput:
    if place < len(ground.inputs):
        one = ground.inputs[place]
        return guards.GuardedInput(name, one.path, one.generation, one.size)
    return guards.GuardedInput(name, "(not named)", 0)


def settle_open(job: Job) -> None:
    """Settles the deletions that earlier runs left open, where that can be done, so that they can be planned anew."""
    if journal.unsettled_deletes(job.database):
        with job.stop.step(), job.locks.wait(DELETION, job.stop.is_set):
            settling.settle_dead_runs(delete_tools(job), {})


def carry_out(job: Job, rows: Sequence[Delete], ground: Ground, override: Sequence[str]) -> Iterator[Outcome]:
    """Guards the plan, carries it out, and remembers what was seen; call it holding the job's lock.

    Raises GuardRefused before anything is deleted, Stopped between two batches.
    """
    with job.stop.step():
        sound = guard(job, rows, ground, override)
        tools = delete_tools(job)
        gone: Counter[str] = Counter()
        acted = False
        for outcomes in protocol.delete(tools, batches(rows, job.config.delete.batch)):
            gone.update(outcome.server for outcome in outcomes if outcome.state == "done")
            if not acted and any(outcome.state in ("done", "failed") for outcome in outcomes):
                acted = True
                _remember_acted(job, rows, ground)
            yield from outcomes
        if sound:
            _remember(job, ground, gone)


def _destinations(job: Job) -> tuple[str, ...]:
    return tuple(f"{server.name} ({server.address})" for server in job.destinations)


def _remember_acted(job: Job, rows: Sequence[Delete], ground: Ground) -> None:
    reasons = sorted({row.reason for row in _standing(rows, ground)})
    if reasons and ground.inputs:
        history = ground.inputs[0]
        # One from the future must not make the true ones that follow look old.
        generation = min(int(history.generation), int(time.time()))
        acted = [seen.HistoryActed(reason, generation, history.size) for reason in reasons]
        seen.remember_acted(job.database, history.path, acted, time.time())


def _remember(job: Job, ground: Ground, gone: Counter[str]) -> None:
    files = {
        row.server: max(0, row.files - gone[row.server])
        for row in ground.inventory.servers.values()
        if row.state == "ok"
    }
    seen.remember_inventory(job.database, files, time.time())
    if ground.history_files is not None and ground.inputs:
        history = seen.HistorySeen(ground.inputs[0].generation, ground.history_files, _destinations(job))
        seen.remember_history(job.database, ground.inputs[0].path, history, time.time())


@contextmanager
def only_one(job: Job, command: str, *, apply: bool) -> Iterator[None]:
    """Holds the job's lock when something is to be done. Raises LockHeld that names who runs it already."""
    with job.locks.hold(job_lock(command)) if apply else nullcontext():
        yield


Counted = TypeVar("Counted", bound=Copy | Delete | Outcome)


class Tally:
    """Counts rows for the `end` row."""

    def __init__(self, *kinds: str) -> None:
        """``kinds``: the kinds of rows that may come; they stand in the counts even when none does."""
        self.counts: Counter[str] = Counter(dict.fromkeys(kinds, 0))

    def count(self, rows: Iterable[Counted]) -> Iterator[Counted]:
        """The rows, counted: plans by kind, with the bytes they are about; outcomes by verb and state."""
        for row in rows:
            kind = str(row.__struct_config__.tag)
            self.counts[kind] += 1
            if isinstance(row, Outcome):
                self.counts[f"{row.verb}_{row.state}"] += 1
            else:
                self.counts[f"{kind}_bytes"] += row.size
            yield row
