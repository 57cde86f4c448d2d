"""`bulk-delete status`, `wait`, `dead` and `retry`: what became of requests, looked at in the state alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator

from cftools.jobs.bulk_accept import check_key
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import GivenUp, NotOver, UsageFault
from cftools.model.rows import End, RequestStatus, Row
from cftools.state import requests

FIRST_LOOK, LONGEST_LOOK = 0.2, 1.0  # seconds between two looks of `wait`, which grow by `SLOWER`
SLOWER = 1.3


def _unseen(_: RequestStatus) -> None:
    """Nobody looks at how far it is."""


def status(job: Job, key: str = "") -> Generator[Row, None, None]:
    """A `request_status` row for this request, or each that is open or ended lately; then a `place_status` row for
    each server that has something before it, or dead letters. Raises UsageFault when there is no such request."""
    if key:
        _known(job, key)
    yield job.begin([])
    found = requests.statuses(job.database, job.now(), key)
    places = requests.place_statuses(job.database, job.now(), key)
    yield from found
    yield from places
    yield End(job.command, True, {"request_status": len(found), "place_status": len(places)})


def wait(
    job: Job, key: str, seconds: float | None, seen: Callable[[RequestStatus], None] = _unseen
) -> Generator[Row, None, None]:
    """Waits until a request is over, not longer than ``seconds``, and tells each look to ``seen``; then its
    `request_status` row.

    Raises UsageFault when there is no such request; after the rows GivenUp when it ended with dead letters, NotOver
    when it takes longer.
    """
    _known(job, key)
    late = None if seconds is None else time.monotonic() + seconds
    pause = FIRST_LOOK
    yield job.begin([])
    found = _look(job, key)
    seen(found)
    while found.state == "open" and (late is None or time.monotonic() < late):
        job.stop.wait(pause if late is None else max(0.0, min(pause, late - time.monotonic())))
        pause = min(pause * SLOWER, LONGEST_LOOK)
        found = _look(job, key)
        seen(found)
    yield found
    yield End(job.command, True, {"request_status": 1})
    shown = names.display(key)
    if found.state == "failed":
        what = f"request {shown}: {found.dead:,} files on servers were given up on"
        raise GivenUp(f"{what}; see: cftools bulk-delete dead {shlex.quote(shown)}")
    if found.state == "open":
        left = f"{found.waiting + found.retrying:,} files on servers are left"
        raise NotOver(f"request {shown}: not over; {left}, see: cftools bulk-delete status {shlex.quote(shown)}")


def _look(job: Job, key: str) -> RequestStatus:
    found = requests.statuses(job.database, job.now(), key)
    if not found:
        _known(job, key)  # which says that it is not
    return found[0]


def _known(job: Job, key: str) -> requests.Known:
    check_key(key)
    return requests.find(job.database, key)


def dead(job: Job, key: str = "") -> Generator[Row, None, None]:
    """A `dead_letter` row for each file that was given up on, of this request or of all. Raises UsageFault when there
    is no such request."""
    if key:
        _known(job, key)
    yield job.begin([])
    count = 0
    for letter in requests.dead_letters(job.database, key):
        count += 1
        yield letter
    yield End(job.command, True, {"dead_letter": count})


def retry(job: Job, key: str) -> Generator[Row, None, None]:
    """Gives the dead letters of a request back to be tried again; then its `request_status` row. Raises UsageFault when
    there is no such request, or its files were brought back."""
    request = _known(job, key)
    if request.state == "restored":
        what = f"request {names.display(key)}: its files were brought back"
        raise UsageFault(f"{what}; send a new request to delete them after all")
    yield job.begin([])
    with job.stop.step():
        count = requests.retry(job.database, request, job.now())
    if not count:
        job.say(f"request {names.display(key)} has no dead letters; nothing to try again")
    yield _look(job, key)
    yield End(job.command, True, {"request_status": 1, "retried": count})
