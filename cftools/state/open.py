"""Opens the state and the locks of a node where its config says they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cftools.config.load import state_path
from cftools.config.schema import Config
from cftools.state.database import Database
from cftools.state.file_locks import FileLocks
from cftools.state.locks import Locks


class State(NamedTuple):
    """What a job keeps, and the locks it takes."""

    database: Database
    locks: Locks


@contextmanager
def open_state(config: Config, command: str, say: Callable[[str], None]) -> Iterator[State]:
    """The state for the block; ``command`` is told to whoever finds one of its locks held, ``say`` takes what the
    operator must know. Raises StateUnusable, and Unreachable when its server is."""
    path = state_path(config)
    if path is None:
        # Imported here: psycopg takes a while, and is not there when nobody keeps a state in PostgreSQL.
        from cftools.state.postgresql import PostgresqlDatabase
        from cftools.state.postgresql_locks import PostgresqlLocks

        with PostgresqlDatabase(config.state.url, config.node) as remote:
            yield State(remote, PostgresqlLocks(remote, command))
        return
    from cftools.state.sqlite import SqliteDatabase

    locks = FileLocks(_lock_directory(config), command)
    if _is_lost(path) and any(locks.directory.glob("*.lock")) and not locks.held():
        say(f"{path} is gone, a new one begins; what guards and cooldowns remembered is lost")
    with SqliteDatabase(path) as database:
        yield State(database, locks)


@contextmanager
def open_locks(config: Config, command: str) -> Iterator[Locks]:
    """The locks for the block; no database is made where they do not need one."""
    if state_path(config) is not None:
        yield FileLocks(_lock_directory(config), command)
        return
    with open_state(config, command, lambda _: None) as state:
        yield state.locks


def _lock_directory(config: Config) -> Path:
    return Path(config.state.directory) / "locks"


def _is_lost(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size
