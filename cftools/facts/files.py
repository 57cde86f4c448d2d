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
JOINED_AT_ONCE = 1_000_000
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
    known, history_input, history_skipped = _history(history, addresses, chunk_bytes)
    ranks, grades_input, grades_skipped = _grades(grades, chunk_bytes)
    pairs = _pairs(ranks["name"], known["name"].rechunk())
    # Column after column, each freed when it is done: two whole frames side by side would set the peak of memory.
    known.drop_in_place("name")
    columns = {column: ranks.drop_in_place(column).gather(pairs.left) for column in ranks.columns}
    columns |= {column: known.drop_in_place(column).rechunk().gather(pairs.right) for column in known.columns}
    grades_skipped["without_history"] = pairs.left_names - pairs.left.len()
    grades_skipped["repeated"] = pairs.left_repeated
    history_skipped["without_grade"] = pairs.right_names - pairs.right.len()
    history_skipped["repeated"] = pairs.right_repeated
    skipped = {f"history_{cause}": count for cause, count in sorted(history_skipped.items()) if count}
    skipped |= {f"grades_{cause}": count for cause, count in sorted(grades_skipped.items()) if count}
    inputs = (history_input, grades_input)
    frame = pl.DataFrame(columns).select(list(files_schema(addresses)))
    return Files(frame, inputs, skipped, all(one.complete for one in inputs))


def _history(path: Path, addresses: Sequence[str], chunk_bytes: int) -> tuple[pl.DataFrame, rows.Input, Counter[str]]:
    reading = hitcount_history.read_history(path, addresses, chunk_bytes)
    empty = pl.DataFrame(schema=files_schema(addresses)).drop("rank")
    frame = pl.concat([empty, *(part for part, _ in reading.parts)])
    return frame, reading.input, sum((causes for _, causes in reading.parts), reading.skipped)


def _grades(path: Path, chunk_bytes: int) -> tuple[pl.DataFrame, rows.Input, Counter[str]]:
    reading = grade_info.read_grades(path, chunk_bytes)
    frame = grade_info.ranked(reading.parts)
    return frame, reading.input, sum((part.skipped for part in reading.parts), reading.skipped)


class _Pairs(NamedTuple):
    """Row numbers of two columns of names that belong together, in the order of the left one."""

    left: pl.Series
    right: pl.Series
    left_names: int  # different ones
    right_names: int
    left_repeated: int  # rows that a later one with the same name replaces
    right_repeated: int


def _pairs(left: pl.Series, right: pl.Series) -> _Pairs:
    """Inner join of two columns of names. Of a repeated name the last row counts.

    Joining by a 64-bit hash takes less time and memory than by text. Two names can share a hash, so the pairs are
    verified, and joined by text when one is wrong or a hash comes twice.
    """
    left_rows, left_distinct = _last_rows(left, "left")
    right_rows, right_distinct = _last_rows(right, "right")
    pairs = _by_key(left_rows, right_rows) if left_distinct and right_distinct else None
    if pairs is None or not _same_names(left, right, pairs):
        pairs = _with_names(left_rows, left).join(_with_names(right_rows, right), on="name", maintain_order="left")
    return _Pairs(
        pairs["left"],
        pairs["right"],
        left_rows.height,
        right_rows.height,
        left.len() - left_rows.height,
        right.len() - right_rows.height,
    )


def _by_key(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Inner join by key in the order of ``left``, in several goes: one table for millions takes much memory."""
    goes = 1 + left.height // JOINED_AT_ONCE
    if goes == 1:
        return left.join(right, on="key", maintain_order="left").drop("key")
    go = pl.col("key") % goes
    parts = [left.filter(go == n).join(right.filter(go == n), on="key").drop("key") for n in range(goes)]
    return pl.concat(parts, rechunk=True).sort("left")


def _last_rows(name: pl.Series, label: str) -> tuple[pl.DataFrame, bool]:
    """The number (column ``label``) and the hash (``key``) of the last row of each name; whether the hashes differ."""
    keyed = pl.DataFrame({"key": _keys(name)}).with_row_index(label)
    if keyed["key"].n_unique() == keyed.height:
        return keyed, True
    last = _with_names(keyed, name).unique(subset="name", keep="last", maintain_order=True).drop("name")
    return last, last["key"].n_unique() == last.height


def _with_names(numbered: pl.DataFrame, name: pl.Series) -> pl.DataFrame:
    return numbered.with_columns(name=name.gather(numbered.to_series(0)))


def _same_names(left: pl.Series, right: pl.Series, pairs: pl.DataFrame) -> bool:
    return all(
        bool((left.gather(part["left"]) == right.gather(part["right"])).all())
        for part in pairs.iter_slices(ROWS_AT_ONCE * 5)
    )


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
    if frame["name"].n_unique() != frame.height:
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
        numbers = (row.rank, row.size, row.bitrate, row.registered, row.unknown_holders)
        if max(numbers) > lines.LARGEST_NUMBER or min(numbers) < -lines.LARGEST_NUMBER:
            raise InputUnusable(self.path, "a number beyond 2^63 - 1", "correct the row", line=self.number)
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
