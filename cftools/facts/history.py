"""hitcount.history: what every file is, and which servers hold it.

    historyheader:1524468282
    CCCC_K20180501000000.mpg,1508301143,6399785,920910664,125.144.97.70 125.159.40.3,2,0,0,1=1 2

The header tells when the file was written. Columns: name, register time, bit/s, bytes, addresses of the holders apart
by spaces; what follows them is unreliable and not read. There is no quoting. A line of five columns whose last one is
empty is good: nobody holds that file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from cftools.facts import lines
from cftools.model.frames import holder_type

_HEADER = re.compile(rb"historyheader:([0-9]{1,19})")
_FAULTS = {"name": "no_name", "size": "bad_size", "registered": "bad_registered", "bitrate": "bad_bitrate"}


def read_history(
    path: Path, addresses: Sequence[str], chunk_bytes: int = lines.CHUNK_BYTES
) -> lines.Reading[tuple[pl.DataFrame, Counter[str]]]:
    """The good lines of the history as frames, with the skipped ones by cause; a repeated name is still repeated.

    Columns: name, size, bitrate, registered, holders, unknown_holders. Raises InputUnusable when it cannot be read.
    """
    return lines.read_parts(path, header, partial(parse, holder=holder_type(addresses)), chunk_bytes)


def header(line: bytes) -> int | None:
    """The generation (epoch seconds) in a header line, None when the line is no header."""
    found = _HEADER.fullmatch(line)
    if not found or int(found.group(1)) > lines.LARGEST_NUMBER:
        return None
    return int(found.group(1))


def parse(chunk: bytes, holder: pl.Enum) -> tuple[pl.DataFrame, Counter[str]]:
    """The good lines of a chunk that ends in a newline, and the number of skipped ones by cause."""
    skipped: Counter[str] = Counter()
    text = lines.split_lines(chunk, skipped).drop_nulls()
    fields = text.str.splitn(",", 6).struct.unnest()
    short = fields.filter(pl.col("field_4").is_null())
    if short.height:
        empty = short.select((pl.col("field_1").is_null() & lines.blank("field_0")).sum()).item()
        skipped["blank"] += empty
        skipped["short"] += short.height - empty
        fields = fields.filter(pl.col("field_4").is_not_null())
    good = fields.select(
        name=pl.when(pl.col("field_0") != "").then(pl.col("field_0")),
        size=lines.whole_number("field_3"),
        bitrate=lines.whole_number("field_2"),
        registered=lines.whole_number("field_1"),
        listed=pl.col("field_4"),
    )
    for column, cause in _FAULTS.items():
        if bad := good[column].null_count():
            skipped[cause] += bad
            good = good.filter(pl.col(column).is_not_null())
    return good.drop("listed").hstack(holder_columns(good["listed"], " ", holder)), skipped


def holder_columns(listed: pl.Series, separator: str, holder: pl.Enum) -> pl.DataFrame:
    """Lists of addresses, each one text, as the columns holders and unknown_holders, in the same order.

    ``holders`` are those that ``holder`` names, sorted, each once; ``unknown_holders`` is the number of the others.
    """
    # The same few lists come again and again: only the different ones are taken apart.
    different = listed.rename("listed").unique().to_frame().with_row_index("list")
    parts = (
        different.select("list", address=pl.col("listed").str.split(separator))
        .explode("address")
        .filter(pl.col("address") != "")
        .with_columns(holder=pl.col("address").cast(holder, strict=False))
    )
    known = (
        parts.filter(pl.col("holder").is_not_null())
        .select("list", "holder")
        .unique()
        .sort("list", "holder")
        .group_by("list", maintain_order=True)
        .agg(holders=pl.col("holder"))
    )
    unknown = (
        parts.filter(pl.col("holder").is_null())
        .select("list", "address")
        .unique()
        .group_by("list")
        .agg(unknown_holders=pl.len().cast(pl.Int64))
    )
    lists = different.join(known, on="list", how="left").join(unknown, on="list", how="left")
    none = pl.Series([[]], dtype=pl.List(holder))
    return (
        listed.rename("listed")
        .to_frame()
        .join(lists, on="listed", how="left", maintain_order="left")
        .select(pl.col("holders").fill_null(pl.lit(none)), pl.col("unknown_holders").fill_null(0))
    )
