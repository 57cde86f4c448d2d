"""Locks between processes, whichever back end keeps them: their names, their holders, and what all of them can do.

A lock is freed when its process ends, however it ends, so one left by a killed process never blocks. What is told
about its holder is for people; the lock alone decides.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from cftools.model.errors import LockHeld

UNNAMED_SECONDS = 0.5  # a holder without a name is starting, ending, or only looking (`holder`): ask again this long
DELETION = "deletion"  # one turn for every deletion and for a finished copy that becomes visible


def source_lock(source: str) -> str:
    """The lock a worker holds as long as it copies from ``source``."""
    return f"source-{source}"


def run_lock(run: int | str) -> str:
    """The lock a run of `distribute` holds while it lives."""
    return f"run-{run}"


def job_lock(job: str) -> str:
    """The lock of a job of which only one copy may run."""
    return f"job-{job}"


class Holder(NamedTuple):
    """Who holds a lock; ``since`` is ISO 8601 in UTC. One that has not told its name yet has ``pid`` 0."""

    lock: str
    command: str = ""
    host: str = ""
    pid: int = 0
    since: str = ""


class Locks(ABC):
    """The locks of one node; ``command`` is told to whoever finds one held."""

    def __init__(self, command: str) -> None:
        self.command = command

    @contextmanager
    def hold(self, name: str, *, remove: bool = False) -> Iterator[None]:
        """Holds the lock for the block. Raises LockHeld at once when another process, or thread, has it.

        ``remove``: leave nothing of it behind; only for a lock whose name nobody uses again.
        """
        taken = self._wait_for(name, None, 0.02)
        try:
            yield
        finally:
            self._free(name, taken, remove=remove)

    @contextmanager
    def wait(self, name: str, stop: Callable[[], bool] = lambda: False, pause: float = 0.05) -> Iterator[None]:
        """Holds the lock for the block, waiting for its turn. Raises LockHeld when ``stop()`` says to give up."""
        taken = self._wait_for(name, stop, pause)
        try:
            yield
        finally:
            self._free(name, taken, remove=False)

    @abstractmethod
    def holder(self, name: str) -> Holder | None:
        """Who holds the lock now, or None when it is free."""

    @abstractmethod
    def held(self) -> list[Holder]:
        """Every lock of the node that is held now, by name."""

    @abstractmethod
    def clear(self, pattern: str) -> None:
        """Removes what locks of dead processes left; only for names that nobody uses again."""

    @abstractmethod
    def _take(self, name: str) -> int | Holder:
        """Takes the lock if it is free: what `_free` needs to know. Else who has it."""

    @abstractmethod
    def _free(self, name: str, taken: int, *, remove: bool) -> None: ...

    def _me(self, name: str) -> Holder:
        return Holder(
            name, self.command, socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds")
        )

    def _wait_for(self, name: str, stop: Callable[[], bool] | None, pause: float) -> int:
        given_up = time.monotonic() + UNNAMED_SECONDS
        while isinstance(taken := self._take(name), Holder):
            unnamed = not taken.pid and time.monotonic() < given_up
            if not unnamed and (stop is None or stop()):
                raise LockHeld(*taken)
            time.sleep(pause)
        return taken
