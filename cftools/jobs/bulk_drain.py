"""`bulk-delete drain`: what was requested is deleted, server by server side by side."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from cftools.actions.settling import settle_dead_runs
from cftools.jobs.bulk_places import horizon
from cftools.jobs.bulk_worker import Round, Worker
from cftools.jobs.job import Job
from cftools.jobs.turns import SharedTurn, delete_tools
from cftools.model.errors import LockHeld
from cftools.model.rows import End, Row
from cftools.model.rows import Partition as PartitionRow
from cftools.state import journal, partitions, requests
from cftools.state.partitions import Pair

POLL_SECONDS = 0.5  # how often the state is asked for new work when there is none


def preview(job: Job) -> Generator[Row, None, None]:
    """What would be asked of each server now, a row a request and server; nothing is changed."""
    yield job.begin([])
    counts: Counter[str] = Counter(partition=0, resources=0)
    for row in partitions.due(job.database, time.time(), horizon(job)):
        counts.update(partition=1, resources=row.resources)
        yield row
    yield End(job.command, True, dict(counts))


def run(job: Job, seconds: float | None) -> Generator[Row, None, None]:
    """Works until nothing is due any more, or with ``seconds`` for so long.

    Yields a `partition` row a call and an `outcome` row for each file that failed. Raises StateUnusable, Stopped.
    """
    yield job.begin([])
    counts: Counter[str] = Counter(partition=0, done=0, already=0, failed=0)
    with job.stop.step():
        drain = Drain(job, None if seconds is None else time.monotonic() + seconds)
        try:
            for row in drain.rows():
                if isinstance(row, PartitionRow):
                    counts.update(partition=1, done=row.done, already=row.already, failed=row.failed)
                yield row
        finally:
            drain.end()
    requests.forget(job.database, time.time() - job.config.bulk_delete.keep)
    yield End(job.command, True, dict(counts))


class Drain:
    """The workers of one run: one a server, as many side by side as ``ssh.parallel`` says."""

    def __init__(self, job: Job, deadline: float | None) -> None:
        self._job, self._deadline = job, deadline
        self._told: queue.SimpleQueue[Sequence[Row]] = queue.SimpleQueue()
        self._ended = False
        self._horizon = horizon(job)
        self._pool = ThreadPoolExecutor(job.config.ssh.parallel, thread_name_prefix="drain")
        self._busy: dict[str, Future[None]] = {}  # by server: it does one thing at a time
        self._served: dict[Pair, int] = {}  # when each was begun with last, counted
        silent: dict[str, str] = {}
        tools = delete_tools(job)
        turn = SharedTurn(job, lambda: settle_dead_runs(tools, silent), self._is_ended)
        self._round = Round(job, turn, self._tell, self._is_ended)

    def rows(self) -> Iterator[Row]:
        """What the workers tell, as they tell it, until nothing is left to do."""
        self._settle_first()
        while True:
            started = self._start_workers()
            if not self._busy:
                if self._is_ended() or (not started and self._deadline is None):
                    break
                self._job.stop.wait(POLL_SECONDS)
                continue
            yield from self._take(POLL_SECONDS)
            self._look_after_workers()
        yield from self._take(0)

    def _settle_first(self) -> None:
        """What an earlier run could not settle is settled even when no server has to be asked anything any more."""
        if any(journal.unsettled_deletes(self._job.database, elsewhere=elsewhere) for elsewhere in (False, True)):
            with suppress(LockHeld), self._round.turn.join():
                pass  # which settles it

    def end(self) -> None:
        """Lets every worker finish its call, and waits for that."""
        self._ended = True
        self._pool.shutdown()

    def _is_ended(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self._ended or self._job.stop.is_set() or late

    def _start_workers(self) -> bool:
        if self._is_ended():
            return False
        started = False
        pairs = partitions.waiting(self._job.database, time.time(), self._horizon)
        for pair in sorted(pairs, key=lambda pair: self._served.get(pair, 0)):  # whoever waits longest comes first
            if pair.server not in self._busy and len(self._busy) < self._job.config.ssh.parallel:
                self._served[pair] = max(self._served.values(), default=0) + 1
                self._busy[pair.server] = self._pool.submit(self._work, pair)
                started = True
        return started

    def _work(self, pair: Pair) -> None:
        try:
            Worker(self._round, pair).work()
        finally:
            self._told.put(())  # wakes the one who waits for rows

    def _tell(self, rows: Sequence[Row]) -> None:
        self._told.put(rows)

    def _take(self, seconds: float) -> Iterator[Row]:
        try:
            rows = self._told.get(timeout=seconds) if seconds else self._told.get_nowait()
            while True:
                yield from rows
                rows = self._told.get_nowait()
        except queue.Empty:
            return

    def _look_after_workers(self) -> None:
        for server, future in list(self._busy.items()):
            if future.done():
                del self._busy[server]
                future.result()  # raises what ended it
