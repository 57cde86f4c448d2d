"""The journal: what was intended is there after any death, and settled once."""

from __future__ import annotations

import random
import signal
import string
import subprocess
from collections.abc import Callable

import pytest
from state_back_ends import BackEnd

from cftools.model.errors import StateUnusable
from cftools.model.names import LONGEST_NAME
from cftools.model.rows import Copy, Delete, OutcomeState
from cftools.state import journal, runs, tasks
from cftools.state.database import Database
from cftools.state.journal import Intent, Settlement, Unsettled

Start = Callable[..., "subprocess.Popen[bytes]"]
INTEND = """
import sys, time
from state_back_ends import BackEnd
from cftools.model.rows import Copy, Delete
from cftools.state import journal, runs, tasks
database = BackEnd(sys.argv[1]).open()
run = runs.begin(database, "dedup", 1.0)
rows = [Delete("dst1", f"{number}.mpg", 5, "duplicate", "dst3", number) for number in range(3)]
numbers = journal.intend_deletes(database, run, [journal.Intent(row) for row in rows], 10.0)
journal.settle(database, [journal.Settlement(numbers[1], "done")], 11.0)
(task,) = tasks.accept(database, run, [Copy("1", "c.mpg", 5, "src1", "/d/c.mpg", "dst1", 1, 0, "rank")], 12.0)
assert tasks.start(database, run, task, 12.0)
print("intended", flush=True)
with database.transaction():
    database.execute("UPDATE journal SET state = 'done'")
    print("half settled", flush=True)
    time.sleep(60)
"""


def delete(name: str, server: str = "dst1") -> Delete:
    return Delete(server, name, 5, "duplicate", "dst3", 7)


def intents(*deletes: Delete) -> list[Intent]:
    return [Intent(row) for row in deletes]


def rows(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT id, name, state, detail, at, finished FROM journal ORDER BY id")


def test_intended_deletions_are_committed_in_order_with_all_their_fields(database: Database, another: Database) -> None:
    first = journal.intend_deletes(database, 1, [Intent(delete("b"), 70), *intents(delete("a\uf7ff", "dst2"))], 10.0)
    second = journal.intend_deletes(another, 1, intents(Delete("dst1", "c", 9, "disk", rank=3)), 11.0)
    assert (first, second) == ([1, 2], [3])
    columns = "run, verb, server, name, size, reason, keeper, rank, state, at, finished"
    assert another.rows(f"SELECT {columns} FROM journal ORDER BY id") == [
        (1, "delete", "dst1", "b", 5, "duplicate", "dst3", 7, "intended", 10.0, None),
        (1, "delete", "dst2", "a\uf7ff", 5, "duplicate", "dst3", 7, "intended", 10.0, None),
        (1, "delete", "dst1", "c", 9, "disk", "", 3, "intended", 11.0, None),
    ]
    assert journal.unsettled_deletes(another) == [
        Unsettled(1, "dst1", "b", 5, 70, 10.0),
        Unsettled(2, "dst2", "a\uf7ff", 5, 0, 10.0),
        Unsettled(3, "dst1", "c", 9, 0, 11.0),
    ]


def test_the_longest_names_are_taken(database: Database) -> None:
    # By chance, so that no back end can shorten it.
    name = "".join(random.Random(1).choices(string.ascii_letters, k=LONGEST_NAME))
    (number,) = journal.intend_deletes(database, 1, intents(delete(name)), 10.0)
    journal.settle(database, [Settlement(number, "done")], 11.0)
    (task,) = tasks.accept(database, 1, [Copy("1", name, 5, "src1", "/d", "dst1", 1, 0, "rank")], 12.0)
    assert tasks.accept(database, 1, [task.copy], 12.0) == []
    assert tasks.start(database, 1, task, 12.0)
    assert [row[:2] for row in rows(database)] == [(1, name), (2, name)]


def test_nothing_to_intend_is_no_row(database: Database) -> None:
    assert journal.intend_deletes(database, 1, [], 10.0) == []
    assert rows(database) == []


@pytest.mark.parametrize("state", ["done", "already", "skipped", "refused", "failed"])
def test_a_settled_row_stays_as_it_was_settled(database: Database, state: OutcomeState) -> None:
    numbers = journal.intend_deletes(database, 1, intents(delete("a"), delete("b")), 10.0)
    journal.settle(database, [Settlement(numbers[0], state, "why")], 11.0)
    journal.settle(database, [Settlement(numbers[0], "failed", "later")], 12.0)
    assert rows(database) == [(1, "a", state, "why", 10.0, 11.0), (2, "b", "intended", "", 10.0, None)]
    assert journal.unsettled_deletes(database) == [Unsettled(2, "dst1", "b", 5, 0, 10.0)]


def test_settlements_are_kept_all_or_none(database: Database, another: Database) -> None:
    numbers = journal.intend_deletes(database, 1, intents(delete("a"), delete("b")), 10.0)
    wrong: list[Settlement] = [Settlement(numbers[0], "done"), Settlement(numbers[1], "odd")]  # type: ignore[arg-type]
    with pytest.raises(StateUnusable, match=r"(?i)check constraint"):
        journal.settle(database, wrong, 11.0)
    assert [row[2] for row in rows(another)] == ["intended", "intended"]


def test_a_row_belongs_to_a_run_that_is_known(database: Database) -> None:
    with pytest.raises(StateUnusable, match=r"(?i)foreign key constraint"):
        journal.intend_deletes(database, 99, intents(delete("a")), 10.0)


def test_a_process_killed_after_it_intended_leaves_its_rows_for_the_next_run(
    back_end: BackEnd, other_process: Start
) -> None:
    process = other_process(INTEND, back_end.place)
    assert process.stdout
    assert process.stdout.readline() == b"intended\n"
    assert process.stdout.readline() == b"half settled\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with back_end.open() as database:
        assert [row[1:3] for row in rows(database)] == [
            ("0.mpg", "intended"),
            ("1.mpg", "done"),
            ("2.mpg", "intended"),
            ("c.mpg", "intended"),
        ]
        # A copy of a dead run is settled with its task, by whoever gets its source's lock.
        assert [one.name for one in journal.unsettled_deletes(database)] == ["0.mpg", "2.mpg"]
        (task,) = tasks.working_of(database, "src1")
        assert (task.copy.name, task.journal) == ("c.mpg", 4)
        assert database.rows("SELECT exit_code FROM run") == [(None,)]


def test_arrivals_are_finished_copies_since_a_moment_the_newest_of_each(database: Database) -> None:
    def copied(name: str, end: tasks.TaskState, at: float) -> None:
        one = Copy("1", name, 5, "src1", f"/d/{name}", "dst1", 1, 0, "rank")
        (ready,) = tasks.accept(database, 1, [one], at)
        begun = tasks.start(database, 1, ready, at)
        assert begun
        tasks.finish(database, begun, end, "", at)

    copied("old", "done", 99.0)
    copied("edge", "done", 100.0)
    copied("twice", "done", 101.0)
    copied("twice", "done", 102.0)
    copied("failed", "failed", 103.0)
    copied("cancelled", "cancelled", 104.0)
    (number,) = journal.intend_deletes(database, 1, intents(delete("deleted")), 105.0)
    journal.settle(database, [Settlement(number, "done")], 105.0)
    (ready,) = tasks.accept(database, 1, [Copy("1", "arriving", 5, "src1", "/d/arriving", "dst1", 1, 0, "rank")], 106.0)
    tasks.start(database, 1, ready, 106.0)
    assert journal.arrivals(database, 100.0, 200.0) == {
        ("dst1", "edge"): 100.0,
        ("dst1", "twice"): 102.0,
        ("dst1", "failed"): 103.0,
        ("dst1", "cancelled"): 104.0,
        ("dst1", "arriving"): 200.0,
    }


def test_a_run_notes_who_it_was_and_how_it_ended(database: Database) -> None:
    number = runs.begin(database, "cycle", 5.0)
    runs.finish(database, number, 73, 6.0, "guard max_deletes: 2 > 1")
    ((command, pid, started, finished, code, note),) = database.rows(
        "SELECT command, pid, started, finished, exit_code, note FROM run WHERE id = ?", (number,)
    )
    assert (command, started, finished, code, note) == ("cycle", 5.0, 6.0, 73, "guard max_deletes: 2 > 1")
    assert pid > 0
