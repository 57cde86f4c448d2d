"""Hits of the node's files. Light to import: `hot-files` runs every minute and needs neither servers nor state."""

from __future__ import annotations

import time
from pathlib import Path

from cftools.config.schema import Config
from cftools.facts import event_log
from cftools.model.errors import UsageFault


def count_hot(config: Config, at: float) -> event_log.HotFiles:
    """Counts hits in the event logs as the config says, as of ``at``. Raises UsageFault when it names no logs."""
    keys = config.hot_files
    if keys is None:
        raise UsageFault("the config has no hot_files section; add one to tell which addresses' hits count")
    if not config.inputs.event_log_dir:
        raise UsageFault("the config has no inputs.event_log_dir; add it, or take hot_files out")
    settings = event_log.HotSettings(
        tuple(keys.served_by), keys.min_hits, keys.window, keys.slack, tuple(config.ignore.prefixes)
    )
    inputs = config.inputs
    return event_log.read_hot_files(
        Path(inputs.event_log_dir), inputs.event_log_name, inputs.event_log_timezone, at, settings
    )


def doubt(found: event_log.HotFiles, window: float) -> str:
    """Why more files may be hot than were counted, or the empty string. ``window``: seconds.

    A log of the window that is not there is nothing unusual around midnight; but when the others have no hit in the
    window either, the log that has them may just not have been found. A log that is ahead of this machine's clock by
    more than the window has its latest hits outside of it.
    """
    if found.missing and not found.counts["hits"]:
        return f"{found.missing[0]}: no such event log, and no hit of the window in any other"
    if found.latest > time.time() + window:
        ahead = found.latest - time.time()
        return f"{found.inputs[-1].path}: its last line is {ahead:,.0f} s in the future; set the clocks right"
    return ""
