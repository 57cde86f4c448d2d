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
from collections import Counter, deque
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import compress
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
    ``latest``: time of the last line of a log that goes on beyond the window, else 0.
    """

    rows: list[rows.Hot]
    inputs: tuple[rows.Input, ...]
    counts: dict[str, int]
    skipped: dict[str, int]
    missing: tuple[str, ...]
    complete: bool
    latest: int = 0


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
    bytes_read = latest = 0
    for path in wanted:
        with window.opened(path) as log:
            if log is None:
                continue
            found.add(path)
            latest = max(latest, _read_log(log, tally, settings.slack))
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
        latest,
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


def _read_log(log: window.Log, tally: _Tally, slack: float) -> int:
    """Counts what is in the window; the time of the log's last line when that lies beyond it, else 0."""
    tally.new_log()
    for chunk in window.chunks(log, window.find_start(log, tally.start - slack)):
        tally.add(chunk)
        if tally.current is not None and tally.current > tally.end + slack:
            return window.last_time(log) or 0
    return 0


class _Tally:
    """Hits so far: number, first and last time by name. ``current`` is the time of the last timed line of this log."""

    def __init__(self, settings: HotSettings, at: float) -> None:
        self.start, self.end, self.slack = at - settings.window, at, settings.slack
        addresses = sorted({names.bytes_from_text(address) for address in settings.served_by})
        self.markers = tuple(b"Server %b Selected " % address for address in addresses)
        self.hits: Counter[bytes] = Counter()
        self.first: dict[bytes, int] = {}
        self.last: dict[bytes, int] = {}
        self.skipped: Counter[str] = Counter()
        self.current: int | None = None
        self._head: Counter[str] = Counter()  # skipped lines before the first timed one
        self._latest = 0
        self._regular = _regular_lines(self.markers)

    def new_log(self) -> None:
        """Forgets the place in the log before."""
        self.current = None
        self._head.clear()

    def add(self, chunk: bytes) -> None:
        """Counts the lines of a chunk that ends in a newline; an empty chunk stands for a long line."""
        if not chunk:
            self._skip("long")
        elif not self._add_at_once(chunk):
            for line in chunk[:-1].split(b"\n"):
                self._add_line(line)

    def hot(self, settings: HotSettings) -> tuple[list[rows.Hot], int]:
        """The rows of the hot files, and the number of those left out for their prefix."""
        prefixes = tuple(names.bytes_from_text(prefix) for prefix in settings.ignore_prefixes)
        enough = [(-hits, name) for name, hits in self.hits.items() if hits >= settings.min_hits]
        kept = sorted(one for one in enough if not one[1].startswith(prefixes))
        hot = [rows.Hot(names.text_from_bytes(name), -hits, self.first[name], self.last[name]) for hits, name in kept]
        return hot, len(enough) - len(kept)

    def _inside(self, moment: int) -> bool:
        return self.start <= moment <= self.end

    def _skip(self, cause: str) -> None:
        if self.current is None:
            self._head[cause] += 1
        elif self._inside(self.current):
            self.skipped[cause] += 1

    def _add_line(self, line: bytes) -> None:
        moment = window.time_of(line)
        if len(line) > window.LONGEST_LINE:
            self._skip("long")
        elif moment is None:
            self._skip("no_time" if line.count(b",") >= 3 else "short" if line.strip() else "blank")
        else:
            if self.current is None and self._inside(moment):
                self.skipped.update(self._head)
            self.current = moment
            if self._inside(moment):
                self._add_timed(line, moment)

    def _add_timed(self, line: bytes, moment: int) -> None:
        event, _, _, text = line.split(b",", 3)
        if event == EVENT and text.startswith(self.markers):
            name, closed, _ = text.partition(b"file(")[2].partition(b")")
            if name and closed:
                self._count([name], [moment])
            else:
                self.skipped["no_name"] += 1

    def _add_at_once(self, chunk: bytes) -> bool:
        """Counts a whole chunk, some 4 times as fast as line by line; false, and nothing counted, when that could
        give another answer.

        Each hit's own time decides, so the times of the other lines matter only where an unusual line may take them
        for its own: then the slack must tell that they are all inside the window.
        """
        last = _last_time(chunk)
        if self.current is None or last is None or _may_hold_long(chunk):
            return False
        times, found, unusual = zip(*self._regular.findall(chunk), strict=True)
        lines = [line for line in unusual if line]
        if lines and not (self.start + self.slack <= self.current and last <= self.end - self.slack):
            return False
        for line in lines:
            self._add_line(line[:-1])
        moments = list(map(int, filter(None, times)))
        hits = list(filter(None, found))
        if moments and not (self._inside(min(moments)) and self._inside(max(moments))):
            inside = [self._inside(moment) for moment in moments]
            hits, moments = list(compress(hits, inside)), list(compress(moments, inside))
        self._count(hits, moments)
        self.current = last
        return True

    def _count(self, found: list[bytes], moments: list[int]) -> None:
        if not moments:
            return
        self.hits.update(found)
        if moments[0] < self._latest or moments != sorted(moments):
            for name, moment in zip(found, moments, strict=True):
                self.first[name] = min(moment, self.first.get(name, moment))
                self.last[name] = max(moment, self.last.get(name, moment))
        else:  # in order: what was there first stays first, what comes now is last
            deque(map(self.first.setdefault, found, moments), maxlen=0)
            self.last.update(zip(found, moments, strict=True))
        self._latest = max(self._latest, *moments)


def _regular_lines(markers: tuple[bytes, ...]) -> re.Pattern[bytes]:
    """What takes a chunk of whole lines apart without a gap, for ``findall``.

    Each match is one of: usual lines that are no hits, then one usual hit (groups 1 and 2: time, name); usual lines
    that are no hits; one unusual line (group 3, with its newline).
    """
    head = EVENT + rb",[0-9],"
    marker = rb"(?:%b)" % (b"|".join(map(re.escape, markers)) or rb"(?!)")
    other = head + rb"[0-9]{10},(?!" + marker + rb")[^\n]*+\n"
    # No `(` stands before that of `file(`, hence it is the first one.
    hit = head + rb"([0-9]{10})," + marker + rb"[^(\n]*+(?<=file)\(([^)\n]++)\)[^\n]*+\n"
    # No possessive groups: before Python 3.11.5 they match wrongly (CPython gh-106052). One character repeated
    # possessively is safe, and keeps the whole from trying in vain.
    return re.compile(rb"(?:%b)*%b|(?:%b)+|([^\n]*+\n)" % (other, hit, other))


def _last_time(chunk: bytes) -> int | None:
    end = len(chunk) - 1
    while end >= 0:
        begin = chunk.rfind(b"\n", 0, end) + 1
        moment = window.time_of(chunk[begin:end])
        if moment is not None:
            return moment
        end = begin - 1
    return None


def _may_hold_long(chunk: bytes) -> bool:
    step = window.LONGEST_LINE // 2  # a long line holds a whole block of this many bytes without a newline
    return any(chunk.find(b"\n", begin, begin + step) < 0 for begin in range(0, len(chunk), step))
