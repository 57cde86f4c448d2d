"""Where requested files lie, and how a partition of them is deleted there."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from cftools.actions.protocol import PATIENCE
from cftools.actions.remove import remove
from cftools.actions.settling import END_SECONDS
from cftools.actions.unlink import Ground, Verdict
from cftools.config.schema import BulkDeleteTarget
from cftools.config.servers import ServerSettings
from cftools.facts import presence
from cftools.jobs.job import Job
from cftools.jobs.turns import SharedTurn
from cftools.remote.transport import RemoteFault, Transport
from cftools.state import journal
from cftools.state.partitions import Pair, Partition

SLACK_SECONDS = 5.0  # of a lease, beyond all that a call may take
OBJECT_PATIENCE = 10  # response time limits that object storage may take for a partition, which is several calls


class Call(NamedTuple):
    """One call under way: the numbers of its journal rows, one a name, and when it is over for certain, epoch seconds
    of the manager."""

    numbers: Sequence[int]
    over: float


Verdicts = Sequence[Verdict | None]


class Place(Protocol):
    """One server of a target, or the object storage of one."""

    def lease_seconds(self) -> float:
        """How long a claim has to hold: longer than any call can take."""

    def turn(self) -> AbstractContextManager[None]:
        """What has to be held while files are deleted here."""

    def begin(self, partition: Partition) -> Call:
        """Journals what is about to be asked. Raises RemoteFault when the place cannot be asked anything."""

    def carry_out(self, partition: Partition) -> Verdicts:
        """Deletes the files of a partition that was begun; a verdict a name, None for: not got to in time.

        Raises RemoteFault; its kind tells whether anything may have been deleted."""

    def check(self) -> None:
        """Raises RemoteFault when the place does not answer."""


def horizon(job: Job) -> float:
    """Seconds into the future that no claim and no rest of this config reaches."""
    bulk, ssh = job.config.bulk_delete, job.config.ssh
    servers = [_lease_seconds(server) for server in job.fleet.servers.values()]
    return max(bulk.retry_delay_limit * 1.25, OBJECT_PATIENCE * ssh.response_timeout, *servers) + 2 * SLACK_SECONDS


def place_of(job: Job, pair: Pair, turn: SharedTurn) -> Place | None:
    """The place of a pair; None when the config has it no more."""
    target = job.config.bulk_delete.targets.get(pair.target)
    if target is None:
        return None
    if target.url:
        return ObjectPlace(job, target) if target.url == pair.server else None
    if pair.server not in target.servers or pair.server not in job.fleet.servers:
        return None
    return ServerPlace(job, job.fleet.servers[pair.server], target, turn)


class ServerPlace:
    """A folder of a server, reached over SSH."""

    def __init__(self, job: Job, server: ServerSettings, target: BulkDeleteTarget, turn: SharedTurn) -> None:
        self._job, self._server, self._target, self._turn = job, server, target, turn
        self._ahead: float | None = None  # the server's clock, less the one here that is never set
        self._expires = 0

    def lease_seconds(self) -> float:
        """See `Place`."""
        return _lease_seconds(self._server)

    def turn(self) -> AbstractContextManager[None]:
        """See `Place`."""
        return self._turn.join()

    def begin(self, partition: Partition) -> Call:
        """See `Place`."""
        transport = self._job.fleet.transport(self._server.name)
        ahead = self._ahead = self._clock(transport) if self._ahead is None else self._ahead
        self._expires = int(time.monotonic() + ahead + PATIENCE * self._server.response_timeout)
        ground, prefix = noted_below(self._server, self._target.root)
        noted = [prefix + name for name in partition.names] if prefix else partition.names
        job = self._job
        numbers = journal.intend_requested(job.database, job.run, ground, noted, self._expires, time.time())
        return Call(numbers, time.time() + _call_seconds(self._server))

    def carry_out(self, partition: Partition) -> Verdicts:
        """See `Place`."""
        transport = self._job.fleet.transport(self._server.name)
        ground = Ground(self._target.root, self._job.config.guards.mount_marker, self._expires)
        try:
            if self._target.trash is None:
                verdicts: Verdicts = remove(transport, ground, partition.names)
            else:
                from cftools.actions import trash

                folder = f"{time.strftime('%Y%m%d', time.gmtime())}/{partition.request}"
                verdicts = trash.move(transport, ground, folder, partition.names)
        except RemoteFault:
            self._ahead = None
            raise
        if None in verdicts:  # its clock may have been set
            self._ahead = None
        return verdicts

    def check(self) -> None:
        """See `Place`."""
        self._clock(self._job.fleet.transport(self._server.name))

    def _clock(self, transport: Transport) -> float:
        return presence.look(transport, self._target.root, []).clock - time.monotonic()


def _call_seconds(server: ServerSettings) -> float:
    """After that many seconds a call is over on the server, whatever became of its answer."""
    return PATIENCE * server.response_timeout + END_SECONDS


def _lease_seconds(server: ServerSettings) -> float:
    return server.connect_timeout + server.response_timeout + _call_seconds(server) + SLACK_SECONDS


def noted_below(server: ServerSettings, root: str) -> tuple[journal.Ground, str]:
    """How the journal calls files below a target's folder: the ground, and what their names begin with. In that of a
    destination they are the node's own files."""
    for own in server.roots if server.role == "destination" else ():
        if f"{root}/".startswith(f"{own}/"):
            return journal.Ground(server.name, ""), f"{root}/".removeprefix(f"{own}/")
    return journal.Ground(server.name, root), ""


class ObjectPlace:
    """A bucket, or a part of one."""

    def __init__(self, job: Job, target: BulkDeleteTarget) -> None:
        from cftools.actions.objects import Storage

        self._job = job
        self._storage = Storage.from_target(target, job.config.ssh)

    def lease_seconds(self) -> float:
        """See `Place`."""
        return OBJECT_PATIENCE * self._job.config.ssh.response_timeout + SLACK_SECONDS

    def turn(self) -> AbstractContextManager[None]:
        """See `Place`: nothing else deletes objects."""
        return nullcontext()

    def begin(self, partition: Partition) -> Call:
        """See `Place`."""
        job = self._job
        if partition.was_claimed_by:  # nobody can look whether its answers came
            journal.disown(
                job.database, partition.was_claimed_by, partition.server, "its run died; asked again", time.time()
            )
        ground = journal.Ground(partition.server, "/")
        return Call(journal.intend_requested(job.database, job.run, ground, partition.names, 0, time.time()), 0)

    def carry_out(self, partition: Partition) -> Verdicts:
        """See `Place`."""
        from cftools.actions import objects

        return objects.remove(self._storage, partition.names)

    def check(self) -> None:
        """See `Place`."""
        from cftools.actions import objects

        objects.check(self._storage)


def protected(names: Sequence[str], prefixes: tuple[str, ...]) -> Mapping[int, str]:
    """Places of names that the config says are never deleted."""
    if not prefixes:
        return {}
    why = "the config's ignore.prefixes say that it is never deleted"
    return {place: why for place, name in enumerate(names) if name.startswith(prefixes)}
