"""A node in memory for the proofs: servers that answer the real scripts' questions, a virtual clock, and managers that
can be stopped, killed or overtaken at each of their steps.

Everything a manager does to the world (a question sent, an answer taken, a row committed, the lock) is a step; before
and after each one the world's ``on_step`` may let something happen. What the servers answer is held to the real scripts
by `test_memory_servers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from cftools.actions import arrival, protocol, settling
from cftools.actions import copy as copying
from cftools.config.schema import Distribute
from cftools.config.servers import ServerSettings
from cftools.model.errors import LockHeld
from cftools.model.rows import Delete, Outcome
from cftools.remote.pool import Answer, Fleet
from cftools.remote.transport import RemoteFault, Reply, Script, Transport, nothing
from cftools.state import runs
from cftools.state.file_locks import FileLocks
from cftools.state.sqlite import SqliteDatabase

SIZE = 100
# Seconds a deletion may still happen after it was asked for: the copies of a file go one after the other.
PATIENCE = 4 * protocol.PATIENCE * 60 + settling.END_SECONDS
DAY = 86400.0


class Killed(BaseException):
    """The manager's process was killed; nothing it still does reaches the world."""


class Step(NamedTuple):
    """One moment of a manager: ``what`` is wait, blocked, locked, unlocked, ask, answered, commit or committed."""

    what: str
    server: str = ""
    verb: str = ""


class Question(NamedTuple):
    """A deletion that hangs on its server: the whole question, and why each of its files was to go."""

    script: Script
    stdin: bytes
    reasons: dict[str, Delete]


class Unlinked(NamedTuple):
    """A file that a server deleted; ``row`` as the journal had intended it, None when it had not."""

    server: str
    name: str
    row: Delete | None


class MemoryServer:
    """One server: its files by name with their sizes, and the questions that hang there."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.files: dict[str, int] = {}
        self.up = True
        self.hanging: list[Question] = []
        self.removed: list[str] = []  # by the last question

    def answer(self, script: Script, stdin: bytes, clock: int) -> Reply:
        """What the real script would print."""
        if script.verb == "unlink":
            return self._unlink(int(script.arguments[2]), stdin, clock)
        if script.verb == "publish":
            name, size = script.arguments[4].decode(), int(script.arguments[5])
            already = self.files.get(name) == size
            self.files[name] = size
            return Reply(0, b"already\n" if already else b"done\n", b"")
        asked = [name[2:].decode() for name in stdin.split(b"\0")[:-1]]
        if script.verb == "stat":
            records = [self._stat(name) for name in asked if name in self.files]
            return Reply(0, b"".join(records) + b". %d\0" % clock, b"")
        assert script.verb == "look"
        marks = "".join("1" if name in self.files else "0" for name in asked)
        return Reply(0, f"{marks}. {clock}\n".encode(), b"")

    def _stat(self, name: str) -> bytes:
        identity = f"{self.settings.name}{name}".encode().hex()
        return b"81a4 %d 1500000000 %d 7.0 ./%b\0" % (self.files[name], int(identity, 16), name.encode())

    def _unlink(self, expires: int, stdin: bytes, clock: int) -> Reply:
        if clock > expires:
            return Reply(8, b"", b"")
        asked = records_of(stdin)
        matched, left, gone = [], [], []
        for kind, size, dot, raw in asked:
            name = raw.decode()
            if self.files.get(name) == int(size):
                del self.files[name]
                self.removed.append(name)
                matched.append(b"/".join((kind, size, dot, raw)))
            if name in self.files:
                left.append(b"%b/%d/./%b" % (kind, self.files[name], raw))
            else:
                gone.append(b"stat: cannot statx './%b': No such file or directory\n" % raw)
        out = b"".join(one + b"\0" for one in matched) + b"\0" + b"".join(one + b"\0" for one in left) + b"\0end"
        return Reply(0, out, b"".join(gone))


def records_of(question: bytes) -> list[list[bytes]]:
    """The records of a question to unlink: kind, size, dot, name."""
    assert question.endswith(b"|.")
    text = re.sub(rb"\\0(\d{3})", lambda found: bytes([int(found[1], 8)]), question[:-2].split(b"|")[1])
    return [record.split(b"/", 3) for record in text.split(b"\0")[:-1]]


Fate = Callable[["Manager", str, str], str]


class World:
    """All servers of a node, its journal, and what was deleted so far. ``sources`` have no clock of their own."""

    def __init__(self, destinations: int, sources: int = 1) -> None:
        settings = [ServerSettings(f"src{n}", "source", f"10.0.1.{n}", ("/origin",)) for n in range(1, sources + 1)]
        settings += [
            ServerSettings(f"dst{n}", "destination", f"10.0.0.{8 + n}", ("/data",)) for n in range(1, destinations + 1)
        ]
        self.servers = {one.name: MemoryServer(one) for one in settings}
        self.database = SqliteDatabase(Path(":memory:"))
        self.now = 1_700_000_000.0
        self.lock_owner: Manager | None = None
        self.unlinked: list[Unlinked] = []
        self.on_step: Callable[[Manager, Step], None] = lambda _manager, _step: None
        self.on_unlink: Callable[[Unlinked], None] = lambda _: None
        self.fate: Fate = lambda _manager, _server, _verb: ""

    @property
    def destinations(self) -> list[str]:
        """Their names, the lowest address first."""
        return [name for name, server in self.servers.items() if server.settings.role == "destination"]

    def clear(self) -> None:
        """Empties servers and journal for the next story."""
        for server in self.servers.values():
            server.files.clear()
            server.hanging.clear()
            server.up = True
        with self.database.transaction():
            self.database.execute("DELETE FROM journal")
            self.database.execute("DELETE FROM run")
        self.unlinked.clear()
        self.lock_owner = None

    def holders(self, name: str) -> list[str]:
        """The destinations that have the file."""
        return [server for server in self.destinations if name in self.servers[server].files]

    def on_origin(self, name: str) -> bool:
        """Whether some source has the file."""
        return any(name in one.files for one in self.servers.values() if one.settings.role == "source")

    def run_hanging(self, server: str) -> None:
        """The server wakes up and comes to the questions that hang there, long after they were asked."""
        waiting, self.servers[server].hanging = self.servers[server].hanging, []
        for question in waiting:
            self.ask(server, question.script, question.stdin, question.reasons)

    def ask(self, server: str, script: Script, stdin: bytes, reasons: dict[str, Delete]) -> Reply:
        """Lets a server answer, and tells ``on_unlink`` of each file it deletes."""
        one = self.servers[server]
        one.removed.clear()
        reply = one.answer(script, stdin, int(self.now))
        for name in one.removed:
            unlinked = Unlinked(server, name, reasons.get(name))
            self.unlinked.append(unlinked)
            self.on_unlink(unlinked)
        return reply

    def intended(self, server: str) -> dict[str, Delete]:
        """What the journal says is about to be deleted on a server."""
        found = self.database.rows(
            "SELECT name, size, reason, keeper, rank FROM journal WHERE state = 'intended' AND server = ?", (server,)
        )
        return {name: Delete(server, name, size, reason, keeper, rank) for name, size, reason, keeper, rank in found}


class MemoryTransport:
    """The way of one manager to one server. See `cftools.remote.transport.Transport`."""

    def __init__(self, manager: Manager, server: str) -> None:
        self.server = server
        self._manager, self._world = manager, manager.world

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`; the world's ``fate`` may be `hang`, `lost` (the answer) or empty."""
        del repeatable, limit
        self._manager.step(Step("ask", self.server, script.verb))
        one = self._world.servers[self.server]
        if not one.up:
            raise RemoteFault(self.server, "unreachable", "no route to host")
        reasons = {}
        if script.verb == "unlink":
            intended = self._world.intended(self.server)
            asked = [record[3].decode() for record in records_of(stdin)]
            reasons = {name: intended[name] for name in asked if name in intended}
        fate = self._world.fate(self._manager, self.server, script.verb)
        if fate == "hang":
            one.hanging.append(Question(script, stdin, reasons))
            raise RemoteFault(self.server, "silent", "no answer for 60 s")
        reply = self._world.ask(self.server, script, stdin, reasons)
        self._manager.step(Step("answered", self.server, script.verb))
        if fate == "lost":
            raise RemoteFault(self.server, "broken", "the connection ended before the script did")
        return reply

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> Any:
        """No session is ever opened for a deletion."""
        raise AssertionError((script.verb, watch))

    def close(self) -> None:
        """Nothing to close."""


class OneByOne(Fleet):
    """A fleet that asks its servers one after the other, so that a story can be told again."""

    def each(self, names: Iterable[str], work: Callable[[Transport], Answer]) -> dict[str, Answer | RemoteFault]:
        """See `Fleet.each`."""
        answers: dict[str, Answer | RemoteFault] = {}
        for name in dict.fromkeys(names):
            try:
                answers[name] = work(self.transport(name))
            except RemoteFault as fault:
                answers[name] = fault
        return answers


class MemoryLocks(FileLocks):
    """The deletion lock of a world: freed, as the kernel does, when its owner dies."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(Path("/nowhere"), "model")
        self._manager, self._world = manager, manager.world

    @contextmanager
    def wait(self, name: str, stop: Callable[[], bool] = lambda: False, pause: float = 0.05) -> Iterator[None]:
        """See `Locks.wait`; while another one has it each look is a step `blocked`."""
        del pause
        manager, world = self._manager, self._world
        manager.step(Step("wait"))
        while world.lock_owner not in (None, manager):
            if stop() or manager.never_waits:
                raise LockHeld(name, "model")
            manager.step(Step("blocked"))
        world.lock_owner = manager
        manager.step(Step("locked"))
        try:
            yield
        finally:
            if world.lock_owner is manager:
                world.lock_owner = None
        manager.step(Step("unlocked"))


class StepDatabase(SqliteDatabase):
    """A manager's sight of the world's journal: each transaction is a step, all of it or nothing."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._turn, self._connection, self.path = _of(manager.world.database)
        self._inside = False
        self.place = str(self.path)

    @contextmanager
    def transaction(self, *, shared: bool = False) -> Iterator[None]:
        """See `Database.transaction`."""
        self._manager.step(Step("commit"))
        with super().transaction(shared=shared):
            yield
        self._manager.step(Step("committed"))


def _of(database: SqliteDatabase) -> tuple[Any, Any, Path]:
    return database._turn, database._connection, database.path


class Manager:
    """A process of cftools: its config (the destinations it knows), and its tools for deleting."""

    def __init__(self, world: World, name: str, without: Collection[str] = ()) -> None:
        self.world, self.name = world, name
        self.dead = False
        self.gives_up = False  # it was told to stop
        self.never_waits = False
        known = [one.settings for one in world.servers.values() if one.settings.name not in without]
        self.fleet = OneByOne(known, lambda settings: MemoryTransport(self, settings.name), 1)
        self.tools = settling.Tools(
            self.fleet,
            StepDatabase(self),
            MemoryLocks(self),
            runs.begin(world.database, name, world.now),
            "",
            lambda: world.now,
            stop=lambda: self.gives_up,
            elapsed=lambda: world.now,
        )

    def step(self, step: Step) -> None:
        """Tells the world of a step. Raises Killed when this process died, or dies at it."""
        if self.dead:
            raise Killed
        self.world.on_step(self, step)
        if self.dead:
            raise Killed

    def die(self) -> None:
        """Kills the process: its lock is free, its next step fails."""
        self.dead = True
        if self.world.lock_owner is self:
            self.world.lock_owner = None

    def delete(self, rows: Sequence[Delete], batch: int = 1 << 30) -> list[Outcome]:
        """Carries rows out with the real protocol; what was told until the end, or until it was killed."""
        told: list[Outcome] = []
        batches = [rows[start : start + batch] for start in range(0, len(rows), batch)] or [[]]
        try:
            for outcomes in protocol.delete(self.tools, batches):
                told += outcomes
        except (Killed, LockHeld):
            pass
        return told

    def publish(self, server: str, name: str) -> None:
        """Makes a finished copy visible, as `distribute` does: in its turn under the deletion lock."""
        place = arrival.Place("/data", "", b".cftools-part-0", name.encode(), name, SIZE)
        tools = copying.Tools(self.fleet, self.tools.database, self.tools.locks, Distribute(), "")

        def look() -> None:
            if self.gives_up:
                raise copying.Cancelled("not wanted any more")

        with suppress(Killed, copying.Cancelled, arrival.Refused, RemoteFault):
            copying._publish_in_turn(tools, self.fleet.transport(server), place, look)
