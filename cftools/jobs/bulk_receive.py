"""`bulk-delete receive`: requests are taken out of the RabbitMQ queue, each acknowledged when the state has it.

A message that cannot be used is held until the run is over, or for a while, and then put back, so that each run tries
it once; the last time it goes to the dead letters. What is taken in and not settled when the process dies, the broker
delivers again, and counts. So that no message is counted for the death that another one brought, messages are taken
one by one until one that never came before was stored.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing, suppress
from typing import NamedTuple

import msgspec

from cftools.facts import requested
from cftools.jobs import bulk_accept
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import GuardRefused, InputUnusable, StateUnusable, UsageFault
from cftools.model.rows import End, RefusedRequest, Request, Row
from cftools.remote.broker import Broker, BrokerFault, Message, Place, place

ORIGIN = "broker"
POLL_SECONDS = 0.2  # how often a signal and the time are looked after
QUIET_SECONDS = 0.05  # a queue that is to be emptied is looked at after so long without a message
HOLD_SECONDS = 60.0  # how long a message that cannot be used is held back
FIRST_REST, LONGEST_REST = 0.5, 30.0  # seconds between two tries to reach the broker


class _Body(msgspec.Struct):
    request: str
    target: str
    resources: list[str]


class _Loose(msgspec.Struct):
    """What a refused message may tell of itself."""

    request: object = ""
    target: object = ""


_body = msgspec.json.Decoder(_Body)
_loose = msgspec.json.Decoder(_Loose)


def run(job: Job, seconds: float | None) -> Generator[Row, None, None]:
    """Takes requests for ``seconds``, or until the queue is empty; a `request` row each, a `refused_request` row for
    each that cannot be used. Raises UsageFault when no broker is configured, Unreachable when it cannot be reached (for
    as long as that may last), StateUnusable."""
    where = place(job.config.bulk_delete.broker, os.environ)
    yield job.begin([])
    counts = Counter({"request": 0, "duplicates": 0, "resources": 0, "refused_request": 0})
    with closing(_connected(job, where, None if seconds is None else time.monotonic() + seconds)) as rows:
        for row in rows:
            counts[str(row.__struct_config__.tag)] += 1
            if isinstance(row, Request):
                counts["duplicates"] += row.duplicate
                counts["resources"] += row.resources
            yield row
    yield End(job.command, complete=True, counts=dict(counts))


def _connected(job: Job, where: Place, until: float | None) -> Generator[Row, None, None]:
    """The rows of one connection after the other, with growing rests between them, until the time is over."""
    told: set[bytes] = set()
    reached, failures = False, 0
    while True:
        try:
            with Broker(where) as broker, closing(_Intake(job, where, broker, told).rows(until)) as rows:
                for row in rows:
                    reached, failures = True, 0
                    if row is not None:
                        yield row
                return
        except BrokerFault as fault:
            failures += 1
            left = 0.0 if until is None else until - time.monotonic()
            if until is None or (not reached and (fault.lasting or left <= 0)):
                raise
            if failures == 1:
                job.say(f"{fault}; trying again")
            if left <= 0:
                return  # what it has not given it keeps
        rest = min(FIRST_REST * 2.0 ** min(failures - 1, 10), LONGEST_REST) * random.uniform(0.75, 1.25)
        job.stop.wait(min(rest, left))
        job.stop.check()


class _Refusal(NamedTuple):
    request: str
    target: str
    reason: str


class _Held(NamedTuple):
    until: float
    window: int  # the number of the window it came through
    message: Message  # without its body


class _Intake:
    """What comes in over one connection. ``told``: the messages whose refusal this run has told already."""

    def __init__(self, job: Job, where: Place, broker: Broker, told: set[bytes]) -> None:
        self._job, self._place, self._broker, self._told = job, where, broker, told
        self._held: list[_Held] = []
        self._window = 0  # messages that may be taken in at once
        self._windows = 0  # how many windows there were
        self._stuck = 0  # how many of the messages of this one are held
        self._quiet = False  # nothing came, and nothing was waiting
        self._proven = False  # the last one had never come before, and did no harm

    def rows(self, until: float | None) -> Generator[Row | None, None, None]:
        """A row for each message, None when there is none for the moment."""
        # Only what is done with a message is a step: a signal need not wait for a broker that hangs.
        patience, late = QUIET_SECONDS if until is None else POLL_SECONDS, False
        try:
            self._open_window(1)
            while True:
                if not late and until is not None and time.monotonic() >= until:
                    late = True
                    self._broker.pause()
                self._put_back_held(time.monotonic())
                if self._stuck >= self._window and not late:
                    self._open_window(self._window)  # those that are held do not keep others out
                message = self._broker.take(0 if late else patience)
                if message:
                    self._quiet = False
                    if self._proven and message.delivery == 1 and not late:
                        self._widen()
                    with self._job.stop.step():
                        yield self._handle(message)
                    continue
                yield None
                if late or (until is None and self._is_empty()):
                    return
        finally:
            self._broker.close([held.message for held in self._held])

    def _widen(self) -> None:
        """Lets in more than one, with one in hand: so nothing of the narrow window is on its way."""
        if self._window < self._place.prefetch:
            self._open_window(self._place.prefetch)

    def _open_window(self, size: int) -> None:
        """Lets so many in beside those not settled; call it when nothing of the window before is on its way."""
        self._window, self._stuck = size, 0
        self._windows += 1
        self._broker.consume(size)

    def _is_empty(self) -> bool:
        """Whether nothing was waiting twice; what is not waiting the first time may be on its way to us."""
        before, self._quiet = self._quiet, not self._broker.waiting()
        return before and self._quiet

    def _put_back_held(self, now: float) -> None:
        while self._held and self._held[0].until <= now:
            held = self._held.pop(0)
            self._stuck -= held.window == self._windows
            self._broker.put_back(held.message)

    def _handle(self, message: Message) -> Row | None:
        """Takes a message for good, or refuses it."""
        try:
            row = _accept(self._job, message.body)
        except StateUnusable:
            with suppress(BrokerFault):  # then it counts as a delivery
                self._broker.put_back_uncounted(message)
            raise
        if isinstance(row, _Refusal):
            return self._refuse(message, row)
        self._proven = message.delivery == 1
        with suppress(BrokerFault):  # the request is stored and told; the fault comes again when the next one is taken
            self._broker.settle(message)
        return row

    def _refuse(self, message: Message, refusal: _Refusal) -> Row | None:
        last = message.delivery >= self._place.deliveries
        digest = hashlib.sha256(message.body).digest()
        if last:
            self._broker.bury(message)
            fate = f"it is with the dead letters now, in queue {self._place.dead_letters}"
        else:
            fate = f"delivery {message.delivery} of {self._place.deliveries}, then it goes to the dead letters"
            self._held.append(_Held(time.monotonic() + HOLD_SECONDS, self._windows, message._replace(body=b"")))
            self._stuck += 1
        if digest in self._told and not last:
            return None
        self._told.add(digest)
        return RefusedRequest(refusal.request or message.key, refusal.target, ORIGIN, f"{refusal.reason}; {fate}")


def _accept(job: Job, body: bytes) -> Request | _Refusal:
    try:
        asked = _body.decode(names.marks_from_json(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        what = 'not a message like {"request": "album-7", "target": "images", "resources": ["a/b.jpg"]}'
        return _Refusal(*_labels(body), f"{what}: {fault}")
    try:
        return bulk_accept.accept(job, asked.request, asked.target, [requested.joined(asked.resources)], ORIGIN)
    except (UsageFault, InputUnusable, GuardRefused) as fault:
        reason = "; ".join(str(fault).splitlines()).removeprefix(f"{ORIGIN}: ")
        return _Refusal(asked.request, asked.target, reason)


def _labels(body: bytes) -> tuple[str, str]:
    """Key and target that a message which cannot be used tells, as far as it does."""
    with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        loose = _loose.decode(names.marks_from_json(body))
        request, target = (one if isinstance(one, str) else "" for one in (loose.request, loose.target))
        return request[: bulk_accept.LONGEST_KEY], target[: bulk_accept.LONGEST_KEY]
    return "", ""
