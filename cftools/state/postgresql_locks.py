"""Locks between the managers of one node: advisory locks of the session that carries the state.

The server frees them when the session ends; so a process that lost them cannot reach the state any more either. A
table tells who holds them: its rows stay, and count only while their session holds the lock.
"""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase

from cftools.model.errors import StateUnusable
from cftools.state.locks import Holder, Locks
from cftools.state.postgresql import PostgresqlDatabase, lock_key

# What the server knows of its advisory locks with one key of 64 bits, of which it shows two halves.
_HELD = (
    "SELECT h.name, h.backend = l.pid, h.command, h.host, h.pid, h.since FROM lock_holder h JOIN pg_locks l"
    " ON l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND ((CAST(l.classid AS BIGINT) << 32) | CAST(l.objid AS BIGINT)) = h.key"
)


class PostgresqlLocks(Locks):
    """The locks of the node whose state ``database`` holds. See `Locks`."""

    def __init__(self, database: PostgresqlDatabase, command: str) -> None:
        super().__init__(command)
        self._database = database
        self._mine: dict[str, Holder] = {}  # the server lets one session take a lock twice; threads must not

    def holder(self, name: str) -> Holder | None:
        """See `Locks.holder`."""
        found = [_holder(row) for row in self._database.at_once(f"{_HELD} WHERE h.name = ?", (name,))]
        return found[0] if found else None

    def held(self) -> list[Holder]:
        """See `Locks.held`."""
        return [_holder(row) for row in self._database.at_once(f"{_HELD} ORDER BY h.name")]

    def clear(self, pattern: str) -> None:
        """See `Locks.clear`."""
        for (name,) in self._database.at_once("SELECT name FROM lock_holder"):
            with self._database.turn():
                if fnmatchcase(name, pattern) and name not in self._mine and self._try(name):
                    self._leave(name, remove=True)

    def _take(self, name: str) -> int | Holder:
        with self._database.turn():
            if name in self._mine:
                return self.holder(name) or self._mine[name]  # asked, not remembered: the session may be lost
            me = self._me(name)
            # The row comes first: whoever asks for all that are held must not miss this one.
            self._database.at_once(
                "INSERT INTO lock_holder (name, key, command, host, pid, since, backend)"
                " VALUES (?, ?, '', '', 0, '', 0) ON CONFLICT (name) DO NOTHING",
                (name, lock_key("lock", name)),
            )
            if not self._try(name):
                return self.holder(name) or Holder(name)
            try:
                self._database.at_once(
                    "INSERT INTO lock_holder (name, key, command, host, pid, since, backend)"
                    " VALUES (?, ?, ?, ?, ?, ?, pg_backend_pid()) ON CONFLICT (name) DO UPDATE SET"
                    " command = excluded.command, host = excluded.host, pid = excluded.pid, since = excluded.since,"
                    " backend = excluded.backend",
                    (name, lock_key("lock", name), *me[1:]),
                )
            except BaseException:
                self._leave(name, remove=False)
                raise
            self._mine[name] = me
            return 0

    def _free(self, name: str, taken: int, *, remove: bool) -> None:
        del taken
        with self._database.turn():
            self._mine.pop(name, None)
            self._leave(name, remove=remove)

    def _try(self, name: str) -> bool:
        return self._database.at_once("SELECT pg_try_advisory_lock(?)", (lock_key("lock", name),)) == [(True,)]

    def _leave(self, name: str, *, remove: bool) -> None:
        with suppress(StateUnusable):  # with the session the lock is gone too, and whatever comes next is told so
            if remove:
                self._database.at_once("DELETE FROM lock_holder WHERE name = ?", (name,))
            self._database.at_once("SELECT pg_advisory_unlock(?)", (lock_key("lock", name),))


def _holder(row: tuple[str, bool, str, str, int, str]) -> Holder:
    name, named, command, host, process, since = row
    return Holder(name, command, host, process, since) if named else Holder(name)
