"""The journal: one row a file that is copied or deleted.

A row is written `intended` and committed before the server is asked, and settled after the answer. Deletions take turns
under one lock and settle their rows before they give the turn away; so whoever holds that lock and finds `intended`
deletions has found those of a run that died, or of a server that did not answer, and settles them by looking. What
stands there may still be deleted until the row has expired, by the clock of that server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

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
    """A row that was left `intended` at ``at``; ``expires`` as in `Intent`. ``root``: the folder that the name is
    below, empty for that of the node's own files."""

    id: int
    server: str
    name: str
    size: int
    expires: int
    at: float
    root: str = ""


class Settlement(NamedTuple):
    """What became of the file of journal row ``id``."""

    id: int
    state: OutcomeState
    detail: str = ""


def intend_deletes(database: Database, run: int, intents: Sequence[Intent], now: float) -> list[int]:
    """Writes a row for each; returns their numbers in the same order. Committed when it returns."""
    with database.transaction():
        numbers = database.reserve("journal", len(intents))
        database.execute_many(
            "INSERT INTO journal (id, run, verb, server, name, size, reason, keeper, rank, state, detail, at, finished,"
            " expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(number, run, "delete", row.server, row.name, row.size, row.reason, row.keeper, row.rank),
                    *(state, detail, now, None if state == "intended" else now, expires),
                )
                for number, (row, expires, state, detail) in zip(numbers, intents, strict=True)
            ],
        )
    return numbers


class Ground(NamedTuple):
    """Where requested files lie: the server, and the folder below which, empty for the node's own files."""

    server: str
    root: str


def intend_requested(
    database: Database, run: int, ground: Ground, file_names: Sequence[str], expires: int, now: float
) -> list[int]:
    """Writes an `intended` row for each file that somebody asked to delete, of a size nobody knows (0); ``expires`` as
    in `Intent`. Returns their numbers in the same order. Committed when it returns."""
    with database.transaction():
        numbers = database.reserve("journal", len(file_names))
        listed, names = database.listed(file_names)
        database.execute(
            "INSERT INTO journal (id, run, verb, server, root, name, size, reason, state, at, expires)"
            f" SELECT place + ?, ?, 'delete', ?, ?, value, 0, 'requested', 'intended', ?, ? FROM {listed}",
            (numbers[0], run, ground.server, ground.root, now, expires, names),
        )
    return numbers


class Verdict(Protocol):
    """What became of a requested file."""

    @property
    def state(self) -> OutcomeState: ...
    @property
    def detail(self) -> str: ...


class Noted(NamedTuple):
    """Journal rows of requested files and what became of each; None: nobody knows, the row stays `intended`."""

    numbers: Sequence[int]
    verdicts: Sequence[Verdict | None]


def settle_requested_inside(database: Database, noted: Noted, now: float) -> None:
    """Completes the rows of a call; for a caller that has a transaction open. They were numbered one after the other,
    so that those that were done, most of them, need one statement."""
    some_unknown = None in noted.verdicts
    each = [
        Settlement(number, verdict.state, verdict.detail)
        for number, verdict in zip(noted.numbers, noted.verdicts, strict=True)
        if verdict and (verdict.state != "done" or verdict.detail or some_unknown)
    ]
    settle_inside(database, each, now)
    if noted.numbers and not some_unknown:
        database.execute(
            "UPDATE journal SET state = 'done', finished = ? WHERE id BETWEEN ? AND ? AND state = 'intended'",
            (now, noted.numbers[0], noted.numbers[-1]),
        )


def note_restored(database: Database, run: int, ground: Ground, file_names: Sequence[str], now: float) -> None:
    """Notes files that came back from the trash, as copies from there: what is young is not evicted."""
    if not file_names:
        return
    with database.transaction():
        numbers = database.reserve("journal", len(file_names))
        listed, names = database.listed(file_names)
        database.execute(
            "INSERT INTO journal (id, run, verb, server, root, name, size, reason, source, state, at, finished)"
            f" SELECT place + ?, ?, 'copy', ?, ?, value, 0, 'restored', 'trash', 'done', ?, ? FROM {listed}",
            (numbers[0], run, ground.server, ground.root, now, now, names),
        )


def disown(database: Database, run: int, server: str, detail: str, now: float) -> None:
    """Settles what a dead run left `intended` at a server that cannot be looked at, before the same is asked again."""
    database.execute(
        "UPDATE journal SET state = 'failed', detail = ?, finished = ? WHERE verb = 'delete' AND state = 'intended'"
        " AND server = ? AND run = ?",
        (detail, now, server, run),
    )


def intend_copy(database: Database, run: int, copy: Copy, now: float) -> int:
    """Writes the `intended` row of a copy; call it inside the transaction that claims the task."""
    return database.insert(
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


def unsettled_deletes(database: Database, *, elsewhere: bool = False) -> list[Unsettled]:
    """The `intended` deletions of the node's own files; read it under the deletion lock, where nobody works on them.

    ``elsewhere``: those of files below other roots instead, which only bulk-delete deletes.
    """
    return [
        Unsettled(*row)
        for row in database.rows(
            "SELECT id, server, name, size, expires, at, root FROM journal"
            f" WHERE verb = 'delete' AND state = 'intended' AND root {'<>' if elsewhere else '='} '' ORDER BY id"
        )
    ]


def is_told_later(database: Database, row: Unsettled) -> bool:
    """Whether a later row says of the same file that it was deleted, or is still to be settled itself."""
    return bool(
        database.rows(
            "SELECT 1 FROM journal WHERE name = ? AND id > ? AND verb = 'delete' AND state IN ('done', 'intended')"
            " AND server = ? AND root = ? LIMIT 1",
            (row.name, row.id, row.server, row.root),
        )
    )


def may_be_deleted(database: Database, server: str, name: str) -> bool:
    """Whether a deletion of this file on this server is not settled."""
    return bool(
        database.rows(
            "SELECT 1 FROM journal WHERE verb = 'delete' AND state = 'intended' AND server = ? AND name = ?"
            " AND root = '' LIMIT 1",
            (server, name),
        )
    )


def deleted_since(database: Database, since: Mapping[str, float]) -> dict[str, int]:
    """How many files were deleted on each of these servers since the moment given for it."""
    return {
        server: int(
            database.rows(
                "SELECT count(*) FROM journal WHERE at > ? AND finished > ? AND verb = 'delete' AND state = 'done'"
                " AND root = '' AND server = ?",
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
    # id + 0: the rows since then are found by their time; by their numbers all rows would be read.
    found = database.rows(
        "SELECT id, at FROM journal WHERE id = (SELECT min(id + 0) FROM journal WHERE at >= ?)", (since,)
    )
    after, least = found[0] if found else (2**63 - 1, 0.0)
    return {
        (server, name): when
        for server, name, when in database.rows(
            "SELECT server, name, max(CASE WHEN finished IS NULL THEN ? WHEN id > ? AND finished < ? THEN ?"
            " ELSE finished END) FROM journal WHERE verb = 'copy' AND (finished IS NULL OR finished >= ? OR id > ?)"
            " GROUP BY server, name",
            (now, after, least, least, since, after),
        )
    }
