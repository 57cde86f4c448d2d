"""grade.info: the files in the order of their worth, best first.

    filename    weightcount    bitrate    grade    sumHitCount    historyCount    TargetCopyCount

Columns are apart by tabs. The rank of a file is the place of its line among the lines that are not blank, 1 for the
first below the header; the ``grade`` column says something else. Lines that are too long, or have no name, take a
place too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from cftools.facts import lines


class Part(NamedTuple):
    """The grades of one chunk: columns name, place (from 0 within the chunk); ``places`` is how many it has."""

    frame: pl.DataFrame
    places: int
    skipped: Counter[str]


def read_grades(path: Path, chunk_bytes: int = lines.CHUNK_BYTES) -> lines.Reading[Part]:
    """The lines of the grades in parts, see `ranked`. Raises InputUnusable when the file cannot be read.

    The file says no generation, so its mtime stands for it: guards want to know how old the grades are.
    """
    reading = lines.read_parts(path, header, parse, chunk_bytes)
    return reading._replace(input=msgspec.structs.replace(reading.input, generation=reading.mtime))


def header(line: bytes) -> int | None:
    """0 when ``line`` is the header (which tells no generation), else None."""
    return 0 if line.partition(b"\t")[0] == b"filename" else None


def parse(chunk: bytes) -> Part:
    """The grades in a chunk that ends in a newline."""
    skipped: Counter[str] = Counter()
    text = lines.split_lines(chunk, skipped).to_frame()
    # Only a line that begins below "!" can be blank; comparing is cheaper than stripping every line.
    suspect = pl.col("line") < "!"
    if text.select(suspect.any()).item():
        filled = text.filter((~(suspect & lines.blank("line"))).fill_null(True))
        skipped["blank"] += text.height - filled.height
        text = filled
    placed = text.select(
        name=pl.col("line").str.splitn("\t", 2).struct.field("field_0"), place=pl.int_range(pl.len(), dtype=pl.Int64)
    )
    frame = placed.filter(pl.col("name") != "")
    skipped["no_name"] += placed.height - placed["name"].null_count() - frame.height
    return Part(frame, placed.height, skipped)


def ranked(parts: list[Part]) -> pl.DataFrame:
    """All parts as one frame with the columns name, rank, by rank; a repeated name is still repeated."""
    first = 1
    frames = [pl.DataFrame(schema={"name": pl.String, "rank": pl.Int64})]
    for part in parts:
        frames.append(part.frame.select("name", rank=pl.col("place") + first))
        first += part.places
    return pl.concat(frames, rechunk=True)
