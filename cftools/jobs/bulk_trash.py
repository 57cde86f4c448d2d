"""`bulk-delete restore` and `empty-trash`: a request's files brought back, and the trash emptied in time."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from cftools.actions import trash
from cftools.actions.protocol import PATIENCE
from cftools.actions.settling import settle_dead_runs
from cftools.actions.unlink import Ground, Verdict
from cftools.config.schema import BulkDeleteTarget
from cftools.facts import presence
from cftools.jobs.bulk_accept import check_key
from cftools.jobs.bulk_places import noted_below
from cftools.jobs.job import Job
from cftools.jobs.turns import delete_tools
from cftools.model import names
from cftools.model.errors import UsageFault
from cftools.model.rows import End, Outcome, Partition, Row
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal, requests
from cftools.state.locks import DELETION, job_lock

POLL_SECONDS = 0.5
EMPTYING = job_lock("bulk-delete-empty-trash")

Verdicts = Sequence[Verdict | None]
NOT_IN_TIME = Verdict("failed", "not in time; ask again")


def restore(job: Job, key: str) -> Generator[Row, None, None]:
    """Brings the files of a request back from the trash; what was not deleted yet is not deleted any more.

    Yields a `partition` row a call (``done``: brought back, ``already``: not in the trash, but in its place) and an
    `outcome` row for each file that could not be brought back. A server that cannot be asked has a `partition` row with
    all its files as ``waiting``. Running it again does what is left. Raises UsageFault when nothing can be brought
    back, LockHeld, Stopped.
    """
    check_key(key)
    request = requests.find(job.database, key)
    target = _target(job, request)
    yield job.begin([])
    counts: Counter[str] = Counter(partition=0, done=0, already=0, failed=0, waiting=0)
    with job.stop.step():
        withdrawn = _withdraw(job, request)
        for row in _Restoring(job, request, target).rows() if withdrawn else ():
            if isinstance(row, Partition):
                counts.update(partition=1, done=row.done, already=row.already, failed=row.failed, waiting=row.waiting)
            yield row
    yield End(job.command, True, dict(counts))


def _target(job: Job, request: requests.Known) -> BulkDeleteTarget:
    shown = names.display(request.key)
    target = job.config.bulk_delete.targets.get(request.target)
    if target is None:
        raise UsageFault(f"request {shown}: the config has its target {request.target} no more")
    if target.trash is None:
        raise UsageFault(f"request {shown}: target {request.target} has no trash, so nothing can be brought back")
    if next(requests.blocks(job.database, request.id), None) is None:
        raise UsageFault(f"request {shown}: the names of its files were not kept")
    return target


def _withdraw(job: Job, request: requests.Known) -> bool:
    """Takes the request out of work, waiting for the calls under way; False when the job is told to stop."""
    while requests.withdraw(job.database, request, time.time()):
        if job.stop.wait(POLL_SECONDS):
            return False
    return True


class _Restoring:
    """The calls of one restoration: block by block, the servers side by side, a turn of the deletion lock each."""

    def __init__(self, job: Job, request: requests.Known, target: BulkDeleteTarget) -> None:
        self._job, self._request, self._target = job, request, target
        self._servers = sorted(target.servers)
        self._silent: dict[str, str] = {}  # servers that cannot be asked, and why
        self._left: Counter[str] = Counter()  # their files
        self._tools = delete_tools(job)

    def rows(self) -> Iterator[Row]:
        """Stops between two blocks when the job is told to."""
        for block in requests.blocks(self._job.database, self._request.id):
            if self._job.stop.is_set():
                return
            answers = self._ask(block)
            for server in self._silent:
                if server not in answers:
                    self._left[server] += len(block)
            yield from self._told(block, answers)
        for server, fault in self._silent.items():
            left = self._left[server]
            yield Partition(
                *self._place(server), left, waiting=left, detail=f"{fault}; run restore again for its files"
            )

    def _place(self, server: str) -> tuple[str, str, str]:
        return self._request.key, self._request.target, server

    def _ask(self, block: Sequence[str]) -> dict[str, tuple[Verdicts, float]]:
        """The verdicts of each server that could be asked, and how many seconds it took."""
        wanted = [server for server in self._servers if server not in self._silent]
        late = time.monotonic() + max(
            (PATIENCE * self._job.fleet.servers[server].response_timeout for server in wanted), default=0
        )
        answers: dict[str, tuple[Verdicts, float]] = {}
        while wanted and not self._job.stop.is_set():
            with self._job.locks.wait(DELETION, self._job.stop.is_set):
                settle_dead_runs(self._tools, self._silent)
                wanted = [server for server in wanted if server not in self._silent]
                busy = self._still_at_it(wanted, block)
                free = [server for server in wanted if server not in busy]
                for server, answer in self._job.fleet.each(free, lambda one: self._bring(one, block)).items():
                    if isinstance(answer, RemoteFault):
                        self._silent[server] = str(answer)
                    else:
                        answers[server] = answer
            wanted = [server for server in wanted if server in busy]
            if wanted and time.monotonic() > late:
                self._silent |= dict.fromkeys(wanted, "it may still be deleting what it was asked to")
                break
            if wanted:
                self._job.stop.wait(POLL_SECONDS)
        return answers

    def _still_at_it(self, servers: Sequence[str], block: Sequence[str]) -> set[str]:
        """The servers that may yet carry out a deletion of these files, which would undo what is brought back."""
        below = {server: {prefix + name for name in block} for server in servers for _, prefix in [self._noted(server)]}
        rows = [
            *journal.unsettled_deletes(self._job.database),
            *journal.unsettled_deletes(self._job.database, elsewhere=True),
        ]
        return {row.server for row in rows if row.name in below.get(row.server, ())}

    def _noted(self, server: str) -> tuple[journal.Ground, str]:
        return noted_below(self._job.fleet.servers[server], self._target.root)

    def _bring(self, transport: Transport, block: Sequence[str]) -> tuple[Verdicts, float]:
        began = time.monotonic()
        root = self._target.root
        patience = PATIENCE * self._job.fleet.servers[transport.server].response_timeout
        expires = presence.look(transport, root, []).clock + math.ceil(patience)
        ground = Ground(root, self._job.config.guards.mount_marker, expires)
        verdicts = trash.restore(transport, ground, self._request.id, block)
        noted, prefix = self._noted(transport.server)
        back = [prefix + name for name, one in zip(block, verdicts, strict=True) if one and one.state == "done"]
        journal.note_restored(self._job.database, self._job.run, noted, back, time.time())
        return verdicts, time.monotonic() - began

    def _told(self, block: Sequence[str], answers: Mapping[str, tuple[Verdicts, float]]) -> Iterator[Row]:
        held = {
            name
            for verdicts, _ in answers.values()
            for name, verdict in zip(block, verdicts, strict=True)
            if verdict and verdict.state != "failed"
        }
        missed: set[str] = set()  # files that no server has, of which one says so
        for server, (verdicts, seconds) in answers.items():
            states: Counter[str] = Counter()
            for name, verdict in zip(block, verdicts, strict=True):
                one = verdict or NOT_IN_TIME
                if self._target.layout == "any" and one == trash.NOT_THERE:
                    if name in held or name in missed:  # it was never on this server
                        states["already"] += 1
                        continue
                    missed.add(name)
                states["failed" if one.state == "refused" else one.state] += 1
                if one.state in ("failed", "refused"):
                    yield Outcome("restore", "", server, name, 0, one.state, one.detail)
            yield Partition(
                *self._place(server),
                resources=len(block),
                done=states["done"],
                already=states["already"],
                failed=states["failed"],
                milliseconds=round(seconds * 1000),
            )


class _Trash(NamedTuple):
    """A folder whose trash is emptied, and how long that keeps what is in it, seconds."""

    root: str
    period: float


def empty(job: Job) -> Generator[Row, None, None]:
    """Deletes for good what lies in the trash of each target longer than it is kept.

    Yields an `outcome` row for each day's folder that could not be deleted, or server that could not be asked; the
    ``end`` row counts folders. Raises LockHeld when another copy runs.
    """
    yield job.begin([])
    by_server = _trashes(job)
    counts: Counter[str] = Counter(server=len(by_server), folder=0, outcome=0)

    def work(transport: Transport) -> list[tuple[str, trash.Emptied | RemoteFault]]:
        return [(one.root, _empty(job, transport, one)) for one in by_server[transport.server]]

    with job.locks.hold(EMPTYING), job.stop.step():
        for server, answer in job.fleet.each(sorted(by_server), work).items():
            roots: Sequence[tuple[str, trash.Emptied | RemoteFault]]
            roots = [("", answer)] if isinstance(answer, RemoteFault) else answer
            for root, emptied in roots:
                place = f"{root}/{trash.FOLDER}"
                if isinstance(emptied, RemoteFault):
                    left = {place: emptied.detail}
                else:
                    left = {f"{place}/{day:08}": why for day, why in emptied.left.items()}
                    counts["folder"] += len(emptied.removed)
                for folder, why in left.items():
                    counts["outcome"] += 1
                    yield Outcome("delete", "", server, folder, 0, "failed", why)
    yield End(job.command, True, dict(counts))


def _empty(job: Job, transport: Transport, one: _Trash) -> trash.Emptied | RemoteFault:
    # The folder of a day takes files until midnight: its time is over when that of its last moment is.
    before = int(time.strftime("%Y%m%d", time.gmtime(job.now() - one.period)))
    try:
        return trash.empty(transport, one.root, job.config.guards.mount_marker, before)
    except RemoteFault as fault:
        return fault


def _trashes(job: Job) -> dict[str, list[_Trash]]:
    """The folders with a trash, by server; targets that share one keep what is in it as long as the longest says."""
    periods: dict[tuple[str, str], float] = {}
    for target in job.config.bulk_delete.targets.values():
        for server in target.servers if target.trash is not None else ():
            place = server, target.root
            periods[place] = max(periods.get(place, 0.0), target.trash or 0.0)
    found: dict[str, list[_Trash]] = defaultdict(list)
    for (server, root), period in periods.items():
        found[server].append(_Trash(root, period))
    return found
