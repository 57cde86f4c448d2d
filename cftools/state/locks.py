"""Locks between processes: flock on a file whose body tells who holds it.

The kernel frees a flock when its process ends, so a lock left by a killed process never blocks. The body is for
people; the flock alone decides. Lock files stay, but for those whose names nobody uses again; whoever takes one looks
whether the file it locked is still the one of that name.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cftools.model.errors import LockHeld, StateUnusable

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
    """Who holds a lock; ``since`` is ISO 8601 in UTC."""

    lock: str
    command: str
    host: str
    pid: int
    since: str


class Locks:
    """The locks of one node, files in ``directory``; ``command`` is told to whoever finds one held."""

    def __init__(self, directory: Path, command: str) -> None:
        self.directory = directory
        self.command = command

    @contextmanager
    def hold(self, name: str, *, remove: bool = False) -> Iterator[None]:
        """Holds the lock for the block. Raises LockHeld at once when another process, or thread, has it.

        ``remove``: take the file away afterwards; only for a lock whose name nobody uses again.
        """
        handle = self._take(name, wait=None)
        try:
            yield
        finally:
            if remove:
                self._path(name).unlink(missing_ok=True)
            self._free(handle)

    @contextmanager
    def wait(self, name: str, stop: Callable[[], bool] = lambda: False, pause: float = 0.05) -> Iterator[None]:
        """Holds the lock for the block, waiting for its turn. Raises LockHeld when ``stop()`` says to give up."""
        handle = self._take(name, wait=(stop, pause))
        try:
            yield
        finally:
            self._free(handle)

    def holder(self, name: str) -> Holder | None:
        """Who holds the lock now, or None when it is free."""
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._read(name, handle)
        finally:
            os.close(handle)
        return None

    def held(self) -> list[Holder]:
        """Every lock of the node that is held now."""
        if not self.directory.is_dir():
            return []
        names = sorted(path.stem for path in self.directory.glob("*.lock"))
        return [holder for holder in map(self.holder, names) if holder]

    def clear(self, pattern: str) -> None:
        """Removes the files of locks that dead processes left; only for names that nobody uses again."""
        for path in self.directory.glob(f"{pattern}.lock"):
            try:
                handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(handle)

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}.lock"

    def _take(self, name: str, wait: tuple[Callable[[], bool], float] | None) -> int:
        handle = self._open(name)
        given_up = time.monotonic() + UNNAMED_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_linked(name, handle):
                    break
                os.close(handle)  # `clear` removed it in between: a lock on that file would be nobody's lock
                handle = self._open(name)
                continue
            except BlockingIOError:
                holder = self._read(name, handle) if _exclusive(handle) else Holder(name, "", "", 0, "")
                unnamed = not holder.pid and time.monotonic() < given_up
                if not unnamed and (wait is None or wait[0]()):
                    os.close(handle)
                    raise LockHeld(*holder) from None
                time.sleep(wait[1] if wait else 0.02)
        body = {
            "command": self.command,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(body).encode() + b"\n", 0)
        except OSError as fault:
            os.close(handle)
            raise StateUnusable(f"{self._path(name)}: cannot write the lock file: {fault.strerror}") from fault
        return handle

    def _open(self, name: str) -> int:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            return os.open(self._path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as fault:
            raise StateUnusable(f"{self._path(name)}: cannot open the lock file: {fault.strerror}") from fault

    def _is_linked(self, name: str, handle: int) -> bool:
        try:
            return os.path.samestat(self._path(name).stat(), os.fstat(handle))
        except FileNotFoundError:
            return False

    def _free(self, handle: int) -> None:
        os.ftruncate(handle, 0)  # an empty body: nobody's name is read while the next one starts
        os.close(handle)

    def _read(self, name: str, handle: int) -> Holder:
        try:
            body = json.loads(os.pread(handle, 4096, 0))
            return Holder(name, str(body["command"]), str(body["host"]), int(body["pid"]), str(body["since"]))
        except (ValueError, KeyError, TypeError):
            return Holder(name, "", "", 0, "")


def _exclusive(handle: int) -> bool:
    """Whether somebody holds the lock, and does not only look; the body may still be that of a killed holder."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False
