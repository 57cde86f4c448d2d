"""The load balancer's event logs: which files were asked for how often of late.

    0x40ffff,1,1527951607,Server 125.159.40.3 Selected for Client StreamID : 609d8714, ..., GLB IP : 125.159.40.5's
    file(MZ3I5008SGL1500001_K20180602222428.mpg) Request                                           (all on one line)

A *hit* is a line whose first field is ``0x40ffff``, whose third field lies in the window, whose fourth begins with
``Server ADDRESS Selected `` for a watched address, and which names ``file(NAME)`` behind that; NAME holds no ``)``.
Lines that cannot be used are skipped and counted: ``blank``, ``short`` (fewer than 4 fields), ``no_time``, ``long``,
and ``no_name`` (a hit but for its name). A line without a usable time belongs to the time of the timed line before it;
at the head of a log to that of the first one.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import pairwise
from operator import gt
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cftools.facts import window
from cftools.model import names, rows
from cftools.model.errors import InputUnusable, UsageFault

EVENT = b"0x40ffff"
SHRANK = "became shorter while it was read"
REMEDY = "check inputs.event_log_dir, inputs.event_log_name and --at"
EAST, WEST = timedelta(hours=14), timedelta(hours=12)  # the zones furthest from UTC

_HEAD = rb"0x40ffff,[0-9],[0-9]{10},"
_TIME_DIGITS = 10
_HEAD_LENGTH = len(b"\n0x40ffff,1,1527951607")
_REGULAR_FIRST = re.compile(_HEAD)
_IRREGULAR = re.compile(rb"\n(?!" + _HEAD + rb")")
_LINE_ENDS_WITHIN = window.LONGEST_LINE // 2  # every long line holds a whole aligned block of this many bytes


class HotSettings(NamedTuple):
    """What makes a file hot. ``window`` and ``slack`` (how far lines may be out of order) are seconds."""

    served_by: tuple[str, ...]
    min_hits: int
    window: float
    slack: float
    ignore_prefixes: tuple[str, ...]


class HotFiles(NamedTuple):
    """What the logs told.

    ``rows`` most hits first, then by the bytes of the name. ``counts``: ``hits`` in the window on ``files`` different
    files, ``ignored`` files that would be hot but for their prefix, ``bytes_read``. ``skipped`` lines of the window by
    cause. ``missing``: logs of the window's days that are not there. ``complete`` is false when a log shrank meanwhile.
    """

    rows: list[rows.Hot]
    inputs: tuple[rows.Input, ...]
    counts: dict[str, int]
    skipped: dict[str, int]
    missing: tuple[str, ...]
    complete: bool


def read_hot_files(directory: Path, name_pattern: str, timezone: str, at: float, settings: HotSettings) -> HotFiles:
    """Counts the hits in ``[at - settings.window, at]``, both ends included; times in epoch seconds.

    ``name_pattern`` is the name of a day's log, as strftime has it, by the date in ``timezone`` (an IANA name). When
    that is empty the log of every date is looked for that any zone could have given. Only what can hold the window is
    read. Raises InputUnusable when no log is there, or one cannot be read; UsageFault when the window is not in the
    calendar.
    """
    wanted, expected = _log_paths(directory, name_pattern, timezone, at, settings)
    tally = _Tally(settings, at)
    inputs: list[rows.Input] = []
    found: set[Path] = set()
    bytes_read = 0
    for path in wanted:
        with window.opened(path) as log:
            if log is None:
                continue
            found.add(path)
            _read_log(log, tally, settings.slack)
            bytes_read += log.bytes_read
            inputs.append(rows.Input(log.path, 0, log.size, not log.shrank, SHRANK if log.shrank else ""))
    if not found:
        raise _nothing(directory, expected[-1])
    hot, ignored = tally.hot(settings)
    return HotFiles(
        hot,
        tuple(inputs),
        {"hits": tally.hits.total(), "files": len(tally.hits), "ignored": ignored, "bytes_read": bytes_read},
        dict(sorted(tally.skipped.items())),
        tuple(_shown(path) for path in expected if path not in found),
        all(one.complete for one in inputs),
    )


def _log_paths(
    directory: Path, name_pattern: str, timezone: str, at: float, settings: HotSettings
) -> tuple[list[Path], list[Path]]:
    """The logs that may hold lines of the window, and those of its days; the last one is that of ``at``."""
    start = at - settings.window
    try:
        zone = ZoneInfo(timezone) if timezone else None
        expected = _dates(_local(start, zone), _local(at, zone))
        first, last = _local(start - settings.slack, zone or UTC), _local(at + settings.slack, zone or UTC)
        wanted = _dates(first, last) if zone else _dates(first - WEST, last + EAST)
    except (OverflowError, ValueError, OSError):
        raise UsageFault(f"the window from {start} to {at} is not in the calendar; check --at and --window") from None
    return _paths(directory, name_pattern, sorted({*wanted, *expected})), _paths(directory, name_pattern, expected)


def _local(moment: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(moment, zone)


def _dates(first: datetime, last: datetime) -> list[date]:
    return [first.date() + timedelta(days) for days in range((last.date() - first.date()).days + 1)]


def _paths(directory: Path, name_pattern: str, dates: list[date]) -> list[Path]:
    return list(dict.fromkeys(directory / day.strftime(name_pattern) for day in dates))


def _shown(path: Path) -> str:
    return names.text_from_bytes(os.fsencode(path))


def _nothing(directory: Path, expected: Path) -> InputUnusable:
    try:
        os.close(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as fault:
        return window.unreadable(_shown(directory), fault)
    return InputUnusable(_shown(expected), "no event log", REMEDY)


def _read_log(log: window.Log, tally: _Tally, slack: float) -> None:
    tally.new_log()
    for chunk in window.chunks(log, window.find_start(log, tally.start - slack)):
        tally.add(chunk)
        if tally.current is not None and tally.current > tally.end + slack:
            break


class _Tally:
    """Hits so far: number, first and last time by name. ``current`` is the time of the last timed line of this log."""

    def __init__(self, settings: HotSettings, at: float) -> None:
        self.start, self.end = at - settings.window, at
        self.markers = tuple(b"Server %b Selected " % names.bytes_from_text(one) for one in set(settings.served_by))
        self.hits: Counter[bytes] = Counter()
        self.first: dict[bytes, int] = {}
        self.last: dict[bytes, int] = {}
        self.skipped: Counter[str] = Counter()
        self.current: int | None = None
        self._head: Counter[str] = Counter()  # skipped lines before the first timed one
        self._latest = 0

    def new_log(self) -> None:
        """Forgets the place in the log before."""
        self.current = None
        self._head.clear()

    def add(self, chunk: bytes) -> None:
        """Counts the lines of a chunk that ends in a newline; an empty chunk stands for a long line."""
        if not chunk:
            self._skip("long")
        elif not self._add_regular(chunk):
            for line in chunk[:-1].split(b"\n"):
                self._add_line(line)

    def hot(self, settings: HotSettings) -> tuple[list[rows.Hot], int]:
        """The rows of the hot files, and the number of those left out for their prefix."""
        prefixes = tuple(names.bytes_from_text(prefix) for prefix in settings.ignore_prefixes)
        enough = [(-hits, name) for name, hits in self.hits.items() if hits >= settings.min_hits]
        kept = sorted(one for one in enough if not one[1].startswith(prefixes))
        hot = [rows.Hot(names.text_from_bytes(name), -hits, self.first[name], self.last[name]) for hits, name in kept]
        return hot, len(enough) - len(kept)

    def _skip(self, cause: str) -> None:
        if self.current is None:
            self._head[cause] += 1
        elif self.start <= self.current <= self.end:
            self.skipped[cause] += 1

    def _arrive(self, moment: int) -> None:
        """A timed line was met."""
        if self.current is None and self.start <= moment <= self.end:
            self.skipped.update(self._head)
        self.current = moment

    def _add_line(self, line: bytes) -> None:
        if len(line) > window.LONGEST_LINE:
            self._skip("long")
            return
        line = line.removesuffix(b"\r")
        fields = line.split(b",", 3)
        moment = window.time_of(line)
        if len(fields) < 4:
            self._skip("short" if line.strip() else "blank")
        elif moment is None:
            self._skip("no_time")
        else:
            self._arrive(moment)
            if self.start <= moment <= self.end and fields[0] == EVENT and fields[3].startswith(self.markers):
                name, closed, _ = fields[3].partition(b"file(")[2].partition(b")")
                if name and closed:
                    self._count([name], [moment])
                else:
                    self.skipped["no_name"] += 1

    def _add_regular(self, chunk: bytes) -> bool:
        """Counts a whole chunk at once when every line of it is in the usual shape; else false, and nothing counted.

        What is given up as unusual must be noticed exactly here, for the line-by-line way counts it. The order and
        the times of lines need no looking at: each hit's own time decides.
        """
        if not _REGULAR_FIRST.match(chunk) or _IRREGULAR.search(chunk, 0, len(chunk) - 1) or _may_hold_long(chunk):
            return False
        found, moments = [], []
        for marker in self.markers:
            pieces = chunk.split(b"," + marker)
            pieces[0] = b"\n" + pieces[0]
            # The marker must stand right behind a line's three fields, not somewhere in its text.
            if any(len(head) != _HEAD_LENGTH or head[0] != 10 for head in {p[-_HEAD_LENGTH:] for p in pieces[:-1]}):
                return False
            behind = [piece.partition(b")")[0] for piece in pieces[1:]]
            here = [text.partition(b"file(")[2] for text in behind]
            # An end of line before the first `)`, or no `file(` before it: this line is to be looked at by itself.
            if b"" in here or any(b"\n" in text for text in behind):
                return False
            found += here
            moments += [int(piece[-_TIME_DIGITS:]) for piece in pieces[:-1]]
        last_line = chunk.rfind(b"\n", 0, len(chunk) - 1) + 1
        self._arrive(int(chunk[last_line + _HEAD_LENGTH - 1 - _TIME_DIGITS : last_line + _HEAD_LENGTH - 1]))
        if moments and not self.start <= min(moments) <= max(moments) <= self.end:
            inside = [self.start <= moment <= self.end for moment in moments]
            found = [name for name, kept in zip(found, inside, strict=True) if kept]
            moments = [moment for moment, kept in zip(moments, inside, strict=True) if kept]
        self._count(found, moments)
        return True
