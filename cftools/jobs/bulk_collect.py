"""`bulk-delete collect`: requests that an application wrote into a table of its own, in its own transactions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from cftools.facts import requested
from cftools.facts.requested import Block
from cftools.jobs import bulk_accept
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import CftoolsError, GuardRefused, InputUnusable, UsageFault
from cftools.model.rows import End, RefusedRequest, Request, Row

if TYPE_CHECKING:
    from cftools.remote.outbox import OutboxTable, Waiting

REFUSALS = (InputUnusable, UsageFault, GuardRefused)  # what is wrong with one request, and not with the others


def run(job: Job, source: str) -> Generator[Row, None, None]:
    """A `request` row for each that was taken, a `refused_request` row for each whose reason was written beside it.

    A row is marked after its request is stored: when that is cut short the next run finds the request known, and marks
    the row. Raises UsageFault, Unreachable and InputUnusable for the table as a whole.
    """
    table = _table(job, source)
    yield job.begin([])
    counts = Counter({"request": 0, "refused_request": 0, "duplicate": 0})
    with table:
        while (row := _next(job, table)) is not None:
            counts[str(row.__struct_config__.tag)] += 1
            counts["duplicate"] += isinstance(row, Request) and row.duplicate
            yield row
    yield End(job.command, True, dict(counts))


def _table(job: Job, source: str) -> OutboxTable:
    outboxes = job.config.bulk_delete.outboxes
    if source not in outboxes:
        known = ", ".join(sorted(outboxes)) or "none; add one under bulk_delete.outboxes"
        raise UsageFault(f"no outbox '{names.display(source)}' in the config; there are: {known}")
    keys = outboxes[source]
    address = os.environ.get(keys.dsn, "")
    if not address:
        what = f"outbox {source}: the environment variable {keys.dsn} is not set"
        raise UsageFault(f"{what}; it holds the database, such as postgresql://user@host/database")
    from cftools.remote.outbox import OutboxTable

    return OutboxTable(source, keys, address, job.config.ssh.connect_timeout)


def _next(job: Job, table: OutboxTable) -> Request | RefusedRequest | None:
    """Takes one request, or refuses it; None when no row waits."""
    try:
        row = table.find()
        if row is None:
            return None
        key, target = names.text_from_bytes(row.key), names.text_from_bytes(row.target)
        try:
            with closing(_blocks(table, row)) as blocks:
                request = bulk_accept.accept(job, key, target, blocks, table.origin)
        except REFUSALS as fault:
            reason = str(fault).removeprefix(f"{table.origin}: ").replace("\n", "; ")
            table.refuse(row, reason)
            return RefusedRequest(key, target, table.origin, reason)
        table.take(row)
    except CftoolsError:
        job.stop.check()  # a connection that a signal interrupted may say anything
        raise
    return request


def _blocks(table: OutboxTable, row: Waiting) -> Generator[Block, None, None]:
    last_is_empty, count = False, 0
    with closing(table.files(row)) as pieces:
        for piece in pieces:
            found = [b"", *piece] if last_is_empty else piece
            # A newline after the last line is not the beginning of another one.
            last_is_empty = table.form == "text" and found[-1] == b""
            if last_is_empty:
                found = found[:-1]
            count += len(found)
            is_json = table.form in ("json", "jsonb")
            yield _block(found, count) if is_json else b"".join(name + b"\0" for name in found)
    if table.form == "text" and not count:
        raise InputUnusable(table.origin, "it names no file: it is empty")


def _block(strings: list[bytes], count: int) -> Block:
    try:
        return requested.joined(requested.strings(b"[" + b",".join(strings) + b"]"))
    except ValueError:
        for number, string in enumerate(strings, count - len(strings) + 1):
            try:
                requested.strings(b"[" + string + b"]")
            except ValueError as fault:
                raise InputUnusable("its JSON array", f"file {number:,} is no string: {string[:100]!r}") from fault
        raise
