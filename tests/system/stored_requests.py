"""What the state of a node with SQLite holds of bulk-delete requests, read as it stands; and runs that are killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from site_of_sshd import Site

FAULT_POINTS = Path(__file__).with_name("fault_points")


class Stored(NamedTuple):
    """One request: ``blocks`` of names, ``work`` as server, block and places."""

    key: str
    target: str
    resources: int
    state: str
    blocks: list[bytes]
    work: list[tuple[str, int, str]]

    @property
    def names(self) -> list[bytes]:
        """All of its names."""
        return b"".join(self.blocks).split(b"\0")[:-1]


def stored(site: Site) -> list[Stored]:
    """The requests in the order in which they were accepted."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        found = []
        query = "SELECT id, key, target, resources, state FROM bulk_request ORDER BY id"
        for number, key, target, resources, ended in state.execute(query):
            blocks = state.execute("SELECT names FROM bulk_block WHERE request = ? ORDER BY number", (number,))
            names = [block for (block,) in blocks]
            work = "SELECT server, block, places FROM bulk_work WHERE request = ? ORDER BY id"
            rows = state.execute(work, (number,)).fetchall()
            found.append(Stored(key, target, resources, ended, names, rows))
        return found


def forget_all(site: Site) -> None:
    """Takes all requests out of the state."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db", isolation_level=None)) as state:
        for table in ("bulk_work", "bulk_block", "bulk_progress", "bulk_request"):
            state.execute(f"DELETE FROM {table}")


class KilledRuns:
    """A command that is killed at its fault points, see ``fault_points``; ``more``: environment it needs."""

    def __init__(self, site: Site, words: tuple[str, ...], stdin: bytes = b"", more: Mapping[str, str] | None = None):
        self.site, self._words, self._stdin, self._more = site, words, stdin, more or {}
        self.log = site.folder / "points.log"

    def start(self, point: str = "", hold: str = "") -> subprocess.Popen[bytes]:
        """The process, which kills itself at ``point`` and waits at ``hold`` as long as `release` was not called."""
        self.log.write_text("")
        self.log.with_name(self.log.name + ".hold").touch()
        path = os.pathsep.join([str(FAULT_POINTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        faults = {"PYTHONPATH": path, "FAULT_LOG": str(self.log), "FAULT_POINT": point, "FAULT_HOLD": hold}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.site.command(*self._words),
            env={**os.environ, **self._more, **faults},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )

    def release(self) -> None:
        """Lets the process go on."""
        self.log.with_name(self.log.name + ".hold").unlink()

    def points(self) -> list[str]:
        """The points gone through so far."""
        return self.log.read_text().splitlines()

    def run(self, point: str = "", expect: int = 0) -> int:
        """Runs it to its end, which must be with the code ``expect``, or to this point; its exit code."""
        with self.start(point) as process:
            _, talk = process.communicate(self._stdin, timeout=60)
        assert process.returncode in (expect, -signal.SIGKILL), f"{point}: exit {process.returncode}\n{talk.decode()}"
        return process.returncode
