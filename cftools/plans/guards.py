"""Limits over which a whole plan of deletions is refused before anything is deleted.

A broken guard is one line: its name, what it found, and what would let the plan pass. Guards about the facts (a
history or an inventory that shrank, a missing mount) are looked at for a plan without rows too: facts that break one
must not become what the next run compares with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from cftools.model.rows import Delete, Reason


class GuardedServer(msgspec.Struct, frozen=True):
    """One source or destination as the guards see it.

    ``files``: how many its inventory shows; -1 when it could not be listed. ``previous_files``: the number at the
    listing before, less what cftools itself deleted since; None when there was none. ``marker``: whether the mount
    marker stands in every root; None when that is not known.
    """

    name: str
    files: int
    previous_files: int | None = None
    marker: bool | None = None


class GuardedInput(msgspec.Struct, frozen=True):
    """The history or the grades. ``generation``: epoch seconds at which it was written, 0 when unknown; ``size``:
    bytes."""

    name: str
    path: str
    generation: float
    size: int = 0


class Acted(msgspec.Struct, frozen=True):
    """A history on whose word something was deleted before. ``reason``: why, as in the rows."""

    reason: Reason
    generation: int
    size: int


class GuardFacts(msgspec.Struct, frozen=True):
    """What the guards look at beside the rows.

    ``inputs`` has the history first. ``history_lines`` and ``previous_history_lines`` (None: there was none) are lines
    of the history now and at the reading before. ``destinations`` are the configured ones, ``previous_destinations``
    those that were configured when the history's generation in use was first read (None: not known, as in a first
    run). ``acted``: the last history acted upon for each reason. ``standing``: the rows whose file the inventory shows
    on their server.
    """

    now: float
    servers: tuple[GuardedServer, ...]
    inputs: tuple[GuardedInput, ...]
    history_lines: int
    previous_history_lines: int | None
    destinations: frozenset[str]
    previous_destinations: frozenset[str] | None
    acted: tuple[Acted, ...] = ()
    standing: tuple[Delete, ...] = ()


class GuardLimits(msgspec.Struct, frozen=True):
    """The limits: the keys of ``guards`` in the config, and ``max_age`` (seconds) of ``inputs``.

    ``percent_from``: percents are looked at from that many files on; of three files one is always a third.
    ``one_a_history``: of a file one duplicate may go for each history, as `dedup.deletes_per_file: one` asks.
    """

    max_deletes: int
    max_delete_bytes: float
    max_delete_percent: int
    percent_from: int
    max_inventory_shrink_percent: int
    max_history_shrink_percent: int
    mount_marker: str
    max_age: float
    one_a_history: bool = False


class Checked(NamedTuple):
    """The broken guards, one line each, and the lines of those that would be broken but are overridden."""

    broken: list[str]
    overridden: list[str]


def check(rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits, overridden: Iterable[str] = ()) -> Checked:
    """Looks at a whole plan. Raises ValueError that lists the names when ``overridden`` has one that is no guard."""
    passed = set(overridden)
    unknown = sorted(passed - GUARDS.keys())
    if unknown:
        raise ValueError(f"no guard {', '.join(map(repr, unknown))}; the guards are {', '.join(GUARDS)}")
    checked = Checked([], [])
    for name, guard in GUARDS.items():
        for found, remedy in guard(rows, facts, limits):
            (checked.overridden if name in passed else checked.broken).append(
                f"{name}: {found}; {remedy}, or pass --override {name}"
            )
    return checked


Faults = Iterable[tuple[str, str]]  # what was found, what to do


def _max_deletes(rows: Sequence[Delete], _facts: GuardFacts, limits: GuardLimits) -> Faults:
    if len(rows) > limits.max_deletes:
        found = f"the plan deletes {len(rows):,} files, the limit is {limits.max_deletes:,}"
        yield found, "look at the plan, then raise guards.max_deletes"


def _max_delete_bytes(rows: Sequence[Delete], _facts: GuardFacts, limits: GuardLimits) -> Faults:
    total = sum(row.size for row in rows)
    if total > limits.max_delete_bytes:
        found = f"the plan deletes {total:,} bytes, the limit is {limits.max_delete_bytes:,.0f} bytes"
        yield found, "look at the plan, then raise guards.max_delete_bytes"


def _max_delete_percent(rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    # A server that was never listed has no share to look at; its rows are refused when they are carried out.
    files = {server.name: _last_count(server) for server in facts.servers}
    for server, count in sorted(Counter(row.server for row in rows).items()):
        total = files.get(server)
        if total is None or count < limits.percent_from:
            continue
        if count * 100 > limits.max_delete_percent * total:
            found = (
                f"the plan deletes {count:,} of {total:,} files on {server}, the limit is {limits.max_delete_percent} %"
            )
            yield found, "look at the plan, then raise guards.max_delete_percent"


def _last_count(server: GuardedServer) -> int | None:
    return server.files if server.files >= 0 else server.previous_files


def _max_age(_rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    for one in facts.inputs:
        age = facts.now - one.generation
        if one.generation <= 0:
            yield f"{one.name} {one.path} does not say when it was written", "wait for a new one"
        elif age > limits.max_age:
            found = f"{one.name} {one.path} is {_duration(age)} old, the limit is {_duration(limits.max_age)}"
            yield found, "see why it is not written any more, or raise inputs.max_age"
        elif -age > limits.max_age:
            found = f"{one.name} {one.path} is {_duration(-age)} in the future"
            yield found, "set the clocks right"


def _history_not_newer(_rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    history = facts.inputs[0]
    reasons = {row.reason for row in facts.standing}
    for last in facts.acted if reasons else ():
        if history.generation < last.generation:
            age = _duration(last.generation - history.generation)
            yield f"history {history.path} is {age} older than the last one acted upon", "take the newest history"
        elif (
            limits.one_a_history
            and last.reason == "duplicate"
            and "duplicate" in reasons
            and (int(history.generation), history.size) == (last.generation, last.size)
        ):
            found = f"history {history.path} was acted upon before, and one copy of a file may go for each history"
            yield found, "wait for the next one"


def _inventory_shrink(_rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    for server in facts.servers:
        if server.files < 0 or server.previous_files is None:
            continue
        lost = server.previous_files - server.files
        if lost >= limits.percent_from and lost * 100 > limits.max_inventory_shrink_percent * server.previous_files:
            found = (
                f"{server.name} had {server.previous_files:,} files and has {server.files:,},"
                f" the limit is {limits.max_inventory_shrink_percent} % less"
            )
            yield found, "see whether its disks are mounted, then raise guards.max_inventory_shrink_percent"


def _history_shrink(_rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    before, now = facts.previous_history_lines, facts.history_lines
    if before is None or before - now < limits.percent_from:
        return
    if (before - now) * 100 > limits.max_history_shrink_percent * before:
        found = (
            f"the history had {before:,} lines and has {now:,}, the limit is {limits.max_history_shrink_percent} % less"
        )
        yield found, "see whether it is whole, then raise guards.max_history_shrink_percent"


def _mount_marker(_rows: Sequence[Delete], facts: GuardFacts, limits: GuardLimits) -> Faults:
    if not limits.mount_marker:
        return
    for server in facts.servers:
        if server.marker is False:
            found = f"{limits.mount_marker} is missing in a root of {server.name}"
            yield found, "see whether its disks are mounted; if they are, create the file"
        elif server.marker is None and server.files >= 0:
            found = f"whether {limits.mount_marker} stands in the roots of {server.name} is not known"
            yield found, "take a new inventory"


def _destinations_changed(_rows: Sequence[Delete], facts: GuardFacts, _limits: GuardLimits) -> Faults:
    before = facts.previous_destinations
    if before is None or before == facts.destinations:
        return
    added, removed = sorted(facts.destinations - before), sorted(before - facts.destinations)
    changes = [f"{', '.join(names)} {verb}" for names, verb in ((added, "added"), (removed, "removed")) if names]
    found = f"the destinations changed since the history was written: {'; '.join(changes)}"
    yield found, "wait for a history that is newer than the change"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{value}{unit}" for value, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if value]
    return " ".join(parts) or "0s"


Guard = Callable[[Sequence[Delete], GuardFacts, GuardLimits], Faults]
GUARDS: dict[str, Guard] = {
    "max_deletes": _max_deletes,
    "max_delete_bytes": _max_delete_bytes,
    "max_delete_percent": _max_delete_percent,
    "max_age": _max_age,
    "history_not_newer": _history_not_newer,
    "inventory_shrink": _inventory_shrink,
    "history_shrink": _history_shrink,
    "mount_marker": _mount_marker,
    "destinations_changed": _destinations_changed,
}
