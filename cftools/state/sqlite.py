"""The state in a SQLite file: opened, brought to the newest schema, and shared by the threads of one process."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cftools.model.errors import StateUnusable
from cftools.state import schema
from cftools.state.database import WAIT_SECONDS, Database

FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the second: what SQLite says, or the text it holds, is no UTF-8


class SqliteDatabase(Database):
    """The database in the file ``path``, which is made with its folder when it is missing. See `Database`."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, OSError) as fault:
            raise self._unusable(fault) from fault
        try:
            self._prepare()
        except FAULTS as fault:
            self.close()
            raise self._unusable(fault) from fault
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `Database.close`."""
        with self._turn:
            self._connection.close()

    def reserve(self, table: str, count: int) -> list[int]:
        """See `Database.reserve`."""
        first = int(self.rows(f"SELECT coalesce(max(id), 0) + 1 FROM {table}")[0][0])
        return list(range(first, first + count))

    def damage(self) -> StateUnusable | None:
        """What SQLite finds wrong with the database, of which it reads all; None when that is nothing."""
        try:
            found = str(self.rows("PRAGMA quick_check(1)")[0][0])
        except StateUnusable as fault:
            return fault
        return None if found == "ok" else self._unusable(f"damaged: {found}")

    def listed(self, values: Sequence[str]) -> tuple[str, Any]:
        """See `Database.listed`."""
        return "(SELECT key AS place, value FROM json_each(?)) AS listed", msgspec.json.encode(values).decode()

    def _begin(self, *, shared: bool) -> None:
        del shared  # SQLite has one writer at a time
        self.execute("BEGIN IMMEDIATE")

    def _roll_back(self) -> None:
        self.execute("ROLLBACK")

    def _execute(self, statement: str, values: Sequence[Any]) -> int:
        return self._run(statement, values).rowcount

    def _insert(self, statement: str, values: Sequence[Any]) -> int:
        return int(self._run(statement, values).lastrowid or 0)

    def _execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(statement, rows)
        except FAULTS as fault:
            raise self._unusable(fault) from fault

    def _rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except FAULTS as fault:
            raise self._unusable(fault) from fault

    def _run(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except FAULTS as fault:
            raise self._unusable(fault) from fault

    def _prepare(self) -> None:
        # SQLite does not wait for the lock that the change to WAL takes: two that open a fresh file at once collide.
        given_up = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as fault:
                if fault.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > given_up:
                    raise
                time.sleep(0.02)
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._migrate()

    def _migrate(self) -> None:
        """Runs the migrations this database has not seen, each in one transaction."""
        migrations = schema.migrations()
        schema.refuse_newer(self.place, self._version(), migrations)
        for migration in migrations:
            if self._version() >= migration.number:
                continue
            with self.transaction():
                if self._version() >= migration.number:  # another process was faster
                    continue
                for statement in migration.statements:
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {migration.number}")

    def _version(self) -> int:
        return int(self.rows("PRAGMA user_version")[0][0])
