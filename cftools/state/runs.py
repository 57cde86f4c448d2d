"""Runs: which process did what, when, and how it ended."""

from __future__ import annotations

import os
import socket

from cftools.state.database import Database


def begin(database: Database, command: str, now: float) -> int:
    """Notes that this process begins ``command``; returns the run's number."""
    return database.insert(
        "INSERT INTO run (command, host, pid, started) VALUES (?, ?, ?, ?)",
        (command, socket.gethostname(), os.getpid(), now),
    )


def finish(database: Database, run: int, exit_code: int, now: float, note: str = "") -> None:
    """Notes how the run ended."""
    database.execute("UPDATE run SET finished = ?, exit_code = ?, note = ? WHERE id = ?", (now, exit_code, note, run))
