"""One copy, from the look at the source to the rename on the destination.

What each crash leaves: before the rename only a part, which the next try carries on with; after it the whole file,
which the next try finds as `already`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from cftools.actions import arrival, transfer
from cftools.config.schema import Distribute
from cftools.facts import presence
from cftools.model.errors import LockHeld
from cftools.model.rows import Copy, OutcomeState
from cftools.remote.pool import Fleet
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal
from cftools.state.database import Database
from cftools.state.locks import DELETION, Locks
from cftools.state.tasks import TaskState


class Tools(NamedTuple):
    """What a copy needs. ``marker``: the mount marker, or empty."""

    fleet: Fleet
    database: Database
    locks: Locks
    policy: Distribute
    marker: str


WhyStop = Callable[[], str]


class Watch(NamedTuple):
    """How one copy is watched: ``why_stop`` says why it should end, or the empty string; ``progress`` takes bytes."""

    why_stop: WhyStop
    progress: transfer.Progress = lambda _: None


class Result(NamedTuple):
    """How a copy ended: the state of its task, the state of its outcome row, and why.

    ``blame``: the server that could not be reached, when it is plain which. ``only_file``: the fault lies in this file
    alone, so other files may well go between the same two servers.
    """

    task: TaskState
    outcome: OutcomeState
    detail: str = ""
    blame: str = ""
    only_file: bool = False


class Cancelled(Exception):
    """The copy is not wanted any more; the text tells why."""


class TimedOut(Exception):
    """The copy took longer than it may."""


def copy(tools: Tools, row: Copy, watch: Watch) -> Result:
    """Carries one copy out. Every fault of a server or of the way becomes a result; nothing is raised for it."""
    deadline = time.monotonic() + tools.policy.timeout

    def look() -> None:
        if why := watch.why_stop():
            raise Cancelled(why)
        if time.monotonic() > deadline:
            raise TimedOut

    try:
        look()
        return _copy(tools, row, look, watch)
    except Cancelled as why:
        return Result("cancelled", "skipped", str(why))
    except TimedOut:
        return Result("timeout", "failed", f"not done after {tools.policy.timeout:g} s; what arrived is kept")
    except arrival.Refused as why:
        only_file = not isinstance(why, arrival.RootUnusable)
        return Result("failed", "refused", f"{row.destination}: {why}", only_file=only_file)
    except transfer.FileUnusable as why:
        return Result("failed", "failed", str(why), only_file=True)
    except transfer.TransferFailed as why:
        return Result("failed", "failed", str(why))
    except RemoteFault as fault:
        return Result("failed", "failed", transfer.gave_up(fault), blame=fault.server)


def _copy(tools: Tools, row: Copy, look: Callable[[], None], watch: Watch) -> Result:
    source, destination = tools.fleet.servers[row.source], tools.fleet.servers[row.destination]
    from_source, to_destination = tools.fleet.transport(row.source), tools.fleet.transport(row.destination)
    seen = _see_source(from_source, row)
    place = arrival.place_for(destination.roots[0], tools.marker, row.name, row.size, seen.mtime)
    prepared = arrival.prepare(to_destination, place)
    if prepared.already:
        return Result("done", "already", "it stood there already")
    ends = transfer.Ends(source, from_source, to_destination, look, watch.progress)
    if tools.policy.via == "pull":
        transfer.pull(ends, row.source_path, place, tools.policy)
    else:
        transfer.relay(ends, row.source_path, place, seen.mtime, prepared.arrived, tools.policy.speed_limit)
    if tools.policy.checksum:
        _compare(ends, row, place)
    # The source may have been rewritten while it was read: then what arrived is a mixture.
    if _see_source(from_source, row) != seen:
        raise transfer.TransferFailed("the source file changed while it was copied")
    fresh = _publish_in_turn(tools, to_destination, place, look)
    return Result("done", "done") if fresh else Result("done", "already", "it stood there already")


def _publish_in_turn(tools: Tools, transport: Transport, place: arrival.Place, look: Callable[[], None]) -> bool:
    def unwanted() -> bool:
        try:
            look()
        except (Cancelled, TimedOut):
            return True
        return False

    try:
        with tools.locks.wait(DELETION, unwanted):
            look()
            if journal.may_be_deleted(tools.database, transport.server, place.name):
                raise arrival.Refused("an earlier deletion of it there is not settled; what arrived is kept")
            return arrival.publish(transport, place)
    except LockHeld as held:
        look()
        raise Cancelled(str(held)) from held


def _see_source(transport: Transport, row: Copy) -> presence.Seen:
    root = row.source_path.removesuffix(f"/{row.name}")
    seen = presence.see(transport, root, [row.name]).get(row.name)
    if seen is None or not seen.regular:
        raise transfer.FileUnusable(f"{row.source} does not have {row.source_path} any more")
    if seen.size != row.size:
        raise transfer.FileUnusable(f"on {row.source} its size is {seen.size}, {row.size} was expected")
    return seen


def _compare(ends: transfer.Ends, row: Copy, place: arrival.Place) -> None:
    path = place.root.encode() + b"/" + place.part + b"/" + place.base
    source = transfer.digest(ends.from_source, transfer.path_bytes(row.source_path), row.size, ends.watch)
    if source != transfer.digest(ends.to_destination, path, row.size, ends.watch):
        arrival.discard(ends.to_destination, place)
        raise transfer.TransferFailed("the checksums differ; what arrived was thrown away")
