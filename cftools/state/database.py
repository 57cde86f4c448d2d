"""The SQLite database of a node: opened, brought to the newest schema, and shared by the threads of one process."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

from cftools.model.errors import StateUnusable

BUSY_SECONDS = 20.0  # how long a statement waits for another process's transaction
FAULTS = (sqlite3.Error, UnicodeDecodeError)  # the second: what SQLite says, or the text it holds, is no UTF-8
VARIABLES = 30000  # bound variables one statement takes (SQLite's own limit is 32766)


class Database:
    """One connection with a lock around it: every statement and transaction of this process takes its turn.

    Commits are synced to disk (``synchronous=FULL``): a row that a caller saw committed is there after a power cut.
    Raises StateUnusable for whatever SQLite cannot do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
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

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the process may go on without the state."""
        with self._turn:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are committed together, or none. The write lock is taken at once, so that what is
        read inside still holds when it is written."""
        with self._turn:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.execute("ROLLBACK")
                raise
            self.execute("COMMIT")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs one statement; returns the row id it inserted, or the number of rows it changed."""
        with self._turn:
            try:
                cursor = self._connection.execute(statement, values)
            except FAULTS as fault:
                raise self._unusable(fault) from fault
            return int(cursor.lastrowid or 0) if statement.startswith("INSERT") else cursor.rowcount

    def execute_many(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        """Runs one statement for each row of values; call it inside a transaction."""
        with self._turn:
            try:
                self._connection.executemany(statement, values)
            except FAULTS as fault:
                raise self._unusable(fault) from fault

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._turn:
            try:
                return self._connection.execute(statement, values).fetchall()
            except FAULTS as fault:
                raise self._unusable(fault) from fault

    def damage(self) -> StateUnusable | None:
        """What SQLite finds wrong with the database, of which it reads all; None when that is nothing."""
        try:
            found = str(self.rows("PRAGMA quick_check(1)")[0][0])
        except StateUnusable as fault:
            return fault
        return None if found == "ok" else self._unusable(ValueError(f"damaged: {found}"))

    def _unusable(self, fault: Exception) -> StateUnusable:
        said = " ".join(str(fault).split())  # SQLite quotes what it stumbled over, newlines and all
        return StateUnusable(f"{self.path}: state database unusable: {said}; nothing is deleted without it")

    def _prepare(self) -> None:
        # SQLite does not wait for the lock that the change to WAL takes: two that open a fresh file at once collide.
        given_up = time.monotonic() + BUSY_SECONDS
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
        """Runs the numbered migrations this database has not seen, each in one transaction."""
        scripts = sorted(
            (
                script
                for script in files("cftools.state").joinpath("migrations").iterdir()
                if script.name.endswith(".sql")
            ),
            key=lambda script: script.name,
        )
        newest = int(scripts[-1].name[:4])
        if self._version() > newest:
            raise StateUnusable(
                f"{self.path}: the state has schema {self._version()}, this cftools knows {newest}; use a newer one"
            )
        for script in scripts:
            number = int(script.name[:4])
            if self._version() >= number:
                continue
            with self.transaction():
                if self._version() >= number:  # another process was faster
                    continue
                for statement in script.read_text().split(";\n"):
                    self.execute(statement)
                self.execute(f"PRAGMA user_version = {number}")

    def _version(self) -> int:
        return int(self.rows("PRAGMA user_version")[0][0])
