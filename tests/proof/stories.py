"""Stories told by chance: two managers at once, stale facts, servers that die, hang and wake, copies that arrive and
configs that change, at every step of each other. A story is its seed: the same seed tells the same story.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from explorer import broken_promise
from greenlet import getcurrent, greenlet
from memory_node import PATIENCE, SIZE, Manager, Step, Unlinked, World
from planner_table import KINDS, Table, View, bits, by_name, named, node, plan

from cftools.model.rows import Delete

FILES = ("a", "b")
DESTINATIONS = 4
EVENTS = 12


class Broken(AssertionError):
    """A promise was broken in the story of this seed."""


class Story:
    """One story in a world that others used before. ``table``: what the planners answer."""

    def __init__(self, seed: int, world: World, table: Table) -> None:
        self.random = Random(seed)
        self.seed, self.world, self.table = seed, world, table
        self.main = getcurrent()
        self.running: list[tuple[Manager, greenlet]] = []
        self.quota = 0
        self.removed: set[str] = set()
        world.clear()
        world.on_step, world.on_unlink, world.fate = self._step, self._judge, self._fate
        for name in FILES:
            self._put(self.random.getrandbits(DESTINATIONS), name)
            if self.random.random() < 0.9:
                world.servers["src1"].files[name] = SIZE
        self.history = {name: self._mask(name) for name in FILES}
        self.snapshots = [self._snapshot()]

    def tell(self) -> None:
        """Tells the story to its end. Raises Broken."""
        events: list[Callable[[], None]] = [
            *[self._start] * 4,
            *[self._go_on] * 5,
            self._kill,
            *[self._report] * 2,
            self._look,
            self._down_or_up,
            self._wake,
            self._arrive,
            self._time_passes,
            self._config_changes,
            self._origin_changes,
        ]
        for _ in range(EVENTS):
            self.random.choice(events)()
        while self.running:
            self._go_on(steps=1 << 30)
        self._come_to_rest()

    # Events

    def _start(self) -> None:
        """A run begins, with whatever facts it has; they may be those of long ago."""
        if len(self.running) == 2:
            return
        manager = Manager(self.world, "run", without=self.removed)
        rows = self._plan()
        batch = self.random.choice([1, 2, 1 << 20])
        self._begin(manager, lambda: manager.delete(rows, batch))

    def _begin(self, manager: Manager, work: Callable[[], object]) -> None:
        manager.gives_up = self.random.random() < 0.1
        thread = greenlet(lambda: work() and None)
        self.running.append((manager, thread))
        self._go_on()

    def _go_on(self, steps: int = 0) -> None:
        """One of the managers does its next steps."""
        if not self.running:
            return
        one = self.random.choice(self.running)
        self.quota = steps or self.random.choice([1, 1, 2, 3, 5, 8, 13, 40])
        one[1].switch()
        if one[1].dead:
            self.running.remove(one)

    def _kill(self) -> None:
        if self.running:
            one = self.random.choice(self.running)
            one[0].die()
            self.quota = 1 << 30
            one[1].switch()
            self.running.remove(one)

    def _report(self) -> None:
        """A server tells the history what it has; it may be down, then its word is of long ago."""
        place = self.random.randrange(DESTINATIONS)
        if self.world.servers[self.world.destinations[place]].up:
            for name in FILES:
                self.history[name] = self.history[name] & ~(1 << place) | self._mask(name) & 1 << place

    def _look(self) -> None:
        self.snapshots.append(self._snapshot())

    def _down_or_up(self) -> None:
        server = self.world.servers[self.random.choice(self.world.destinations)]
        server.up = not server.up

    def _wake(self) -> None:
        self.world.run_hanging(self.random.choice(self.world.destinations))

    def _arrive(self) -> None:
        """A finished copy becomes visible, in its turn."""
        name = self.random.choice(FILES)
        server = self.random.choice(self.world.destinations)
        if self.world.on_origin(name) and len(self.running) < 2 and server not in self.removed:
            manager = Manager(self.world, "distribute", without=self.removed)
            self._begin(manager, lambda: manager.publish(server, name))

    def _time_passes(self) -> None:
        self.world.now += self.random.choice([1, 60, PATIENCE + 1])

    def _config_changes(self) -> None:
        """A destination leaves the config or comes back, between runs."""
        if not self.running:
            self.removed ^= {self.random.choice(self.world.destinations)}

    def _origin_changes(self) -> None:
        """What the origin loses between a look and a deletion nobody can prevent: only while nothing is under way."""
        name = self.random.choice(FILES)
        hanging = any(server.hanging for server in self.world.servers.values())
        if not self.running and not hanging:
            files = self.world.servers["src1"].files
            if files.pop(name, None) is None:
                files[name] = SIZE

    # What managers see

    def _plan(self) -> list[Delete]:
        kind = self.random.choice(KINDS)
        seen = self.random.choice([self._snapshot(), self.random.choice(self.snapshots)])
        answering = sum(
            1 << place
            for place, server in enumerate(self.world.destinations)
            if server not in self.removed and (self.world.servers[server].up or self.random.random() < 0.2)
        )
        rows: list[Delete] = []
        for name in FILES:
            inventory, origin = seen[name]
            found = named(self.table.rows(kind, answering, View(self.history[name], inventory, origin)), name)
            found = [row for row in found if row.server not in self.removed]
            rows += [row for row in found if kind != "evict" or self.random.random() < 0.5]
        return rows

    def _snapshot(self) -> dict[str, tuple[int, bool]]:
        return {name: (self._mask(name), self.world.on_origin(name)) for name in FILES}

    def _mask(self, name: str) -> int:
        servers = enumerate(self.world.destinations)
        return sum(1 << place for place, server in servers if name in self.world.servers[server].files)

    def _put(self, mask: int, name: str) -> None:
        for place in bits(mask):
            self.world.servers[self.world.destinations[place]].files[name] = SIZE

    # What the world does, and what it must not see

    def _step(self, _: Manager, step: Step) -> None:
        self.quota -= 1
        if (self.quota <= 0 or step.what == "blocked") and getcurrent() is not self.main:
            self.main.switch()

    def _fate(self, _: Manager, server: str, verb: str) -> str:
        del server
        chance = self.random.random()
        if chance < 0.04:
            return "lost"
        return "hang" if chance < 0.1 and verb == "unlink" else ""

    def _judge(self, unlinked: Unlinked) -> None:
        what = broken_promise(self.world, unlinked)
        if what:
            raise Broken(f"{what}: {unlinked}, seed {self.seed}")

    def _come_to_rest(self) -> None:
        """All servers up, time passes, fresh facts: nothing is left to do, and the journal has told the truth."""
        world = self.world
        world.fate = lambda *_: ""
        world.now += PATIENCE + 1
        for name, server in world.servers.items():
            server.up = True
            world.run_hanging(name)
        for _ in range(2):
            self.quota = 1 << 30
            told = Manager(world, "rest").delete(self._fresh_plan())
            if {one.state for one in told} - {"done"}:
                raise Broken(f"it does not come to rest: {told}, seed {self.seed}")
        if self._fresh_plan() or world.database.rows("SELECT count(*) FROM journal WHERE state = 'intended'")[0][0]:
            raise Broken(f"something is left to do, seed {self.seed}")
        done = Counter(world.database.rows("SELECT server, name FROM journal WHERE state = 'done'"))
        if done != Counter((one.server, one.name) for one in world.unlinked):
            raise Broken(f"the journal does not tell the truth: {done}, {world.unlinked}, seed {self.seed}")

    def _fresh_plan(self) -> list[Delete]:
        full = (1 << DESTINATIONS) - 1
        rows: list[Delete] = []
        for name in FILES:
            mask = self._mask(name)
            view = View(mask, mask, self.world.on_origin(name))
            rows += named(self.table.rows("all-but-one", full, view), name)
        return rows


def planned_together(table: Table, random: Random) -> tuple[list[Delete], list[Delete]]:
    """Two files seen somehow: what the planner answers to both at once, and what it answers to each."""
    count = table.destinations
    kind = random.choice(KINDS)
    answering = random.getrandbits(count)
    views = {name: View(random.getrandbits(count), random.getrandbits(count), random.random() < 0.7) for name in FILES}
    together = by_name(plan(kind, node(count, answering, views)))
    alone = {name: table.rows(kind, answering, view) for name, view in views.items()}
    return (
        [row for name in FILES for row in named(together.get(name, ()), name)],
        [row for name in FILES for row in named(alone[name], name)],
    )
