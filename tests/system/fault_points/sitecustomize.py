"""Fault points: places at which a process under test ends with SIGKILL. Python imports this at start-up when the folder
stands on PYTHONPATH; only tests put it there.

A point is a moment right after something changed, or may have, on this machine or on a server; its name says what,
and which one of that kind it was (``sql COMMIT #3``). ``FAULT_LOG`` names the file to which each point adds its line;
at the point named by ``FAULT_POINT`` the process kills itself; at the one named by ``FAULT_HOLD`` it waits as long as
the file ``FAULT_LOG``.hold is there.

- ``sql``: a statement that is no query has run;
- ``file``: a file of the machine is about to be written, removed, renamed, truncated or locked;
- ``remote``: a script is about to be sent (opening), was started (opened), half of its input was written (half), all
  of it (sent), its input was ended (closed), its answer arrived (answered);
- ``outbox``: a row of an application's table was found, marked as taken, or refused;
- ``stream``: a piece of what a long script says was read;
- ``broker``: the queue was declared, or messages are let in, or one was published, settled, put back or buried.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.remove", "os.rename", "os.truncate", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "fcntl.flock"}


class FaultPoints:
    """Counts the points of this process, writes them down, and ends it at the one it was told."""

    def __init__(self, log: str, fatal: str, hold: str) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._fatal, self._hold, self._held = fatal, hold, log + ".hold"
        self._turn = threading.Lock()
        self._count: Counter[str] = Counter()

    def reach(self, what: str) -> None:
        """One more point of this name."""
        with self._turn:
            self._count[what] += 1
            point = f"{what} #{self._count[what]}"
            os.write(self._log, point.encode() + b"\n")
            if point == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        while point == self._hold and os.access(self._held, os.F_OK):
            time.sleep(0.01)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """A hook of `sys.addaudithook`: called before each thing that Python itself does to a file."""
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and flags & WRITES and not path.startswith("/dev/") and ".pyc" not in path:
                self.reach(f"file open {path.rpartition('/')[2]}")
        elif event in CHANGES:
            path = arguments[1 if event == "os.rename" else 0]  # a rename is named for what comes of it
            name = path.rpartition("/")[2] if isinstance(path, str) else ""
            self.reach(f"file {event.rpartition('.')[2]} {name}".strip())


class PatchingFinder:
    """A finder for `sys.meta_path` that changes modules right after their import, so that start-up stays quick."""

    def __init__(self, patches: dict[str, Callable[[ModuleType], None]]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with the patch after its execution; None for all others."""
        patch = self._patches.get(name)
        spec = PathFinder.find_spec(name, path, target) if patch else None
        if spec is None or patch is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def after(owner: Any, method: str, reached: Callable[..., None]) -> None:
    """Calls ``reached`` with the arguments of each call of the method that came back."""
    original = getattr(owner, method)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        reached(*arguments, **named)
        return result

    setattr(owner, method, wrapped)


def database_points(points: FaultPoints) -> Callable[[ModuleType], None]:
    """The patch for cftools.state.database."""

    def ran(_: Any, statement: str, *__: Any) -> None:
        lines = [line for line in statement.splitlines() if not line.startswith("--")]
        if words := " ".join(lines).split():
            points.reach("sql " + " ".join(words[:3]))

    def patch(module: ModuleType) -> None:
        after(module.Database, "execute", ran)
        after(module.Database, "insert", ran)
        after(module.Database, "execute_many", ran)

    return patch


def ssh_points(points: FaultPoints) -> Callable[[ModuleType], None]:
    """The patch for cftools.remote.ssh."""

    def patch(module: ModuleType) -> None:
        transport, session = module.SshTransport, module.SshSession
        start, start_stream, write, read = transport._open, transport.open, session.write, session.read

        def started(self: Any, script: Any, *rest: Any) -> Any:
            points.reach(f"remote opening {self.server} {script.verb}")
            opened = start(self, script, *rest)
            opened.fault_verb, opened.fault_stream = script.verb, False
            points.reach(f"remote opened {self.server} {script.verb}")
            return opened

        def started_stream(self: Any, *rest: Any) -> Any:
            opened = start_stream(self, *rest)
            opened.fault_stream = True
            return opened

        def was_read(self: Any, *rest: Any) -> Any:
            data = read(self, *rest)
            if self.fault_stream:
                points.reach(f"stream {self.server} {self.fault_verb}")
            return data

        def written(self: Any, data: bytes) -> None:
            if len(data) > 1:
                write(self, data[: len(data) // 2])
                points.reach(f"remote half {self.server} {self.fault_verb}")
                data = data[len(data) // 2 :]
            write(self, data)
            points.reach(f"remote sent {self.server} {self.fault_verb}")

        def reach(what: str) -> Callable[..., None]:
            return lambda self, *_: points.reach(f"{what} {self.server} {self.fault_verb}")

        transport._open, transport.open, session.write, session.read = started, started_stream, written, was_read
        after(session, "close_input", reach("remote closed"))
        after(session, "wait", reach("remote answered"))

    return patch


def broker_points(points: FaultPoints) -> Callable[[ModuleType], None]:
    """The patch for cftools.remote.broker."""

    def reach(what: str) -> Callable[..., None]:
        return lambda *_: points.reach(f"broker {what}")

    def patch(module: ModuleType) -> None:
        for method in ("_declare", "consume", "take", "_publish", "settle", "put_back", "bury"):
            after(module.Broker, method, reach(method.strip("_")))

    return patch


def outbox_points(points: FaultPoints) -> Callable[[ModuleType], None]:
    """The patch for cftools.remote.outbox."""

    def patch(module: ModuleType) -> None:
        for method in ("find", "take", "refuse"):
            after(module.OutboxTable, method, lambda *_, method=method: points.reach(f"outbox {method}"))

    return patch


def install(points: FaultPoints) -> None:
    """Puts the points into this process."""
    patches = {
        "cftools.state.database": database_points(points),
        "cftools.remote.ssh": ssh_points(points),
        "cftools.remote.broker": broker_points(points),
    }
    patches["cftools.remote.outbox"] = outbox_points(points)
    sys.meta_path.insert(0, PatchingFinder(patches))
    sys.addaudithook(points.audit)


if log_file := os.environ.get("FAULT_LOG"):
    install(FaultPoints(log_file, os.environ.get("FAULT_POINT", ""), os.environ.get("FAULT_HOLD", "")))
