"""JSON lines in and out: the streams that commands exchange.

A stream opens with a `begin` row and closes with an `end` row. One that does not reach its `end` row was cut off: it
proves nothing about what is not in it, so `read` refuses it and no consumer acts on a part of a stream.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import BinaryIO, NamedTuple

import msgspec

from cftools.model import names
from cftools.model.errors import InputUnusable
from cftools.model.rows import KINDS, Begin, End, Row

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)
_KIND = re.compile(rb'"kind"\s*:\s*"([^"\\]*)"')

CUT_OFF = "the stream has no end row, so it was cut off"
RUN_AGAIN = "run the command that writes it again and see why it stopped"


class Stream(NamedTuple):
    """A whole stream: its `begin` row (None when a hand-written one has none), the rows between, its `end` row."""

    begin: Begin | None
    rows: list[Row]
    end: End


def encode(row: Row) -> bytes:
    """The row as one JSON line, newline included."""
    return names.json_from_marks(_encoder.encode(row)) + b"\n"


def encode_all(rows: Iterable[Row]) -> bytes:
    """The rows as JSON lines."""
    return names.json_from_marks(_encoder.encode_lines(rows))


def decode(line: bytes, path: str, number: int) -> Row:
    """The row in one line. Raises InputUnusable that names ``path`` and line ``number`` for anything else."""
    try:
        return _decoder.decode(names.marks_from_json(line))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        found = _KIND.search(line)
        if found and found.group(1).decode(errors="replace") not in KINDS:
            raise InputUnusable(
                path, f"unknown kind of row {found.group(1).decode(errors='replace')!r}", line=number
            ) from None
        raise InputUnusable(path, f"not a row: {fault}", "rows are JSON objects, one a line", line=number) from None


def read(stream: BinaryIO, path: str, kinds: Sequence[type[Row]]) -> Stream:
    """Reads a whole stream and proves that it is whole.

    ``path`` names the stream in messages; rows of other kinds than ``kinds`` are passed over. Raises InputUnusable
    when the stream is cut off, holds what is not a row, goes on after its end, or has fewer rows than its end counts.
    """
    begin: Begin | None = None
    end: End | None = None
    rows: list[Row] = []
    wanted = tuple(kinds)
    seen: Counter[str] = Counter()
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        if end is not None:
            raise InputUnusable(path, "rows after the end row", "give one stream at a time", line=number)
        if not line.endswith(b"\n"):
            raise InputUnusable(path, CUT_OFF, RUN_AGAIN, line=number)
        row = decode(line, path, number)
        if isinstance(row, Begin):
            if begin is not None or rows:
                raise InputUnusable(path, "a second begin row", "give one stream at a time", line=number)
            begin = row
        elif isinstance(row, End):
            end = row
        else:
            seen[str(row.__struct_config__.tag)] += 1
            if isinstance(row, wanted):
                rows.append(row)
    if end is None:
        raise InputUnusable(path, CUT_OFF, RUN_AGAIN)
    check_counts(end, seen, path)
    return Stream(begin, rows, end)


def check_counts(end: End, seen: dict[str, int], path: str) -> None:
    """Raises InputUnusable when the stream had another number of rows of a kind than its end row says."""
    for kind in KINDS:
        if kind in end.counts and end.counts[kind] != seen.get(kind, 0):
            raise InputUnusable(
                path,
                f"the end row counts {end.counts[kind]} {kind} rows, the stream has {seen.get(kind, 0)}",
                RUN_AGAIN,
            )
