"""What both back ends of the state do alike: schema, transactions, numbers, and one line for each fault."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from state_back_ends import BackEnd

from cftools.model.errors import StateUnusable
from cftools.state import schema
from cftools.state.database import VARIABLES, Database

Start = Callable[..., "subprocess.Popen[bytes]"]
TABLES = {"run", "task", "journal", "heartbeat", "cooldown", "inventory_seen", "history_seen", "history_acted"}
NEWEST = schema.migrations()[-1].number
OPEN = """
import sys
from state_back_ends import BackEnd
print("ready", flush=True)
sys.stdin.read()
BackEnd(sys.argv[1]).open().close()
"""
HALF_DONE = """
import sys
from state_back_ends import BackEnd
database = BackEnd(sys.argv[1]).open()
with database.transaction():
    database.execute("UPDATE run SET pid = 7")
    print("half done", flush=True)
    sys.stdin.read()
"""


def insert(database: Database, command: str = "x") -> int:
    return database.insert("INSERT INTO run (command, host, pid, started) VALUES (?, 'h', 1, 0)", (command,))


def commands(database: Database) -> list[str]:
    return [row[0] for row in database.rows("SELECT command FROM run ORDER BY id")]


def test_a_fresh_state_gets_the_newest_schema(back_end: BackEnd) -> None:
    with back_end.open() as database:
        assert back_end.columns(database).keys() >= TABLES
        assert back_end.version(database) == NEWEST


def test_what_was_committed_is_there_when_it_is_opened_again(back_end: BackEnd) -> None:
    with back_end.open() as database:
        insert(database, "dedup")
    with back_end.open() as database:
        assert commands(database) == ["dedup"]


def test_a_newer_schema_is_refused_and_left_alone(back_end: BackEnd) -> None:
    with back_end.open() as database:
        back_end.set_version(database, 99)
        with pytest.raises(StateUnusable) as caught:
            back_end.open()
        said = f"{database.place}: the state has schema 99, this cftools knows {NEWEST}; use a newer one"
        assert (str(caught.value), caught.value.exit_code) == (said, 70)
        assert back_end.version(database) == 99


def test_threads_that_open_a_fresh_state_at_once_all_get_it(back_end: BackEnd) -> None:
    gate = threading.Barrier(6)

    def open_it(number: int) -> None:
        gate.wait()
        with back_end.open() as database:
            insert(database, str(number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_it, range(6)))
    with back_end.open() as database:
        assert sorted(commands(database)) == list("012345")


def test_processes_that_open_a_fresh_state_at_once_all_get_it(back_end: BackEnd, other_process: Start) -> None:
    started = [other_process(OPEN, back_end.place) for _ in range(3)]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
    for process in started:  # each waits for the end of its input, so that all begin together
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    assert [(process.communicate(timeout=20), process.returncode) for process in started] == [((b"", b""), 0)] * 3
    with back_end.open() as database:
        assert back_end.columns(database).keys() >= TABLES


def test_a_schema_that_lost_its_number_is_refused_rather_than_made_again(back_end: BackEnd) -> None:
    with back_end.open() as database:
        back_end.set_version(database, 0)
    with pytest.raises(StateUnusable, match=r"state database unusable: (table run|relation .run.) already exists;"):
        back_end.open()


def test_a_transaction_that_fails_leaves_nothing(database: Database, another: Database) -> None:
    def half_done(statement: str) -> None:
        with database.transaction():
            insert(database)
            database.execute(statement)
            raise KeyError

    with pytest.raises(KeyError):
        half_done("UPDATE run SET pid = 7")
    with pytest.raises(StateUnusable, match=r"no such table: nowhere|relation .nowhere. does not exist"):
        half_done("DELETE FROM nowhere")
    with database.transaction():
        insert(database, "kept")
    assert commands(another) == ["test", "kept"]
    assert another.rows("SELECT pid FROM run WHERE pid = 7") == []


def test_a_transaction_of_a_killed_process_leaves_nothing_and_holds_up_nobody(
    database: Database, back_end: BackEnd, other_process: Start
) -> None:
    process = other_process(HALF_DONE, back_end.place)
    assert process.stdout
    assert process.stdout.readline() == b"half done\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    database.execute("UPDATE run SET command = 'after'")
    assert database.rows("SELECT count(*) FROM run WHERE pid = 7 OR command <> 'after'") == [(0,)]


def test_a_transaction_inside_a_transaction_is_a_mistake_of_ours(database: Database) -> None:
    def nested() -> None:
        with database.transaction():
            insert(database)
            with database.transaction():
                insert(database)

    with pytest.raises(RuntimeError):
        nested()
    assert commands(database) == ["test"]


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


def test_a_single_statement_waits_for_the_transactions_of_others(database: Database, another: Database) -> None:
    changed = threading.Event()

    def change() -> None:
        insert(another, "late")
        changed.set()

    with ThreadPoolExecutor(1) as pool:
        with database.transaction():
            before = database.rows("SELECT count(*) FROM run")
            waiting = pool.submit(change)
            assert not changed.wait(0.2)
            assert database.rows("SELECT count(*) FROM run") == before
        waiting.result(10)
    assert commands(database) == ["test", "late"]


def test_shared_transactions_never_take_the_same_row(database: Database, another: Database) -> None:
    for number in range(30):
        insert(database, f"{number}")
    gate = threading.Barrier(2)

    def take(connection: Database) -> list[int]:
        gate.wait()
        taken: list[int] = []
        while True:
            with connection.transaction(shared=True):
                found = connection.rows(
                    "SELECT id FROM run WHERE note = '' ORDER BY id LIMIT 1" + connection.skip_locked
                )
                if not found:
                    return taken
                connection.execute("UPDATE run SET note = 'taken' WHERE id = ?", found[0])
            taken.append(found[0][0])

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(take, [database, another])
    assert sorted(one + other) == list(range(1, 32))


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


def test_an_insert_tells_its_number_and_a_change_its_rows(database: Database) -> None:
    assert [insert(database), insert(database)] == [2, 3]
    assert database.execute("UPDATE run SET pid = 9 WHERE id > ?", (1,)) == 2
    assert database.execute("UPDATE run SET pid = 9 WHERE id > ?", (5,)) == 0
    assert database.execute("DELETE FROM run WHERE id = ?", (3,)) == 1


def test_reserved_numbers_are_nobody_elses(database: Database, another: Database) -> None:
    with database.transaction():
        numbers = database.reserve("run", 3)
        statement = "INSERT INTO run (id, command, host, pid, started) VALUES (?, ?, ?, ?, ?)"
        database.execute_many(statement, [(number, str(number), "h", 1, 0.5) for number in numbers])
    assert numbers == [2, 3, 4]
    assert insert(another) == 5
    assert commands(another) == ["test", "2", "3", "4", "x"]


def test_many_rows_are_written_all_or_none(database: Database, another: Database) -> None:
    statement = "INSERT INTO heartbeat (server, role, ok, milliseconds, error, at) VALUES (?, ?, ?, ?, ?, ?)"
    good = [(f"s{n}", "source", n == 1, n, "it's 100%\t\\N \ud55c\n", n / 4) for n in range(3)]
    database.execute_many(statement, iter(good))
    assert another.rows("SELECT * FROM heartbeat ORDER BY server") == [
        (*row[:2], int(row[2]), *row[3:]) for row in good
    ]
    with pytest.raises(StateUnusable, match=r"(?i)unique constraint"), database.transaction():
        database.execute_many(statement, [("t1", "", 0, 0, "", 0), ("s1", "", 0, 0, "", 0)])
    assert another.rows("SELECT count(*) FROM heartbeat WHERE server = 't1'") == [(0,)]


def test_values_come_back_as_they_went_in(database: Database) -> None:
    ((text, flag, number, null, big),) = database.rows(
        "SELECT CAST(? AS TEXT), ?, CAST(? AS REAL), NULL, ?", ("'?%s%%\uf7ff", True, 1e-7, 2**62)
    )
    assert (text, flag, null, big) == ("'?%s%%\uf7ff", 1, None, 2**62)
    assert number == pytest.approx(1e-7)
    database.execute("UPDATE run SET note = 'what? 100%' WHERE id = ?", (1,))
    assert database.rows("SELECT note FROM run WHERE note LIKE '%?_100%'") == [("what? 100%",)]
    insert(database, "b"), insert(database, "B"), insert(database, "a")
    assert [row[0] for row in database.rows("SELECT command FROM run ORDER BY command")] == ["B", "a", "b", "test"]
    ((total, mean),) = database.rows("SELECT sum(id), avg(id) FROM run")
    assert (total, type(total), mean) == (10, int, 2.5)


def test_a_statement_takes_as_many_values_as_it_promises(database: Database) -> None:
    marks = ",".join("?" * VARIABLES)
    assert database.rows(f"SELECT 1 WHERE 5 IN ({marks})", list(range(VARIABLES))) == [(1,)]


def test_a_sound_state_shows_no_damage(database: Database) -> None:
    assert database.damage() is None


def test_a_closed_database_is_unusable_not_a_bug(back_end: BackEnd) -> None:
    database = back_end.open()
    database.close()
    database.close()
    with pytest.raises(StateUnusable, match=r"closed") as caught:
        database.rows("SELECT 1")
    assert str(caught.value).startswith(f"{database.place}: state database unusable: ")
    assert isinstance(database.damage(), StateUnusable)
