"""The files a command names: opened, and shown in messages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cftools.model.errors import InputUnusable

STDIN = "-"


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The file to read; ``-`` is stdin. Raises InputUnusable when it cannot be opened."""
    if path == STDIN:
        if sys.stdin is None:
            raise InputUnusable(shown(path), "it is closed", "name a file, or send something there")
        yield sys.stdin.buffer
        return
    try:
        stream = Path(path).open("rb")  # noqa: SIM115 (only the opening is guarded)
    except OSError as fault:
        raise InputUnusable(path, f"cannot be read: {fault.strerror}") from fault
    with stream:
        yield stream


def shown(path: str) -> str:
    """The input's name for messages."""
    return "stdin" if path == STDIN else path
