"""An application's own PostgreSQL table of bulk-delete requests: rows taken one at a time, their files in pieces.

A row is locked from the moment it is found until it is marked; others that look meanwhile pass over it. When the
connection ends before, by whatever end of this process, the row waits as before.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

try:
    import psycopg
    from psycopg import sql
    from psycopg.adapt import Buffer, Loader
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:
    from cftools.model.errors import UsageFault

    raise UsageFault("an outbox needs psycopg; install it: pip install 'cftools[postgresql]'") from missing

from cftools.config.schema import Outbox
from cftools.model.errors import InputUnusable, Unreachable, UsageFault

PIECE = 10_000  # files fetched at once
LONGEST_REASON = 2000  # characters
SHORTEST_CONNECT = 2  # seconds; what libpq takes at least
LOCK_SECONDS = 20  # a table that is locked for longer, as by a migration, is left for the next run
SILENCE: dict[str, str | int] = {  # a computer that does not answer its network for so long is gone
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
ARRAY, JSON, JSONB, TEXT = "array", "json", "jsonb", "text"
_FORMS = {1009: ARRAY, 1015: ARRAY, 114: JSON, 3802: JSONB, 25: TEXT, 1043: TEXT}  # by the number of the type
_FILES = {
    ARRAY: "unnest({})::text",
    JSON: "json_array_elements({})::text",
    JSONB: "jsonb_array_elements({})::text",
    TEXT: r"unnest(string_to_array({}, E'\n'))",
}


class _Raw(Loader):
    """Text as the bytes it is in UTF-8."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class Waiting(NamedTuple):
    """A row that was found: where it is, what it says. ``empty``: it names nothing, not even an empty list."""

    place: tuple[int, str]
    key: bytes
    target: bytes
    empty: bool


class OutboxTable:
    """The table of ``keys`` in the database at ``address``; ``name`` and ``variable`` name both in messages.

    Enter it to connect. Raises Unreachable when the connection cannot be had or is lost, InputUnusable when the table
    is not as the config says or may not be read and written, UsageFault when the address is none.
    """

    def __init__(self, name: str, keys: Outbox, address: str, connect_timeout: float) -> None:
        self.origin = f"outbox {name}"
        self._keys, self._address = keys, address
        self._timeout = max(SHORTEST_CONNECT, math.ceil(connect_timeout))
        self._table = sql.Identifier(*keys.table.split("."))
        self._remedy = f"compare bulk_delete.outboxes.{name} in the config with the table"

    def __enter__(self) -> OutboxTable:
        try:
            parts = conninfo_to_dict(self._address)
        except psycopg.Error:  # what it says quotes the address, password and all
            what = f"{self.origin}: {self._keys.dsn} holds no address of a database"
            raise UsageFault(f"{what}; write it as postgresql://user@host/database") from None
        self._password = str(parts.get("password") or "")
        try:
            self._connection = self._connect({key: value for key, value in SILENCE.items() if key not in parts})
        except (psycopg.Error, UnicodeError) as fault:
            raise Unreachable(f"{self.origin}: {self._said(fault)}; nothing was taken") from None
        try:
            with self._told():
                self._connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                self.form = self._form()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()  # what was not committed is undone

    def _connect(self, more: dict[str, str | int]) -> psycopg.Connection:
        return psycopg.connect(
            self._address,
            connect_timeout=self._timeout,
            client_encoding="utf8",
            prepare_threshold=None,  # a pooler on the way may not know prepared statements
            **more,  # type: ignore[arg-type]
        )

    def _form(self) -> str:
        self._connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        cursor = self._connection.execute(self._query("SELECT {resources} FROM {table} LIMIT 0"))
        assert cursor.description is not None
        number = cursor.description[0].type_code
        self._connection.rollback()
        if number not in _FORMS:
            what = f"the column {self._keys.resources} is of another type than text[], json, jsonb or text"
            raise InputUnusable(self.origin, what, self._remedy)
        return _FORMS[number]

    def find(self) -> Waiting | None:
        """The next row that waits, locked for this connection; None when there is none."""
        query = (
            "SELECT tableoid::bigint, ctid::text, {key}::text, {target}::text, {resources} IS NULL FROM {table}"
            " WHERE {taken} IS NULL AND {error} IS NULL ORDER BY {key} LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        with self._told():
            self._connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            cursor = self._connection.cursor()
            cursor.adapters.register_loader("text", _Raw)
            found = cursor.execute(self._query(query)).fetchone()
            if found is None:
                self._connection.rollback()
                return None
            self._connection.execute("SAVEPOINT found")
        table, place, key, target, empty = found
        return Waiting((table, place.decode()), key or b"", target or b"", empty)

    def files(self, row: Waiting) -> Generator[list[bytes], None, None]:
        """What a row names, some at a time: names, or the strings of its JSON array as they are written.

        Raises InputUnusable when a row does not hold what the column is for.
        """
        if row.empty:
            raise InputUnusable(self.origin, "it names no file: null", "a request without files is an empty array")
        query = self._query(
            f"SELECT {_FILES[self.form]} FROM {{}} WHERE {{}}".format("{resources}", "{table}", "{row}")
        )
        with self._told(), self._connection.cursor(name="files") as cursor:
            cursor.adapters.register_loader("text", _Raw)
            count = 0
            try:
                cursor.execute(query, row.place)
                while found := cursor.fetchmany(PIECE):
                    piece = [one for (one,) in found]
                    if None in piece:
                        raise InputUnusable(self.origin, f"file {count + piece.index(None) + 1:,} is null")
                    count += len(piece)
                    yield piece
            except psycopg.DataError as fault:
                raise InputUnusable(self.origin, f"its {self._keys.resources}: {self._said(fault)}") from None

    def take(self, row: Waiting) -> None:
        """Marks a row as taken, for certain."""
        self._mark(row, "UPDATE {table} SET {taken} = now() WHERE {row}")

    def refuse(self, row: Waiting, reason: str) -> None:
        """Writes into a row why it was not taken."""
        reason = reason[:LONGEST_REASON].replace("\0", "")
        if self._connection.info.parameter_status("server_encoding") != "UTF8":
            reason = reason.encode("ascii", "backslashreplace").decode()
        with self._told():
            self._connection.execute("ROLLBACK TO SAVEPOINT found")
        self._mark(row, "UPDATE {table} SET {error} = %s WHERE {row}", reason)

    def _mark(self, row: Waiting, query: str, *values: str) -> None:
        with self._told():
            marked = self._connection.execute(self._query(query), (*values, *row.place)).rowcount
            if marked != 1:
                raise InputUnusable(self.origin, "a row cannot be marked as taken; a rule or trigger forbids it")
            self._connection.commit()

    def _query(self, text: str) -> sql.Composed:
        columns = {column: sql.Identifier(getattr(self._keys, column)) for column in ("key", "target", "resources")}
        columns |= {column: sql.Identifier(getattr(self._keys, column)) for column in ("taken", "error")}
        row = sql.SQL("tableoid = %s AND ctid = %s::tid")
        return sql.SQL(text).format(table=self._table, row=row, **columns)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError) as fault:
            what = f"{self.origin}: {self._said(fault)}"
            raise Unreachable(f"{what}; what was taken before stays taken, run it again for the rest") from None
        except (psycopg.Error, UnicodeError) as fault:
            raise InputUnusable(self.origin, self._said(fault), self._remedy) from None

    def _said(self, fault: Exception) -> str:
        diagnosed: Any = getattr(fault, "diag", None)
        said = " ".join((getattr(diagnosed, "message_primary", None) or str(fault)).split())
        return said.replace(self._password, "***") if self._password else said
