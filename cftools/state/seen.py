"""What earlier runs saw: heartbeats, sizes of inventories and of histories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cftools.model.rows import Heartbeat, Reason
from cftools.state import journal
from cftools.state.database import Database


class Remembered(NamedTuple):
    """A heartbeat and when it was taken, epoch seconds."""

    heartbeat: Heartbeat
    at: float


class HistorySeen(NamedTuple):
    """The last complete history a deletion was planned from: its number of files and the destinations of then."""

    generation: int
    files: int
    destinations: tuple[str, ...]


class HistoryActed(NamedTuple):
    """The last history on whose word copies were deleted for this reason. ``size``: bytes."""

    reason: Reason
    generation: int
    size: int


def remember_heartbeats(database: Database, heartbeats: Sequence[Heartbeat], now: float) -> None:
    """Keeps the newest heartbeat of each server."""
    with database.transaction():
        database.execute_many(
            "INSERT INTO heartbeat (server, role, ok, milliseconds, error, at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (server) DO UPDATE SET role = excluded.role, ok = excluded.ok,"
            " milliseconds = excluded.milliseconds, error = excluded.error, at = excluded.at",
            [(one.server, one.role, one.ok, one.milliseconds, one.error, now) for one in heartbeats],
        )


def heartbeats(database: Database) -> dict[str, Remembered]:
    """The newest heartbeat of each server that was ever checked."""
    return {
        server: Remembered(Heartbeat(server, role, bool(ok), milliseconds, error), at)
        for server, role, ok, milliseconds, error, at in database.rows(
            "SELECT server, role, ok, milliseconds, error, at FROM heartbeat"
        )
    }


def remember_inventory(database: Database, files: Mapping[str, int], now: float) -> None:
    """Keeps the number of files of each complete listing, by server."""
    with database.transaction():
        database.execute_many(
            "INSERT INTO inventory_seen (server, files, at) VALUES (?, ?, ?)"
            " ON CONFLICT (server) DO UPDATE SET files = excluded.files, at = excluded.at",
            [(server, count, now) for server, count in files.items()],
        )


def inventory(database: Database) -> dict[str, int]:
    """The number of files of each server's last complete listing, less what was deleted there since."""
    seen = {server: (files, at) for server, files, at in database.rows("SELECT server, files, at FROM inventory_seen")}
    gone = journal.deleted_since(database, {server: at for server, (_, at) in seen.items()})
    return {server: max(0, files - gone[server]) for server, (files, _) in seen.items()}


def remember_history(database: Database, path: str, seen: HistorySeen, now: float) -> None:
    """Keeps what the history at ``path`` was like when a plan made from it was carried out."""
    database.execute(
        "INSERT INTO history_seen (path, generation, files, destinations, at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (path) DO UPDATE SET generation = excluded.generation, files = excluded.files,"
        " destinations = excluded.destinations, at = excluded.at",
        (path, seen.generation, seen.files, json.dumps(seen.destinations), now),
    )


def history(database: Database, path: str) -> HistorySeen | None:
    """What was kept of the history at ``path``, or None."""
    found = database.rows("SELECT generation, files, destinations FROM history_seen WHERE path = ?", (path,))
    return HistorySeen(found[0][0], found[0][1], tuple(json.loads(found[0][2]))) if found else None


def remember_acted(database: Database, path: str, acted: Sequence[HistoryActed], now: float) -> None:
    """Keeps that copies were deleted on the word of the history at ``path``."""
    with database.transaction():
        database.execute_many(
            "INSERT INTO history_acted (path, reason, generation, size, at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (path, reason) DO UPDATE SET generation = excluded.generation, size = excluded.size,"
            " at = excluded.at",
            [(path, *one, now) for one in acted],
        )


def acted(database: Database, path: str) -> list[HistoryActed]:
    """The last history at ``path`` that was acted upon, for each reason."""
    return [
        HistoryActed(*row)
        for row in database.rows("SELECT reason, generation, size FROM history_acted WHERE path = ?", (path,))
    ]
