"""Explores every situation one file can come into, until no new one appears, with the real planners and the real delete
protocol as the steps from one to the next.

A situation is where the file's copies are, whether the origin has it, which of its deletions the journal left
`intended`, and which questions about it still hang on a server. Each event (a run with any plan that any stale view
could have brought, a crash, a server that hangs or is down, a copy that is finished, a config that changes) takes all
situations of a layer at once, as so many files of one node: the protocol treats them in one batch, as it would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from memory_node import DAY, PATIENCE, SIZE, Manager, Question, Step, Unlinked, World
from planner_table import View, bits, by_name, named, node, plan, table

from cftools.actions.unlink import Ground, unlink
from cftools.model.rows import Delete
from cftools.remote.transport import RemoteFault, Reply, Script

Plan = tuple[Delete, ...]


class Hanging(NamedTuple):
    """A question about the file that hangs on a server (its place). It has not expired: then it does nothing any more,
    which `_wake` holds, and is forgotten."""

    server: int
    duplicate: bool


class Situation(NamedTuple):
    """``copies``: mask of destinations. ``intended``: places of servers with an open journal row, and whether its time
    is over."""

    copies: int
    origin: bool
    intended: frozenset[tuple[int, bool]] = frozenset()
    hanging: frozenset[Hanging] = frozenset()


class Fault(NamedTuple):
    """What goes wrong in a run: ``down`` servers (a mask); then one of: a crash at step number ``crash``; the answer to
    ``verb`` from ``server`` is `lost`, or it `hang`s there (the manager may die of it); or the server goes down right
    then (`cut`)."""

    down: int = 0
    crash: int = -1
    server: int = -1
    verb: str = ""
    fate: str = ""


class _Captured(Exception):
    """The question, instead of an answer."""


class _Capture:
    server = ""

    def call(self, script: Script, stdin: bytes = b"", **_: object) -> Reply:
        raise _Captured(script, stdin)


@cache
def question(server: str, name: str, one: Hanging, expires: int) -> Question:
    """A question about one file, as the real code puts it."""
    row = Delete(server, name, SIZE, "duplicate" if one.duplicate else "disk", "?" if one.duplicate else "")
    try:
        unlink(_Capture(), Ground("/data", "", expires), [row])  # type: ignore[arg-type]
    except _Captured as captured:
        script, stdin = captured.args
        return Question(script, stdin, {name: row})
    raise AssertionError("no question was put")


@dataclass
class Violation:
    """A broken promise and the story that led there."""

    what: str
    unlinked: Unlinked
    before: Situation | None
    plan: Plan
    fault: Fault


@dataclass
class Explorer:
    """``thorough``: crashes at every step, every set of dead servers, and every plan in each situation; else crashes at
    the steps that change something, at most one dead server, and faults apart from each other: a run first settles what
    is open, then carries out its plan, and the plan meets faults in situations with nothing open."""

    destinations: int
    thorough: bool = False
    plans: Sequence[Plan] = ()  # every one that the real planners make, unless others are given
    seen: dict[Situation, str] = field(default_factory=dict)  # and how each was reached first
    violations: list[Violation] = field(default_factory=list)
    runs: int = 0
    files: int = 0

    def __post_init__(self) -> None:
        self.world = World(self.destinations)
        self.plans = self.plans or table(self.destinations).every_plan
        self._before: dict[str, tuple[Situation, Plan]] = {}
        self._fault = Fault()
        self._duplicates: dict[tuple[str, str], bool] = {}
        self.world.on_unlink = self._judge

    def explore(self, start: Iterable[Situation] = ()) -> None:
        """Goes on from these situations (from every set of copies, without any) until nothing new is reached, or
        something was violated."""
        everything = [Situation(copies, origin) for copies in range(1 << self.destinations) for origin in (True, False)]
        layer = dict.fromkeys(start or everything, "at first")
        while layer and not self.violations:
            self.seen |= layer
            found: dict[Situation, str] = {}
            for before, what, after in self._next(list(layer)):
                if after not in self.seen and after not in found:
                    found[after] = f"{self.seen[before]}: {before}\n{what}"
            layer = found

    def _next(self, layer: list[Situation]) -> Iterator[tuple[Situation, str, Situation]]:
        """Each situation that comes of these: the one before, what happened, the one after."""
        acts = [(situation, plan) for situation in layer for plan in self.plans]
        faulty = acts
        if not self.thorough:
            faulty = [act for act in acts if not act[0].intended]
            faulty += [(situation, ()) for situation in layer if situation.intended]
        for down in self._downs():
            yield from self._run(acts, Fault(down))
        for fault in self._faults(faulty):
            yield from self._run([act for act in faulty if self._matters(act, fault)], fault)
        yield from self._quiet_events(layer)

    def _downs(self) -> list[int]:
        return [mask for mask in range(1 << self.destinations) if self.thorough or mask.bit_count() <= 1]

    def _matters(self, act: tuple[Situation, Plan], fault: Fault) -> bool:
        """Whether the run has anything to do with the server of the fault."""
        situation, plan = act
        name = self.world.destinations[fault.server]
        asked = any(name in (row.server, row.keeper) for row in plan)
        return fault.server < 0 or asked or any(place == fault.server for place, _ in situation.intended)

    def _quiet_events(self, layer: list[Situation]) -> Iterator[tuple[Situation, str, Situation]]:
        """Whatever happens without a run: time passes, questions come to life, copies arrive, the config changes."""
        for situation in layer:
            over = frozenset((server, True) for server, _ in situation.intended)
            yield situation, "time passes", situation._replace(intended=over, hanging=frozenset())
            if not situation.intended and not situation.hanging:
                # What the origin loses between a look and a deletion nobody can prevent; it is no part of this node.
                yield situation, "the origin changes", situation._replace(origin=not situation.origin)
        for server in range(self.destinations):
            yield from self._wake(layer, server)
            yield from self._arrive(layer, server)
            yield from self._settle(layer, without=server, later=0.0)
            yield from self._settle(layer, without=server, later=DAY + 1)

    def _faults(self, acts: list[tuple[Situation, Plan]]) -> Iterator[Fault]:
        for down in self._downs() if self.thorough else [0]:
            steps = self._steps(acts, down)
            yield from (Fault(down, crash=number) for number in steps)
        for server in range(self.destinations):
            for verb in ("stat", "look", "unlink"):
                for fate in ("lost", "hang", "cut"):
                    yield Fault(0, server=server, verb=verb, fate=fate)
            yield Fault(0, server=server, verb="unlink look", fate="lost")
            yield Fault(0, server=server, verb="unlink look", fate="hang")
            yield Fault(0, server=server, verb="unlink", fate="hang, and a crash")

    def _steps(self, acts: list[tuple[Situation, Plan]], down: int) -> list[int]:
        """The numbers of the steps of such a run at which a crash makes a difference."""
        told: list[Step] = []
        self._fill(acts, down)
        self.world.on_step = lambda _, step: told.append(step)
        Manager(self.world, "counting").delete(self._rows())
        changes = ("committed", "unlocked")
        return [
            number
            for number, step in enumerate(told)
            if self.thorough or step.what in changes or (step.what, step.verb) == ("answered", "unlink")
        ]

    # One run

    def _run(self, acts: list[tuple[Situation, Plan]], fault: Fault) -> Iterator[tuple[Situation, str, Situation]]:
        self._fill(acts, fault.down)
        self._fault = fault
        names = self.world.destinations
        number = -1

        def crash(manager: Manager, _: Step) -> None:
            nonlocal number
            number += 1
            if number == fault.crash:
                manager.die()

        def fate(manager: Manager, server: str, verb: str) -> str:
            hit = fault.server >= 0 and server == names[fault.server] and verb in fault.verb.split()
            if hit and fault.fate == "hang, and a crash":
                manager.die()
                return "hang"
            if hit and fault.fate == "cut":
                raise RemoteFault(server, "unreachable", "it went down")
            if hit and fault.fate == "hang" and verb != "unlink":
                raise RemoteFault(server, "silent", "no answer for 60 s")
            return fault.fate if hit else ""

        self.world.on_step, self.world.fate = crash, fate
        manager = Manager(self.world, "run")
        manager.delete(self._rows())
        yield from self._situations(str(fault))
        self._journal_is_true(manager)

    def _fill(self, acts: Iterable[tuple[Situation, Plan]], down: int = 0) -> None:
        """Makes the world of these situations, one file each."""
        world = self.world
        world.clear()
        world.on_step, world.fate = (lambda *_: None), (lambda *_: "")
        self._before = {f"f{number}": act for number, act in enumerate(acts)}
        names = world.destinations
        for place, server in enumerate(names):
            world.servers[server].up = not down >> place & 1
        run = Manager(world, "before").tools.run
        rows: list[tuple[object, ...]] = []
        for name, (situation, _) in self._before.items():
            for place in bits(situation.copies):
                world.servers[names[place]].files[name] = SIZE
            if situation.origin:
                world.servers["src1"].files[name] = SIZE
            for place, expired in situation.intended:
                rows.append((run, names[place], name, SIZE, world.now, self._expires(expired=expired)))
            for one in situation.hanging:
                expires = self._expires(expired=False)
                world.servers[names[one.server]].hanging.append(question(names[one.server], name, one, expires))
        with world.database.transaction():
            world.database.execute_many(
                "INSERT INTO journal (run, verb, server, name, size, reason, state, at, expires)"
                " VALUES (?, 'delete', ?, ?, ?, 'duplicate', 'intended', ?, ?)",
                rows,
            )
        self.runs += 1
        self.files += len(self._before)

    def _rows(self) -> list[Delete]:
        return [row for name, (_, plan) in self._before.items() for row in named(plan, name)]

    def _expires(self, *, expired: bool) -> int:
        return int(self.world.now) + (-PATIENCE if expired else PATIENCE)

    def _situations(self, what: str) -> Iterator[tuple[Situation, str, Situation]]:
        """What became of the situation of each file of the world."""
        world, names = self.world, self.world.destinations
        copies = dict.fromkeys(self._before, 0)
        intended: dict[str, set[tuple[int, bool]]] = {name: set() for name in self._before}
        hanging: dict[str, set[Hanging]] = {name: set() for name in self._before}
        for place, server in enumerate(names):
            for name in world.servers[server].files:
                copies[name] |= 1 << place
            for question in world.servers[server].hanging:
                if int(question.script.arguments[2]) >= int(world.now):
                    for name, row in question.reasons.items():
                        hanging[name].add(Hanging(place, row.reason == "duplicate"))
        places = {server: place for place, server in enumerate(names)}
        for server, name, expires in world.database.rows(
            "SELECT server, name, expires FROM journal WHERE state = 'intended'"
        ):
            intended[name].add((places[server], expires < world.now))
        origin = world.servers["src1"].files
        for name in self._before:
            before, plan = self._before[name]
            after = Situation(copies[name], name in origin, frozenset(intended[name]), frozenset(hanging[name]))
            if after != before:
                shown = ", ".join(f"{row.server} (keeper {row.keeper or '-'})" for row in plan)
                yield before, f"{what} {shown}", after

    # What happens without a run

    def _wake(self, layer: list[Situation], server: int) -> Iterator[tuple[Situation, str, Situation]]:
        self._fill((situation, ()) for situation in layer if any(one.server == server for one in situation.hanging))
        self._fault = Fault(server=server, fate="wakes")
        waiting = list(self.world.servers[self.world.destinations[server]].hanging)
        self.world.now += PATIENCE + 1
        self.world.run_hanging(self.world.destinations[server])
        assert not self.world.unlinked, "a question that has expired did something"
        self.world.now -= PATIENCE + 1
        self.world.servers[self.world.destinations[server]].hanging = waiting
        self.world.run_hanging(self.world.destinations[server])
        yield from self._situations(f"{server} wakes")

    def _arrive(self, layer: list[Situation], server: int) -> Iterator[tuple[Situation, str, Situation]]:
        self._fill((situation, ()) for situation in layer if situation.origin and not situation.copies >> server & 1)
        manager = Manager(self.world, "distribute")
        for name in self._before:
            manager.publish(self.world.destinations[server], name)
        yield from self._situations(f"a copy arrives on {server}")

    def _settle(
        self, layer: list[Situation], *, without: int, later: float
    ) -> Iterator[tuple[Situation, str, Situation]]:
        """A run of a config in which one destination is missing, at once or after a day, with nothing to delete."""
        self._fill((situation, ()) for situation in layer if situation.intended)
        self.world.now += later
        Manager(self.world, "settling", without=[self.world.destinations[without]]).delete([])
        found = list(self._situations(f"a run {later:g} s later without {without} in the config"))
        self.world.now -= later
        yield from found

    # Promises

    def _judge(self, unlinked: Unlinked) -> None:
        before, plan = self._before[unlinked.name]
        what = broken_promise(self.world, unlinked)
        if what:
            self.violations.append(Violation(what, unlinked, before, plan, self._fault))

    def _journal_is_true(self, manager: Manager) -> None:
        """A row that is settled says what happened: done exactly when this run's server deleted the file."""
        gone = {(one.server, one.name) for one in self.world.unlinked}
        for server, name, state in self.world.database.rows(
            "SELECT server, name, state FROM journal WHERE run = ? AND state != 'intended'", (manager.tools.run,)
        ):
            if (state == "done") != ((server, name) in gone):
                before, plan = self._before[name]
                what = f"the journal says {state}"
                self.violations.append(Violation(what, Unlinked(server, name, None), before, plan, self._fault))


def broken_promise(world: World, unlinked: Unlinked) -> str:
    """What this deletion broke, or the empty string."""
    row = unlinked.row
    if row is None:
        return "deleted without a journal row"
    if not world.on_origin(unlinked.name):
        return "deleted what the origin lacks"
    if row.reason == "duplicate" and not world.holders(unlinked.name):
        return "dedup deleted the last copy"
    if row.keeper in world.destinations and world.destinations.index(row.keeper) <= world.destinations.index(
        row.server
    ):
        return "the keeper is not above its duplicate"
    return ""


def converge(explorer: Explorer) -> dict[str, tuple[Situation, list[str]]]:
    """Lets every situation that was reached come to rest: all servers up, time passes, and fresh facts for dedup until
    nothing is left to do. The holders of each file afterwards, beside the situation it was in."""
    explorer._fill((situation, ()) for situation in explorer.seen)
    world = explorer.world
    world.now += 2 * PATIENCE
    for server in world.destinations:
        world.run_hanging(server)
    for _ in range(2):
        rows = fresh_plan(explorer)
        told = Manager(world, "again").delete(rows)
        assert {one.state for one in told} <= {"done"}
    assert fresh_plan(explorer) == []
    assert world.database.rows("SELECT count(*) FROM journal WHERE state = 'intended'") == [(0,)]
    return {name: (situation, world.holders(name)) for name, (situation, _) in explorer._before.items()}


def fresh_plan(explorer: Explorer) -> list[Delete]:
    """What the real planner says to facts that are as fresh as can be."""
    world, count = explorer.world, explorer.destinations
    masks = dict.fromkeys(explorer._before, 0)
    for place, server in enumerate(world.destinations):
        for name in world.servers[server].files:
            masks[name] |= 1 << place
    views = {name: View(mask, mask, world.on_origin(name)) for name, mask in masks.items()}
    found = by_name(plan("all-but-one", node(count, (1 << count) - 1, views)))
    return [row for name, rows in found.items() for row in named(rows, name)]
