"""One worker of a drain: partition after partition of one server of a target."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cftools.actions.unlink import Verdict
from cftools.jobs.bulk_places import Call, Place, Verdicts, horizon, place_of, protected
from cftools.jobs.job import Job
from cftools.jobs.turns import SharedTurn
from cftools.model.errors import LockHeld
from cftools.model.rows import Outcome, Row
from cftools.model.rows import Partition as PartitionRow
from cftools.remote.transport import RemoteFault
from cftools.state import journal, partitions
from cftools.state.partitions import Lease, Pair, Partition, Policy, Rests, Settled

SLICE_SECONDS = 10.0  # then other targets of the server, and other servers, come first
LEFT = "the config has this server no more for its target"


class Round(NamedTuple):
    """What the workers of a drain share. ``tell`` takes rows, ``ended`` tells that no further call is to be begun."""

    job: Job
    turn: SharedTurn
    tell: Callable[[Sequence[Row]], None]
    ended: Callable[[], bool]


def rests(job: Job) -> Rests:
    """How long what failed rests."""
    keys = job.config.bulk_delete
    return Rests(keys.retry_delay, keys.retry_delay_limit)


class Worker:
    """Works on one server of a target until nothing is due there, it cannot be asked, or it is somebody else's turn."""

    def __init__(self, shared: Round, pair: Pair) -> None:
        self._shared, self._pair = shared, pair
        self._job = job = shared.job
        keys = job.config.bulk_delete
        target = keys.targets.get(pair.target)
        self._layout = target.layout if target else "every"
        self._horizon = horizon(job)
        self._policy = Policy(keys.attempts, rests(job), target is not None and target.trash is not None)

    def work(self) -> None:
        """Raises StateUnusable; whatever else goes wrong becomes rows."""
        place = place_of(self._job, self._pair, self._shared.turn)
        if place is None:
            self._pause(LEFT)
            return
        ends = time.monotonic() + SLICE_SECONDS
        while not self._shared.ended() and time.monotonic() < ends:
            try:
                with place.turn():
                    if self._shared.ended() or not self._work_once(place):  # the turn may have come late
                        return
            except LockHeld:  # it ended while it waited for its turn
                return

    def _work_once(self, place: Place) -> bool:
        """Claims and carries out one partition; False when there is none, or its server cannot be asked."""
        lease = Lease(self._job.run, time.time(), time.time() + place.lease_seconds())
        partition = partitions.claim(self._job.database, self._pair, lease, self._horizon)
        if partition is None:
            return False
        began = time.monotonic()
        try:
            call = place.begin(partition)
        except RemoteFault as fault:
            partitions.release(self._job.database, partition, self._job.run)
            self._pause(f"{fault.kind}: {fault.detail}", partition)
            return False
        try:
            verdicts = self._unless_protected(place, partition)
        except RemoteFault as fault:
            return self._after_fault(place, partition, call, fault)
        self._settle(partition, call, verdicts, time.monotonic() - began)
        return True

    def _unless_protected(self, place: Place, partition: Partition) -> Verdicts:
        """The config may have changed since the request was accepted."""
        never = protected(partition.names, tuple(self._job.config.ignore.prefixes))
        if not never:
            return place.carry_out(partition)
        rest = [name for spot, name in enumerate(partition.names) if spot not in never]
        found = iter(place.carry_out(partition._replace(names=rest)) if rest else [])
        return [
            Verdict("failed", never[spot]) if spot in never else next(found) for spot in range(len(partition.names))
        ]

    def _settle(self, partition: Partition, call: Call, verdicts: Verdicts, seconds: float) -> None:
        failed = {place: one.detail for place, one in enumerate(verdicts) if one and one.state == "failed"}
        late = [place for place, one in enumerate(verdicts) if one is None]
        if len(late) == 1:
            failed[late[0]] = f"no answer about it for {seconds:.0f} s"
        done = sum(one is not None and one.state == "done" for one in verdicts)
        already = sum(one is not None and one.state == "already" for one in verdicts)
        again = halves(late) if len(late) > 1 else ()
        settled = Settled(done, already, failed, again, call.over if late else 0, seconds)
        noted = journal.Noted(call.numbers, [self._as_noted(one) for one in verdicts] if already else verdicts)
        now = Lease(self._job.run, time.time(), 0)
        if not partitions.settle(self._job.database, partition, settled, self._policy, now, noted):
            return
        partitions.resume(self._job.database, self._pair)
        waiting = sum(map(len, again))
        detail = f"{waiting} not in time; asked again in smaller calls" if waiting else ""
        row = PartitionRow(
            *(partition.key, *self._pair),
            resources=len(verdicts),
            done=done,
            already=already,
            failed=len(failed),
            waiting=waiting,
            detail=detail,
            milliseconds=round(seconds * 1000),
        )
        self._shared.tell([*self._failures(partition, call, failed), row])

    def _as_noted(self, verdict: Verdict | None) -> Verdict | None:
        """Where any server may have a file, one that does not is no news."""
        lacks = verdict is not None and verdict.state == "already" and self._layout == "any"
        return Verdict("skipped", "this server does not have it") if lacks else verdict

    def _failures(self, partition: Partition, call: Call, failed: dict[int, str]) -> list[Row]:
        tries = partition.attempts + 1
        end = f"; given up after {tries} {'try' if tries == 1 else 'tries'}" if tries >= self._policy.attempts else ""
        return [
            Outcome(
                *("delete", str(call.numbers[place]), partition.server, partition.names[place], 0, "failed"),
                detail + end,
            )
            for place, detail in sorted(failed.items())
        ]

    def _after_fault(self, place: Place, partition: Partition, call: Call, fault: RemoteFault) -> bool:
        """Nothing is known of what was asked, or it is certain that nothing was done."""
        job = self._job
        if fault.nothing_was_done:
            detail = f"not asked: {fault.detail}"
            journal.settle(job.database, [journal.Settlement(n, "refused", detail) for n in call.numbers], time.time())
            partitions.release(job.database, partition, job.run)
            self._pause(f"{fault.kind}: {fault.detail}", partition)
            return False
        try:
            place.check()
        except RemoteFault:
            # The claim holds until the call is over, whatever it still does.
            self._pause(f"{fault.kind}: {fault.detail}", partition)
            return False
        partitions.resume(job.database, self._pair)
        # The server is well, so it is these files: divided, one of them will be found to be slow.
        every = range(len(partition.names))
        single = len(every) == 1
        settled = Settled(
            failed={0: fault.detail} if single else {}, again=() if single else halves(every), not_before=call.over
        )
        noted = None
        if not call.over:  # nobody looks later
            unknown = Verdict("failed", f"not known: {fault.detail}; asked again")
            noted = journal.Noted(call.numbers, [unknown] * len(every))
        if not partitions.settle(job.database, partition, settled, self._policy, Lease(job.run, time.time(), 0), noted):
            return True
        count = len(every)
        if single:
            row = PartitionRow(partition.key, *self._pair, count, failed=1)
            self._shared.tell([*self._failures(partition, call, {0: fault.detail}), row])
        else:
            detail = f"{fault.detail}; asked again in two halves"
            self._shared.tell([PartitionRow(partition.key, *self._pair, count, waiting=count, detail=detail)])
        return True

    def _pause(self, error: str, partition: Partition | None = None) -> None:
        now = time.time()
        pause = partitions.pause(self._job.database, self._pair, error, self._policy.rests, now)
        count = len(partition.names) if partition else 0
        key = partition.key if partition else ""
        rows: list[Row] = [
            PartitionRow(
                key, *self._pair, count, waiting=count, detail=f"{error}; it rests for {pause.until - now:.0f} s"
            )
        ]
        if now - pause.since >= self._job.config.bulk_delete.give_up_after:
            rows += self._give_up(error, pause.since, now)
        self._shared.tell(rows)

    def _give_up(self, error: str, since: float, now: float) -> list[Row]:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(since))
        lease = Lease(self._job.run, now, now + 60)
        detail = f"could not be asked since {day}: {error}"
        count = partitions.give_up(self._job.database, self._pair, detail, lease, self._horizon)
        partitions.resume(self._job.database, self._pair)  # what comes from now on has all its time
        return [PartitionRow("", *self._pair, count, failed=count, detail=f"{detail}; {count} files are given up")]


def halves(places: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Two halves of several places."""
    middle = len(places) // 2
    return places[:middle], places[middle:]
