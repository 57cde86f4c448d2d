"""Where `distribute` gets its copies from: a plan it was given, or plans it makes itself, again and again."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Protocol

from cftools import pipe
from cftools.actions.sweep import sweep
from cftools.jobs import plan_distribute
from cftools.jobs.couriers import Couriers
from cftools.jobs.gather import Facts, Given, combine, gather, read_files, read_hot, read_inventory
from cftools.jobs.inputs import opened, shown
from cftools.jobs.job import Job
from cftools.jobs.recovery import settle_dead_tasks
from cftools.model import names
from cftools.model.errors import InputUnusable
from cftools.model.rows import Copy, Input
from cftools.remote.transport import RemoteFault

PLANNED_AHEAD = 64  # copies looked for a source in one plan
ACCEPTED_AHEAD = 4  # of which so many are taken: then the facts are looked at again, for something hotter
REPLAN_SECONDS = 5.0  # after a plan in vain the next one waits so long while copies are under way


class Supply(Protocol):
    """Copies to carry out. ``tell_unstarted``: a copy that was not begun gets an outcome row."""

    tell_unstarted: bool
    refused: dict[str, int]

    @property
    def inputs(self) -> list[Input]:
        """The files the facts came from."""

    @property
    def complete(self) -> bool:
        """Whether they were whole."""

    @property
    def skipped(self) -> dict[str, int]:
        """Their skipped lines by cause."""

    def more(self, couriers: Couriers) -> list[Copy]:
        """The next copies for couriers that have nothing to do."""

    def accepted(self, number: int) -> None:
        """How many of the last copies were accepted; the others are another process's."""

    def may_have_more(self, couriers: Couriers) -> bool:
        """Whether asking again could bring a copy."""


class FromPlan:
    """The copies of a plan. Raises InputUnusable when it is cut off or does not fit the config."""

    tell_unstarted = True

    def __init__(self, job: Job, path: str, allowed: list[str]) -> None:
        with opened(path) as stream:
            plan = pipe.read(stream, shown(path), [Copy])
        self._plan = plan
        self.refused: dict[str, int] = {}
        rows = [row for row in plan.rows if isinstance(row, Copy)]
        for row in rows:
            _check_row(job, row, shown(path))
        self._rows = [row for row in rows if row.source in allowed]
        if len(rows) != len(self._rows):
            self.refused["other-source"] = len(rows) - len(self._rows)

    @property
    def inputs(self) -> list[Input]:
        """See `Supply.inputs`."""
        return self._plan.begin.inputs if self._plan.begin else []

    @property
    def complete(self) -> bool:
        """See `Supply.complete`."""
        return self._plan.end.complete

    @property
    def skipped(self) -> dict[str, int]:
        """See `Supply.skipped`."""
        return {}

    def more(self, couriers: Couriers) -> list[Copy]:
        """See `Supply.more`."""
        del couriers
        rows, self._rows = self._rows, []
        return rows

    def accepted(self, number: int) -> None:
        """See `Supply.accepted`."""

    def may_have_more(self, couriers: Couriers) -> bool:
        """See `Supply.may_have_more`."""
        del couriers
        return bool(self._rows)


def _check_row(job: Job, row: Copy, path: str) -> None:
    servers = job.fleet.servers
    source, destination = servers.get(row.source), servers.get(row.destination)
    fault = names.unsafe(row.name)
    if not all(0 <= number < 2**63 for number in (row.size, row.rank, row.hits)):
        fault = "a number is out of range"
    elif source is None or source.role != "source":
        fault = f"{row.source!r} is no source of the config"
    elif destination is None or destination.role != "destination":
        fault = f"{row.destination!r} is no destination of the config"
    elif not fault and row.source_path not in [f"{root}/{row.name}" for root in source.roots]:
        fault = f"{row.source_path!r} does not lie below a root of {row.source}"
    elif not fault and row.name.startswith(tuple(job.config.ignore.prefixes)):
        fault = "the config's ignore.prefixes say that it is never placed"
    if fault:
        raise InputUnusable(path, f"copy of {names.display(row.name)!r}: {fault}", "make the plan again")


class Planned:
    """Copies planned from facts as they change: hot files at each plan, history and inventory when they are newer."""

    tell_unstarted = False

    def __init__(self, job: Job, given: Given, allowed: list[str], facts: Facts | None = None) -> None:
        self._job, self._given, self.allowed = job, given, allowed
        self._facts = facts or gather(job, given)
        self._signature = self._history_signature()
        self._planned = False
        self._in_vain = False  # whether the last plan brought nothing
        self._planned_for: set[str] = set()  # the sources that were free then
        self._ended = 0  # copies that had ended when it was made
        self._planned_at = 0.0
        self.refused: dict[str, int] = {}
        self._sweep()

    @property
    def inputs(self) -> list[Input]:
        """See `Supply.inputs`."""
        return self._facts.inputs

    @property
    def complete(self) -> bool:
        """See `Supply.complete`."""
        return self._facts.complete

    @property
    def skipped(self) -> dict[str, int]:
        """See `Supply.skipped`."""
        return self._facts.skipped

    def more(self, couriers: Couriers) -> list[Copy]:
        """See `Supply.more`."""
        if self._planned:
            settle_dead_tasks(self._job)
            self._refresh(couriers)
        self._ended, self._planned_at = couriers.ended, time.monotonic()
        self._planned_for = set(couriers.free_sources())
        plan = plan_distribute.make(
            self._job,
            self._facts,
            couriers.settled_here,
            PLANNED_AHEAD * len(couriers.free_sources()),
            couriers.unusable(),
        )
        if not self._planned:
            self.refused = plan.refused  # later plans look only at what came up since
        self._planned = True
        taken: Counter[str] = Counter()
        rows = []
        for row in plan.rows:
            if taken[row.source] < ACCEPTED_AHEAD:
                taken[row.source] += 1
                rows.append(row)
        return rows

    def accepted(self, number: int) -> None:
        """See `Supply.accepted`."""
        self._in_vain = not number

    def may_have_more(self, couriers: Couriers) -> bool:
        """See `Supply.may_have_more`: after a plan in vain only another free source, or the end of a copy, can bring
        something new."""
        if not self._in_vain or set(couriers.free_sources()) - self._planned_for:
            return True
        if self._ended == couriers.ended:
            return False
        return couriers.at_rest() or time.monotonic() - self._planned_at >= REPLAN_SECONDS

    def _refresh(self, couriers: Couriers) -> None:
        job, facts = self._job, self._facts
        files, taken = facts.files, facts.inventory
        signature = self._history_signature()
        if self._given.files is None and signature != self._signature:
            files, self._signature = read_files(job.config, None), signature
        hot = facts.hot if self._given.hot is not None else read_hot(job.config, None, job.now(), job.detail)
        if taken.live and time.time() - taken.at > job.config.distribute.inventory_max_age:
            couriers.forget_settled()
            taken = read_inventory(job, None)
        self._facts = combine(job, files, hot, taken)

    def _history_signature(self) -> tuple[tuple[int, int, int], ...]:
        signature = []
        for path in (self._job.config.inputs.hitcount_history, self._job.config.inputs.grade_info):
            try:
                status = Path(path).stat()
                signature.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                signature.append((0, 0, 0))
        return tuple(signature)

    def _sweep(self) -> None:
        """Removes parts nobody carries on with, where the listing showed one that is old enough."""
        job, taken = self._job, self._facts.inventory
        oldest = time.time() - job.config.distribute.partial_max_age
        stale = [name for name, parts in taken.partials.items() if any(part.mtime < oldest for part in parts)]
        roots = {server.name: server.roots[0] for server in job.destinations if server.name in stale}
        age = max(job.config.distribute.partial_max_age, 2 * job.config.distribute.timeout)
        swept = job.fleet.each(roots, lambda transport: sweep(transport, roots[transport.server], age))
        for name, count in swept.items():
            if isinstance(count, RemoteFault):
                job.detail(f"{name}: parts of unfinished copies stay: {count.detail}")
            elif count:
                job.detail(f"{name}: {count} parts of unfinished copies removed")
