"""`hot-files`: which files are asked for suddenly."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import msgspec

from cftools import __version__
from cftools.config.schema import Config
from cftools.jobs.hits import count_hot, doubt
from cftools.model.errors import UsageFault
from cftools.model.rows import Begin, End, Row


class Options(NamedTuple):
    """What replaces the config's values; None keeps them. ``at`` epoch seconds, ``window`` seconds."""

    at: float | None = None
    window: float | None = None
    min_hits: int | None = None
    log_dir: Path | None = None


def run(config: Config, options: Options, detail: Callable[[str], None]) -> Generator[Row, None, None]:
    """The `hot` rows of the window, most hits first."""
    at = time.time() if options.at is None else options.at
    replaced = _with(config, options)
    found = count_hot(replaced, at)
    for path in found.missing:
        detail(f"no event log {path}; its part of the window was not counted")
    for cause, count in sorted(found.skipped.items()):
        detail(f"{cause}: {count} lines")
    yield Begin("hot-files", __version__, at, list(found.inputs))
    yield from found.rows
    window = replaced.hot_files.window if replaced.hot_files else 0.0
    complete = found.complete and not doubt(found, window)
    yield End("hot-files", complete, {"hot": len(found.rows), **found.counts}, found.skipped)


def _with(config: Config, options: Options) -> Config:
    if config.hot_files is None:
        raise UsageFault("the config has no hot_files section; add one to tell which addresses' hits count")
    replaced = {name: value for name in ("window", "min_hits") if (value := getattr(options, name)) is not None}
    keys = msgspec.structs.replace(config.hot_files, **replaced)
    inputs = config.inputs
    if options.log_dir is not None:
        inputs = msgspec.structs.replace(inputs, event_log_dir=str(options.log_dir))
    return msgspec.structs.replace(config, hot_files=keys, inputs=inputs)
