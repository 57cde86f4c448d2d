"""What the tests of faults share: programs of a server that can be held, runs under way, what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Literal

from site_of_sshd import Row, Site

from cftools.actions.settling import END_SECONDS
from cftools.lab.sshd import Shape
from cftools.state.file_locks import FileLocks

PATIENCE = 20.0  # seconds within which anything that is to happen has happened
FAST_LIMITS: dict[str, Any] = {"connect_timeout": "1s", "response_timeout": "1s"}

# Stands before a program in the PATH of a server's commands. Files beside it tell what to do: NAME.before and
# NAME.after hold it there until they are gone, NAME.full holds how many blocks of 512 bytes it may write.
PROGRAM = r"""#!/bin/sh
at="{here}/{name}"
pause() {{ : >"$at.reached"; while [ -e "$at.$1" ]; do sleep 0.02 </dev/null >/dev/null 2>&1; done; }}
if [ -e "$at.full" ]; then trap '' XFSZ; read -r blocks <"$at.full"; ulimit -f "$blocks"; fi
if [ -e "$at.before" ]; then pause before; fi
if [ -e "$at.after" ]; then {real} "$@"; status=$?; pause after; exit "$status"; fi
exec {real} "$@"
"""

Moment = Literal["before", "after"]


class Program:
    """A program of one server that can be held before or after its work; make it before the server starts."""

    def __init__(self, site: Site, server: str, name: str) -> None:
        self._folder = site.folder / "programs" / server
        self._name = name
        self._folder.mkdir(parents=True, exist_ok=True)
        self.path = self._folder / name
        self.path.write_text(PROGRAM.format(here=self._folder, name=name, real=shutil.which(name)))
        self.path.chmod(0o755)
        site.servers.shapes[server] = Shape({"PATH": f"{self._folder}:{os.environ['PATH']}"})

    def hold(self, moment: Moment) -> None:
        """From now on it waits there."""
        self._path("reached").unlink(missing_ok=True)
        self._path(moment).touch()

    def wait(self) -> None:
        """Waits until it is held."""
        wait_for(self._path("reached").exists)

    def release(self) -> None:
        """Lets it go on, also when it is called again."""
        for moment in ("before", "after"):
            self._path(moment).unlink(missing_ok=True)

    def limit(self, blocks: int | None) -> None:
        """How much it may write from now on, in blocks of 512 bytes; None: as much as it likes."""
        if blocks is None:
            self._path("full").unlink()
        else:
            self._path("full").write_text(f"{blocks}\n")

    def _path(self, what: str) -> Path:
        return self._folder / f"{self._name}.{what}"


class Run:
    """A command under way."""

    def __init__(self, site: Site, *words: str, stdin: bytes | None = None) -> None:
        pipe = subprocess.PIPE
        self._stdin = stdin
        self.process = subprocess.Popen(
            site.command(*words), stdin=pipe if stdin is not None else subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        self.began = time.monotonic()
        self.talk: list[str] = []

    def end(self, *expect: int, within: float = PATIENCE) -> list[Row]:
        """Its rows, after it ended with one of these exit codes in that many seconds from now."""
        now = time.monotonic()
        try:
            out, err = self.process.communicate(self._stdin, timeout=within + PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            raise
        assert time.monotonic() - now < within, f"it took {time.monotonic() - now:.1f} s; {err.decode()}"
        self.talk = err.decode().splitlines()
        assert self.process.returncode in expect, (self.process.returncode, err.decode(), out.decode())
        assert b"Traceback" not in err, err.decode()
        return [json.loads(line) for line in out.splitlines()]


def wait_for(what: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def state(site: Site, query: str) -> list[tuple[Any, ...]]:
    """What the state database answers."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as database:
        return database.execute(query).fetchall()


def journal(site: Site, verb: str = "delete") -> list[tuple[Any, ...]]:
    """Server, name and state of each row of the journal, oldest first."""
    return state(site, f"SELECT server, name, state FROM journal WHERE verb = '{verb}' ORDER BY id")


def wait_for_expiry(site: Site) -> None:
    """Waits until no deletion that is not settled can happen any more."""
    found = state(site, "SELECT max(expires) FROM journal WHERE state = 'intended'")
    wait_for(lambda: time.time() >= (found[0][0] or 0) + END_SECONDS + 1)


def parts(site: Site) -> list[str]:
    """Unfinished copies, each as server/folder/name."""
    base = site.folder / "servers"
    return sorted(str(path.relative_to(base)) for path in base.glob("*/data/.cftools-part-*/*"))


def part_bytes(site: Site, server: str) -> int:
    """How much of unfinished copies lies on a server."""
    return sum(path.stat().st_size for path in site.root(server).glob(".cftools-part-*/*"))


def working_on(site: Site, server: str) -> list[str]:
    """The command lines of processes that have the server's root among their words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(site.root(server)) in line:
                found.append(line)
    return found


def assert_in_order(site: Site, *, keeps_parts: bool = False) -> None:
    """No lock is held, nothing is left unsettled, and no unfinished copy lies about unless ``keeps_parts``."""
    assert FileLocks(site.folder / "state" / "locks", "test").held() == []
    assert state(site, "SELECT verb, server, name FROM journal WHERE state = 'intended'") == []
    assert state(site, "SELECT name FROM task WHERE state IN ('ready', 'working')") == []
    if not keeps_parts:
        assert [path for name in site.names for path in site.root(name).glob(".cftools-part-*")] == []


def tree(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Everything below folders: kind, content or link target, time and inode. Two that are equal say that nothing was
    touched."""
    found: dict[str, tuple[object, ...]] = {}
    for folder in folders:
        for top, below, files in os.walk(folder):
            for path in (Path(top, name) for name in [*below, *files]):
                status = path.lstat()
                content: object = None
                if stat.S_ISREG(status.st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest(), status.st_mtime_ns
                elif stat.S_ISLNK(status.st_mode):
                    content = path.readlink()
                found[str(path)] = (stat.S_IFMT(status.st_mode), content, status.st_ino)
    return found
