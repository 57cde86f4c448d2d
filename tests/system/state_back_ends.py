"""Both back ends of the state behind one face, for tests that hold for either."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from cftools.state.database import Database
from cftools.state.file_locks import FileLocks
from cftools.state.locks import Locks
from cftools.state.postgresql import PostgresqlDatabase
from cftools.state.postgresql_locks import PostgresqlLocks
from cftools.state.sqlite import SqliteDatabase

NODE = "test"


class BackEnd:
    """A state at ``place``: a folder, or the URL of a PostgreSQL database. It may be another process's too."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.is_postgresql = place.startswith("postgresql:")
        self._stack = ExitStack()

    def open(self) -> Database:
        """A connection of its own, as another process has one; made and migrated when that is needed."""
        if self.is_postgresql:
            return PostgresqlDatabase(self.place, NODE)
        return SqliteDatabase(Path(self.place) / "state.db")

    def locks(self, command: str) -> Locks:
        """The node's locks as another process sees them; `close` ends it."""
        if self.is_postgresql:
            return PostgresqlLocks(self._stack.enter_context(PostgresqlDatabase(self.place, NODE)), command)
        return FileLocks(Path(self.place) / "locks", command)

    def version(self, database: Database) -> int:
        """The number of the state's schema."""
        return int(
            database.rows("SELECT version FROM cftools_state" if self.is_postgresql else "PRAGMA user_version")[0][0]
        )

    def set_version(self, database: Database, number: int) -> None:
        """Makes the state one of another schema, by its word."""
        database.execute(
            f"UPDATE cftools_state SET version = {number}" if self.is_postgresql else f"PRAGMA user_version = {number}"
        )

    def columns(self, database: Database) -> dict[str, list[str]]:
        """The columns of each table that migrations made."""
        if self.is_postgresql:
            found = database.rows(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
                " AND table_name NOT IN ('cftools_state', 'lock_holder') ORDER BY table_name, ordinal_position"
            )
        else:
            found = database.rows(
                "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c"
                " WHERE m.type = 'table' ORDER BY m.name, c.cid"
            )
        tables: dict[str, list[str]] = {}
        for table, column in found:
            tables.setdefault(table, []).append(column)
        return tables

    def close(self) -> None:
        """Ends the sessions that locks needed."""
        self._stack.close()
