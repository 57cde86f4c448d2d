"""The state in a PostgreSQL database, for several managers of one node.

One session carries the statements and the locks of a process: when it is lost, both are, and every later call raises
StateUnusable. It is never opened anew: what was read before may not hold any more. The next run looks.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import Any, LiteralString, TypeVar, cast

try:
    import psycopg
    from psycopg.adapt import Dumper, Loader
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:
    from cftools.model.errors import UsageFault

    raise UsageFault("a state in PostgreSQL needs psycopg; install it: pip install 'cftools[postgresql]'") from missing

from cftools.config.urls import shown_url
from cftools.model.errors import StateUnusable, Unreachable
from cftools.state import schema
from cftools.state.database import WAIT_SECONDS, Database

OLDEST = 12  # the first PostgreSQL that ends connections by tcp_user_timeout
CONNECT_SECONDS = 10
SILENT_SECONDS = 20  # a computer that does not answer its network for so long is gone
ANSWER_SECONDS = 300.0  # a server that says nothing for so long hangs
IDLE_SECONDS = 60  # a process that stops inside a transaction holds up all others no longer
FAULTS = (psycopg.Error, UnicodeError)

_Result = TypeVar("_Result")
_SETTINGS = {
    "lock_timeout": f"{WAIT_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "default_transaction_isolation": "read committed",
    # The server frees the locks of a computer that vanished.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": f"{SILENT_SECONDS}s",
}
_PIECE = re.compile(r"'(?:[^']|'')*'|\?|%")
_PLAIN_INSERT = re.compile(r"INSERT INTO (\w+) \(([\w, ]+)\) VALUES \(\?(?:, \?)*\)")


def lock_key(purpose: str, name: str = "") -> int:
    """The number of an advisory lock, 64 bits with a sign."""
    return int.from_bytes(hashlib.sha256(f"cftools {purpose} {name}".encode()).digest()[:8], "big", signed=True)


_WRITERS = lock_key("writers")


class PostgresqlDatabase(Database):
    """The database at a libpq URL, for the node of this name. See `Database`.

    Raises Unreachable when there is no connection to be had, StateUnusable when the database is not fit, or belongs to
    another node.
    """

    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str, node: str) -> None:
        super().__init__(shown_url(url))
        self._lost = ""
        self._connection = self._connect(url)
        try:
            self._prepare(node)
        except FAULTS as fault:
            self.close()
            raise self._fault(fault) from fault
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the session; the server frees its locks."""
        with self._turn:
            self._connection.close()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Nothing else of this process is sent over the session as long as the block lasts."""
        with self._turn:
            yield

    def at_once(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Runs one statement without waiting for other writers, for what no other transaction reads; returns its
        rows."""
        with self._turn:
            cursor = self._run(statement, values)
            return cursor.fetchall() if cursor.description else []

    def reserve(self, table: str, count: int) -> list[int]:
        """See `Database.reserve`."""
        numbers = "SELECT nextval(pg_get_serial_sequence(?, 'id')) FROM generate_series(1, ?)"
        return sorted(number for (number,) in self.rows(numbers, (table, count)))

    def damage(self) -> StateUnusable | None:
        """Why the session is of no use; None when it answers."""
        try:
            self.rows("SELECT 1")
        except StateUnusable as fault:
            return fault
        return None

    def listed(self, values: Sequence[str]) -> tuple[str, Any]:
        """See `Database.listed`."""
        rows = "unnest(CAST(? AS TEXT[])) WITH ORDINALITY AS one (value, number)"
        return f"(SELECT number - 1 AS place, value FROM {rows}) AS listed", list(values)

    def _begin(self, *, shared: bool) -> None:
        # One round trip; after the lock each statement sees what the writer before had committed.
        statement = "BEGIN" if shared else f"BEGIN; SELECT pg_advisory_xact_lock({_WRITERS})"
        try:
            self._connection.execute(statement.encode())
        except FAULTS as fault:
            self._roll_back()
            raise self._fault(fault) from fault

    def _roll_back(self) -> None:
        with suppress(psycopg.Error):  # a session that is lost is rolled back by the server
            self._connection.execute("ROLLBACK")

    def _serialised(self) -> Any:
        return nullcontext() if self._inside else self.transaction()

    def _execute(self, statement: str, values: Sequence[Any]) -> int:
        with self._serialised():
            cursor = self._run(statement, values)
        if statement == "COMMIT" and cursor.statusmessage != "COMMIT":
            raise self._unusable("a statement of the transaction had failed, nothing of it was kept")
        return cursor.rowcount

    def _insert(self, statement: str, values: Sequence[Any]) -> int:
        with self._serialised():
            return int(self._run(f"{statement} RETURNING id", values).fetchall()[0][0])

    def _execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        plain = _PLAIN_INSERT.fullmatch(statement)
        with self._serialised():
            try:
                cursor = self._connection.cursor()
                if plain is None:
                    cursor.executemany(_for_psycopg(statement), rows)
                    return
                with cursor.copy(f"COPY {plain[1]} ({plain[2]}) FROM STDIN".encode()) as copy:  # many times as fast
                    for row in rows:
                        copy.write_row(row)
            except FAULTS as fault:
                raise self._fault(fault) from fault

    def _rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        with nullcontext() if statement.startswith("SELECT") else self._serialised():
            return self._run(statement, values).fetchall()

    def _run(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        try:
            return self._connection.execute(_for_psycopg(statement), tuple(values))
        except FAULTS as fault:
            raise self._fault(fault) from fault

    def _fault(self, fault: Exception) -> StateUnusable:
        said = (fault.diag.message_primary if isinstance(fault, psycopg.Error) else "") or str(fault)
        if self._lost:
            said = self._lost
        elif self._connection.closed:
            said = self._lost = f"the session is lost, and its locks with it: {said}"
        return self._unusable(said)

    def _connect(self, url: str) -> _Connection:
        password = ""
        try:
            parameters: dict[str, Any] = conninfo_to_dict(url)
            password = str(parameters.get("password") or "")
            for key, value in _parameters(parameters).items():
                parameters.setdefault(key, value)
            connection = _Connection.connect(autocommit=True, **parameters)
        except FAULTS as fault:
            said = " ".join(str(fault).split())
            said = said.replace(password, "***") if password else said
            raise Unreachable(f"{self.place}: state database cannot be reached: {said}") from None
        connection.adapters.register_dumper(bool, _FlagDumper)
        connection.adapters.register_loader("numeric", _NumberLoader)
        return connection

    def _prepare(self, node: str) -> None:
        info = self._connection.info
        if info.server_version < OLDEST * 10000:
            raise self._unusable(f"PostgreSQL {OLDEST} or newer is needed, not {info.server_version // 10000}")
        if (encoding := info.parameter_status("server_encoding")) != "UTF8":
            raise self._unusable(f"its encoding is {encoding}; make one with: createdb -E UTF8 -T template0 NAME")
        settings = "".join(f", set_config('{key}', '{value}', false)" for key, value in _SETTINGS.items())
        ((backend, read_only, synced, *_),) = self.at_once(
            "SELECT pg_backend_pid(), current_setting('transaction_read_only'), current_setting('synchronous_commit')"
            + settings
        )
        if backend != info.backend_pid:
            what = "a connection pooler stands in between, and the locks need a session of their own"
            raise self._unusable(f"{what}; name PostgreSQL itself in state.url")
        if read_only == "on":
            raise self._unusable("it is read-only; a standby? name the primary, or all hosts, in state.url")
        if synced in ("off", "local"):
            self.at_once("SET synchronous_commit = on")
        self._migrate(node)

    def _migrate(self, node: str) -> None:
        """Runs the migrations this database has not seen, each in one transaction. Raises StateUnusable when the
        database belongs to another node."""
        migrations = schema.migrations()
        if not self._is_made():
            with self.transaction():
                if not self._is_made():  # nobody was faster
                    self._make(node)
        ((version, owner),) = self.rows("SELECT version, node FROM cftools_state")
        if owner != node:
            raise StateUnusable(f"{self.place}: it holds the state of node {owner}; {node} needs a database of its own")
        schema.refuse_newer(self.place, version, migrations)
        for migration in migrations:
            if version >= migration.number:
                continue
            with self.transaction():
                if self.rows("SELECT version FROM cftools_state")[0][0] >= migration.number:
                    continue
                for statement in migration.statements:
                    self.execute(schema.for_postgresql(statement))
                self.execute("UPDATE cftools_state SET version = ?", (migration.number,))

    def _is_made(self) -> bool:
        # With pg_class, whose reading makes the server look anew: else it may remember that there was no such table.
        return bool(self.rows("SELECT 1 FROM pg_class WHERE oid = to_regclass('cftools_state')"))

    def _make(self, node: str) -> None:
        self.execute("CREATE TABLE cftools_state (version BIGINT NOT NULL, node TEXT NOT NULL)")
        # Not logged: a crash that empties it has ended all sessions, and so freed all locks.
        self.execute(
            "CREATE UNLOGGED TABLE lock_holder (name TEXT PRIMARY KEY, key BIGINT NOT NULL, command TEXT NOT NULL,"
            " host TEXT NOT NULL, pid BIGINT NOT NULL, since TEXT NOT NULL, backend BIGINT NOT NULL)"
        )
        self.execute("INSERT INTO cftools_state (version, node) VALUES (0, ?)", (node,))


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A session that gives up on a server that hangs."""

    def wait(self, gen: Generator[Any, Any, _Result], *arguments: Any, **named: Any) -> _Result:
        """See `psycopg.Connection.wait`."""
        try:
            return super().wait(_in_time(gen), *arguments, **named)
        except _Silent as silent:
            self.pgconn.finish()
            raise psycopg.OperationalError(str(silent)) from None


class _Silent(Exception):
    pass


def _in_time(steps: Generator[Any, Any, _Result]) -> Generator[Any, Any, _Result]:
    """The same steps, looked at whenever the server said something, and ten times a second."""
    late = time.monotonic() + ANSWER_SECONDS
    ready = None
    while True:
        try:
            wanted = steps.send(ready)
        except StopIteration as end:
            return cast(_Result, end.value)
        ready = yield wanted
        if not ready and time.monotonic() > late:
            raise _Silent(f"no answer within {ANSWER_SECONDS:g}s")


class _FlagDumper(Dumper):
    """Truth values are stored as whole numbers."""

    oid = 20  # int8

    def dump(self, obj: Any) -> bytes:
        """See `Dumper.dump`."""
        return b"1" if obj else b"0"


class _NumberLoader(Loader):
    """Sums of whole numbers are whole numbers, as in SQLite."""

    def load(self, data: Any) -> float:
        """See `Loader.load`."""
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """What is asked of a connection where neither the URL nor the environment says anything."""
    wanted: dict[str, Any] = {
        "application_name": "cftools",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        wanted["connect_timeout"] = CONNECT_SECONDS
    if "," in str(given.get("host") or "") and "PGTARGETSESSIONATTRS" not in os.environ:
        wanted["target_session_attrs"] = "read-write"
    return wanted


@lru_cache(maxsize=1024)
def _for_psycopg(statement: str) -> LiteralString:
    """The statement with psycopg's marks for values."""

    def turned(piece: re.Match[str]) -> str:
        return "%s" if piece[0] == "?" else piece[0].replace("%", "%%")

    return _PIECE.sub(turned, statement)
