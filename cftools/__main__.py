"""The ``cftools`` command. ``--version`` answers before anything else is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    if sys.argv[1:] == ["--version"]:
        from cftools import __version__

        print(f"cftools {__version__}")
        return
    if sys.stdout is None:  # started with its stdout closed: what is said there goes nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 (for the life of the process)
    from cftools.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
