"""The delete protocol: how files are deleted without ever losing the last copy.

Under the node's one deletion lock, batch by batch:

1. journal rows that were left `intended` are settled by looking; a file of which one cannot be settled yet, because
   its server does not answer or could still be at it, is deleted nowhere;
2. the keeper's file is seen on the keeper: there, regular, of the expected size (duplicates only);
3. the origin's file is seen on a source: there, regular, of the expected size; neither may be the victim itself, on
   storage that two servers share;
4. the journal rows are written `intended` and committed;
5. each server checks and unlinks its victims in one call, the lowest address of each file first; past an expiry on its
   own clock, which the journal rows carry, it does not;
6. the journal rows are completed.

Whatever cannot be seen refuses its file. Two deletions of one node never overlap, so a keeper that was seen alive under
the lock is alive until the lock is given away; and while a deletion is not known to be over, so is its keeper.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cftools.actions.settling import Open, Tools, absence, is_destination, settle_dead_runs
from cftools.actions.unlink import Ground, Verdict, unlink
from cftools.facts import presence
from cftools.model import names
from cftools.model.rows import Delete, Outcome
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal
from cftools.state.locks import DELETION

PATIENCE = 3  # response time limits that a server has for the deletions of a batch; then they expire


def delete(tools: Tools, batches: Iterable[Sequence[Delete]]) -> Iterable[list[Outcome]]:
    """Carries plan rows out, one turn of the deletion lock a batch; the outcomes of each batch in its order.

    Stops between batches when ``tools.stop()`` says so. Raises LockHeld when it is told to stop while it waits for its
    turn, StateUnusable when the journal cannot be written; nothing is deleted without its journal row.
    """
    silent: dict[str, str] = {}
    with tools.locks.wait(DELETION, tools.stop):
        settle_dead_runs(tools, silent)
    for batch in batches:
        if tools.stop():
            return
        with tools.locks.wait(DELETION, tools.stop):
            outcomes = _delete_batch(tools, batch, settle_dead_runs(tools, silent))
        yield outcomes  # outside the lock: a reader that stops reading must not hold everybody up


def _delete_batch(tools: Tools, batch: Sequence[Delete], unsettled: Open) -> list[Outcome]:
    verdicts = {place: Verdict("refused", fault) for place, fault in _faults(tools, batch, unsettled).items()}
    wanted = [place for place in range(len(batch)) if place not in verdicts]
    views = _destination_views(tools, batch, wanted)
    origin = _OriginView(tools, sorted({batch[place].name for place in wanted}))
    for place in wanted:
        row = batch[place]
        if fault := _victim_fault(views, row) or _keeper_fault(views, row) or origin.fault(row, views):
            verdicts[place] = Verdict("refused", fault)
    verdicts |= _missing(
        tools, batch, [place for place in wanted if place not in verdicts and not _victim(views, batch[place])]
    )
    waves = _waves(batch, [place for place in range(len(batch)) if place not in verdicts])
    expires = _expiries(tools, views, batch, waves)
    intents = [
        journal.Intent(row, 0, *verdicts[place]) if place in verdicts else journal.Intent(row, expires[place])
        for place, row in enumerate(batch)
    ]
    numbers = journal.intend_deletes(tools.database, tools.run, intents, tools.clock())
    results = {place: (verdict, 0) for place, verdict in verdicts.items()}
    for wave in waves:
        results |= _unlink_wave(tools, Batch(intents, numbers), wave)
    return [
        Outcome("delete", str(numbers[place]), row.server, row.name, row.size, verdict.state, verdict.detail, spent)
        for place, row in enumerate(batch)
        for verdict, spent in [results[place]]
    ]


class Batch(NamedTuple):
    """What is about to be deleted, and the journal numbers."""

    intents: Sequence[journal.Intent]
    numbers: Sequence[int]


def _faults(tools: Tools, batch: Sequence[Delete], unsettled: Open) -> dict[int, str]:
    """What is wrong with rows, by place, that can be told without asking anybody."""
    faults: dict[int, str] = {}
    times = Counter((row.server, row.name) for row in batch)
    for place, row in enumerate(batch):
        fault = names.unsafe(row.name)
        if not is_destination(tools, row.server):
            fault = "not a configured destination"
        elif row.name.startswith(tools.ignore_prefixes):
            fault = "the config's ignore.prefixes say that it is never deleted"
        elif times[row.server, row.name] > 1:
            fault = "the plan names this file twice"
        elif row.reason == "duplicate" and row.keeper in (row.server, ""):
            fault = "no keeper other than itself"
        elif row.reason == "duplicate" and times[row.keeper, row.name]:
            fault = "its keeper is to be deleted in the same plan"
        elif row.name in unsettled:
            fault = f"an earlier deletion of it is not settled: {unsettled[row.name]}"
        if fault:
            faults[place] = fault
    return faults


class _View(NamedTuple):
    """What a destination shows of the files, and when it did, on the clock that is never set."""

    look: presence.Look
    at: float


Views = Mapping[str, _View | RemoteFault]


def _destination_views(tools: Tools, batch: Sequence[Delete], places: Sequence[int]) -> Views:
    """What each destination of these rows shows of them, victims and keepers, in one call each."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for place in places:
        row = batch[place]
        wanted[row.server].add(row.name)
        if is_destination(tools, row.keeper):
            wanted[row.keeper].add(row.name)

    def look(transport: Transport) -> _View:
        root = tools.fleet.servers[transport.server].roots[0]
        return _View(presence.look(transport, root, sorted(wanted[transport.server])), tools.elapsed())

    return tools.fleet.each(wanted, look)


def _expiries(tools: Tools, views: Views, batch: Sequence[Delete], waves: Sequence[Sequence[int]]) -> Mapping[int, int]:
    """The last second in which each place of a wave may be deleted, by the clock of its server. Later waves have to
    wait for the earlier ones, and get as much more time."""
    now = tools.elapsed()
    expires = {}
    for number, wave in enumerate(waves, 1):
        for place in wave:
            view, server = views[batch[place].server], tools.fleet.servers[batch[place].server]
            assert isinstance(view, _View), "a server that was not seen has no row in a wave"
            expires[place] = int(view.look.clock + now - view.at + number * PATIENCE * server.response_timeout)
    return expires


def _victim_fault(views: Views, row: Delete) -> str:
    """Why nothing can be deleted on the row's own server, or the empty string."""
    view = views[row.server]
    return view.detail if isinstance(view, RemoteFault) else ""


def _keeper_fault(views: Views, row: Delete) -> str:
    """Why the keeper's copy does not allow to delete this row's, or the empty string."""
    if row.reason != "duplicate":
        return ""
    view = views.get(row.keeper)
    if view is None:
        return f"keeper {row.keeper} is not a configured destination"
    if isinstance(view, RemoteFault):
        return f"keeper {row.keeper} cannot be asked: {view.detail}"
    seen = view.look.files.get(row.name)
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
    """The victim as its server shows it; None when it was not seen."""
    view = views.get(row.server)
    return None if view is None or isinstance(view, RemoteFault) else view.look.files.get(row.name)


def _missing(tools: Tools, batch: Sequence[Delete], places: Sequence[int]) -> dict[int, Verdict]:
    """What became of victims that were not seen.

    Only what was seen is asked to be deleted: a question about a file that is gone, when it hangs on its server, could
    delete another copy that arrived there in the meantime.
    """
    by_server: dict[str, list[int]] = defaultdict(list)
    for place in places:
        by_server[batch[place].server].append(place)

    def look(transport: Transport) -> presence.Absence:
        return absence(tools, transport, [batch[place].name for place in by_server[transport.server]])

    verdicts: dict[int, Verdict] = {}
    for server, answer in tools.fleet.each(by_server, look).items():
        for place in by_server[server]:
            if isinstance(answer, RemoteFault):
                verdicts[place] = Verdict("refused", answer.detail)
            elif answer.gone[batch[place].name] is True:
                verdicts[place] = Verdict("already", "not there any more")
            elif answer.gone[batch[place].name] is None:
                verdicts[place] = Verdict("refused", "its folder cannot be looked into, or a link stands on the way")
            else:
                detail = "it was put there while it was looked at"
                verdicts[place] = Verdict("refused", detail)
    return verdicts


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


def _unlink_wave(tools: Tools, batch: Batch, wave: Sequence[int]) -> dict[int, tuple[Verdict, int]]:
    by_server: dict[str, list[int]] = defaultdict(list)
    for place in wave:
        by_server[batch.intents[place].row.server].append(place)

    def work(transport: Transport) -> tuple[list[Verdict], int]:
        started = time.monotonic()
        verdicts = _unlink_on(tools, transport, [batch.intents[place] for place in by_server[transport.server]])
        return verdicts, round((time.monotonic() - started) * 1000)

    results: dict[int, tuple[Verdict, int]] = {}
    settled = []
    for server, answer in tools.fleet.each(by_server, work).items():
        assert not isinstance(answer, RemoteFault), "_unlink_on turns faults into verdicts"
        for place, verdict in zip(by_server[server], answer[0], strict=True):
            results[place] = verdict, answer[1]
            if verdict is not UNSETTLED:
                settled.append(journal.Settlement(batch.numbers[place], *verdict))
    journal.settle(tools.database, settled, tools.clock())
    return results


UNSETTLED = Verdict("failed", "the connection ended; the next run looks whether it was deleted")


def _unlink_on(tools: Tools, transport: Transport, intents: Sequence[journal.Intent]) -> list[Verdict]:
    ground = Ground(tools.fleet.servers[transport.server].roots[0], tools.marker, intents[0].expires)
    rows = [intent.row for intent in intents]
    try:
        return unlink(transport, ground, rows)
    except RemoteFault as fault:
        if fault.nothing_was_done:
            return [Verdict("refused", fault.detail)] * len(rows)
        how = fault.detail
    # What the server did is unknown: look. A script that still runs there may unlink a moment later, so only what is
    # gone is settled; what stands is left to the next run.
    try:
        gone = absence(tools, transport, [row.name for row in rows]).gone
    except RemoteFault:
        return [UNSETTLED] * len(rows)
    detail = f"gone, though the answer was lost: {how}"
    return [Verdict("done", detail) if gone[row.name] is True else UNSETTLED for row in rows]
