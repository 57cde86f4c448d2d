"""The ``cftools`` command. ``--version`` answers before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    if sys.argv[1:] == ["--version"]:
        from cftools import __version__

        print(f"cftools {__version__}")
        return
    if sys.stdout is None:  # started with its stdout closed: what is said there goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for the life of the process)
    for number in SIGNALS:
        signal.signal(number, _stop)
    from cftools.cli.app import run

    code = run(sys.argv[1:])
    _take_no_more(_nothing)  # one that comes now would end in a traceback
    _take_no_more(signal.SIG_IGN)  # while it shuts down Python gives signals their default back, except ignored ones
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """A signal while no job is under way, which takes over when it opens: there is nothing to undo."""
    del frame
    _take_no_more(_nothing)
    with suppress(OSError):
        os.write(2, f"cftools: stopped by signal {number}\n".encode())
    raise SystemExit(128 + number)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Takes a signal that comes after the first one. Ignoring it makes Python complain when it came just before."""


def _take_no_more(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


if __name__ == "__main__":
    main()
