"""Databases of the state tests, and a way to run a piece of Python in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cftools.state import runs
from cftools.state.database import Database

Other = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database(path) as opened:
        assert runs.begin(opened, "test", 1.0) == 1
        yield opened


@pytest.fixture
def another(path: Path, database: Database) -> Iterator[Database]:
    """A second connection to the same state, as another process has one."""
    del database  # made first, with run 1 in it
    with Database(path) as opened:
        yield opened


@pytest.fixture
def other_process() -> Iterator[Other]:
    """Starts ``python -c CODE WORDS``; what still runs at the end of the test is killed."""
    with ExitStack() as stack:

        def start(code: str, *words: object) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", code, *map(str, words)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
