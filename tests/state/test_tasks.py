"""Tasks: their transitions, who may have what at once, and how long failed pairs rest."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cftools.model.errors import StateUnusable
from cftools.model.rows import Copy
from cftools.state import runs, tasks
from cftools.state.database import Database
from cftools.state.tasks import Pair, Task, TaskState

ENDS: list[TaskState] = ["done", "failed", "timeout", "cancelled"]
SETTLED = {"done": "done", "failed": "failed", "timeout": "failed", "cancelled": "skipped"}


def copy(name: str = "a.mpg", source: str = "src1", destination: str = "dst1") -> Copy:
    return Copy(f"id-{name}", name, 5, source, f"/data/{name}", destination, 3, 26, "hot")


def accepted(database: Database, *copies: Copy, run: int = 1) -> list[Task]:
    return tasks.accept(database, run, copies or [copy()], 10.0)


def working(database: Database, one: Copy | None = None) -> Task:
    (task,) = accepted(database, one or copy())
    started = tasks.start(database, 1, task, 11.0)
    assert started is not None
    return started


def state_of(database: Database, task: Task) -> str:
    return str(database.rows("SELECT state FROM task WHERE id = ?", (task.id,))[0][0])


def journal_of(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT verb, server, name, source, state, detail, at, finished FROM journal ORDER BY id")


def test_an_accepted_copy_is_ready_and_comes_back_whole(database: Database, another: Database) -> None:
    odd = copy("sub/\uf7ff \ud55c'\".mpg")
    task = Task(1, 1, odd, "ready")
    assert accepted(database, odd) == [task]
    assert tasks.unfinished(another) == [task]
    assert not tasks.is_working(database, task)
    assert journal_of(database) == []


def test_a_started_task_is_working_with_its_journal_row(database: Database, another: Database) -> None:
    task = working(database)
    assert task == Task(1, 1, copy(), "working", 1)
    assert tasks.unfinished(another) == [task]
    assert tasks.is_working(another, task)
    assert journal_of(another) == [("copy", "dst1", "a.mpg", "src1", "intended", "", 11.0, None)]


@pytest.mark.parametrize("end", ENDS)
def test_a_working_task_ends_with_its_journal_row(database: Database, end: TaskState) -> None:
    task = working(database)
    assert tasks.finish(database, task, end, "why", 12.0)
    assert state_of(database, task) == end
    assert tasks.unfinished(database) == []
    assert not tasks.is_working(database, task)
    assert [row[4:] for row in journal_of(database)] == [(SETTLED[end], "why", 11.0, 12.0)]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDS, ENDS)))
def test_a_task_that_ended_stays_as_it_ended(database: Database, first: TaskState, second: TaskState) -> None:
    task = working(database)
    assert tasks.finish(database, task, first, "first", 12.0)
    assert not tasks.finish(database, task, second, "second", 13.0)
    if (first, second) == ("cancelled", "done"):  # released too late: the file is there, and that is what counts
        assert state_of(database, task) == "done"
        assert [row[4:] for row in journal_of(database)] == [("done", "second", 11.0, 13.0)]
    else:
        assert state_of(database, task) == first
        assert [row[4:] for row in journal_of(database)] == [(SETTLED[first], "first", 11.0, 12.0)]
    assert tasks.start(database, 1, task, 14.0) is None
    assert len(journal_of(database)) == 1


def test_a_ready_task_that_another_process_cancelled_cannot_start(database: Database, another: Database) -> None:
    (task,) = accepted(database)
    assert tasks.finish(another, task, "cancelled", "not wanted", 11.0)
    assert tasks.start(database, 1, task, 12.0) is None
    assert journal_of(database) == []


def test_a_task_starts_only_once(database: Database, another: Database) -> None:
    (task,) = accepted(database)
    gate = threading.Barrier(2)

    def start(connection: Database) -> Task | None:
        gate.wait()
        return tasks.start(connection, 1, task, 11.0)

    with ThreadPoolExecutor(2) as pool:
        started = list(pool.map(start, [database, another]))
    assert sorted(one is not None for one in started) == [False, True]
    assert len(journal_of(database)) == 1


def test_a_file_is_copied_once_at_a_time_whoever_asks(database: Database, another: Database) -> None:
    (task,) = accepted(database, copy("a"), copy("a", "src2", "dst2"))
    assert accepted(another, copy("a", "src3", "dst3")) == []
    tasks.start(database, 1, task, 11.0)
    assert [one.copy.name for one in accepted(another, copy("a"), copy("b"))] == ["b"]
    tasks.finish(database, task, "failed", "", 12.0)
    assert [one.copy.name for one in accepted(another, copy("a"))] == ["a"]


def test_two_processes_that_accept_the_same_plan_share_it(database: Database, another: Database) -> None:
    plan = [copy(f"{number}.mpg") for number in range(40)]
    gate = threading.Barrier(2)

    def accept(connection: Database) -> list[str]:
        gate.wait()
        return [task.copy.name for one in plan for task in tasks.accept(connection, 1, [one], 10.0)]

    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(accept, [database, another]))
    assert sorted(taken[0] + taken[1]) == sorted(one.name for one in plan)


def test_a_source_never_works_on_two_tasks(database: Database, another: Database) -> None:
    first, second, other = accepted(database, copy("a"), copy("b"), copy("c", "src2"))
    assert tasks.start(database, 1, first, 11.0)
    with pytest.raises(
        StateUnusable, match=r"UNIQUE constraint failed: task\.source|unique constraint .task_one_per_source"
    ):
        tasks.start(another, 1, second, 11.0)
    assert state_of(database, second) == "ready"
    assert len(journal_of(database)) == 1, "a task that did not start leaves no journal row"
    assert tasks.start(another, 1, other, 11.0)
    tasks.finish(database, first, "done", "", 12.0)
    assert tasks.start(another, 1, second, 13.0)


def test_a_dead_server_releases_what_needs_it_and_nothing_else(database: Database, another: Database) -> None:
    from_it, to_it, neither = accepted(
        database, copy("a", "dead", "dst1"), copy("b", "src2", "dead"), copy("c", "src3", "dst1")
    )
    done = working(database, copy("d", "src4", "dead"))
    tasks.finish(database, done, "done", "", 12.0)
    begun = tasks.start(database, 1, to_it, 11.0)
    assert begun is not None
    released = tasks.release(another, ["dead", "unknown"], "dead has no heartbeat", 13.0)
    assert [task.copy.name for task in released] == ["a", "b"]
    assert not tasks.is_working(database, begun)
    assert [state_of(database, one) for one in (from_it, to_it, neither, done)] == [
        "cancelled",
        "cancelled",
        "ready",
        "done",
    ]
    assert [row[4:6] for row in journal_of(database)] == [("done", ""), ("failed", "dead has no heartbeat")]
    assert not tasks.finish(database, begun, "done", "", 14.0), "a released copy must not count as done"
    assert tasks.release(another, ["dead"], "", 15.0) == []


def test_what_a_source_works_on_is_found(database: Database) -> None:
    accepted(database, copy("ready", "src1"))
    mine = working(database, copy("a", "src1"))
    working(database, copy("b", "src2"))
    assert tasks.working_of(database, "src1") == [mine]
    assert tasks.working_of(database, "src3") == []


def test_ready_tasks_of_runs_that_are_over_are_dropped(database: Database) -> None:
    second = runs.begin(database, "distribute", 2.0)
    (alive,) = accepted(database, copy("a", "src1"))
    (dead,) = accepted(database, copy("b", "src2"), run=second)
    (begun,) = accepted(database, copy("c", "src3"), run=second)
    tasks.start(database, second, begun, 11.0)
    tasks.drop_ready(database, lambda run: run == 1, 12.0)
    assert [state_of(database, one) for one in (alive, dead, begun)] == ["ready", "cancelled", "working"]
    assert database.rows("SELECT detail, finished FROM task WHERE id = ?", (dead.id,)) == [("its run ended", 12.0)]


def test_a_pair_rests_twice_as_long_with_each_failure_up_to_the_limit(database: Database, another: Database) -> None:
    pair = Pair("src1", "dst1")
    rests = [tasks.cool_down(database, pair, 600.0, 5000.0, 1000.0) - 1000 for _ in range(6)]
    assert rests == [600, 1200, 2400, 4800, 5000, 5000]
    assert tasks.cooling(another, 1000.0) == {("src1", "dst1")}
    assert tasks.cooling(another, 5999.9) == {("src1", "dst1")}
    assert tasks.cooling(another, 6000.0) == frozenset()


def test_a_pair_that_fails_for_ever_rests_no_longer_than_the_limit(database: Database) -> None:
    pair = Pair("src1", "dst1")
    database.execute("INSERT INTO cooldown VALUES ('src1', 'dst1', 100000, 0)")
    assert tasks.cool_down(database, pair, 600.0, 21600.0, 0.0) == 21600.0


def test_pairs_rest_each_for_itself_and_success_forgets_failures(database: Database) -> None:
    pair, other = Pair("src1", "dst1"), Pair("src1", "dst2")
    for one in (pair, pair, other):
        tasks.cool_down(database, one, 10.0, 1000.0, 0.0)
    assert tasks.cooling(database, 15.0) == {pair}
    tasks.warm_up(database, pair)
    assert tasks.cooling(database, 5.0) == {other}
    assert tasks.cool_down(database, pair, 10.0, 1000.0, 0.0) == 10.0


def test_a_copy_that_stood_there_before_is_journalled_as_that(database: Database) -> None:
    task = working(database)
    tasks.finish(database, task, "done", "it stood there already", 12.0, "already")
    assert state_of(database, task) == "done"
    assert [row[4] for row in journal_of(database)] == ["already"]


def test_the_last_pair_is_the_newest_tasks(database: Database) -> None:
    assert tasks.last_pair(database) == Pair("", "")
    accepted(database, copy("a", "src1"))
    accepted(database, copy("b", "src2"))
    assert tasks.last_pair(database) == Pair("src2", "dst1")
