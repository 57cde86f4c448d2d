"""Tasks: copies from the moment they are accepted until they end, and how long pairs that failed rest.

    ready → working → done | failed | timeout | cancelled
    ready → cancelled

A `working` task belongs to the process that holds its source's lock; whoever gets that lock and finds a `working` task
of the source has found one whose process died.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from cftools.model.rows import Copy, OutcomeState
from cftools.state import journal
from cftools.state.database import Database

TaskState = Literal["ready", "working", "done", "failed", "timeout", "cancelled"]
JOURNAL_STATES: dict[TaskState, Literal["done", "failed", "skipped"]] = {
    "done": "done",
    "failed": "failed",
    "timeout": "failed",
    "cancelled": "skipped",
}


class Task(msgspec.Struct, frozen=True):
    """One copy under way in a run. ``journal`` is its journal row, 0 before it starts."""

    id: int
    run: int
    copy: Copy
    state: TaskState
    journal: int = 0


class Pair(NamedTuple):
    """A source and a destination."""

    source: str
    destination: str


_FIELDS = ("id", "name", "size", "source", "source_path", "destination", "rank", "hits", "reason")
_COLUMNS = (
    "id, run, copy, name, size, source, source_path, destination, rank, hits, reason, state, coalesce(journal, 0)"
)


def _task(row: Sequence[Any]) -> Task:
    # Not by msgspec.convert: couriers are threads, and its first use in several of them at once crashes the process.
    number, run, *copy, state, journal_row = row
    return Task(number, run, Copy(*copy), state, journal_row)


def _values(copy: Copy) -> tuple[object, ...]:
    return tuple(getattr(copy, field) for field in _FIELDS)


def unfinished(database: Database) -> list[Task]:
    """Every task that is ready or working, in any process."""
    return [
        _task(row)
        for row in database.rows(f"SELECT {_COLUMNS} FROM task WHERE state IN ('ready', 'working') ORDER BY id")
    ]


def accept(database: Database, run: int, copies: Sequence[Copy], now: float) -> list[Task]:
    """Takes copies in as ready tasks. A file that another task has (ready or working) is left out."""
    accepted = []
    with database.transaction():
        taken = {task.copy.name for task in unfinished(database)}
        for copy in copies:
            if copy.name in taken:
                continue
            taken.add(copy.name)
            number = database.insert(
                "INSERT INTO task (run, copy, name, size, source, source_path, destination, rank, hits, reason, state,"
                " created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'ready', ?)",
                (run, *_values(copy), now),
            )
            accepted.append(Task(number, run, copy, "ready"))
    return accepted


def start(database: Database, run: int, task: Task, now: float) -> Task | None:
    """Moves a ready task to working and writes its journal row, both or none.

    Returns the working task, or None when it is not ready any more (another process cancelled it).
    """
    with database.transaction():
        if not database.execute(
            "UPDATE task SET state = 'working', started = ? WHERE id = ? AND state = 'ready'", (now, task.id)
        ):
            return None
        number = journal.intend_copy(database, run, task.copy, now)
        database.execute("UPDATE task SET journal = ? WHERE id = ?", (number, task.id))
    return Task(task.id, run, task.copy, "working", number)


def finish(
    database: Database, task: Task, state: TaskState, detail: str, now: float, outcome: OutcomeState | None = None
) -> bool:
    """Ends a task and settles its journal row. Returns False when it had ended already.

    A copy that is done is noted as done even then: released or not, the file is there. ``outcome``: what the journal
    says, when that is not what such a state says by itself.
    """
    settled = outcome or JOURNAL_STATES[state]
    open_states = "'ready', 'working', 'cancelled'" if state == "done" else "'ready', 'working'"
    with database.transaction():
        before = database.rows("SELECT state FROM task WHERE id = ?", (task.id,))
        changed = database.execute(
            f"UPDATE task SET state = ?, detail = ?, finished = ? WHERE id = ? AND state IN ({open_states})",
            (state, detail, now, task.id),
        )
        if changed and task.journal:
            journal.settle_inside(database, [journal.Settlement(task.journal, settled, detail)], now, again=True)
    return bool(changed) and before != [("cancelled",)]


def is_working(database: Database, task: Task) -> bool:
    """Whether the task is still this process's to work on."""
    return database.rows("SELECT state FROM task WHERE id = ?", (task.id,)) == [("working",)]


def release(database: Database, servers: Sequence[str], detail: str, now: float) -> list[Task]:
    """Cancels every unfinished task that needs one of these servers; returns them.

    The process that works on one sees it at its next look (`is_working`) and stops the copy.
    """
    gone = set(servers)
    released = [t for t in unfinished(database) if t.copy.source in gone or t.copy.destination in gone]
    return [task for task in released if finish(database, task, "cancelled", detail, now, "failed")]


def working_of(database: Database, source: str) -> list[Task]:
    """The working tasks of a source; for whoever holds the source's lock they are those of dead processes."""
    return [task for task in unfinished(database) if task.state == "working" and task.copy.source == source]


def drop_ready(database: Database, is_alive: Callable[[int], bool], now: float) -> None:
    """Cancels ready tasks of runs that are over: nobody would ever start them.

    The tasks are read before their runs are asked for: a run that starts in between is no dead one.
    """
    alive: dict[int, bool] = {}
    for number, run in database.rows("SELECT id, run FROM task WHERE state = 'ready'"):
        if run not in alive:
            alive[run] = is_alive(run)
        if not alive[run]:
            database.execute(
                "UPDATE task SET state = 'cancelled', detail = 'its run ended', finished = ?"
                " WHERE id = ? AND state = 'ready'",
                (now, number),
            )


def cool_down(database: Database, pair: Pair, first: float, longest: float, now: float) -> float:
    """Lets a pair that failed rest: ``first`` seconds, twice as long with each further failure, at most ``longest``.

    Returns when the rest ends, epoch seconds.
    """
    with database.transaction():
        known = database.rows("SELECT failures FROM cooldown WHERE source = ? AND destination = ?", pair)
        failures = (known[0][0] if known else 0) + 1
        until = now + _rest(failures, first, longest)
        database.execute(
            "INSERT INTO cooldown (source, destination, failures, until) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (source, destination) DO UPDATE SET failures = excluded.failures, until = excluded.until",
            (*pair, failures, until),
        )
    return float(until)


def warm_up(database: Database, pair: Pair) -> None:
    """Forgets the failures of a pair that succeeded."""
    database.execute("DELETE FROM cooldown WHERE source = ? AND destination = ?", pair)


def cooling(
    database: Database, now: float, first: float = math.inf, longest: float = math.inf
) -> frozenset[tuple[str, str]]:
    """The pairs that rest now. ``first`` and ``longest`` as in `cool_down`: a rest that by them has not begun yet was
    noted before the clock was set back, and is over."""
    return frozenset(
        (source, destination)
        for source, destination, failures, until in database.rows(
            "SELECT source, destination, failures, until FROM cooldown WHERE until > ?", (now,)
        )
        if until - _rest(failures, first, longest) <= now
    )


def _rest(failures: int, first: float, longest: float) -> float:
    return min(first * 2.0 ** min(failures - 1, 30), longest)


def last_pair(database: Database) -> Pair:
    """The source and destination of the newest task; empty names when there is none."""
    found = database.rows("SELECT source, destination FROM task ORDER BY id DESC LIMIT 1")
    return Pair(*found[0]) if found else Pair("", "")
