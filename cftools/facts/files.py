"""The files of a node: the history joined with the grades, from the two inputs or from a stream of `file` rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import polars as pl

from cftools import pipe
from cftools.facts import grades as grade_info
from cftools.facts import history as hitcount_history
from cftools.facts import lines
from cftools.facts.history import holder_columns
from cftools.model import names, rows
from cftools.model.errors import InputUnusable
from cftools.model.frames import files_schema, holder_type

ROWS_AT_ONCE = 100_000  # rows written together; bounds the memory of a chunk
STREAM_CHUNK_BYTES = 8 << 20
SEPARATOR = "\x1f"

_ROW_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "kind": pl.String,
    "name": pl.String,
    "rank": pl.Int64,
    "size": pl.Int64,
    "bitrate": pl.Int64,
    "registered": pl.Int64,
    "holders": pl.List(pl.String),
    "unknown_holders": pl.Int64,
}
_ROW_START = b'{"kind":"file","name":"'


class Files(NamedTuple):
    """The files of a node, see `cftools.model.frames`; ``frame`` is sorted by rank, each name is in it once.

    ``inputs`` are the files it was made from, ``skipped`` their skipped lines by cause. When ``complete`` is false
    nothing may be deleted on the word of it.
    """

    frame: pl.DataFrame
    inputs: tuple[rows.Input, ...]
    skipped: dict[str, int]
    complete: bool


def read_files(history: Path, grades: Path, addresses: Sequence[str], chunk_bytes: int = lines.CHUNK_BYTES) -> Files:
    """The files that both inputs name, best rank first. ``addresses`` are those of the configured destinations.

    For a repeated name the last good line of each input counts. ``chunk_bytes`` are read at a time. Raises
    InputUnusable when an input cannot be read.
    """
    skipped: Counter[str] = Counter()
    known, history_input = _history(history, addresses, chunk_bytes, skipped)
    ranks, grades_input = _grades(grades, chunk_bytes, skipped)
    frame = _joined(ranks, known).select(list(files_schema(addresses)))
    skipped["history_without_grade"] = known.height - frame.height
    skipped["grades_without_history"] = ranks.height - frame.height
    inputs = (history_input, grades_input)
    counted = {cause: skipped[cause] for cause in sorted(skipped) if skipped[cause]}
    return Files(frame, inputs, counted, all(one.complete for one in inputs))


def _history(
    path: Path, addresses: Sequence[str], chunk_bytes: int, skipped: Counter[str]
) -> tuple[pl.DataFrame, rows.Input]:
    reading = hitcount_history.read_history(path, addresses, chunk_bytes)
    empty = pl.DataFrame(schema=files_schema(addresses)).drop("rank")
    frame, repeated = _last_of_each(pl.concat([empty, *(part for part, _ in reading.parts)]))
    for causes in (reading.skipped, *(causes for _, causes in reading.parts), {"repeated": repeated}):
        skipped.update({f"history_{cause}": count for cause, count in causes.items()})
    return frame, reading.input


def _grades(path: Path, chunk_bytes: int, skipped: Counter[str]) -> tuple[pl.DataFrame, rows.Input]:
    reading = grade_info.read_grades(path, chunk_bytes)
    frame, repeated = _last_of_each(grade_info.ranked(reading.parts))
    for causes in (reading.skipped, *(part.skipped for part in reading.parts), {"repeated": repeated}):
        skipped.update({f"grades_{cause}": count for cause, count in causes.items()})
    return frame, reading.input


def _last_of_each(frame: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The last row of each name in the order of the rows, and how many rows went."""
    if _keys(frame["name"]).n_unique() == frame.height:
        return frame, 0
    kept = frame.unique(subset="name", keep="last", maintain_order=True)
    return kept, frame.height - kept.height


def _joined(ranks: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Inner join by name in the order of ``ranks``; each name is in either at most once.

    Joining by a 64-bit hash takes less time and memory than by text. Two names can share a hash, so the pairs are
    verified, and joined by text when one is wrong or a hash comes twice.
    """
    left, right = _keys(ranks["name"]), _keys(known["name"])
    if left.n_unique() == left.len() and right.n_unique() == right.len():
        pairs = (
            pl.DataFrame({"key": left})
            .with_row_index("left")
            .join(pl.DataFrame({"key": right}).with_row_index("right"), on="key", maintain_order="left")
        )
        first, second = ranks[pairs["left"]], known[pairs["right"]]
        if (first["name"] == second["name"]).all():
            return first.hstack(second.drop("name"))
    return ranks.join(known, on="name", maintain_order="left")


def _keys(name: pl.Series) -> pl.Series:
    return name.hash()


def write_file_rows(files: Files, out: BinaryIO) -> None:
    """Writes the `file` rows as JSON lines to ``out``, a bounded number at a time, without `begin` and `end`."""
    for part in files.frame.iter_slices(ROWS_AT_ONCE):
        strings = part.with_columns(pl.col("holders").cast(pl.List(pl.String)), kind=pl.lit("file"))
        encoded = _encoded(strings.select(list(_ROW_SCHEMA)))
        # One byte is found many times faster than the two-byte starts of a mark.
        out.write(names.json_from_marks(encoded) if b"\xef" in encoded else encoded)


def _encoded(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_ndjson(buffer)
    return buffer.getvalue()


def file_structs(frame: pl.DataFrame) -> Iterator[rows.File]:
    """The rows of a files frame one by one; for tables and small answers."""
    for part in frame.iter_slices(10_000):
        yield from (rows.File(*row) for row in part.select(rows.File.__struct_fields__).iter_rows())


def read_file_rows(
    stream: BinaryIO, path: str, addresses: Sequence[str], chunk_bytes: int = STREAM_CHUNK_BYTES
) -> Files:
    """The files in a stream of `file` rows; rows of other kinds are passed over. ``path`` names it in messages.

    Holders that are not in ``addresses`` count as unknown ones. Raises InputUnusable where `cftools.pipe.read` does,
    and when two rows have the same name.
    """
    reader = _StreamReader(path, holder_type(addresses))
    for chunk in lines.chunks(stream, chunk_bytes):
        reader.take(chunk)
    if reader.end is None:
        raise InputUnusable(path, pipe.CUT_OFF, pipe.RUN_AGAIN)
    pipe.check_counts(reader.end, reader.seen, path)
    frame = pl.concat([pl.DataFrame(schema=files_schema(addresses)), *reader.frames])
    if _last_of_each(frame)[1]:
        again = frame.filter(pl.col("name").is_duplicated())["name"][0]
        raise InputUnusable(path, f"two rows have the name {names.display(again)}", "give each file once")
    if not frame["rank"].is_sorted():
        frame = frame.sort("rank", maintain_order=True)
    inputs = tuple(reader.begin.inputs) if reader.begin else ()
    complete = reader.end.complete and all(one.complete for one in inputs)
    return Files(frame, inputs, dict(reader.end.skipped), complete)


class _StreamReader:
    """The state of reading one stream; takes it chunk by chunk and holds the same rules as `cftools.pipe.read`."""

    def __init__(self, path: str, holder: pl.Enum) -> None:
        self.path, self.holder = path, holder
        self.begin: rows.Begin | None = None
        self.end: rows.End | None = None
        self.number = 0
        self.seen: Counter[str] = Counter()
        self.frames: list[pl.DataFrame] = []

    def take(self, chunk: bytes) -> None:
        """Takes whole lines: the rows in the middle in columns when they can be, all others one by one."""
        first = chunk.find(_ROW_START)
        first = first if first == 0 or chunk[first - 1 : first] == b"\n" else len(chunk)
        last = chunk.rfind(b"\n", 0, len(chunk) - 1) + 1
        last = len(chunk) if chunk.startswith(_ROW_START, last) else last
        middle = chunk[first:last] if self.end is None and chunk.endswith(b"\n") else b""
        frame = _from_columns(middle) if middle else None
        if frame is None:
            self._take_lines(chunk)
            return
        self._take_lines(chunk[:first])
        if self.end is not None:  # the head of this chunk closed the stream: let the next line say what is wrong
            self._take_lines(chunk[first:])
            return
        self.number += frame.height
        self.seen["file"] += frame.height
        self._add(frame)
        self._take_lines(chunk[last:])

    def _take_lines(self, chunk: bytes) -> None:
        found = [row for line in BytesIO(chunk) if (row := self._take_line(line)) is not None]
        if found:
            columns = {column: [getattr(row, column) for row in found] for column in rows.File.__struct_fields__}
            self._add(pl.DataFrame(columns, schema={column: _ROW_SCHEMA[column] for column in columns}))

    def _take_line(self, line: bytes) -> rows.File | None:
        self.number += 1
        if line.isspace():
            return None
        if self.end is not None:
            raise InputUnusable(self.path, "rows after the end row", "give one stream at a time", line=self.number)
        if not line.endswith(b"\n"):
            raise InputUnusable(self.path, pipe.CUT_OFF, pipe.RUN_AGAIN, line=self.number)
        row = pipe.decode(line, self.path, self.number)
        if isinstance(row, rows.Begin):
            if self.begin is not None or self.seen["file"]:
                raise InputUnusable(self.path, "a second begin row", "give one stream at a time", line=self.number)
            self.begin = row
            return None
        if isinstance(row, rows.End):
            self.end = row
            return None
        self.seen[str(row.__struct_config__.tag)] += 1
        if not isinstance(row, rows.File):
            return None
        if max(row.rank, row.size, row.bitrate, row.registered, row.unknown_holders) > lines.LARGEST_NUMBER:
            raise InputUnusable(self.path, "a number above 2^63 - 1", "correct the row", line=self.number)
        return row

    def _add(self, frame: pl.DataFrame) -> None:
        holders = holder_columns(frame["holders"].list.join(SEPARATOR), SEPARATOR, self.holder)
        unknown = frame["unknown_holders"] + holders["unknown_holders"]
        wanted = list(rows.File.__struct_fields__)
        self.frames.append(frame.with_columns(holders["holders"], unknown).select(wanted))


def _from_columns(chunk: bytes) -> pl.DataFrame | None:
    """The rows of a chunk that holds nothing but `file` rows as `write_file_rows` writes them, None for another chunk.

    Polars' JSON reader takes more than JSON rows may hold (a number for a name, a lone surrogate, a key twice), so the
    rows count only when writing them again gives the same bytes.
    """
    text = names.marks_from_json(chunk) if b"\xef" in chunk or b"\\u" in chunk else chunk
    if b"null" in text:  # the one value that Polars would write again and `rows.File` does not take
        return None
    try:
        frame = pl.read_ndjson(text, schema=_ROW_SCHEMA)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    if _encoded(frame) != text or not (frame["kind"] == "file").all():
        return None
    return frame.drop("kind")
