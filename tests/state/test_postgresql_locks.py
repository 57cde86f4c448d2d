"""Locks in PostgreSQL: what becomes of them when their session is lost, and what the table of holders tells."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import psycopg
import pytest
from postgres_server import PostgresServer

from cftools.model.errors import LockHeld, StateUnusable
from cftools.state.locks import UNNAMED_SECONDS, Holder
from cftools.state.postgresql import PostgresqlDatabase, lock_key
from cftools.state.postgresql_locks import PostgresqlLocks


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.fresh_database()


@pytest.fixture
def database(url: str) -> Iterator[PostgresqlDatabase]:
    with PostgresqlDatabase(url, "test") as opened:
        yield opened


@pytest.fixture
def locks(database: PostgresqlDatabase) -> PostgresqlLocks:
    return PostgresqlLocks(database, "dedup")


@pytest.fixture
def others(url: str, database: PostgresqlDatabase) -> Iterator[PostgresqlLocks]:
    del database  # made first
    with PostgresqlDatabase(url, "test") as opened:
        yield PostgresqlLocks(opened, "evict")


def end_session(postgres: PostgresServer, database: PostgresqlDatabase) -> None:
    ((backend,),) = database.rows("SELECT pg_backend_pid()")
    assert postgres.query(f"SELECT pg_terminate_backend({backend}, 5000)") == [(True,)]


def test_whoever_loses_a_lock_with_its_session_can_write_nothing_any_more(
    postgres: PostgresServer, database: PostgresqlDatabase, locks: PostgresqlLocks, others: PostgresqlLocks
) -> None:
    with locks.hold("deletion"):
        with pytest.raises(LockHeld), others.hold("deletion"):
            pass
        end_session(postgres, database)
        with others.hold("deletion"):
            assert others.held()[0].command == "evict"
            with pytest.raises(StateUnusable, match="the session is lost, and its locks with it"):
                database.execute("DELETE FROM run")
            with pytest.raises(StateUnusable, match="the session is lost"), locks.hold("another"):
                pass
            with pytest.raises(StateUnusable, match="the session is lost"), locks.wait("deletion"):
                pass  # a thread of the process that lost it
    assert others.held() == []


def test_leaving_a_lock_that_was_lost_hides_nothing(
    postgres: PostgresServer, database: PostgresqlDatabase, locks: PostgresqlLocks
) -> None:
    def lose() -> None:
        with locks.hold("deletion"):
            end_session(postgres, database)
            raise KeyError

    with pytest.raises(KeyError):
        lose()


def test_the_row_of_a_session_that_ended_does_not_count(url: str, others: PostgresqlLocks) -> None:
    gone = PostgresqlDatabase(url, "test")
    with PostgresqlLocks(gone, "cycle").hold("job-cycle"):
        assert [one.command for one in others.held()] == ["cycle"]
        gone.close()
        late = time.monotonic() + 5
        while others.held():
            assert time.monotonic() < late
            time.sleep(0.01)
        assert others.holder("job-cycle") is None
        assert others._database.rows("SELECT command, pid FROM lock_holder") == [("cycle", os.getpid())]


def test_a_holder_that_has_not_yet_written_its_name_is_given_a_moment(url: str, others: PostgresqlLocks) -> None:
    with others.hold("deletion"):
        pass
    with psycopg.connect(url, autocommit=True) as raw:
        raw.execute("SELECT pg_advisory_lock(%s)", (lock_key("lock", "deletion"),))
        assert others.held() == [Holder("deletion")]
        began = time.monotonic()
        with pytest.raises(LockHeld, match="held by a process that is just starting"), others.hold("deletion"):
            pass
        assert time.monotonic() - began >= UNNAMED_SECONDS


def test_locks_of_other_databases_and_other_users_of_advisory_locks_are_not_ours(
    postgres: PostgresServer, url: str, locks: PostgresqlLocks
) -> None:
    with PostgresqlDatabase(postgres.fresh_database(), "test") as elsewhere, psycopg.connect(url) as raw:
        with PostgresqlLocks(elsewhere, "other node").hold("deletion"), locks.hold("deletion"):
            assert [one.command for one in locks.held()] == ["dedup"]
        key = lock_key("lock", "deletion")
        raw.execute(
            "SELECT pg_advisory_xact_lock(%s), pg_advisory_xact_lock(%s::int, %s::int)",
            (key + 1, key >> 32, ((key & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000),
        )
        assert locks.held() == []
        with locks.hold("deletion"):
            assert len(locks.held()) == 1


def test_a_crash_of_the_server_frees_every_lock(postgres: PostgresServer, url: str, locks: PostgresqlLocks) -> None:
    with locks.hold("deletion"):
        postgres.kill()
        postgres.start()
        with PostgresqlDatabase(url, "test") as again:
            assert PostgresqlLocks(again, "evict").held() == []
            with PostgresqlLocks(again, "evict").hold("deletion"):
                assert [one.command for one in PostgresqlLocks(again, "x").held()] == ["evict"]


def test_a_lock_is_not_kept_in_a_transaction_and_waits_for_none(
    database: PostgresqlDatabase, others: PostgresqlLocks
) -> None:
    with database.transaction():
        database.execute("DELETE FROM run")
        with others.hold("deletion"):
            assert [one.lock for one in others.held()] == ["deletion"]
