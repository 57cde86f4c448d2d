"""The part of a growing, time-ordered log that can hold a window, found without reading what lies before it.

A line ends in a newline; a last line without one is still being written and does not exist yet. A line is *long* above
`LONGEST_LINE` bytes, and *timed* when it is not long and its third field is a time. Lines may be out of order by at
most some seconds (the slack): no line is earlier than any line before it by more than that.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cftools.model import names
from cftools.model.errors import InputUnusable

LONGEST_LINE = 64 * 1024  # bytes before the newline, a carriage return included
PROBE_BYTES = 4 * 1024
BISECT_UNTIL = 16 * 1024  # bytes; a shorter stretch is read rather than halved again
FIRST_CHUNK = 128 * 1024  # more than LONGEST_LINE, so that a chunk without a newline is part of a long line
LARGEST_CHUNK = 256 * 1024  # small enough for the processor's cache

_TIMED = re.compile(rb"[^,\n]*,[^,\n]*,([0-9]{1,19}),")


def time_of(line: bytes) -> int | None:
    """The time (epoch seconds) of a line without its newline, None when it is not timed."""
    found = _TIMED.match(line) if len(line) <= LONGEST_LINE else None
    return int(found[1]) if found else None


class Log:
    """An open log as long as it was when it was opened. ``bytes_read`` counts; ``shrank`` tells that bytes are gone."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor, self.path = descriptor, path
        self.size = os.fstat(descriptor).st_size
        self.end = self.size
        self.bytes_read = 0
        self.shrank = False

    def read(self, position: int, length: int) -> bytes:
        """The bytes from ``position``; fewer than ``length`` only at the end. Raises InputUnusable."""
        wanted = min(length, self.end - position)
        try:
            block = os.pread(self.descriptor, wanted, position) if wanted > 0 else b""
            while len(block) < wanted:
                more = os.pread(self.descriptor, wanted - len(block), position + len(block))
                if not more:
                    self.shrank, self.end = True, position + len(block)
                    break
                block += more
        except OSError as fault:
            raise unreadable(self.path, fault) from None
        self.bytes_read += len(block)
        return block

    def line_after(self, position: int) -> int:
        """Where the line behind the first newline at or after ``position`` starts; ``end`` when there is none."""
        length = PROBE_BYTES
        while block := self.read(position, length):
            found = block.find(b"\n")
            if found >= 0:
                return position + found + 1
            position += len(block)
            length = FIRST_CHUNK
        return self.end


@contextmanager
def opened(path: Path) -> Iterator[Log | None]:
    """The log at ``path``, None when there is none. Raises InputUnusable when it is no file that can be read."""
    shown = names.text_from_bytes(os.fsencode(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us up
    except FileNotFoundError:
        yield None
        return
    except OSError as fault:
        raise unreadable(shown, fault) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputUnusable(shown, "not a regular file", "check inputs.event_log_dir and inputs.event_log_name")
        yield Log(descriptor, shown)
    finally:
        os.close(descriptor)


def unreadable(path: str, fault: OSError) -> InputUnusable:
    """The error that tells why ``path`` cannot be read."""
    said = fault.strerror or errno.errorcode.get(fault.errno or 0, "unknown fault")
    return InputUnusable(path, f"cannot be read: {said}", "check inputs.event_log_dir, its owner and mode")


def find_start(log: Log, earliest: float) -> int:
    """Where to begin so as to miss no line of ``earliest`` plus the slack, or later.

    It is 0, or the start of a timed line earlier than ``earliest``; by the slack, no line before that one reaches
    ``earliest`` plus the slack.
    """
    low, high = 0, log.end
    while high - low > BISECT_UNTIL:
        middle = (low + high) // 2
        probed = _first_timed(log, middle, high)
        if probed is not None and probed[1] < earliest:
            low = probed[0]
        else:
            high = middle
    return low


def _first_timed(log: Log, position: int, high: int) -> tuple[int, int] | None:
    """Start and time of the first timed line behind the line at ``position`` that starts before ``high``."""
    position = log.line_after(position)
    length = PROBE_BYTES
    while position < high:
        block = log.read(position, length)
        length = min(2 * length, FIRST_CHUNK)
        cut = block.rfind(b"\n") + 1
        if not cut:
            if len(block) > LONGEST_LINE:
                position = log.line_after(position + len(block))
            elif position + len(block) >= log.end:
                return None
            continue
        for line in block[: cut - 1].split(b"\n"):
            time = time_of(line)
            if time is not None and position < high:
                return position, time
            position += len(line) + 1
    return None


def last_time(log: Log) -> int | None:
    """The time of the last timed line; None when there is none near the end."""
    block = log.read(max(0, log.end - PROBE_BYTES), PROBE_BYTES)
    times = (time_of(line) for line in reversed(block.split(b"\n")[:-1]))
    return next((time for time in times if time is not None), None)


def chunks(log: Log, position: int) -> Iterator[bytes]:
    """The log from ``position`` (a line's start) in chunks of whole lines, growing ones, so that few bytes beyond the
    last wanted line are read. A long line that fills a chunk comes as an empty chunk.
    """
    length = FIRST_CHUNK
    while block := log.read(position, length):
        cut = block.rfind(b"\n") + 1
        if cut:
            position += cut
            yield block[:cut]
        elif position + len(block) >= log.end:
            return
        else:
            behind = log.line_after(position + len(block))
            if behind >= log.end and log.read(log.end - 1, 1) != b"\n":
                return
            position = behind
            yield b""
        length = min(2 * length, LARGEST_CHUNK)
