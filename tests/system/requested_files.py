"""Bulk-delete requests made by hand in the state, without the command line: for tests of what is done with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice

from cftools.model import names
from cftools.state import partitions, places, requests
from cftools.state.database import Database
from cftools.state.partitions import Lease, Pair, Partition, Policy, Rests
from cftools.state.requests import Content

TARGET = "images"
HORIZON = 10_000.0
RESTS = Rests(10.0, 1000.0)
POLICY = Policy(3, RESTS, False)


def content(key: str, file_names: Sequence[str], target: str = TARGET) -> Content:
    """What a request of these files is told by."""
    whole = b"".join(names.bytes_from_text(name) + b"\0" for name in file_names)
    return Content(key, target, len(file_names), hashlib.sha256(whole).hexdigest(), "-")


def blocks(file_names: Sequence[str], size: int) -> Iterator[bytes]:
    """Names as `requests.accept` takes them, that many a block."""
    left = iter(file_names)
    while some := list(islice(left, size)):
        yield b"".join(names.bytes_from_text(name) + b"\0" for name in some)


def ask(
    database: Database,
    key: str,
    file_names: Sequence[str],
    servers: Sequence[str] = ("s1",),
    *,
    size: int = 3,
    now: float = 100.0,
    target: str = TARGET,
) -> bool:
    """Accepts a request of these files; whether it is new."""
    return requests.accept(database, content(key, file_names, target), blocks(file_names, size), servers, now)


def claim(
    database: Database,
    server: str = "s1",
    run: int = 1,
    now: float = 100.0,
    seconds: float = 50.0,
    target: str = TARGET,
) -> Partition | None:
    """The next partition of a server, for that many seconds."""
    return partitions.claim(database, Pair(target, server), Lease(run, now, now + seconds), HORIZON)


def claimed(
    database: Database, server: str = "s1", run: int = 1, now: float = 100.0, seconds: float = 50.0
) -> Partition:
    """`claim`, of something that is there."""
    found = claim(database, server, run, now, seconds)
    assert found is not None
    return found


def accounts(database: Database, key: str, servers: Sequence[str]) -> tuple[dict[tuple[str, int, int], int], int]:
    """How often each file on each server, by server, block and place, is waiting for work or a dead letter; and how
    many were done or already gone."""
    request = requests.find(database, key).id
    times: dict[tuple[str, int, int], int] = {}
    work = database.rows("SELECT server, block, places, resources FROM bulk_work WHERE request = ?", (request,))
    for server, block, written, count in work:
        spots = places.parse(written)
        assert len(spots) == count
        for spot in spots:
            times[server, block, spot] = times.get((server, block, spot), 0) + 1
    for server, block, spot in database.rows(
        "SELECT server, block, place FROM bulk_dead WHERE request = ?", (request,)
    ):
        times[server, block, spot] = times.get((server, block, spot), 0) + 1
    over = database.rows("SELECT server, done + already FROM bulk_progress WHERE request = ?", (request,))
    assert {server for server, _ in over} <= set(servers)
    return times, sum(count for _, count in over)
