"""Couriers: one thread a source that holds the source's lock while it has copies to make."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from types import TracebackType

from cftools.actions import copy as copying
from cftools.jobs.alive import check_heartbeats
from cftools.jobs.job import Job
from cftools.jobs.recovery import settle_source
from cftools.model.errors import LockHeld
from cftools.model.rows import Copy, Outcome
from cftools.plans.values import Running
from cftools.state import tasks
from cftools.state.locks import source_lock
from cftools.state.tasks import Pair, Task

WAIT_SECONDS = 0.1
ELSEWHERE_SECONDS = 30.0  # a source that another process uses is not tried again for so long
RELEASE_LOOK_SECONDS = 1.0  # how often a copy looks whether its task was released by another process


class Couriers:
    """The copies under way in this process, and the queues behind them. Leaving the block ends what is under way."""

    def __init__(self, job: Job, sources: list[str], deadline: float | None, *, tell_unstarted: bool) -> None:
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        self.ended = 0
        self.settled_here: list[Running] = []
        self._job = job
        self._deadline = deadline
        self._tell_unstarted = tell_unstarted
        self._queues: dict[str, deque[Task]] = {source: deque() for source in sources}
        self._threads: dict[str, threading.Thread] = {}
        self._elsewhere: dict[str, float] = {}
        self._destinations: set[str] = set()
        self._receiving: Counter[str] = Counter()
        self._working: dict[str, Copy] = {}
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._fault: BaseException | None = None
        self._guard = threading.Thread(target=self._watch_servers, name="heartbeats", daemon=True)
        self._tools = copying.Tools(
            job.fleet, job.database, job.locks, job.config.distribute, job.config.guards.mount_marker
        )

    def __enter__(self) -> Couriers:
        self._guard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in [*self._threads.values(), self._guard]:
            thread.join()

    def ending(self) -> bool:
        """Whether no further copy may start: the time is up, a signal arrived, or a thread met a fault."""
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or self._closing.is_set() or self._job.stop.is_set() or self._fault is not None

    def free_sources(self) -> list[str]:
        """The sources that wait for a copy: nothing queued, nothing under way, not used by another process."""
        with self._changed:
            now = time.monotonic()
            return [
                source
                for source, waiting in self._queues.items()
                if not waiting and source not in self._threads and self._elsewhere.get(source, 0.0) <= now
            ]

    def unusable(self) -> frozenset[str]:
        """The sources that must not be planned for now."""
        return frozenset(server.name for server in self._job.sources) - frozenset(self.free_sources())

    def hungry(self) -> bool:
        """Whether some source waits for a copy."""
        return bool(self.free_sources())

    def at_rest(self) -> bool:
        """Whether nothing is queued and nothing is under way."""
        with self._changed:
            return not self._threads and not any(self._queues.values()) and self.outcomes.empty()

    def take(self, accepted: list[Task]) -> None:
        """Queues tasks and wakes a courier for each source that has some."""
        with self._changed:
            for task in accepted:
                self._queues[task.copy.source].append(task)
                self._destinations.add(task.copy.destination)
            for source in {task.copy.source for task in accepted} - self._threads.keys():
                thread = threading.Thread(target=self._courier, args=(source,), name=f"courier-{source}", daemon=True)
                self._threads[source] = thread
                thread.start()

    def forget_settled(self) -> None:
        """The facts were gathered anew: they show what was copied until now."""
        with self._changed:
            self.settled_here = []

    def raise_fault(self) -> None:
        """Raises in the caller's thread what ended a courier, if anything did."""
        if self._fault is not None:
            raise self._fault

    def _courier(self, source: str) -> None:
        try:
            with self._job.locks.hold(source_lock(source)):
                settle_source(self._job, source)
                while task := self._next(source):
                    self._carry(task)
        except LockHeld as held:
            self._elsewhere[source] = time.monotonic() + ELSEWHERE_SECONDS
            self._drop(source, str(held))
        except BaseException as fault:
            self._fault = fault
        finally:
            with self._changed:
                del self._threads[source]
                self._changed.notify_all()

    def _next(self, source: str) -> Task | None:
        """The best queued task whose destination is free; None when there is no more for this source."""
        while True:
            if self.ending():
                self._drop(source, "the run ended before it was begun")
                return None
            with self._changed:
                waiting = self._queues[source]
                if not waiting:
                    return None
                for task in waiting:
                    if not self._receiving[task.copy.destination] or self._few_destinations():
                        waiting.remove(task)
                        self._receiving[task.copy.destination] += 1
                        return task
                self._changed.wait(WAIT_SECONDS)

    def _few_destinations(self) -> bool:
        """Whether there are fewer free destinations than sources with work, so that one must take from several.

        Only destinations that some plan of this run chose count: the others are dead, full, or resting.
        """
        free = [name for name in self._destinations if not self._receiving[name]]
        return len(free) < len([source for source, waiting in self._queues.items() if waiting])

    def _carry(self, ready: Task) -> None:
        row = ready.copy
        started = time.monotonic()
        try:
            working = tasks.start(self._job.database, self._job.run, ready, time.time())
            if working is None:
                self._tell(ready, copying.Result("cancelled", "skipped", "released before it was begun"), started)
                return
            self._working[row.id] = row
            result = copying.copy(self._tools, row, copying.Watch(self._why_stop(working)))
            self._tell(working, self._settle(working, result), started)
        finally:
            with self._changed:
                self._working.pop(row.id, None)
                self._receiving[row.destination] -= 1
                self.ended += 1
                self._changed.notify_all()

    def _settle(self, task: Task, result: copying.Result) -> copying.Result:
        row, now, keys = task.copy, time.time(), self._job.config.distribute
        pair = Pair(row.source, row.destination)
        if result.task == "done" or result.only_file:
            # Planned no more in this run: it is there, or it cannot be had. Noted before the task ends, so that no plan
            # is made in between.
            with self._changed:
                self.settled_here.append(Running(row.name, row.size, "", row.destination, "ready"))
        mine = tasks.finish(self._job.database, task, result.task, result.detail, now, result.outcome)
        if not mine and result.task == "cancelled":
            result = result._replace(outcome="failed")  # released: one of its servers died
        if result.task == "done":
            tasks.warm_up(self._job.database, pair)
        elif result.task != "cancelled" and not result.only_file:
            tasks.cool_down(self._job.database, pair, keys.cooldown, keys.cooldown_limit, now)
        if result.blame:
            self._check([result.blame])
        return result

    def _tell(self, task: Task, result: copying.Result, started: float) -> None:
        row = task.copy
        spent = round((time.monotonic() - started) * 1000)
        self.outcomes.put(
            Outcome("copy", row.id, row.destination, row.name, row.size, result.outcome, result.detail, spent)
        )

    def _drop(self, source: str, why: str) -> None:
        with self._changed:
            dropped, self._queues[source] = list(self._queues[source]), deque()
        for task in dropped:
            tasks.finish(self._job.database, task, "cancelled", why, time.time())
            if self._tell_unstarted:
                self._tell(task, copying.Result("cancelled", "skipped", why), time.monotonic())

    def _why_stop(self, task: Task) -> copying.WhyStop:
        looked = time.monotonic()

        def why() -> str:
            nonlocal looked
            if self._job.stop.is_set():
                return "stopped by a signal; what arrived is kept"
            if self._fault is not None or self._closing.is_set():
                return "the run ends; what arrived is kept"
            if time.monotonic() - looked >= RELEASE_LOOK_SECONDS:
                looked = time.monotonic()
                if not tasks.is_working(self._job.database, task):
                    return "released: one of its servers does not answer"
            return ""

        return why

    def _watch_servers(self) -> None:
        """Checks the servers of the copies under way; what a dead one was to do is released at once."""
        interval = self._job.config.heartbeat.interval
        while not self._closing.wait(interval):
            with self._changed:
                used = {name for row in self._working.values() for name in (row.source, row.destination)}
            if used:
                try:
                    self._check(sorted(used))
                except BaseException as fault:
                    self._fault = fault
                    return

    def _check(self, servers: list[str]) -> None:
        checked = check_heartbeats(self._job, servers)
        for task in checked.released:
            self._job.detail(f"copy of {task.copy.name} released: {', '.join(checked.failed)} does not answer")
