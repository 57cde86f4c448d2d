"""Bulk-delete requests: accepted once and for certain, looked at, tried again, forgotten.

A request is `open` as long as a server has to be asked about any of its files; then it is `done`, or `failed` when dead
letters are left. `restored` is one whose files were brought back from the trash.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cftools.model import names
from cftools.model.errors import InputUnusable, UsageFault
from cftools.model.rows import DeadLetter, PlaceStatus, RequestStatus
from cftools.state import places
from cftools.state.database import Database

BLOCKS_AT_ONCE = 64


class Content(NamedTuple):
    """A request as it came in. ``digest`` tells its files, in their order, from any others; ``resources`` counts them;
    ``origin`` tells by which way it came."""

    key: str
    target: str
    resources: int
    digest: str
    origin: str


def is_known(database: Database, content: Content) -> bool:
    """Whether this very request was accepted before. Raises InputUnusable when its key stands for another one."""
    found = database.rows("SELECT target, resources, digest FROM bulk_request WHERE key = ?", (content.key,))
    if not found:
        return False
    if tuple(found[0]) == (content.target, content.resources, content.digest):
        return True
    what = f"request {content.key} was accepted before with other content ({found[0][1]} files of {found[0][0]})"
    raise InputUnusable(content.origin, what, "send this one under a key of its own")


def accept(database: Database, content: Content, blocks: Iterable[bytes], servers: Sequence[str], now: float) -> bool:
    """Stores a request, all of it or nothing; committed and synced when it returns. Returns False when it was there.

    ``blocks``: its names as bytes, NUL after each, in blocks of the size of a remote call. Raises InputUnusable when
    the key stands for another request.
    """
    with database.transaction():
        if is_known(database, content):
            return False
        request = database.insert(
            "INSERT INTO bulk_request (key, target, resources, digest, origin, state, accepted)"
            " VALUES (?, ?, ?, ?, ?, 'open', ?)",
            (*content, now),
        )
        numbered = enumerate(blocks)
        while some := list(itertools.islice(numbered, BLOCKS_AT_ONCE)):
            _store(database, request, content.target, some, servers, now)
        _finish_if_over(database, request, now, keep_names=True)  # it may name no file at all
    return True


def _store(
    database: Database, request: int, target: str, blocks: list[tuple[int, bytes]], servers: Sequence[str], now: float
) -> None:
    database.execute_many(
        "INSERT INTO bulk_block (request, number, names) VALUES (?, ?, ?)",
        [(request, number, block) for number, block in blocks],
    )
    counts = [(number, block.count(b"\0")) for number, block in blocks]
    database.execute_many(
        "INSERT INTO bulk_work (request, block, target, server, places, resources, attempts, due)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        [
            (request, number, target, server, places.text(range(count)), count, now)
            for number, count in counts
            for server in servers
        ],
    )


def _finish_if_over(database: Database, request: int, now: float, *, keep_names: bool) -> None:
    if database.rows("SELECT 1 FROM bulk_work WHERE request = ? LIMIT 1", (request,)):
        return
    dead = database.rows("SELECT 1 FROM bulk_dead WHERE request = ? LIMIT 1", (request,))
    ended = database.execute(
        "UPDATE bulk_request SET state = ?, finished = ? WHERE id = ? AND state = 'open'",
        ("failed" if dead else "done", now, request),
    )
    if ended and not dead and not keep_names:
        database.execute("DELETE FROM bulk_block WHERE request = ?", (request,))


def is_open(database: Database, request: int) -> bool:
    """Whether anything of the request is still to be deleted."""
    return bool(database.rows("SELECT 1 FROM bulk_request WHERE id = ? AND state = 'open'", (request,)))


def finish_if_over(database: Database, request: int, now: float, *, keep_names: bool) -> None:
    """Ends an open request of which nothing is left to ask; call it inside the transaction that settled the last of it.

    ``keep_names``: its files may be wanted back.
    """
    _finish_if_over(database, request, now, keep_names=keep_names)


class Known(NamedTuple):
    """A stored request."""

    id: int
    key: str
    target: str
    state: str


def find(database: Database, key: str) -> Known:
    """The request of this key. Raises UsageFault when there is none."""
    found = database.rows("SELECT id, key, target, state FROM bulk_request WHERE key = ?", (key,))
    if not found:
        raise UsageFault(f"request {key}: not known here; `cftools bulk-delete status` lists those that are")
    return Known(*found[0])


def statuses(database: Database, now: float, key: str = "", recent: float = 86400.0) -> list[RequestStatus]:
    """How far the request of this key is; without one all that are open, or ended not longer than ``recent`` ago."""
    which, values = ("key = ?", [key]) if key else ("state = 'open' OR finished > ?", [now - recent])
    progress = "(SELECT CAST(coalesce(sum({0}), 0) AS BIGINT) FROM bulk_progress WHERE request = r.id)"
    work = "(SELECT CAST(coalesce(sum(resources), 0) AS BIGINT) FROM bulk_work WHERE request = r.id AND attempts {0} 0)"
    ends = _expected_ends(database, now)
    found = database.rows(
        f"SELECT id, key, target, state, resources, {progress.format('done')}, {progress.format('already')},"
        f" {work.format('=')}, {work.format('>')}, (SELECT count(*) FROM bulk_dead WHERE request = r.id), accepted,"
        f" coalesce(finished, 0) FROM bulk_request r WHERE {which} ORDER BY id",
        values,
    )
    return [
        RequestStatus(*row[1:], expected_end=ends.get(row[0], 0) if row[3] == "open" else 0)  # type: ignore[misc]
        for row in found
    ]


def _expected_ends(database: Database, now: float) -> dict[int, float]:
    """When each open request should be over at the pace its servers had lately; left out where that is not known."""
    pace = {
        (target, server): pace for target, server, pace in database.rows("SELECT target, server, pace FROM bulk_pace")
    }
    rest = {
        (target, server): until
        for target, server, until in database.rows("SELECT target, server, until FROM bulk_pause")
    }
    before: dict[tuple[str, str], int] = {}
    ends: dict[int, float] = {}
    unknown: set[int] = set()
    for request, target, server, left, due in database.rows(
        "SELECT request, target, server, CAST(sum(resources) AS BIGINT), max(due) FROM bulk_work"
        " GROUP BY request, target, server ORDER BY request"
    ):
        place = target, server
        before[place] = before.get(place, 0) + left
        if not pace.get(place):
            unknown.add(request)
            continue
        end = max(now, rest.get(place, 0), due) + before[place] / pace[place]
        ends[request] = max(ends.get(request, 0), end)
    return {request: end for request, end in ends.items() if request not in unknown}


def place_statuses(database: Database, now: float, key: str = "") -> list[PlaceStatus]:
    """What each server has before it, of one request or of all, in the order of targets and servers."""
    which, values = ("r.key = ?", [key]) if key else ("1 = 1", [])
    waiting: dict[tuple[str, str], list[float]] = {}
    for target, server, fresh, again, oldest in database.rows(
        "SELECT w.target, w.server, sum(CASE WHEN w.attempts = 0 THEN w.resources ELSE 0 END),"
        " sum(CASE WHEN w.attempts > 0 THEN w.resources ELSE 0 END), min(r.accepted)"
        f" FROM bulk_work w JOIN bulk_request r ON r.id = w.request WHERE {which} GROUP BY w.target, w.server",
        values,
    ):
        waiting[target, server] = [fresh, again, oldest]
    dead = {
        (target, server): count
        for target, server, count in database.rows(
            "SELECT r.target, d.server, count(*) FROM bulk_dead d JOIN bulk_request r ON r.id = d.request"
            f" WHERE {which} GROUP BY r.target, d.server",
            values,
        )
    }
    pauses = {
        (target, server): (until, error)
        for target, server, until, error in database.rows("SELECT target, server, until, error FROM bulk_pause")
    }
    found = []
    for target, server in sorted(waiting.keys() | dead.keys()):
        fresh, again, oldest = waiting.get((target, server), [0, 0, 0])
        until, error = pauses.get((target, server), (0, ""))
        gone = dead.get((target, server), 0)
        paused = until if until > now else 0
        found.append(PlaceStatus(target, server, int(fresh), int(again), gone, oldest, paused, error))
    return found


def dead_letters(database: Database, key: str = "") -> Iterator[DeadLetter]:
    """The files that were given up on, of one request or of all, in the order of requests, servers and files."""
    which, values = ("r.key = ?", [key]) if key else ("1 = 1", [])
    after = (0, "", -1, -1)
    while True:
        rows = database.rows(
            "SELECT d.request, d.server, d.block, d.place, r.key, r.target, d.name, d.attempts, d.error, d.at"
            f" FROM bulk_dead d JOIN bulk_request r ON r.id = d.request WHERE {which}"
            " AND (d.request, d.server, d.block, d.place) > (?, ?, ?, ?)"
            " ORDER BY d.request, d.server, d.block, d.place LIMIT 5000",
            [*values, *after],
        )
        if not rows:
            return
        after = rows[-1][:4]
        for _, server, _, _, request, target, name, attempts, error, at in rows:
            yield DeadLetter(request, target, server, name, attempts, error, at)


def retry(database: Database, request: Known, now: float) -> int:
    """Gives the dead letters of a request back to be tried again from the beginning; returns how many."""
    with database.transaction():
        rows = database.rows(
            "SELECT server, block, place FROM bulk_dead WHERE request = ? ORDER BY server, block, place", (request.id,)
        )
        database.execute_many(
            "INSERT INTO bulk_work (request, block, target, server, places, resources, attempts, due)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
            [
                (request.id, block, request.target, server, places.text(spots), len(spots), now)
                for (server, block), group in itertools.groupby(rows, key=lambda row: row[:2])
                for spots in [[row[2] for row in group]]
            ],
        )
        database.execute("DELETE FROM bulk_dead WHERE request = ?", (request.id,))
        if rows:
            database.execute("UPDATE bulk_request SET state = 'open', finished = NULL WHERE id = ?", (request.id,))
            # Servers that were given up on are asked at once, and have all their time again.
            database.execute("DELETE FROM bulk_pause WHERE target = ?", (request.target,))
    return len(rows)


LONGEST_LEASE = 86400.0  # seconds; one that ends later was noted before the clock was set back, and is over


def withdraw(database: Database, request: Known, now: float) -> int:
    """Ends a request as `restored`: nothing of it is to be deleted any more, dead letters included. Returns how many
    partitions are still claimed: those are settled once more, but never asked about again."""
    with database.transaction():
        database.execute(
            "UPDATE bulk_request SET state = 'restored', finished = ? WHERE id = ? AND state <> 'restored'",
            (now, request.id),
        )
        database.execute("DELETE FROM bulk_dead WHERE request = ?", (request.id,))
        database.execute(
            "DELETE FROM bulk_work WHERE request = ? AND (lease <= ? OR lease > ?)",
            (request.id, now, now + LONGEST_LEASE),
        )
        claimed = database.rows("SELECT count(*) FROM bulk_work WHERE request = ?", (request.id,))[0][0]
        if not claimed:
            # Servers of which nothing is wanted any more: whatever comes for them one day has all its time.
            database.execute(
                "DELETE FROM bulk_pause WHERE NOT EXISTS (SELECT 1 FROM bulk_work w WHERE w.target = bulk_pause.target"
                " AND w.server = bulk_pause.server)"
            )
    return int(claimed)


def blocks(database: Database, request: int) -> Iterator[list[str]]:
    """The names of a request in their order, a list a block, in text form; nothing when they were not kept."""
    for (number,) in database.rows("SELECT number FROM bulk_block WHERE request = ? ORDER BY number", (request,)):
        for (block,) in database.rows(
            "SELECT names FROM bulk_block WHERE request = ? AND number = ?", (request, number)
        ):
            yield names.text_from_bytes(bytes(block)).split("\0")[:-1]


def forget(database: Database, before: float) -> int:
    """Drops requests that ended before this moment, with all that is known of them; returns how many."""
    ended = database.rows("SELECT id FROM bulk_request WHERE state <> 'open' AND finished < ?", (before,))
    for (request,) in ended:
        with database.transaction():
            if not database.rows("SELECT 1 FROM bulk_request WHERE id = ? AND state <> 'open'", (request,)):
                continue  # its dead letters are being tried again
            for table in ("bulk_work", "bulk_dead", "bulk_progress", "bulk_block"):
                database.execute(f"DELETE FROM {table} WHERE request = ?", (request,))
            database.execute("DELETE FROM bulk_request WHERE id = ?", (request,))
    return len(ended)
