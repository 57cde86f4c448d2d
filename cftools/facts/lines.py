"""Files of odd lines, read once through one descriptor, as columns of text.

A line ends in a newline; one carriage return before it is not part of the line. A line is *blank* when it holds
nothing but ASCII white space, *long* above `LONGEST_LINE` bytes. A file is cut into chunks of whole lines, so that
millions of lines never are Python objects and the raw bytes are dropped early.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, TypeVar

import polars as pl

from cftools.model import names
from cftools.model.errors import InputUnusable
from cftools.model.rows import Input

CHUNK_BYTES = 4 << 20
LONGEST_LINE = 64 * 1024  # bytes before the newline, a carriage return included
LARGEST_NUMBER = 2**63 - 1
WHITE_SPACE = " \t\r\v\f"
# A file written to less than this ago may be in the middle of it; before Linux 6.13 two changes within 10 ms have one
# time, so that what changes while it is read would not show either.
QUIET_SECONDS = 0.05
PATIENCE_SECONDS = 0.25  # how long a file is waited for to be quiet
WORKERS = 2  # Polars works on one chunk mostly in one thread, and gives Python's lock back meanwhile

NO_HEADER = "no header line"
UNTERMINATED = "the last line has no newline"
CHANGED = "changed while it was read"

Part = TypeVar("Part")


class Reading(NamedTuple, Generic[Part]):
    """What was read: one part a chunk, in order; ``skipped`` counts what the reading itself noticed, by cause.

    ``mtime``: of the file when it was opened, epoch seconds.
    """

    parts: list[Part]
    input: Input
    skipped: Counter[str]
    mtime: int


def read_parts(
    path: Path, header: Callable[[bytes], int | None], parse: Callable[[bytes], Part], chunk_bytes: int
) -> Reading[Part]:
    """Reads the file at ``path`` once and gives each chunk of whole lines below the header to ``parse``.

    ``header`` gets the first line and says its generation (epoch seconds, 0 for none), or None when it is no header:
    the file is then incomplete and the line counts as data. ``parse`` runs in threads. A last line without newline
    is not used; it makes the file incomplete too, as does a change of its size or time while it is read. A writer
    that works in place and pauses longer than `QUIET_SECONDS` at the end of a line is not noticed. Raises InputUnusable
    when the file cannot be opened or read.
    """
    shown = names.text_from_bytes(os.fsencode(path))
    try:
        with path.open("rb", buffering=0) as stream:
            before, quiet = _quiet(stream)
            reader = _Reader(header, parse)
            size = reader.read(stream, chunk_bytes)
            after = os.fstat(stream.fileno())
    except OSError as fault:
        raise InputUnusable(shown, f"cannot be read: {fault.strerror or fault}", "check its path and mode") from None
    same = (before.st_size, before.st_mtime_ns, size) == (after.st_size, after.st_mtime_ns, after.st_size)
    if stat.S_ISREG(before.st_mode) and not (quiet and same):
        reader.faults.append(CHANGED)
    whole = Input(shown, reader.generation, size, not reader.faults, "; ".join(reader.faults))
    return Reading(reader.parts, whole, reader.skipped, int(before.st_mtime))


def _quiet(stream: BinaryIO) -> tuple[os.stat_result, bool]:
    """Waits a little for the file to be left alone; its status, and whether it is quiet now."""
    given_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        status = os.fstat(stream.fileno())
        age = time.time() - status.st_mtime
        if not 0 <= age < QUIET_SECONDS:  # a time in the future is another clock's
            return status, True
        if time.monotonic() > given_up:
            return status, False
        time.sleep(QUIET_SECONDS - age)


class _Reader(Generic[Part]):
    """The state of one reading."""

    def __init__(self, header: Callable[[bytes], int | None], parse: Callable[[bytes], Part]) -> None:
        self.header, self.parse = header, parse
        self.generation = 0
        self.parts: list[Part] = []
        self.skipped: Counter[str] = Counter()
        self.faults: list[str] = []

    def read(self, stream: BinaryIO, chunk_bytes: int) -> int:
        """Reads to the end; the number of bytes read."""
        counted = _Counted(stream)
        pending: deque[Future[Part]] = deque()
        first, terminated = True, True
        with ThreadPoolExecutor(WORKERS) as pool:
            for chunk in chunks(counted, chunk_bytes, LONGEST_LINE):
                if not chunk.endswith(b"\n"):
                    terminated = False
                    break
                body = self._below_header(chunk) if first else chunk
                first = False
                if body:
                    pending.append(pool.submit(self.parse, body))
                if len(pending) > WORKERS:
                    self.parts.append(pending.popleft().result())
            self.parts.extend(future.result() for future in pending)
        if first:
            self.faults.append(NO_HEADER)
        if not terminated:
            self.skipped["unterminated"] += 1
            self.faults.append(UNTERMINATED)
        return counted.bytes

    def _below_header(self, chunk: bytes) -> bytes:
        end = chunk.index(b"\n") + 1
        line = chunk[: end - 1]
        generation = self.header(line.removesuffix(b"\r")) if len(line) <= LONGEST_LINE else None
        if generation is None:
            self.faults.append(NO_HEADER)
            return chunk
        self.generation = generation
        self.skipped["crlf"] += line.endswith(b"\r")
        return chunk[end:]


class _Counted:
    """A stream that counts its bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.bytes = stream, 0

    def read(self, size: int) -> bytes:
        block = self.stream.read(size)
        self.bytes += len(block)
        return block


def chunks(stream: BinaryIO | _Counted, chunk_bytes: int, longest: int | None = None) -> Iterator[bytes]:
    """The stream in chunks of whole lines of about ``chunk_bytes``; only the last can lack its newline.

    Of a line longer than ``longest`` bytes not more than its first ``longest`` + ``chunk_bytes`` bytes need be kept:
    blocks in its middle are dropped, so that a file without newlines does not fill the memory.
    """
    pieces: list[bytes] = []
    held = 0
    while block := stream.read(chunk_bytes):
        cut = block.rfind(b"\n") + 1
        if cut:
            pieces.append(block[:cut])
            yield b"".join(pieces) if len(pieces) > 1 else pieces[0]
            pieces, held = [block[cut:]] if cut < len(block) else [], len(block) - cut
        elif longest is None or held <= longest:
            pieces.append(block)
            held += len(block)
    if pieces:
        yield b"".join(pieces)


def split_lines(chunk: bytes, skipped: Counter[str]) -> pl.Series:
    """The lines of a chunk that ends in a newline, in text form; a long line is null. Counts ``long`` and ``crlf``."""
    body = chunk[:-1]
    text = (
        body.decode() if body.isascii() else names.text_from_bytes(body)
    )  # looking for marks costs as much as splitting
    lines = pl.Series("line", [text]).str.split("\n").explode()
    longest = lines.str.len_bytes().max()
    if isinstance(longest, int) and longest > LONGEST_LINE:
        # A marked byte takes three bytes in text form, and one in the file.
        raw = pl.col("line").str.len_bytes() - 2 * pl.col("line").str.count_matches("[\uf780-\uf7ff]")
        lines = lines.to_frame().select(pl.when(raw <= LONGEST_LINE).then(pl.col("line"))).to_series()
        skipped["long"] += lines.null_count()
    if b"\r" in chunk:
        skipped["crlf"] += int(lines.str.ends_with("\r").sum())
        lines = lines.str.strip_suffix("\r")
    return lines


def blank(column: str) -> pl.Expr:
    """Whether the text in ``column`` is blank."""
    return pl.col(column).str.strip_chars(WHITE_SPACE) == ""


def whole_number(column: str) -> pl.Expr:
    """The number in ``column``: 1 to 19 ASCII digits, at most `LARGEST_NUMBER`; null for anything else."""
    return pl.when(pl.col(column).str.contains("^[0-9]{1,19}$")).then(pl.col(column).cast(pl.Int64, strict=False))
