"""What only the PostgreSQL back end does: how it is reached, what it refuses, and what a lost session leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from postgres_server import ADMIN, HOST, KEEPER, PASSWORD, PostgresServer

from cftools.lab.servers import free_port
from cftools.model.errors import StateUnusable, Unreachable
from cftools.state import postgresql
from cftools.state.postgresql import PostgresqlDatabase

INSERT = "INSERT INTO run (command, host, pid, started) VALUES (?, 'h', 1, 0)"
WITHOUT = "import sys; sys.modules['psycopg'] = None; from cftools.__main__ import main; main()"
CONFIG = """
node: test
inputs: {hitcount_history: h, grade_info: g}
state: {url: 'postgresql://h/n'}
sources: [{name: src1, address: 10.0.0.1, roots: [/data]}]
destinations: [{name: dst1, address: 10.0.0.2, root: /data}]
"""


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.fresh_database()


@pytest.fixture
def database(url: str) -> Iterator[PostgresqlDatabase]:
    with PostgresqlDatabase(url, "test") as opened:
        yield opened


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def complaint(url: str, node: str = "test") -> str:
    """The one line with which a state is refused."""
    with pytest.raises((StateUnusable, Unreachable)) as caught:
        PostgresqlDatabase(url, node)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == (69 if isinstance(caught.value, Unreachable) else 70)
    return str(caught.value)


def end_session(postgres: PostgresServer, database: PostgresqlDatabase) -> None:
    """Cuts the session off, as a restart of the server does."""
    ((backend,),) = database.rows("SELECT pg_backend_pid()")
    assert postgres.query(f"SELECT pg_terminate_backend({backend}, 5000)") == [(True,)]


def test_a_commit_is_synced_and_nobody_waits_for_ever(postgres: PostgresServer, url: str) -> None:
    postgres.query(f"ALTER DATABASE {name_of(url)} SET synchronous_commit = off")
    postgres.query(f"ALTER DATABASE {name_of(url)} SET default_transaction_isolation = 'serializable'")
    with PostgresqlDatabase(url, "test") as database:
        for setting, value in {
            "synchronous_commit": "on",
            "lock_timeout": "20s",
            "idle_in_transaction_session_timeout": "1min",
            "transaction_isolation": "read committed",
            "tcp_user_timeout": "20000",
        }.items():
            assert database.rows(f"SHOW {setting}") == [(value,)], setting


def test_a_socket_of_this_computer_will_do(postgres: PostgresServer, url: str) -> None:
    local = f"postgresql:///{name_of(url)}?host={postgres.folder}&port={postgres.port}&user=cftools"
    with PostgresqlDatabase(local, "test") as database:
        assert database.rows("SELECT inet_client_addr()") == [(None,)]
        assert database.place == f"postgresql:///{name_of(url)}"


def test_a_database_belongs_to_the_node_that_opened_it_first(url: str) -> None:
    PostgresqlDatabase(url, "seoul-1").close()
    assert (
        complaint(url, "busan-1") == f"{url}: it holds the state of node seoul-1; busan-1 needs a database of its own"
    )
    PostgresqlDatabase(url, "seoul-1").close()


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    port = free_port([HOST])
    said = complaint(f"postgresql://u:geheim@{HOST}:{port}/n")
    assert said.startswith(f"postgresql://u@{HOST}:{port}/n: state database cannot be reached: ")
    assert "refused" in said
    assert "geheim" not in said


def test_a_database_that_is_not_there_is_told_in_one_line(postgres: PostgresServer) -> None:
    assert 'database "nowhere" does not exist' in complaint(postgres.dsn("nowhere"))


def test_the_host_that_is_there_is_used(url: str) -> None:
    dead = free_port([HOST])
    with PostgresqlDatabase(url.replace(f"@{HOST}", f"@{HOST}:{dead},{HOST}"), "test") as database:
        database.execute(INSERT, ("x",))
    assert "refused" in complaint(f"postgresql://u@{HOST}:{dead},{HOST}:{dead}/n")


def test_of_several_hosts_one_that_only_reads_is_passed_over(postgres: PostgresServer, url: str) -> None:
    postgres.query(f"ALTER DATABASE {name_of(url)} SET default_transaction_read_only = on")
    said = complaint(f"postgresql://cftools@{HOST}:{postgres.port},{HOST}:{postgres.port}/{name_of(url)}")
    assert "state database cannot be reached: " in said
    assert "read-only" in said
    assert "it is read-only; a standby? name the primary" in complaint(url)


@pytest.mark.parametrize("way", ["environment", "file", "url"])
def test_a_password_is_taken_from_where_libpq_looks(
    postgres: PostgresServer, url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{HOST}:{postgres.port}/{name_of(url)}"
    asked = f"postgresql://{KEEPER}@{place}"
    if way == "environment":
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
    elif way == "file":
        escaped = PASSWORD.replace(":", r"\:")
        file = Path.home() / ".pgpass"
        file.write_text(f"{HOST}:{postgres.port}:*:{KEEPER}:{escaped}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))  # libpq asks the password file of the system for the home
    else:
        asked = f"postgresql://{KEEPER}:{quote(PASSWORD, safe='')}@{place}"
    with PostgresqlDatabase(asked, "test") as database:
        assert database.rows("SELECT current_user") == [(KEEPER,)]
        assert database.place == f"postgresql://{KEEPER}@{place}"


def test_a_wrong_password_is_told_without_it(postgres: PostgresServer, url: str) -> None:
    said = complaint(
        f"postgresql://{KEEPER}:gehe%23im@{HOST}:{postgres.port}/{name_of(url)}?application_name=gehe%23im"
    )
    assert "password authentication failed" in said
    assert "im@" not in said.replace(f"{KEEPER}@", "")
    said = complaint(f"postgresql://{KEEPER}:gehe%23im@{HOST}:{postgres.port}/{name_of(url)}?nonsense=1")
    assert 'invalid URI query parameter: "nonsense"' in said
    assert "gehe" not in said


def test_what_is_no_database_for_a_state_is_refused(postgres: PostgresServer) -> None:
    postgres.query("CREATE DATABASE odd ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    postgres.query(f"CREATE DATABASE foreign_one OWNER {ADMIN}")
    assert "its encoding is SQL_ASCII; make one with: createdb -E UTF8 -T template0 NAME" in complaint(
        postgres.dsn("odd")
    )
    assert "permission denied for schema public" in complaint(postgres.dsn("foreign_one"))


@pytest.mark.parametrize(
    ("what", "value", "said"),
    [
        ("backend_pid", 1, "a connection pooler stands in between"),
        ("server_version", 110022, "PostgreSQL 12 or newer is needed, not 11"),
    ],
)
def test_what_cannot_keep_locks_is_refused(
    url: str, what: str, value: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, what, property(lambda _: value))
    assert said in complaint(url)


def test_without_psycopg_one_line_tells_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    command = [sys.executable, "-c", WITHOUT, "--config", str(tmp_path / "c.yaml"), "locks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wanted = "cftools: a state in PostgreSQL needs psycopg; install it: pip install 'cftools[postgresql]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


def test_a_lost_session_is_told_by_every_later_call(postgres: PostgresServer, database: PostgresqlDatabase) -> None:
    database.execute(INSERT, ("before",))
    end_session(postgres, database)
    calls: list[Callable[[], object]] = [
        lambda: database.rows("SELECT 1"),
        lambda: database.execute(INSERT, ("after",)),
        lambda: database.insert(INSERT, ("after",)),
        lambda: database.execute_many("DELETE FROM run WHERE id = ?", [(1,)]),
        lambda: database.transaction().__enter__(),
    ]
    said = set()
    for call in calls:
        with pytest.raises(StateUnusable) as caught:
            call()
        said.add(str(caught.value))
    (one,) = said
    assert "the session is lost, and its locks with it: terminating connection due to administrator command" in one
    assert str(database.damage()) == one


def test_a_crash_of_the_server_undoes_the_transaction_and_keeps_what_was_committed(
    postgres: PostgresServer, url: str, database: PostgresqlDatabase
) -> None:
    database.execute(INSERT, ("before",))

    def crash() -> None:
        with database.transaction():
            database.execute(INSERT, ("inside",))
            postgres.kill()
            database.execute(INSERT, ("after",))

    with pytest.raises(StateUnusable, match="the session is lost"):
        crash()
    postgres.start()
    with pytest.raises(StateUnusable, match="the session is lost"):
        database.rows("SELECT 1")
    with PostgresqlDatabase(url, "test") as again:
        assert again.rows("SELECT command FROM run") == [("before",)]


def test_a_server_that_hangs_is_given_up(
    url: str, database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((backend,),) = database.rows("SELECT pg_backend_pid()")
    monkeypatch.setattr(postgresql, "ANSWER_SECONDS", 1.0)
    assert database.rows("SELECT count(*) FROM pg_sleep(0.1)") == [(1,)]
    os.kill(backend, signal.SIGSTOP)
    try:
        with pytest.raises(StateUnusable, match=r"the session is lost.*: no answer within 1s"):
            database.execute(INSERT, ("x",))
        with pytest.raises(StateUnusable, match=r"no answer within 1s"):
            database.rows("SELECT 1")
    finally:
        os.kill(backend, signal.SIGCONT)
    monkeypatch.undo()
    with PostgresqlDatabase(url, "test") as again:
        assert again.rows("SELECT count(*) FROM run") == [(0,)]


def test_a_writer_waits_only_so_long_for_another(
    url: str, database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql._SETTINGS, "lock_timeout", "100ms")
    with PostgresqlDatabase(url, "test") as hasty:
        with database.transaction(), pytest.raises(StateUnusable, match="due to lock timeout"):
            hasty.execute(INSERT, ("x",))
        hasty.execute(INSERT, ("y",))
    assert database.rows("SELECT command FROM run") == [("y",)]


def test_a_process_that_stops_inside_a_transaction_holds_up_nobody_for_ever(
    url: str, database: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgresql._SETTINGS, "idle_in_transaction_session_timeout", "700ms")
    stopped = PostgresqlDatabase(url, "test")
    began = time.monotonic()

    def stop() -> None:
        with stopped.transaction():
            stopped.execute(INSERT, ("stopped",))
            database.execute(INSERT, ("other",))

    with pytest.raises(StateUnusable, match=r"the session is lost.*idle-in-transaction timeout"):
        stop()
    assert time.monotonic() - began < 15
    stopped.close()
    assert database.rows("SELECT command FROM run") == [("other",)]


def test_a_transaction_that_goes_on_after_a_fault_is_not_taken_for_committed(database: PostgresqlDatabase) -> None:
    def careless() -> None:
        with database.transaction():
            database.execute(INSERT, ("x",))
            with pytest.raises(StateUnusable, match="nowhere"):
                database.execute("DELETE FROM nowhere")

    with pytest.raises(StateUnusable, match="nothing of it was kept"):
        careless()
    assert database.rows("SELECT * FROM run") == []
    database.execute(INSERT, ("y",))
    assert database.rows("SELECT command FROM run") == [("y",)]
