"""The delete protocol: how files are deleted without ever losing the last copy.

Under the node's one deletion lock, batch by batch:

1. journal rows that a dead run left `intended` are settled by looking;
2. the keeper's file is seen on the keeper: there, regular, of the expected size (duplicates only);
3. the origin's file is seen on a source: there, regular, of the expected size;
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
    for batch in batches:
        if tools.stop():
            return
        with tools.locks.wait(DELETION, tools.stop):
            settle_dead_runs(tools)
            yield _delete_batch(tools, batch)


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
    refused |= _without_keeper(tools, batch, [place for place in wanted if batch[place].reason == "duplicate"])
    refused |= _without_origin(tools, batch, [place for place in wanted if place not in refused])
    return refused


def _without_keeper(tools: Tools, batch: Sequence[Delete], places: Sequence[int]) -> dict[int, Verdict]:
    by_keeper: dict[str, set[str]] = defaultdict(set)
    for place in places:
        by_keeper[batch[place].keeper].add(batch[place].name)
    unknown = {keeper for keeper in by_keeper if keeper not in tools.fleet.servers}

    def look(transport: Transport) -> Mapping[str, presence.Seen]:
        root = tools.fleet.servers[transport.server].roots[0]
        return presence.see(transport, root, sorted(by_keeper[transport.server]))

    seen = tools.fleet.each(by_keeper.keys() - unknown, look)
    refused = {}
    for place in places:
        row = batch[place]
        answer = seen.get(row.keeper)
        if answer is None or tools.fleet.servers[row.keeper].role != "destination":
            refused[place] = Verdict("refused", f"keeper {row.keeper} is not a configured destination")
        elif isinstance(answer, RemoteFault):
            refused[place] = Verdict("refused", f"keeper {row.keeper} cannot be asked: {answer.detail}")
        elif fault := _unlike(answer.get(row.name), row.size):
            refused[place] = Verdict("refused", f"keeper {row.keeper}: {fault}")
    return refused


def _without_origin(tools: Tools, batch: Sequence[Delete], places: Sequence[int]) -> dict[int, Verdict]:
    """Every source is asked, side by side, for every name: one that answers yes is enough, one that does not answer
    makes a no uncertain."""
    wanted = sorted({batch[place].name for place in places})
    sources = [server.name for server in tools.fleet.servers.values() if server.role == "source"]
    if not wanted:
        return {}

    def look(transport: Transport) -> list[Mapping[str, presence.Seen]]:
        return [presence.see(transport, root, wanted) for root in tools.fleet.servers[transport.server].roots]

    answers = tools.fleet.each(sources, look)
    silent = [f"{name}: {answer.detail}" for name, answer in answers.items() if isinstance(answer, RemoteFault)]
    views = [view for answer in answers.values() if not isinstance(answer, RemoteFault) for view in answer]
    refused = {}
    for place in places:
        row = batch[place]
        if any(not _unlike(view.get(row.name), row.size) for view in views):
            continue
        why = f"the origin cannot be asked: {silent[0]}" if silent else "no source has it with the expected size"
        refused[place] = Verdict("refused", why)
    return refused


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
