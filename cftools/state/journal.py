"""The journal: one row a file that is copied or deleted.

A row is written `intended` and committed before the server is asked, and settled after the answer. Deletions take turns
under one lock and settle their rows before they give the turn away; so whoever holds that lock and finds `intended`
deletions has found those of a run that died, or of a server that did not answer, and settles them by looking. What
stands there may still be deleted until the row has expired, by the clock of that server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from cftools.model.rows import Copy, Delete, OutcomeState
from cftools.state.database import Database


class Intent(NamedTuple):
    """A deletion to be journalled. ``expires``: the last second, on the server's own clock, in which it may happen.
    ``state``: `intended`, or what became of it without asking, with its ``detail``."""

    row: Delete
    expires: int = 0
    state: OutcomeState | Literal["intended"] = "intended"
    detail: str = ""


class Unsettled(NamedTuple):
    """A row that was left `intended` at ``at``; ``expires`` as in `Intent`."""

    id: int
    server: str
    name: str
    size: int
    expires: int
    at: float


class Settlement(NamedTuple):
    """What became of the file of journal row ``id``."""

    id: int
    state: OutcomeState
    detail: str = ""


def intend_deletes(database: Database, run: int, intents: Sequence[Intent], now: float) -> list[int]:
    """Writes a row for each; returns their numbers in the same order. Committed when it returns."""
    with database.transaction():
        first = int(database.rows("SELECT coalesce(max(id), 0) + 1 FROM journal")[0][0])
        database.execute_many(
            "INSERT INTO journal (id, run, verb, server, name, size, reason, keeper, rank, state, detail, at, finished,"
            " expires) VALUES (?, ?, 'delete', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(
                        number,
                        run,
                        row.server,
                        row.name,
                        row.size,
                        row.reason,
                        row.keeper,
                        row.rank,
                        state,
                        detail,
                        now,
                    ),
                    None if state == "intended" else now,
                    expires,
                )
                for number, (row, expires, state, detail) in enumerate(intents, first)
            ],
        )
    return list(range(first, first + len(intents)))


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
            "SELECT id, server, name, size, expires, at FROM journal"
            " WHERE verb = 'delete' AND state = 'intended' ORDER BY id"
        )
    ]


def may_be_deleted(database: Database, server: str, name: str) -> bool:
    """Whether a deletion of this file on this server is not settled."""
    return bool(
        database.rows(
            "SELECT 1 FROM journal WHERE verb = 'delete' AND state = 'intended' AND server = ? AND name = ? LIMIT 1",
            (server, name),
        )
    )


def deleted_since(database: Database, since: Mapping[str, float]) -> dict[str, int]:
    """How many files were deleted on each of these servers since the moment given for it."""
    return {
        server: int(
            database.rows(
                "SELECT count(*) FROM journal WHERE at > ? AND finished > ? AND verb = 'delete' AND state = 'done'"
                " AND server = ?",
                (moment - 86400, moment, server),
            )[0][0]
        )
        for server, moment in since.items()
    }


def arrivals(database: Database, since: float, now: float) -> Mapping[tuple[str, str], float]:
    """When the copies tried since then became visible, or may have, by (server, name); epoch seconds.

    A copy that is still `intended` may become visible at any moment, or did while its run died: it counts as of
    ``now``. One that failed may have arrived all the same, when the last answer was lost. Rows are numbered in the
    order they were written: one that follows a row written since then is no older, even when it was noted while the
    clock stood hours behind.
    """
    least, after = database.rows("SELECT at, min(id) FROM journal WHERE at >= ?", (since,))[0]
    after = 2**63 - 1 if after is None else after
    return {
        (server, name): when
        for server, name, when in database.rows(
            "SELECT server, name, max(CASE WHEN finished IS NULL THEN ? WHEN id > ? THEN max(finished, ?)"
            " ELSE finished END) FROM journal WHERE verb = 'copy' AND (finished IS NULL OR finished >= ? OR id > ?)"
            " GROUP BY server, name",
            (now, after, least or 0.0, since, after),
        )
    }
