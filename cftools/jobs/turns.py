"""Turns of the deletion lock that several workers of one process share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from cftools.actions import settling
from cftools.jobs.job import Job
from cftools.state.locks import DELETION

TURN_SECONDS = 10.0  # nobody joins a turn that is older: other jobs wait for theirs
PAUSE_SECONDS = 0.2  # then the lock is left alone so long, several times the pause between the tries of who waits


def delete_tools(job: Job) -> settling.Tools:
    """What the job deletes with."""
    return settling.Tools(
        job.fleet,
        job.database,
        job.locks,
        job.run,
        job.config.guards.mount_marker,
        time.time,
        job.stop.is_set,
        tuple(job.config.ignore.prefixes),
    )


class SharedTurn:
    """The node's deletion lock, held as long as any worker of this process deletes, but for no longer than a turn.

    ``settle`` is called at the beginning of each turn, when nobody on any manager deletes anything; ``ended`` tells
    that nobody is to wait for one any more.
    """

    def __init__(self, job: Job, settle: Callable[[], object], ended: Callable[[], bool]) -> None:
        self._job = job
        self._settle, self._ended = settle, ended
        self._changed = threading.Condition()
        self._members = 0
        self._is_opening = False
        self._ends = 0.0  # when the turn is over, and when the lock was given away last; monotonic
        self._left = -PAUSE_SECONDS
        self._held = ExitStack()

    @contextmanager
    def join(self) -> Iterator[None]:
        """Takes part in the turn for the block, waiting for one if need be. Raises LockHeld when ``ended()``
        meanwhile."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(self._may_enter)
            if self._members:
                self._members += 1
                return
            self._is_opening = True
        try:
            self._open()
        except BaseException:
            self._held.close()
            with self._changed:
                self._is_opening = False
                self._changed.notify_all()
            raise
        with self._changed:
            self._is_opening = False
            self._members = 1
            self._changed.notify_all()

    def _may_enter(self) -> bool:
        return not self._is_opening and (not self._members or time.monotonic() < self._ends)

    def _open(self) -> None:
        # Turns with hardly a gap between them are one: whoever else waits would never see the lock free.
        left = self._left + PAUSE_SECONDS - time.monotonic()
        is_new = left <= 0 or time.monotonic() >= self._ends
        if is_new and left > 0:
            time.sleep(left)
        self._held.enter_context(self._job.locks.wait(DELETION, self._ended))
        if is_new or time.monotonic() >= self._ends:  # others had theirs meanwhile
            self._ends = time.monotonic() + TURN_SECONDS
        self._settle()

    def _leave(self) -> None:
        with self._changed:
            self._members -= 1
            if not self._members:
                self._held.close()
                self._left = time.monotonic()
            self._changed.notify_all()
