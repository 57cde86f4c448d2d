"""The state database: its schema, its transactions, and the one line that tells why it cannot be used."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cftools.model.errors import StateUnusable
from cftools.state.database import VARIABLES, Database

TABLES = {"run", "task", "journal", "heartbeat", "cooldown", "inventory_seen", "history_seen"}
NOBODY = 65534
OPEN = "import sys; from pathlib import Path; from cftools.state.database import Database; Database(Path(sys.argv[1]))"


def tables(database: Database) -> set[str]:
    return {row[0] for row in database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


def insert(database: Database, command: str = "x") -> int:
    return database.execute("INSERT INTO run (command, host, pid, started) VALUES (?, 'h', 1, 0)", (command,))


def commands(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT command FROM run ORDER BY id")]


def complaint(path: Path) -> str:
    """The line with which a state is refused."""
    with pytest.raises(StateUnusable) as caught:
        Database(path)
    assert caught.value.exit_code == 70
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_fresh_file_gets_the_newest_schema_and_its_folder(path: Path) -> None:
    with Database(path) as database:
        assert tables(database) >= TABLES
        assert database.rows("PRAGMA user_version") == [(2,)]
        assert database.rows("PRAGMA journal_mode") == [("wal",)]
        assert database.rows("PRAGMA synchronous") == [(2,)], "a committed row must survive a power cut"
        assert database.rows("PRAGMA foreign_keys") == [(1,)]


def test_what_was_committed_is_there_when_it_is_opened_again(path: Path) -> None:
    with Database(path) as database:
        insert(database, "dedup")
    with Database(path) as database:
        assert commands(database) == ["dedup"]


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with Database(path) as database:
        database.execute("PRAGMA user_version = 9")
    assert complaint(path) == f"{path}: the state has schema 9, this cftools knows 2; use a newer one"
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (9,)
    raw.close()


def test_threads_that_open_a_fresh_file_at_once_all_get_it(path: Path) -> None:
    gate = threading.Barrier(6)

    def open_it(number: int) -> None:
        gate.wait()
        with Database(path) as database:
            insert(database, str(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_it, range(6)))
    with Database(path) as database:
        assert sorted(commands(database)) == list("012345")


def test_processes_that_open_a_fresh_file_at_once_all_get_it(path: Path) -> None:
    # Each waits for the end of its input, so that all begin together.
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN.replace("Database(Path", "sys.stdin.read(); Database(Path"), path],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdin
        process.stdin.write(b"x")
    ended = []
    for process in started:
        assert process.stdin
        process.stdin.close()
    for process in started:
        assert process.stderr
        ended.append((process.stderr.read(), process.wait(20)))
        process.stderr.close()
    assert ended == [(b"", 0)] * 4
    with Database(path) as database:
        assert tables(database) >= TABLES


def test_a_schema_that_lost_its_number_is_refused_rather_than_made_again(path: Path) -> None:
    with Database(path), closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA user_version = 0")
    raw.close()
    assert "table run already exists" in complaint(path)


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not a database": (lambda path: path.write_bytes(b"historyheader:1524468282\n" * 99), "file is not a database"),
    "a folder": (lambda path: path.mkdir(), "unable to open database file"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_database_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, why = UNUSABLE[case]
    path = tmp_path / "state.db"
    make(path)
    assert complaint(path) == f"{path}: state database unusable: {why}; nothing is deleted without it"


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = complaint(tmp_path / "file" / "state" / "state.db")
    assert "state database unusable: [Errno 20] Not a directory" in said


@pytest.mark.parametrize("case", ["folder", "file"])
def test_what_cannot_be_written_is_refused_in_one_line(case: str) -> None:
    # As an ordinary user: root may write everywhere. Below /tmp itself, for pytest's own folders are private.
    with TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "state.db"
        if case == "file":
            Database(path).close()
            path.chmod(0o444)
        folder.chmod(0o555)
        code = f"{OPEN}.execute('DELETE FROM run')"
        user = NOBODY if os.getuid() == 0 else None
        code = code.replace(
            "Database(Path", "import os; (os.setuid(int(sys.argv[2])) if sys.argv[2] else 0); Database(Path"
        )
        done = subprocess.run([sys.executable, "-c", code, path, str(user or "")], capture_output=True, check=False)
        folder.chmod(0o755)
        left = sorted(entry.name for entry in folder.iterdir())
    (last,) = done.stderr.decode().splitlines()[-1:]
    assert last.startswith(f"cftools.model.errors.StateUnusable: {path}: state database unusable: "), done.stderr
    assert re.search("unable to open database file|readonly database", last), last
    assert left == (["state.db"] if case == "file" else [])


def test_a_transaction_that_fails_leaves_nothing(database: Database, another: Database) -> None:
    def half_done(statement: str) -> None:
        with database.transaction():
            insert(database)
            database.execute(statement)
            raise KeyError

    with pytest.raises(KeyError):
        half_done("UPDATE run SET pid = 7")
    with pytest.raises(StateUnusable, match="no such table: nowhere"):
        half_done("DELETE FROM nowhere")
    with database.transaction():
        insert(database, "kept")
    assert commands(another) == ["test", "kept"]
    assert another.rows("SELECT pid FROM run WHERE pid = 7") == []


def test_nothing_of_a_transaction_is_seen_by_others_before_its_end(database: Database, another: Database) -> None:
    with database.transaction():
        insert(database)
        assert commands(another) == ["test"]
    assert commands(another) == ["test", "x"]


def test_what_is_read_in_a_transaction_still_holds_when_it_is_written(database: Database, another: Database) -> None:
    # Two connections count up from what they read; a lost update would make the sum smaller.
    def count_up(connection: Database) -> None:
        for _ in range(20):
            with connection.transaction():
                ((pid,),) = connection.rows("SELECT pid FROM run WHERE id = 1")
                connection.execute("UPDATE run SET pid = ? WHERE id = 1", (pid + 1,))

    database.execute("UPDATE run SET pid = 0")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count_up, [database, another, database, another]))
    assert database.rows("SELECT pid FROM run") == [(80,)]


def test_threads_of_one_process_take_turns(database: Database) -> None:
    def add(number: int) -> None:
        with database.transaction():
            insert(database, f"{number}a")
            insert(database, f"{number}b")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    seen = commands(database)[1:]
    assert len(seen) == 24
    assert all(first[:-1] == second[:-1] for first, second in zip(seen[::2], seen[1::2], strict=True)), seen


def test_a_statement_takes_as_many_values_as_it_promises(database: Database) -> None:
    marks = ",".join("?" * VARIABLES)
    assert database.rows(f"SELECT 1 WHERE 5 IN ({marks})", list(range(VARIABLES))) == [(1,)]


def test_a_closed_database_is_unusable_not_a_bug(path: Path) -> None:
    database = Database(path)
    database.close()
    database.close()
    with pytest.raises(StateUnusable, match="closed database"):
        database.rows("SELECT 1")


def test_a_state_of_schema_1_keeps_its_rows_and_gives_open_deletions_a_day(path: Path) -> None:
    first = files("cftools.state").joinpath("migrations", "0001_first.sql").read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as old:
        old.executescript(first)
        old.execute("INSERT INTO run (command, host, pid, started) VALUES ('dedup', 'h', 1, 0)")
        old.executemany(
            "INSERT INTO journal (run, verb, server, name, size, reason, state, at)"
            " VALUES (1, ?, 'd', ?, 5, 'x', ?, 1000.5)",
            [("delete", "open", "intended"), ("delete", "gone", "done"), ("copy", "coming", "intended")],
        )
        old.execute("PRAGMA user_version = 1")
        old.commit()
    with Database(path) as database:
        assert database.rows("SELECT verb, name, state, expires FROM journal ORDER BY id") == [
            ("delete", "open", "intended", 1000 + 86400),
            ("delete", "gone", "done", 0),
            ("copy", "coming", "intended", 0),
        ]
