"""A job on real servers that is killed with SIGKILL at one of its fault points, and what must hold then and later.

The killed process is the real command line with the fault points of ``fault_points/sitecustomize.py``. What runs
afterwards is the same command in this process: that is quicker, and nothing is left to be killed there.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from site_of_sshd import CONTENT, Site

from cftools.actions.settling import END_SECONDS
from cftools.cli import app
from cftools.state.file_locks import FileLocks
from cftools.state.locks import Holder

FAULT_POINTS = Path(__file__).with_name("fault_points")
SETTLE_RUNS = 3  # the run after a kill, one after the deletions under way have expired, and one to spare
PROCESS_SECONDS = 10.0  # so long what the killed run had started may go on on the servers
HOLD_SECONDS = 20.0  # so long a process may take to the point at which it is held
EXPIRY_SECONDS = 3600  # more than any deletion has until it expires
REPEATED = {"failed", "refused", "skipped"}  # journal states after which a file may still be done
OPEN_PARTS = ".cftools-part-*"

Place = tuple[str, str]  # server, name


Files = dict[str, tuple[tuple[str, ...], bytes]]


class Scene(NamedTuple):
    """A command and the files it meets: by name the servers that hold it and its content, in rank order."""

    words: tuple[str, ...]
    files: Files
    config: dict[str, dict[str, Any]]
    capacities: dict[str, str] = {}  # noqa: RUF012 (a NamedTuple's default is never changed)
    destinations: int = 3


class Tree(NamedTuple):
    """What stands on the servers: the content of each file by place, and the folders of unfinished copies."""

    files: dict[Place, bytes]
    parts: list[str]


class KillNine:
    """One scene on a site whose servers run all the time; `reset` puts everything back to the start."""

    def __init__(self, site: Site, scene: Scene) -> None:
        self.site, self.scene = site, scene
        site.server_keys = {server: {"capacity": size} for server, size in scene.capacities.items()}
        site.configure(**scene.config)
        site.write_inputs(
            {name: [one for one in servers if one in site.destinations] for name, (servers, _) in scene.files.items()},
            {name: len(content) for name, (_, content) in scene.files.items()},
        )
        site.start()
        self._log = site.folder / "points.log"
        self.reset()
        self._start = self.tree().files
        code, self.points = self.run_killed("")
        assert code == 0, f"{scene.words}: the undisturbed run ended with {code}"
        self._end = self.tree().files
        self._deleted = self._start.keys() - self._end.keys()
        self._copied = self._end.keys() - self._start.keys()
        self._state_files = self._manager_files()

    def reset(self) -> None:
        """All servers and the state as they were before the first run."""
        self._reset_state()
        for server in self.site.names:
            for path in self.site.root(server).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, (servers, content) in self.scene.files.items():
            self.site.put(name, *servers, content=content)

    def _reset_state(self) -> None:
        shutil.rmtree(self.site.folder / "state", ignore_errors=True)

    def run_killed(self, point: str) -> tuple[int, list[str]]:
        """Runs the command as a process that kills itself at ``point`` (never, when empty): its exit code, and the
        points it went through."""
        self._log.unlink(missing_ok=True)
        code, talk = _end_of(self._start_killed(point))
        assert code in (0, -signal.SIGKILL), f"{point}: exit {code}\n{talk}"
        return code, self._log.read_text().splitlines()

    @contextmanager
    def held(self, hold: str, point: str) -> Iterator[None]:
        """Inside the block the process waits at the point ``hold``; afterwards it goes on and dies at ``point``."""
        held = self._log.with_name(self._log.name + ".hold")
        held.touch()
        self._log.write_text("")
        running = self._start_killed(point, hold)
        given_up = time.monotonic() + HOLD_SECONDS
        try:
            while hold not in self._log.read_text().splitlines() and time.monotonic() < given_up:
                time.sleep(0.01)
            yield
        finally:
            held.unlink()
            code, talk = _end_of(running)
        assert code == -signal.SIGKILL, f"exit {code}: it did not reach {point}\n{talk}"

    def _start_killed(self, point: str, hold: str = "") -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(FAULT_POINTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        more = {"PYTHONPATH": path, "FAULT_LOG": str(self._log), "FAULT_POINT": point, "FAULT_HOLD": hold}
        pipe = subprocess.PIPE
        return subprocess.Popen(self.site.command(*self.scene.words), env=os.environ | more, stdout=pipe, stderr=pipe)

    def kill(self, point: str) -> tuple[bool, list[str]]:
        """Kills a run at this point and lets the next ones settle it: whether it was killed, and all that is wrong."""
        self.reset()
        code, _ = self.run_killed(point)
        wrong = [*self._right_after()]
        wrong += self.settle()
        wrong += self._in_the_end()
        return code != 0, wrong

    def tree(self) -> Tree:
        """What stands on the servers now."""
        files, parts = {}, []
        for server in self.site.names:
            root = self.site.root(server)
            parts += [f"{server}/{path.name}" for path in root.glob(OPEN_PARTS)]
            for path in root.rglob("*"):
                with suppress(FileNotFoundError, IsADirectoryError):  # a script of the killed run may still be at work
                    if not path.parent.match(OPEN_PARTS):
                        files[server, str(path.relative_to(root))] = path.read_bytes()
        return Tree(files, parts)

    def _right_after(self) -> Iterator[str]:
        """What is wrong at the moment of the kill, whatever the servers are still doing."""
        files = self.tree().files
        known = {(verb, place) for verb, place, state in self._journal() if state in ("intended", "done")}
        for place, content in self._start.items():
            server, name = place
            if server in self.site.sources and files.get(place) != content:
                yield f"{server} lost {name}"
            if place not in files and ("delete", place) not in known:
                yield f"{server} lost {name}, and the journal does not know"
            if (server, name) in self._deleted and not any((one, name) in files for one in self.site.sources):
                yield f"{name} is nowhere on the origin"
        duplicates = {name for server, name in self._deleted if self._keeps(self._end, name)}
        for name in duplicates:
            if not self._keeps(files, name):
                yield f"no destination has {name} any more"
        for place, content in files.items():
            if self._end.get(place, self._start.get(place)) != content:
                yield f"{place} is not what it should be"
            if place not in self._start and ("copy", place) not in known:
                yield f"{place} appeared, and the journal does not know"
        if held := self._held():
            yield f"locks of a dead process: {held}"

    def _held(self) -> list[Holder]:
        return FileLocks(self.site.folder / "state" / "locks", "test").held()

    def _keeps(self, files: dict[Place, bytes], name: str) -> bool:
        return any((server, name) in files for server in self.site.destinations)

    def settle(self) -> list[str]:
        """Runs the same command until nothing is unsettled, and once more; what is wrong with these runs."""
        for _ in range(SETTLE_RUNS):
            said, _ = self.run_here(*self.scene.words)
            if not said and not self._unsettled():
                said, _ = self.run_here(*self.scene.words)
                return [f"the last run: {said}"] if said else []
            self._let_expire()
        return [f"after {SETTLE_RUNS} runs: {said}, unsettled: {self._unsettled()}"]

    def _let_expire(self) -> None:
        """Makes it later than every deletion under way may last, once nothing of the killed run goes on.

        A server that has nothing left to do cannot tell this from waiting."""
        self.wait_for_servers()
        self._change(f"UPDATE journal SET expires = expires - {EXPIRY_SECONDS} WHERE state = 'intended'")

    def _change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.site.folder / "state" / "state.db")) as state, state:
            state.execute(statement)

    def wait_for_servers(self) -> dict[int, str]:
        """Waits for the end of what goes on on the servers; what still does after a while."""
        given_up = time.monotonic() + PROCESS_SECONDS
        while (left := processes_below(self.site.folder / "servers")) and time.monotonic() < given_up:
            time.sleep(0.02)
        return left

    def wait_for_expiry(self) -> None:
        """Waits until no deletion under way may happen any more."""
        ((expires,),) = self._rows("SELECT max(expires) FROM journal WHERE state = 'intended'")
        while time.time() < expires + END_SECONDS + 1:
            time.sleep(0.05)

    def states(self, name: str) -> list[str]:
        """The states of the journal rows of a file, oldest first."""
        return [state for _, place, state in self._journal() if place[1] == name]

    def run_here(self, *words: str) -> tuple[str, bytes]:
        """Runs a command in this process: what is wrong with its end, or the empty string, and what it printed."""
        out, talk = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with mock.patch.multiple(sys, stdout=out, stderr=talk):
            try:
                code = app.run(["--config", str(self.site.folder / "cftools.yaml"), *words])
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        out.flush()
        said = f"exit {code}: {talk.getvalue()}" if code or talk.getvalue() else ""
        return said, out.buffer.getvalue()

    def _in_the_end(self) -> Iterator[str]:
        """What is wrong when all is settled."""
        if left := self.wait_for_servers():
            yield f"left running on the servers: {[words[-200:] for words in left.values()]}"
        tree = self.tree()
        for place in tree.files.keys() ^ self._end.keys():
            yield f"{place} {'stands there' if place in tree.files else 'is gone'}, unlike after an undisturbed run"
        yield from (f"{place} has another content" for place in tree.files if tree.files[place] != self._end.get(place))
        yield from (f"an unfinished copy stays behind: {part}" for part in tree.parts)
        yield from self._untruths()
        if (files := self._manager_files()) != self._state_files:
            yield f"files of the manager: {files ^ self._state_files}"
        if any(shown := self.run_here("locks")):
            yield f"cftools locks: {shown}"

    def _untruths(self) -> Iterator[str]:
        """Where the journal and the tasks do not tell what happened: each file was deleted, or copied, just once."""
        states: dict[tuple[str, Place], list[str]] = defaultdict(list)
        for verb, place, state in self._journal():
            states[verb, place].append(state)
        expected = {("delete", place) for place in self._deleted} | {("copy", place) for place in self._copied}
        for key in expected | states.keys():
            found = states[key]
            times = found.count("done")
            if times != (key in expected):
                yield f"{key}: {times} times done: {found}"
            elif times:
                before, after = found[: found.index("done")], found[found.index("done") + 1 :]
                if set(before) - REPEATED or set(after) - {"already", "refused"} or found[-1] == "refused":
                    yield f"{key}: {found}"
        for name, state in self._rows("SELECT name, state FROM task WHERE state IN ('ready', 'working')"):
            yield f"the copy of {name} is still {state}"

    def _unsettled(self) -> list[tuple[Any, ...]]:
        return self._rows("SELECT verb, server, name FROM journal WHERE state = 'intended'")

    def _journal(self) -> list[tuple[str, Place, str]]:
        rows = self._rows("SELECT verb, server, name, state FROM journal ORDER BY id")
        return [(verb, (server, name), state) for verb, server, name, state in rows]

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        path = self.site.folder / "state" / "state.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path)) as state:
            if not state.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
                return []  # killed before the first migration was committed
            return state.execute(query).fetchall()

    def _manager_files(self) -> set[str]:
        """Everything the manager keeps, but SQLite's own side files."""
        folder = self.site.folder / "state"
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.match("state.db-*")}


def _end_of(running: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit code and stderr of a process, which is ended if it does not end in time."""
    with running:
        try:
            _, talk = running.communicate(timeout=60)
        finally:
            running.kill()
    return running.returncode, talk.decode()


def processes_below(folder: Path) -> dict[int, str]:
    """The processes of this machine that work in the folder, or name it: what servers do there, by process number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):  # it has just ended, or is another user's
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                place = str((entry / "cwd").readlink())
                if str(folder) in words or place.startswith(str(folder)):
                    found[int(entry.name)] = words
    return found


def stop_script(folder: Path, verb: str) -> list[int]:
    """Stops (SIGSTOP) the scripts of this verb that work below the folder, once there is one; their process numbers."""
    given_up = time.monotonic() + HOLD_SECONDS
    while time.monotonic() < given_up:
        if found := [number for number, words in processes_below(folder).items() if f"cftools-{verb}" in words]:
            for number in found:
                os.kill(number, signal.SIGSTOP)
            return found
        time.sleep(0.01)
    raise AssertionError(f"no script {verb} below {folder}")


def around(points: list[str], *marks: str) -> list[str]:
    """The points whose name holds one of these texts, with the point before and the one after each."""
    places = {place for place, point in enumerate(points) if any(mark in point for mark in marks)}
    near = {place + step for place in places for step in (-1, 0, 1)}
    return [point for place, point in enumerate(points) if place in near]


def spread(points: list[str], count: int, seed: str) -> list[str]:
    """``count`` points, one by chance out of each of as many stretches of the run."""
    chance = random.Random(seed)
    bounds = [len(points) * step // count for step in range(count + 1)]
    return [chance.choice(points[low:high]) for low, high in itertools.pairwise(bounds) if low < high]


def many(count: int, *servers: str) -> Files:
    """Files of 100 bytes, r1.mpg and on, on these servers."""
    return {f"r{number}.mpg": (servers, CONTENT) for number in range(1, count + 1)}
