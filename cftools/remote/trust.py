"""Writing known_hosts: a host key is learned, or takes the place of an old one."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from cftools.remote.host_keys import HostKey, KnownHosts

LOCK_SECONDS = 10.0  # a scan holds the file for milliseconds
POLL_SECONDS = 0.02

Learned = Literal["known", "added", "replaced", "changed", "revoked"]


def learn(path: Path, name: str, key: HostKey, *, replace: bool) -> Learned:
    """Notes a host's key in known_hosts, which is made when missing, and tells what became of it.

    `known` it stood there already; `changed`, `revoked` nothing was written: another key is known for the host and
    ``replace`` is not given, or the key is refused for good. With ``replace`` the host's old keys of this type go.
    Any number of processes may do this at once. Raises OSError, and CoveredByPattern when an old key cannot go.
    """
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = b" ".join([name.encode(), key.kind.encode(), base64.b64encode(key.blob)]) + b"\n"
    with _held(path) as handle:
        known = KnownHosts(path.read_bytes())
        state = known.judge(name, key).state
        if state == "new":
            _append(handle, _ended(known.text) + line, len(known.text))
            _sync_folder(path)
            return "added"
        if state == "changed" and replace:
            rest = known.without(name)
            _put(path, rest + _ended(rest) + line, os.fstat(handle))
            return "replaced"
        return state


def _ended(text: bytes) -> bytes:
    """What the text lacks to end with a whole line."""
    return b"" if not text or text.endswith(b"\n") else b"\n"


@contextmanager
def _held(path: Path) -> Iterator[int]:
    """The file, made when missing, held against every other scan."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if _locked(handle) and _is_still(path, handle):
                yield handle
                return
        finally:
            os.close(handle)
        if time.monotonic() >= deadline:
            raise OSError(errno.EWOULDBLOCK, f"another process has held it for {LOCK_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, handle: int) -> bool:
    # Another scan may have put a new file in its place between the opening and the lock.
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _append(handle: int, text: bytes, size: int) -> None:
    # Appending, unlike a rewrite, loses no line that an ssh writes at the same time.
    try:
        written = os.write(handle, text)
        if written < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        if os.fstat(handle).st_size < size + len(text):  # half a line would spoil the next one
            os.ftruncate(handle, size)
        raise


def _put(path: Path, text: bytes, old: os.stat_result) -> None:
    """Puts a new file in the old one's place, with its mode and owner; at no moment is there none or half of one."""
    # One name, which the held file makes safe: what a killed scan left is used up by the next one.
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            with suppress(PermissionError):
                os.fchown(stream.fileno(), old.st_uid, old.st_gid)
            os.fchmod(stream.fileno(), stat.S_IMODE(old.st_mode))
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
