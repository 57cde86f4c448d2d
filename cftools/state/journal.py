"""The journal: one row a file that is copied or deleted.

A row is written `intended` and committed before the server is asked, and settled after the answer. Deletions take turns
under one lock and settle their rows before they give the turn away; so whoever holds that lock and finds `intended`
deletions has found those of a run that died, or of a server that did not answer, and settles them by looking. What
stands there may still be deleted until the row has expired, by the clock of that server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cftools.model.rows import Copy, Delete, OutcomeState
from cftools.state.database import Database


class Unsettled(NamedTuple):
    """A row that was left `intended`. ``expires``: the last second in which the server may delete the file."""

    id: int
    server: str
    name: str
    size: int
    expires: int


class Settlement(NamedTuple):
    """What became of the file of journal row ``id``."""

    id: int
    state: OutcomeState
    detail: str = ""


def intend_deletes(
    database: Database, run: int, rows: Sequence[Delete], expires: Mapping[str, int], now: float
) -> list[int]:
    """Writes an `intended` row for each; returns their numbers in the same order. Committed when it returns.

    ``expires``: the last second in which each server, by its own clock, may delete; 0 for the others.
    """
    with database.transaction():
        first = int(database.rows("SELECT coalesce(max(id), 0) + 1 FROM journal")[0][0])
        database.execute_many(
            "INSERT INTO journal (id, run, verb, server, name, size, reason, keeper, rank, state, at, expires)"
            " VALUES (?, ?, 'delete', ?, ?, ?, ?, ?, ?, 'intended', ?, ?)",
            [
                (
                    *numbers,
                    row.server,
                    row.name,
                    row.size,
                    row.reason,
                    row.keeper,
                    row.rank,
                    now,
                    expires.get(row.server, 0),
                )
                for numbers, row in zip(((first + place, run) for place in range(len(rows))), rows, strict=True)
            ],
        )
    return list(range(first, first + len(rows)))


def intend_copy(database: Database, run: int, copy: Copy, now: float) -> int:
    """Writes the `intended` row of a copy; call it inside the transaction that claims the task."""
    return database.execute(
        "INSERT INTO journal (run, verb, server, name, size, reason, source, rank, state, at)"
        " VALUES (?, 'copy', ?, ?, ?, ?, ?, ?, 'intended', ?)",
        (run, copy.destination, copy.name, copy.size, copy.reason, copy.source, copy.rank, now),
    )


def settle(database: Database, settlements: Iterable[Settlement], now: float) -> None:
    """Completes `intended` rows; a row that is already settled stays as it is."""
    with database.transaction():
        settle_inside(database, settlements, now)


def settle_inside(database: Database, settlements: Iterable[Settlement], now: float, *, again: bool = False) -> None:
    """`settle` for a caller that has a transaction open; ``again``: rows that were settled before too."""
    which = "" if again else " AND state = 'intended'"
    database.execute_many(
        "UPDATE journal SET state = ?, detail = ?, finished = ? WHERE id = ?" + which,
        [(one.state, one.detail, now, one.id) for one in settlements],
    )


def unsettled_deletes(database: Database) -> list[Unsettled]:
    """The `intended` deletions; read it under the deletion lock, where nobody works on them."""
    return [
        Unsettled(*row)
        for row in database.rows(
            "SELECT id, server, name, size, coalesce(expires, 0) FROM journal"
            " WHERE verb = 'delete' AND state = 'intended' ORDER BY id"
        )
    ]


def arrivals(database: Database, since: float, now: float) -> Mapping[tuple[str, str], float]:
    """When the copies finished since then became visible, by (server, name); epoch seconds.

    A copy that is still `intended` may become visible at any moment, or did while its run died: it counts as of
    ``now``.
    """
    return {
        (server, name): finished
        for server, name, finished in database.rows(
            "SELECT server, name, max(coalesce(finished, ?)) FROM journal"
            " WHERE verb = 'copy' AND (state = 'intended' OR state = 'done' AND finished >= ?) GROUP BY server, name",
            (now, since),
        )
    }
