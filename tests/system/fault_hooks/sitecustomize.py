"""Faults of the manager's own machine. Python imports this at start-up when the folder stands on PYTHONPATH; only tests
put it there.

- ``FAULT_CLOCK``: seconds by which this process's clock is ahead (below zero: behind);
- ``FAULT_BUSY``: seconds a statement waits for a locked database, in place of the product's own;
- ``FAULT_FILE_BYTES``: no file grows beyond that, as on a full disk.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import time
from typing import Any

if shift := float(os.environ.get("FAULT_CLOCK", "0")):
    true_time = time.time

    def shifted() -> float:
        return true_time() + shift

    time.time = shifted

if busy := os.environ.get("FAULT_BUSY"):
    true_connect: Any = sqlite3.connect

    def impatient(*words: Any, timeout: float = 0, **keys: Any) -> Any:
        del timeout
        return true_connect(*words, timeout=float(busy or 0), **keys)

    sqlite3.connect = impatient

if size := os.environ.get("FAULT_FILE_BYTES"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
