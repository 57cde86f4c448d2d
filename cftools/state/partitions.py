"""Partitions of bulk-delete requests: claimed by one drain at a time, settled, divided, tried again, given up.

A partition belongs to the run that claimed it until it is settled or the lease is over; whoever claims it then finds
what the dead run left. Nothing is ever settled by a run that lost its claim.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cftools.model import names, rows
from cftools.state import journal, places, requests
from cftools.state.database import Database

KEPT_ERROR = 500  # characters of an error that a row keeps
PACE_WEIGHT = 0.3  # of the newest measurement
FOREVER = 1e18  # epoch seconds


class Partition(NamedTuple):
    """Files of one request that one server is to be asked about, claimed. ``places`` are theirs in block ``block``,
    ``names`` in text form, in the same order. ``attempts``: how often they failed before. ``was_claimed_by``: the run
    that died with it, or 0."""

    id: int
    request: int
    key: str
    target: str
    server: str
    block: int
    places: Sequence[int]
    names: Sequence[str]
    attempts: int
    was_claimed_by: int


class Pair(NamedTuple):
    """A target and one of its servers."""

    target: str
    server: str


class Rests(NamedTuple):
    """How long what failed rests: ``first`` seconds, twice as long with each further failure, at most ``longest``; up
    to a quarter more or less, so that not everything comes back at once."""

    first: float
    longest: float

    def after(self, failures: int) -> float:
        """Seconds of rest after that many failures."""
        return min(self.first * 2.0 ** min(failures - 1, 30), self.longest) * random.uniform(0.75, 1.25)


class Settled(NamedTuple):
    """What one call found out about a partition, by the place of its files in ``Partition.names``.

    ``failed``: places and why. ``again``: lists of places to be asked again as partitions of their own, without a
    failure being counted. All others are ``done`` or ``already`` gone, which are counts. ``not_before``: nothing is
    asked again earlier, epoch seconds. ``seconds``: how long the call took.
    """

    done: int = 0
    already: int = 0
    failed: Mapping[int, str] = {}
    again: Sequence[Sequence[int]] = ()
    not_before: float = 0
    seconds: float = 0


class Policy(NamedTuple):
    """``attempts`` of a file before it is given up on, rests between them, and whether the names are kept, because the
    files may be wanted back."""

    attempts: int
    rests: Rests
    keep_names: bool


def waiting(database: Database, now: float, horizon: float) -> list[Pair]:
    """Every server with partitions that are due and not claimed, and that does not rest, in sorted order.

    ``horizon``: seconds that no rest and no lease exceeds. One that does was noted before the clock was set back, and
    is over.
    """
    return [
        Pair(*row)
        for row in database.rows(
            "SELECT DISTINCT w.target, w.server FROM bulk_work w WHERE (w.due <= ? OR w.due > ?)"
            " AND (w.lease <= ? OR w.lease > ?) AND NOT EXISTS (SELECT 1 FROM bulk_pause p WHERE p.target = w.target"
            " AND p.server = w.server AND p.until > ? AND p.until <= ?) ORDER BY w.server, w.target",
            (now, now + horizon, now, now + horizon, now, now + horizon),
        )
    ]


def due(database: Database, now: float, horizon: float) -> list[rows.Partition]:
    """What a drain would begin with: what is due on servers that do not rest, by request and server."""
    ready = set(waiting(database, now, horizon))
    found = database.rows(
        "SELECT r.key, w.target, w.server, CAST(sum(w.resources) AS BIGINT) FROM bulk_work w"
        " JOIN bulk_request r ON r.id = w.request WHERE (w.due <= ? OR w.due > ?) AND (w.lease <= ? OR w.lease > ?)"
        " GROUP BY r.id, r.key, w.target, w.server ORDER BY w.server, w.target, r.id",
        (now, now + horizon, now, now + horizon),
    )
    return [
        rows.Partition(key, target, server, count, waiting=count)
        for key, target, server, count in found
        if Pair(target, server) in ready
    ]


class Lease(NamedTuple):
    """A claim: by which run, made when, and until when it holds though nothing is heard of that run."""

    run: int
    now: float
    until: float


def claim(
    database: Database, pair: Pair, lease: Lease, horizon: float, *, whenever_due: bool = False
) -> Partition | None:
    """Claims the next partition that is due, in the order of the requests and of their files; None when none is.

    ``horizon``: as in `waiting`. ``whenever_due``: also those that rest.
    """
    late = lease.now + horizon
    with database.transaction(shared=True):
        found = database.rows(
            "SELECT id, request, block, places, attempts, claimed_by FROM bulk_work WHERE target = ? AND server = ?"
            " AND (due <= ? OR due > ?) AND (lease <= ? OR lease > ?) ORDER BY request, block, id LIMIT 1"
            + database.skip_locked,
            (*pair, FOREVER if whenever_due else lease.now, late, lease.now, late),
        )
        if not found:
            return None
        number, request, block, written, attempts, before = found[0]
        database.execute(
            "UPDATE bulk_work SET claimed_by = ?, lease = ? WHERE id = ?", (lease.run, lease.until, number)
        )
    key = database.rows("SELECT key FROM bulk_request WHERE id = ?", (request,))[0][0]
    every = _block(database, request, block)
    spots = places.parse(written)
    mine = every if len(spots) == len(every) else [every[spot] for spot in spots]
    return Partition(number, request, key, *pair, block, spots, mine, attempts, before)


def _block(database: Database, request: int, number: int) -> list[str]:
    found = database.rows("SELECT names FROM bulk_block WHERE request = ? AND number = ?", (request, number))
    return names.text_from_bytes(bytes(found[0][0])).split("\0")[:-1]


def release(database: Database, partition: Partition, run: int) -> None:
    """Gives a claim back with nothing done."""
    database.execute("UPDATE bulk_work SET lease = 0 WHERE id = ? AND claimed_by = ?", (partition.id, run))


def settle(
    database: Database,
    partition: Partition,
    settled: Settled,
    policy: Policy,
    lease: Lease,
    noted: journal.Noted | None = None,
) -> bool:
    """Takes in what a call found out, and settles its journal rows, all of it or nothing.

    Returns False when the claim was lost: then only the journal is settled. ``lease.now`` is the moment of settling.
    """
    now = lease.now
    with database.transaction():
        if noted:
            journal.settle_requested_inside(database, noted, now)
        if not _end(database, partition, lease.run):
            return False
        database.execute(
            "INSERT INTO bulk_progress (request, server, done, already) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (request, server) DO UPDATE SET done = bulk_progress.done + excluded.done,"
            " already = bulk_progress.already + excluded.already",
            (partition.request, partition.server, settled.done, settled.already),
        )
        if requests.is_open(database, partition.request):  # and was not withdrawn meanwhile
            _come_back(database, partition, settled, policy, now)
        _note_pace(database, partition, settled)
        requests.finish_if_over(database, partition.request, now, keep_names=policy.keep_names)
    return True


def _come_back(database: Database, partition: Partition, settled: Settled, policy: Policy, now: float) -> None:
    """Puts back what is to be asked again, and buries what was tried often enough."""
    for some in settled.again:
        due = max(now + policy.rests.after(1), settled.not_before)
        _put_back(database, partition, some, partition.attempts, due, "the answer took too long")
    if policy.attempts <= partition.attempts + 1:
        _bury(database, partition, settled.failed, partition.attempts + 1, now)
    elif settled.failed:
        error = next(iter(settled.failed.values()))
        due = max(now + policy.rests.after(partition.attempts + 1), settled.not_before)
        _put_back(database, partition, sorted(settled.failed), partition.attempts + 1, due, error)


def _put_back(
    database: Database, partition: Partition, some: Sequence[int], attempts: int, due: float, error: str
) -> None:
    spots = [partition.places[place] for place in some]
    database.execute(
        "INSERT INTO bulk_work (request, block, target, server, places, resources, attempts, due, error)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(partition.request, partition.block, partition.target, partition.server),
            *(places.text(spots), len(spots), attempts, due, error[:KEPT_ERROR]),
        ),
    )


def _bury(database: Database, partition: Partition, failed: Mapping[int, str], attempts: int, now: float) -> None:
    database.execute_many(
        "INSERT INTO bulk_dead (request, server, block, place, name, attempts, error, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request, server, block, place)"
        " DO UPDATE SET attempts = excluded.attempts, error = excluded.error, at = excluded.at",
        [
            (
                *(partition.request, partition.server, partition.block, partition.places[place]),
                *(partition.names[place], attempts, error[:KEPT_ERROR], now),
            )
            for place, error in failed.items()
        ],
    )


def _note_pace(database: Database, partition: Partition, settled: Settled) -> None:
    got_through = settled.done + settled.already
    if not got_through or settled.seconds <= 0:
        return
    database.execute(
        "INSERT INTO bulk_pace (target, server, pace) VALUES (?, ?, ?) ON CONFLICT (target, server)"
        " DO UPDATE SET pace = bulk_pace.pace * ? + excluded.pace * ?",
        (partition.target, partition.server, got_through / settled.seconds, 1 - PACE_WEIGHT, PACE_WEIGHT),
    )


class Pause(NamedTuple):
    """A server that cannot be asked: until when it rests, and since when it could not be asked."""

    until: float
    since: float


def pause(database: Database, pair: Pair, error: str, rests: Rests, now: float) -> Pause:
    """Lets a server rest, longer with each failure in a row. Time in which nobody asked it does not count as time in
    which it could not be asked."""
    with database.transaction():
        known = database.rows("SELECT failures, since, until FROM bulk_pause WHERE target = ? AND server = ?", pair)
        failures, since = (known[0][0] + 1, min(known[0][1] + max(0, now - known[0][2]), now)) if known else (1, now)
        until = now + rests.after(failures)
        database.execute(
            "INSERT INTO bulk_pause (target, server, failures, since, until, error) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (target, server) DO UPDATE SET failures = excluded.failures, since = excluded.since,"
            " until = excluded.until, error = excluded.error",
            (*pair, failures, since, until, error[:KEPT_ERROR]),
        )
    return Pause(until, since)


def resume(database: Database, pair: Pair) -> None:
    """Forgets the failures of a server that answered."""
    database.execute("DELETE FROM bulk_pause WHERE target = ? AND server = ?", pair)


def give_up(database: Database, pair: Pair, error: str, lease: Lease, horizon: float) -> int:
    """Makes dead letters of all that waits for a server that could not be asked for long; returns how many files.

    Each partition goes in a transaction of its own; those that another run has claimed stay.
    """
    buried = 0
    while partition := claim(database, pair, lease, horizon, whenever_due=True):
        with database.transaction():
            if not _end(database, partition, lease.run):
                continue
            failed = dict.fromkeys(range(len(partition.names)), error)
            _bury(database, partition, failed, partition.attempts, lease.now)
            requests.finish_if_over(database, partition.request, lease.now, keep_names=True)
        buried += len(partition.names)
    return buried


def _end(database: Database, partition: Partition, run: int) -> bool:
    """Takes the partition's row away; False when another run has claimed it."""
    return bool(database.execute("DELETE FROM bulk_work WHERE id = ? AND claimed_by = ?", (partition.id, run)))
