"""Migrations: from every earlier schema to the newest with every row kept, and the same tables in both back ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from state_back_ends import BackEnd

from cftools.model.errors import StateUnusable
from cftools.state import schema
from cftools.state.database import Database
from cftools.state.schema import for_postgresql

MIGRATIONS = schema.migrations()
RUN, TASK, JOURNAL = "id, command, host, pid, started", "run, copy, name, size, source", "run, verb, server, name, size"
# What stands in a state of some schema: by the schema in which the table was new, the table, columns, and a row of it.
FILLED: dict[int, dict[str, tuple[str, tuple[Any, ...]]]] = {
    1: {
        "run": (RUN, (1, "dedup", "h", 7, 0.5)),
        "task": (
            f"{TASK}, source_path, destination, rank, hits, reason, state, created",
            (1, "c", "a.mpg", 2**40, "s", "/p", "d", 1, 2, "hot", "ready", 1.5),
        ),
        "journal": (f"{JOURNAL}, reason, state, at", (1, "copy", "d", "a.mpg", 5, "hot", "intended", 1000.25)),
        "heartbeat": ("server, role, ok, milliseconds, error, at", ("s", "source", 1, 12, "", 1.25)),
        "cooldown": ("source, destination, failures, until", ("s", "d", 3, 99.5)),
        "inventory_seen": ("server, files, at", ("d", 12, 1.5)),
        "history_seen": ("path, generation, files, destinations, at", ("/h", 1, 2, "[]", 1.5)),
    },
    2: {"history_acted": ("path, reason, generation, size, at", ("/h", "disk", 1, 2**40, 1.5))},
    3: {
        "bulk_request": (
            "id, key, target, resources, digest, origin, state, accepted",
            (1, "album", "images", 3, "d", "-", "open", 1.5),
        ),
        "bulk_block": ("request, number, names", (1, 0, b"a\0\xff\0c\0")),
        "bulk_work": (
            "request, block, target, server, places, resources, attempts, due",
            (1, 0, "images", "img1", "0-2", 3, 1, 2.5),
        ),
        "bulk_progress": ("request, server, done, already", (1, "img1", 4, 5)),
        "bulk_dead": ("request, server, block, place, name, attempts, error, at", (1, "i", 0, 1, "c", 3, "no", 1.5)),
        "bulk_pause": ("target, server, failures, since, until, error", ("images", "img2", 1, 1.5, 2.5, "down")),
        "bulk_pace": ("target, server, pace", ("images", "img1", 99.5)),
    },
}
TABLES = {table: filled for tables in FILLED.values() for table, filled in tables.items()}


def old_state(back_end: BackEnd, version: int, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A state as a cftools of that schema made it."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: MIGRATIONS[:version])
        return back_end.open()


def stored(database: Database, table: str) -> list[tuple[Any, ...]]:
    return database.rows(f"SELECT {TABLES[table][0]} FROM {table}")


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [migration.number for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))
    assert all(migration.statements for migration in MIGRATIONS)


def test_every_table_has_a_row_that_a_migration_must_keep(back_end: BackEnd) -> None:
    with back_end.open() as database:
        assert back_end.columns(database).keys() == TABLES.keys()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_state_of_every_earlier_schema_keeps_its_rows(
    back_end: BackEnd, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = {table: row for number in range(1, version + 1) for table, row in FILLED[number].items()}
    with old_state(back_end, version, monkeypatch) as database:
        assert back_end.version(database) == version
        for table, (columns, values) in filled.items():
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values)
    with back_end.open() as database:
        assert back_end.version(database) == len(MIGRATIONS)
        assert {table: stored(database, table) for table in filled} == {
            table: [values] for table, (_, values) in filled.items()
        }
        assert back_end.columns(database).keys() == TABLES.keys()


def test_a_state_of_schema_1_gives_open_deletions_a_day(back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    with old_state(back_end, 1, monkeypatch) as database:
        database.execute(f"INSERT INTO run ({RUN}) VALUES (1, 'dedup', 'h', 1, 0)")
        database.execute_many(
            f"INSERT INTO journal ({JOURNAL}, reason, state, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (1, verb, "d", name, 5, "x", state, 1000.25)
                for verb, name, state in [
                    ("delete", "open", "intended"),
                    ("delete", "gone", "done"),
                    ("copy", "coming", "intended"),
                ]
            ],
        )
    with back_end.open() as database:
        assert database.rows("SELECT verb, name, state, expires FROM journal ORDER BY name") == [
            ("copy", "coming", "intended", 0),
            ("delete", "gone", "done", 0),
            ("delete", "open", "intended", 1000 + 86400),
        ]


def test_a_migration_that_fails_leaves_the_schema_before_it(back_end: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = schema.Migration(2, ("CREATE TABLE half (id INTEGER PRIMARY KEY)", "ALTER TABLE nowhere ADD COLUMN x"))
    old_state(back_end, 1, monkeypatch).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "migrations", lambda: [MIGRATIONS[0], broken])
        with pytest.raises(StateUnusable, match=r"nowhere|syntax"):
            back_end.open()
    with old_state(back_end, 1, monkeypatch) as database:
        assert back_end.version(database) == 1
        assert "half" not in back_end.columns(database)


def test_both_back_ends_have_the_same_tables_and_columns(postgres: Any, tmp_path: Path) -> None:
    found = []
    for place in (str(tmp_path), postgres.fresh_database()):
        back_end = BackEnd(place)
        with back_end.open() as database:
            found.append(back_end.columns(database))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("statement", "turned"),
    [
        ("id INTEGER PRIMARY KEY,", "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,"),
        ("a INTEGER NOT NULL, b REAL, c BLOB", "a BIGINT NOT NULL, b DOUBLE PRECISION, c BYTEA"),
        ("t TEXT PRIMARY KEY", 't TEXT COLLATE "C" PRIMARY KEY'),
        ("t TEXT DEFAULT 'an INTEGER, it''s TEXT'", "t TEXT COLLATE \"C\" DEFAULT 'an INTEGER, it''s TEXT'"),
        ("-- a REAL note; of TEXT\nCAST(at AS INTEGER)", "-- a REAL note; of TEXT\nCAST(at AS BIGINT)"),
        ("-- why\n-- postgresql: CREATE INDEX a ON b (c)\nCREATE INDEX a ON b (d)", "CREATE INDEX a ON b (c)"),
        ("CREATE INDEX INTEGERS ON t (REALITY)", "CREATE INDEX INTEGERS ON t (REALITY)"),
    ],
)
def test_a_statement_is_turned_into_postgresqls_words(statement: str, turned: str) -> None:
    assert for_postgresql(statement) == turned
