"""`parse-history`: the history joined with the grades."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path

from cftools import __version__
from cftools.config.schema import Config
from cftools.facts.files import Files, file_structs, read_files
from cftools.model.rows import Begin, End, Row

COMMAND = "parse-history"


def read(config: Config, history: Path | None, grades: Path | None) -> Files:
    """Reads both inputs, the config's or these. Raises InputUnusable when one cannot be read."""
    inputs = config.inputs
    addresses = [destination.address for destination in config.destinations]
    return read_files(history or Path(inputs.hitcount_history), grades or Path(inputs.grade_info), addresses)


def begin(files: Files) -> Begin:
    """The row that opens the stream."""
    return Begin(COMMAND, __version__, time.time(), list(files.inputs))


def end(files: Files) -> End:
    """The row that closes the stream."""
    return End(COMMAND, files.complete, {"file": files.frame.height}, files.skipped)


def rows(files: Files) -> Generator[Row, None, None]:
    """The whole stream row by row, for people and CSV."""
    yield begin(files)
    yield from file_structs(files.frame)
    yield end(files)


def remarks(files: Files) -> Iterator[str]:
    """What -v tells: incomplete inputs, and lines skipped by cause."""
    for one in files.inputs:
        if not one.complete:
            yield f"{one.path}: incomplete: {one.fault}"
    for cause, count in sorted(files.skipped.items()):
        yield f"{cause}: {count}"
