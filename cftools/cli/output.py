"""Rows to stdout as JSON lines, tables or CSV; failures to stderr; progress on a terminal."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from cftools import pipe
from cftools.cli.settings import Settings
from cftools.model import names
from cftools.model.rows import (
    Begin,
    Delete,
    End,
    Heartbeat,
    HostKey,
    Outcome,
    Partition,
    RefusedRequest,
    Request,
    RequestStatus,
    Row,
    Server,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from cftools.facts.files import Files

FLUSH_ROWS = 500
Advance = Callable[[Row], None]


class Writer:
    """Writes one stream of rows in the asked format."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.format = settings.format or ("table" if sys.stdout.isatty() else "ndjson")

    def write(self, rows: Iterable[Row]) -> bool:
        """Writes all rows; returns whether one of them is a failure, each of which also gets a line on stderr."""
        failed = False

        def watched() -> Iterator[Row]:
            nonlocal failed
            with _progress(self._settings) as advance:
                for row in rows:
                    complaint = _complaint(row)
                    if complaint:
                        failed = True
                        self._settings.complain(complaint)
                    advance(row)
                    yield row

        {"ndjson": _write_ndjson, "csv": _write_csv, "table": _write_tables}[self.format](watched())
        return failed

    def write_files(self, begin: Begin, files: Files, end: End) -> None:
        """Writes a stream of millions of `file` rows as JSON lines, columnar."""
        from cftools.facts.files import write_file_rows

        out = sys.stdout.buffer
        out.write(pipe.encode(begin))
        write_file_rows(files, out)
        out.write(pipe.encode(end))
        out.flush()


def _complaint(row: Row) -> str:
    """The line on stderr for a row that tells of a failure, or the empty string."""
    if isinstance(row, Outcome) and row.state in ("failed", "refused"):
        return f"{row.verb} {row.server} {names.display(row.name)}: {row.state}: {row.detail}"
    if isinstance(row, Server) and row.state != "ok":
        return f"{row.server}: {row.state}: {row.error}"
    if isinstance(row, Heartbeat) and not row.ok:
        return f"{row.server}: no heartbeat: {row.error}"
    if isinstance(row, Partition) and row.detail:
        return f"{row.server}: {f'{row.request}: ' if row.request else ''}{row.detail}"
    if isinstance(row, HostKey) and row.state not in ("known", "added", "replaced"):
        return f"{row.server}: host key {row.state}: {row.error}"
    if isinstance(row, RefusedRequest):
        return f"{row.origin}: request {names.display(row.request) or '?'}: refused: {row.reason}"
    return ""


def _write_ndjson(rows: Iterable[Row]) -> None:
    out = sys.stdout.buffer
    waiting: list[Row] = []
    try:
        for row in rows:
            waiting.append(row)
            # What was done is told as it happens; other rows come by the thousand and go out in blocks.
            if len(waiting) >= FLUSH_ROWS or isinstance(row, Outcome | Partition | Request | Begin | End):
                block = pipe.encode_all(waiting)
                waiting.clear()
                out.write(block)
                out.flush()
    finally:  # a plan that a guard refuses is told, too
        out.write(pipe.encode_all(waiting))
        out.flush()


def _write_csv(rows: Iterable[Row]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    kind = ""
    for row in rows:
        if isinstance(row, Begin | End):
            continue
        fields = msgspec.structs.asdict(row)
        if row.__struct_config__.tag != kind:
            kind = str(row.__struct_config__.tag)
            out.writerow(["kind", *fields])
        out.writerow([kind, *(_plain(value) for value in fields.values())])
    sys.stdout.flush()


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    return names.display(value) if isinstance(value, str) else str(value)


def _write_tables(rows: Iterable[Row]) -> None:
    from cftools.report.tables import Tables

    tables = Tables(terminal=sys.stdout.isatty())
    begun = False
    try:
        for row in rows:
            begun = True
            tables.add(row)
    finally:
        if begun:  # what was done before a fault is told, too
            tables.show()


@contextmanager
def _progress(settings: Settings) -> Iterator[Advance]:
    """Counts outcomes against what is planned, on a terminal only."""
    if settings.quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bars() as bars:
        deletes = bars.add_task("deleting", total=0, visible=False)
        copies = bars.add_task("copying", total=None, visible=False)
        requested = bars.add_task("deleting what was requested", total=None, visible=False)
        planned = 0

        def advance(row: Row) -> None:
            nonlocal planned
            if isinstance(row, Delete):
                planned += 1
                return
            if isinstance(row, Partition):
                bars.update(requested, advance=row.resources - row.waiting, visible=True)
            elif isinstance(row, Outcome):
                if row.verb == "delete":
                    bars.update(deletes, advance=1, total=planned, visible=True)
                else:
                    bars.update(copies, advance=1, visible=True)
            else:
                return
            bars.start()

        yield advance


@contextmanager
def watched_request(settings: Settings) -> Iterator[Callable[[RequestStatus], None]]:
    """Shows how far a request is, on a terminal only."""
    if settings.quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    with _bars() as bars:
        files = bars.add_task("deleting what was requested", total=None)

        def seen(status: RequestStatus) -> None:
            over = status.done + status.already + status.dead
            bars.update(files, completed=over, total=over + status.waiting + status.retrying)
            bars.start()

        yield seen


@contextmanager
def _bars() -> Iterator[Progress]:
    """Bars that are not there before they are started: two sets of them at once would write over each other."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    try:
        yield bars
    finally:
        bars.stop()
