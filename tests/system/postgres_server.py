"""A private PostgreSQL for tests: a cluster of its own in a folder of its own, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

import psycopg

from cftools.lab.servers import free_port

HOST = "127.0.0.1"
ADMIN, ROLE = "postgres", "cftools"  # the superuser, and the ordinary role that owns the databases of the tests
KEEPER, PASSWORD = "keeper", "s3cret/@:#é"  # a role that must say its password
START_SECONDS = 30.0
ACCESS = f"local all all trust\nhost all {KEEPER} {HOST}/32 scram-sha-256\nhost all all {HOST}/32 trust\n"
SETTINGS = """
listen_addresses = '{host}'
unix_socket_directories = '{folder}'
shared_buffers = 16MB
max_connections = 60
fsync = {fsync}
full_page_writes = {fsync}
log_min_messages = fatal
"""


def program(name: str) -> str:
    """The path of a PostgreSQL program, the newest version's when it is not in PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, versions)))
    assert found, f"{name} is missing; install PostgreSQL"
    return found


class PostgresServer:
    """A cluster below ``directory``, or below a new folder in /tmp; entering the block makes and starts it,
    leaving the block removes it.

    PostgreSQL refuses to run as root: then it runs as `postgres`, who must be able to reach the folder. ``fsync``: for
    tests of what a power cut leaves; without it everything survives the death of its processes, and is much faster.
    """

    def __init__(self, directory: Path | None = None, *, fsync: bool = False) -> None:
        self.folder = Path(mkdtemp(prefix="cftools-pg-", dir="/tmp")) if directory is None else directory
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port([HOST])
        self._fsync = "on" if fsync else "off"
        self._numbers = count(1)
        self._lent: list[str] = []
        self._emptied: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._runner = ["setpriv", "--pdeathsig", "INT"]  # it ends with the tests, however they end
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._runner += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def __enter__(self) -> PostgresServer:
        try:
            self._make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def data(self) -> Path:
        """The data directory of the cluster."""
        return self.folder / "data"

    def dsn(self, database: str, user: str = ROLE) -> str:
        """The URL of a database; no password is asked for, but of the role KEEPER."""
        return f"postgresql://{user}@{HOST}:{self.port}/{database}"

    def fresh_database(self) -> str:
        """An empty database that the ordinary role owns, until `recycle`; returns its URL."""
        if self._emptied:
            name = self._emptied.pop()
        else:
            name = f"fresh_{os.getpid()}_{next(self._numbers)}"
            self.query(f"CREATE DATABASE {name} OWNER {ROLE}")
        self._lent.append(name)
        return self.dsn(name)

    def recycle(self) -> None:
        """Ends the sessions of all databases that `fresh_database` gave out and empties them: quicker than new ones."""
        while self._lent:
            name = self._lent.pop()
            self.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
            self.query(f"ALTER DATABASE {name} RESET ALL")
            self.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner", (), name)
            self._emptied.append(name)

    def query(self, statement: str, values: Sequence[Any] = (), database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement as the superuser; returns its rows."""
        with psycopg.connect(self.dsn(database, ADMIN), autocommit=True) as connection:
            # Without values the statement is sent as it stands, percent signs and all.
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Runs the server; returns when it takes connections."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._runner, program("postgres"), "-D", str(self.data), "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        late = time.monotonic() + START_SECONDS
        while not self._is_ready(self._process.pid):
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < late, "PostgreSQL did not start in time"
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends it in order: its sessions are cut off, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Ends it at once, as a crash does; the next `start` recovers what was committed."""
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    def running(self) -> bool:
        """Whether the server runs."""
        return self._process is not None and self._process.poll() is None

    def remove(self) -> None:
        """Kills the server and removes its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self) -> None:
        words = ["-D", str(self.data), "-U", ADMIN, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        done = subprocess.run(
            [*self._runner, program("initdb"), *words], capture_output=True, cwd=self.folder, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS.format(host=HOST, folder=self.folder, fsync=self._fsync))
        (self.data / "pg_hba.conf").write_text(ACCESS)
        self.start()
        self.query(f"CREATE ROLE {ROLE} LOGIN")
        self.query(f"CREATE ROLE {KEEPER} LOGIN PASSWORD '{PASSWORD}'")
        self.query(f"GRANT {ROLE} TO {KEEPER}")

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _end(self, by: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(by)
        self._process.wait(START_SECONDS)
        self._process = None
