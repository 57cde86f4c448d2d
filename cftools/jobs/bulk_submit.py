"""`bulk-delete submit`: a request from a file or stdin, stored here or published to the broker."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import NamedTuple

from cftools.facts import requested
from cftools.jobs import bulk_accept
from cftools.jobs.inputs import opened, shown
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import UsageFault
from cftools.model.rows import Request, Row

WAYS = ("state", "broker")


class Options(NamedTuple):
    """``file``: where the names are, ``-`` for stdin; ``form``: lines, ndjson or json, empty: as it begins; ``via``:
    one of `WAYS`. With ``dry_run`` it is only looked at."""

    file: str
    key: str
    target: str
    form: str = ""
    via: str = "state"
    dry_run: bool = False


def run(job: Job, options: Options) -> Generator[Row, None, None]:
    """One `request` row, once the request is durable. Names that cannot be asked for are told one by one.

    Raises UsageFault, InputUnusable, GuardRefused, StateUnusable, and Unreachable when the broker is; then nothing was
    stored.
    """
    if options.via not in WAYS:
        raise UsageFault(f"--via {options.via}: give one of {', '.join(WAYS)}")
    bulk_accept.check_key(options.key)  # before stdin is waited for
    bulk_accept.target_of(job, options.target)
    origin = names.display(names.text_from_bytes(os.fsencode(shown(options.file))))
    with opened(options.file) as stream:
        blocks = requested.read(stream, origin, options.form)
        with bulk_accept.spooled(job, options.key, options.target, blocks, origin, report=job.complain) as spool:
            row = _send(job, options, spool)
    yield row


def _send(job: Job, options: Options, spool: bulk_accept.Spool) -> Request:
    if options.via == "broker" and not options.dry_run:
        from cftools.jobs import bulk_publish

        return bulk_publish.publish(job, options.key, options.target, spool)
    row = bulk_accept.store(job, options.key, options.target, spool, dry_run=options.dry_run)
    if options.dry_run:
        job.say("a dry run: the request could be accepted, and was not")
    return row
