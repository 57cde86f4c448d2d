"""Locks between the processes of one computer: flock on a file whose body tells who holds it.

The kernel frees a flock when its process ends. Lock files stay, but for those whose names nobody uses again; whoever
takes one looks whether the file it locked is still the one of that name.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from cftools.model.errors import StateUnusable
from cftools.state.locks import Holder, Locks


class FileLocks(Locks):
    """The locks of one node as files in ``directory``. See `Locks`."""

    def __init__(self, directory: Path, command: str) -> None:
        super().__init__(command)
        self.directory = directory

    def holder(self, name: str) -> Holder | None:
        """See `Locks.holder`."""
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
        """See `Locks.held`."""
        if not self.directory.is_dir():
            return []
        names = sorted(path.stem for path in self.directory.glob("*.lock"))
        return [holder for holder in map(self.holder, names) if holder]

    def clear(self, pattern: str) -> None:
        """See `Locks.clear`."""
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

    def _take(self, name: str) -> int | Holder:
        while True:
            handle = self._open(name)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                try:
                    return self._read(name, handle) if _exclusive(handle) else Holder(name)
                finally:
                    os.close(handle)
            if self._is_linked(name, handle):
                break
            os.close(handle)  # `clear` removed it in between: a lock on that file would be nobody's lock
        body = self._me(name)._asdict()
        del body["lock"]
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(body).encode() + b"\n", 0)
        except OSError as fault:
            os.close(handle)
            raise StateUnusable(f"{self._path(name)}: cannot write the lock file: {fault.strerror}") from fault
        return handle

    def _free(self, name: str, taken: int, *, remove: bool) -> None:
        if remove:
            self._path(name).unlink(missing_ok=True)
        os.ftruncate(taken, 0)  # an empty body: nobody's name is read while the next one starts
        os.close(taken)

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

    def _read(self, name: str, handle: int) -> Holder:
        try:
            body = json.loads(os.pread(handle, 4096, 0))
            return Holder(name, str(body["command"]), str(body["host"]), int(body["pid"]), str(body["since"]))
        except (ValueError, KeyError, TypeError):
            return Holder(name)


def _exclusive(handle: int) -> bool:
    """Whether somebody holds the lock, and does not only look; the body may still be that of a killed holder."""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False
