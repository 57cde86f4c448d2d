"""The delete protocol: how files are deleted without ever losing the last copy.

Under the node's one deletion lock, batch by batch:

1. journal rows that a dead run left `intended` are settled by looking;
2. the keeper's file is seen on the keeper: there, regular, of the expected size (duplicates only);
3. the origin's file is seen on a source: there, regular, of the expected size; neither may be the victim itself, on
   storage that two servers share;
4. the journal rows are written `intended` and committed;
5. each server checks and unlinks its victims in one call, the lowest address of each file first;
6. the journal rows are completed.

Whatever cannot be seen refuses its file. Two deletions of one node never overlap, so a keeper that was seen alive under
the lock is alive until the lock is given away.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from cftools.actions.unlink import Verdict, unlink
from cftools.facts import presence
from cftools.model import names
from cftools.model.rows import Delete, Outcome, OutcomeState
from cftools.remote.pool import Fleet
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal
from cftools.state.database import Database
from cftools.state.locks import DELETION, Locks


class Tools(NamedTuple):
    """What a deletion needs. ``marker``: the mount marker, or empty. ``stop`` tells that the job should end.
    ``ignore_prefixes``: names that are never deleted, whatever a plan says."""

    fleet: Fleet
    database: Database
    locks: Locks
    run: int
    marker: str
    clock: Callable[[], float]
    stop: Callable[[], bool] = lambda: False
    ignore_prefixes: tuple[str, ...] = ()


def delete(tools: Tools, batches: Iterable[Sequence[Delete]]) -> Iterable[list[Outcome]]:
    """Carries plan rows out, one turn of the deletion lock a batch; the outcomes of each batch in its order.

    Stops between batches when ``tools.stop()`` says so. Raises LockHeld when it is told to stop while it waits for its
    turn, StateUnusable when the journal cannot be written; nothing is deleted without its journal row.
    """
    with tools.locks.wait(DELETION, tools.stop):
        settle_dead_runs(tools)
    for batch in batches:
        if tools.stop():
            return
        with tools.locks.wait(DELETION, tools.stop):
            settle_dead_runs(tools)
            outcomes = _delete_batch(tools, batch)
        yield outcomes  # outside the lock: a reader that stops reading must not hold everybody up


def settle_dead_runs(tools: Tools) -> int:
    """Settles the deletions that dead runs left `intended`, by looking; call it holding the deletion lock.

    A file that is not there any more was deleted; one that is there was not. Rows of servers that cannot be looked at
    stay. Returns how many rows stay.
    """
    open_rows = journal.unsettled_deletes(tools.database)
    by_server = defaultdict(list)
    for row in open_rows:
        by_server[row.server].append(row)
    known = [server for server in by_server if server in tools.fleet.servers]

    def look(transport: Transport) -> list[journal.Settlement]:
        rows = by_server[transport.server]
        gone = _gone(tools, transport, [row.name for row in rows])
        settled = []
        for row in rows:
            if gone[row.name] is True:
                settled.append(journal.Settlement(row.id, "done", "its run died; the file is gone"))
            elif gone[row.name] is False:
                settled.append(journal.Settlement(row.id, "failed", "its run died before the file was deleted"))
        return settled

    settled = [one for found in tools.fleet.each(known, look).values() if isinstance(found, list) for one in found]
    journal.settle(tools.database, settled, tools.clock())
    return len(open_rows) - len(settled)


def _delete_batch(tools: Tools, batch: Sequence[Delete]) -> list[Outcome]:
    refusals = _refusals(tools, batch)
    numbers = journal.intend_deletes(tools.database, tools.run, batch, tools.clock())
    journal.settle(
        tools.database,
        [journal.Settlement(numbers[place], *verdict) for place, verdict in refusals.items()],
        tools.clock(),
    )
    results: dict[int, tuple[Verdict, int]] = {place: (verdict, 0) for place, verdict in refusals.items()}
    for wave in _waves(batch, [place for place in range(len(batch)) if place not in refusals]):
        results |= _unlink_wave(tools, batch, numbers, wave)
    return [
        Outcome("delete", str(numbers[place]), row.server, row.name, row.size, verdict.state, verdict.detail, spent)
        for place, row in enumerate(batch)
        for verdict, spent in [results[place]]
    ]


def _refusals(tools: Tools, batch: Sequence[Delete]) -> dict[int, Verdict]:
    """The rows, by place, that must not be sent to their servers."""
    refused: dict[int, Verdict] = {}
    times = Counter((row.server, row.name) for row in batch)
    for place, row in enumerate(batch):
        fault = names.unsafe(row.name)
        if row.server not in tools.fleet.servers or tools.fleet.servers[row.server].role != "destination":
            fault = "not a configured destination"
        elif row.name.startswith(tools.ignore_prefixes):
            fault = "the config's ignore.prefixes say that it is never deleted"
        elif times[row.server, row.name] > 1:
            fault = "the plan names this file twice"
        elif row.reason == "duplicate" and row.keeper in (row.server, ""):
            fault = "no keeper other than itself"
        elif row.reason == "duplicate" and times[row.keeper, row.name]:
            fault = "its keeper is to be deleted in the same plan"
        if fault:
            refused[place] = Verdict("refused", fault)
    wanted = [place for place in range(len(batch)) if place not in refused]
    views = _destination_views(tools, batch, wanted)
    origin = _OriginView(tools, sorted({batch[place].name for place in wanted}))
    for place in wanted:
        fault = _keeper_fault(views, batch[place]) or origin.fault(batch[place], views)
        if fault:
            refused[place] = Verdict("refused", fault)
    return refused


Views = Mapping[str, Mapping[str, presence.Seen] | RemoteFault]


def _destination_views(tools: Tools, batch: Sequence[Delete], places: Sequence[int]) -> Views:
    """What each destination of these rows shows of them, victims and keepers, in one call each."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for place in places:
        row = batch[place]
        wanted[row.server].add(row.name)
        if row.keeper in tools.fleet.servers and tools.fleet.servers[row.keeper].role == "destination":
            wanted[row.keeper].add(row.name)

    def look(transport: Transport) -> Mapping[str, presence.Seen]:
        root = tools.fleet.servers[transport.server].roots[0]
        return presence.see(transport, root, sorted(wanted[transport.server]))

    return tools.fleet.each(wanted, look)


def _keeper_fault(views: Views, row: Delete) -> str:
    """Why the keeper's copy does not allow to delete this row's, or the empty string."""
    if row.reason != "duplicate":
        return ""
    answer = views.get(row.keeper)
    if answer is None:
        return f"keeper {row.keeper} is not a configured destination"
    if isinstance(answer, RemoteFault):
        return f"keeper {row.keeper} cannot be asked: {answer.detail}"
    seen = answer.get(row.name)
    if fault := _unlike(seen, row.size):
        return f"keeper {row.keeper}: {fault}"
    if _same(seen, _victim(views, row)):
        return f"it is the very file that keeper {row.keeper} has: both use one storage"
    return ""


class _OriginView:
    """What the sources show. Every source is asked, side by side, for every name: one that answers yes is enough, one
    that does not answer makes a no uncertain."""

    def __init__(self, tools: Tools, file_names: Sequence[str]) -> None:
        sources = [server.name for server in tools.fleet.servers.values() if server.role == "source"]

        def look(transport: Transport) -> list[Mapping[str, presence.Seen]]:
            roots = tools.fleet.servers[transport.server].roots
            return [presence.see(transport, root, file_names) for root in roots]

        answers = tools.fleet.each(sources if file_names else [], look)
        self._silent = [f"{name}: {one.detail}" for name, one in answers.items() if isinstance(one, RemoteFault)]
        self._views = [view for one in answers.values() if not isinstance(one, RemoteFault) for view in one]

    def fault(self, row: Delete, views: Views) -> str:
        """Why the origin does not allow to delete this row's copy, or the empty string."""
        there = [seen for view in self._views if (seen := view.get(row.name)) and not _unlike(seen, row.size)]
        if any(_same(seen, _victim(views, row)) for seen in there):
            return "it is the very file that the origin has: both use one storage"
        if there:
            return ""
        if self._silent:
            return f"the origin cannot be asked: {self._silent[0]}"
        return "no source has it with the expected size"


def _victim(views: Views, row: Delete) -> presence.Seen | None:
    """The victim as its server shows it; None when it is gone or unknown, which the unlinking finds out by itself."""
    answer = views.get(row.server)
    return None if answer is None or isinstance(answer, RemoteFault) else answer.get(row.name)


def _same(first: presence.Seen | None, second: presence.Seen | None) -> bool:
    return first is not None and second is not None and first.identity == second.identity


def _unlike(seen: presence.Seen | None, size: int) -> str:
    """Why what was seen is not the expected file, or the empty string."""
    if seen is None:
        return "the file was not seen there"
    if not seen.regular:
        return "not a regular file"
    return "" if seen.size == size else f"its size is {seen.size}, {size} was expected"


def _waves(batch: Sequence[Delete], places: Sequence[int]) -> list[list[int]]:
    """The n-th wave holds the n-th victim of each file: a file's copies go in the plan's order, lowest address first,
    while different files go side by side."""
    turn: Counter[str] = Counter()
    waves: list[list[int]] = []
    for place in places:
        name = batch[place].name
        if turn[name] == len(waves):
            waves.append([])
        waves[turn[name]].append(place)
        turn[name] += 1
    return waves


def _unlink_wave(
    tools: Tools, batch: Sequence[Delete], numbers: Sequence[int], wave: Sequence[int]
) -> dict[int, tuple[Verdict, int]]:
    by_server: dict[str, list[int]] = defaultdict(list)
    for place in wave:
        by_server[batch[place].server].append(place)

    def work(transport: Transport) -> tuple[list[Verdict], int]:
        started = time.monotonic()
        rows = [batch[place] for place in by_server[transport.server]]
        verdicts = _unlink_on(tools, transport, rows)
        return verdicts, round((time.monotonic() - started) * 1000)

    results: dict[int, tuple[Verdict, int]] = {}
    settled = []
    for server, answer in tools.fleet.each(by_server, work).items():
        assert not isinstance(answer, RemoteFault), "_unlink_on turns faults into verdicts"
        for place, verdict in zip(by_server[server], answer[0], strict=True):
            results[place] = verdict, answer[1]
            if verdict is not UNSETTLED:
                settled.append(journal.Settlement(numbers[place], *verdict))
    journal.settle(tools.database, settled, tools.clock())
    return results


UNSETTLED = Verdict("failed", "the connection ended; the next run looks whether it was deleted")


def _unlink_on(tools: Tools, transport: Transport, rows: Sequence[Delete]) -> list[Verdict]:
    root = tools.fleet.servers[transport.server].roots[0]
    try:
        return unlink(transport, root, tools.marker, rows)
    except RemoteFault as fault:
        if fault.nothing_was_done:
            return [Verdict("refused", fault.detail)] * len(rows)
        how = fault.detail
    # What the server did is unknown: look. A script that still runs there may unlink a moment later, so only what is
    # gone is settled; what stands is left to the next run.
    try:
        gone = _gone(tools, transport, [row.name for row in rows])
    except RemoteFault:
        return [UNSETTLED] * len(rows)
    found: dict[bool | None, Verdict] = {
        True: Verdict("done", f"gone, though the answer was lost: {how}"),
        False: UNSETTLED,
    }
    return [found.get(gone[row.name], UNSETTLED) for row in rows]


def _gone(tools: Tools, transport: Transport, file_names: Sequence[str]) -> Mapping[str, bool | None]:
    settings = tools.fleet.servers[transport.server]
    safe = [name for name in file_names if not names.unsafe(name)]
    answer: dict[str, bool | None] = dict.fromkeys(file_names)
    return answer | presence.gone(transport, settings.roots[0], safe)


def count_states(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many outcomes there are of each state."""
    states: Counter[OutcomeState] = Counter(outcome.state for outcome in outcomes)
    return {str(state): number for state, number in states.items()}
