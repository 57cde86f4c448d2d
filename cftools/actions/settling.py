"""Settling deletions that were left `intended`, by a run that died or a server that did not answer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cftools.facts import presence
from cftools.model import names
from cftools.remote.pool import Fleet
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal
from cftools.state.database import Database
from cftools.state.locks import Locks

FORGOTTEN_SECONDS = 86400.0  # so long a server that left the config may come back and still delete what it was told
END_SECONDS = 2  # an rm is killed a second after its question expired; then it is over


class Tools(NamedTuple):
    """What a deletion needs. ``marker``: the mount marker, or empty. ``stop`` tells that the job should end.
    ``ignore_prefixes``: names that are never deleted, whatever a plan says. ``elapsed``: a clock that is never set."""

    fleet: Fleet
    database: Database
    locks: Locks
    run: int
    marker: str
    clock: Callable[[], float]
    stop: Callable[[], bool] = lambda: False
    ignore_prefixes: tuple[str, ...] = ()
    elapsed: Callable[[], float] = time.monotonic


Open = Mapping[str, str]  # names with a deletion that is not settled, and why not


def settle_dead_runs(tools: Tools, silent: dict[str, str]) -> Open:
    """Settles the deletions that were left `intended`, by looking; call it holding the deletion lock.

    A file that is not there any more was deleted. One that is there was not, once the deletion has expired; until then
    the server may still be at it. ``silent``: servers that could not be asked before in this run, and why; they are not
    asked again, and those that cannot be asked now are added. Returns the names with rows that stay, and why.
    """
    by_server = defaultdict(list)
    settled = []
    stay: dict[str, str] = {}
    for row in journal.unsettled_deletes(tools.database):
        if is_destination(tools, row.server):
            by_server[row.server].append(row)
        elif tools.clock() - row.at > FORGOTTEN_SECONDS:
            settled.append(journal.Settlement(row.id, "failed", "not known: its server left the config"))
        else:
            stay[row.name] = f"{row.server} left the config; after a day that is taken for its end"
    for row in journal.unsettled_deletes(tools.database, elsewhere=True):
        if row.server in tools.fleet.servers:
            by_server[row.server].append(row)
        elif tools.clock() - row.at > FORGOTTEN_SECONDS:
            settled.append(journal.Settlement(row.id, "failed", "not known: its server left the config"))
    for server in silent.keys() & by_server.keys():
        stay |= dict.fromkeys((row.name for row in by_server.pop(server) if not row.root), silent[server])
    ends, faults = _ends(tools, by_server)
    silent |= faults
    for server in faults:
        stay |= dict.fromkeys((row.name for row in by_server[server] if not row.root), faults[server])
    for row, end in ends:
        if isinstance(end, journal.Settlement):
            if end.state == "done" and journal.is_told_later(tools.database, row):  # a file is deleted once
                end = end._replace(state="failed", detail="its run died; a later row tells of this file")
            settled.append(end)
        elif not row.root:
            stay[row.name] = end
    journal.settle(tools.database, settled, tools.clock())
    return stay


def _ends(
    tools: Tools, by_server: Mapping[str, Sequence[journal.Unsettled]]
) -> tuple[list[tuple[journal.Unsettled, journal.Settlement | str]], dict[str, str]]:
    """How each of these rows is settled, or why it cannot be yet; and the servers that cannot be asked, and why."""

    def look(transport: Transport) -> dict[str, presence.Absence]:
        by_root: dict[str, list[str]] = defaultdict(list)
        for row in by_server[transport.server]:
            by_root[row.root].append(row.name)
        return {root: absence(tools, transport, names, root) for root, names in by_root.items()}

    ends: list[tuple[journal.Unsettled, journal.Settlement | str]] = []
    faults = {}
    for server, answer in tools.fleet.each(by_server, look).items():
        if isinstance(answer, RemoteFault):
            faults[server] = f"{server} cannot be asked: {answer.detail}"
            continue
        ends += [(row, _end(row, answer[row.root])) for row in by_server[server]]
    return ends, faults


def _end(row: journal.Unsettled, seen: presence.Absence) -> journal.Settlement | str:
    if seen.gone[row.name] is True:
        return journal.Settlement(row.id, "done", "its run died; the file is gone")
    if seen.gone[row.name] is None:
        return f"{row.server} cannot look into its folder"
    if seen.clock <= row.expires + END_SECONDS:
        return f"{row.server} may be at it for {row.expires + END_SECONDS - seen.clock + 1} s"
    return journal.Settlement(row.id, "failed", "its run died before the file was deleted")


def is_destination(tools: Tools, name: str) -> bool:
    return name in tools.fleet.servers and tools.fleet.servers[name].role == "destination"


def absence(tools: Tools, transport: Transport, file_names: Sequence[str], root: str = "") -> presence.Absence:
    """Which of these files are gone. ``root``: empty for that of the destination."""
    safe = [name for name in file_names if not names.unsafe(name)]
    root = root or tools.fleet.servers[transport.server].roots[0]
    found = presence.gone(transport, root, tools.marker, safe)
    return presence.Absence(dict.fromkeys(file_names) | dict(found.gone), found.clock)
