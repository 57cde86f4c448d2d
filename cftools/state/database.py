"""What every back end of the state does: statements and transactions that take their turn, one error for all faults.

Statements are written once, in SQL that SQLite and PostgreSQL both take: ``?`` for values, ``ON CONFLICT (columns) DO
UPDATE``, no row ids but those of `Database.insert` and `Database.reserve`. Truth values are the integers 0 and 1.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from cftools.model.errors import StateUnusable

WAIT_SECONDS = 20.0  # how long a statement waits for the transactions of other processes
VARIABLES = 30000  # bound variables one statement takes (SQLite's own limit is 32766, PostgreSQL's 65535)


class Database(ABC):
    """One connection with a lock around it: every statement and transaction of this process takes its turn.

    Commits are synced to disk: a row that a caller saw committed is there after a power cut. ``place`` names the
    database in messages. ``skip_locked`` ends a query in a shared transaction whose rows are then changed.
    Raises StateUnusable for whatever the back end cannot do.
    """

    skip_locked = ""

    def __init__(self, place: str) -> None:
        self.place = place
        self._turn = threading.RLock()
        self._inside = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Closes the connection; the process may go on without the state."""

    @contextmanager
    def transaction(self, *, shared: bool = False) -> Iterator[None]:
        """All statements inside are committed together, or none. Writers take turns, so that what is read inside still
        holds when it is written; but for those with ``shared``, who lock the rows they change by ``skip_locked``."""
        with self._turn:
            if self._inside:
                raise RuntimeError("a transaction inside a transaction")
            self._begin(shared=shared)
            self._inside = True
            try:
                yield
            except BaseException:
                self._inside = False
                self._roll_back()
                raise
            try:
                self.execute("COMMIT")
            finally:
                self._inside = False

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs one statement; returns the number of rows it changed."""
        with self._turn:
            return self._execute(statement, values)

    def insert(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Runs an INSERT of one row into a table whose key is ``id``; returns that id."""
        with self._turn:
            return self._insert(statement, values)

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each row of values; call it inside a transaction."""
        with self._turn:
            self._execute_many(statement, rows)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._turn:
            return self._rows(statement, values)

    @abstractmethod
    def listed(self, values: Sequence[str]) -> tuple[str, Any]:
        """A table of these texts for a FROM clause, columns ``place`` (from 0) and ``value``, and the one value to bind
        for it: a statement that inserts thousands of rows at once, in a fraction of the time of `execute_many`."""

    @abstractmethod
    def reserve(self, table: str, count: int) -> list[int]:
        """That many ids nobody else gets, ascending and above all that are there; call it inside the transaction that
        inserts them."""

    @abstractmethod
    def damage(self) -> StateUnusable | None:
        """What the back end finds wrong with the database; None when that is nothing."""

    @abstractmethod
    def _begin(self, *, shared: bool) -> None: ...

    @abstractmethod
    def _roll_back(self) -> None: ...

    @abstractmethod
    def _execute(self, statement: str, values: Sequence[Any]) -> int: ...

    @abstractmethod
    def _insert(self, statement: str, values: Sequence[Any]) -> int: ...

    @abstractmethod
    def _execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None: ...

    @abstractmethod
    def _rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]: ...

    def _unusable(self, fault: Exception | str) -> StateUnusable:
        said = " ".join(str(fault).split())  # they quote what they stumbled over, newlines and all
        return StateUnusable(f"{self.place}: state database unusable: {said}; nothing is deleted without it")
