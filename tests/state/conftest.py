"""States of both back ends for the state tests, and a way to run a piece of Python in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postgres_server import PostgresServer
from state_back_ends import BackEnd

from cftools.state import runs
from cftools.state.database import Database

Other = Callable[..., "subprocess.Popen[bytes]"]
HELPERS = Path(__file__).parent.parent / "system"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "state.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def back_end(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BackEnd]:
    """A state that nobody has opened yet, once in SQLite and once in PostgreSQL."""
    place = str(tmp_path / "state")
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        place = server.fresh_database()
    made = BackEnd(place)
    yield made
    made.close()


@pytest.fixture
def database(back_end: BackEnd) -> Iterator[Database]:
    with back_end.open() as opened:
        assert runs.begin(opened, "test", 1.0) == 1
        yield opened


@pytest.fixture
def another(back_end: BackEnd, database: Database) -> Iterator[Database]:
    """A second connection to the same state, as another process has one."""
    del database  # made first, with run 1 in it
    with back_end.open() as opened:
        yield opened


@pytest.fixture
def other_process() -> Iterator[Other]:
    """Starts ``python -c CODE WORDS``; what still runs at the end of the test is killed."""
    with ExitStack() as stack:
        environment = {**os.environ, "PYTHONPATH": f"{HELPERS}:{os.environ.get('PYTHONPATH', '')}"}

        def start(code: str, *words: object) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", code, *map(str, words)]
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
