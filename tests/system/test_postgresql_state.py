"""The command line with its state in PostgreSQL: alone, beside a second manager, and when the database or the process
dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from kill_nine import FAULT_POINTS, KillNine, Scene, many, spread
from postgres_server import PostgresServer
from site_of_sshd import CONTENT, MakeSite, Site, end, outcomes

from cftools.state.locks import Holder
from cftools.state.postgresql import PostgresqlDatabase
from cftools.state.postgresql_locks import PostgresqlLocks

pytestmark = pytest.mark.system

SECONDS = 30.0
SHORT: dict[str, dict[str, Any]] = {"guards": {"percent_from": 1000}, "heartbeat": {"interval": "60s"}}


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def journal(url: str) -> list[tuple[str, str, str]]:
    """Server, name and state of each row."""
    return [(server, name, state) for server, name, state in rows(url, "SELECT server, name, state FROM journal")]


def duplicates(site: Site, count: int) -> list[str]:
    """Files that stand on the origin and on two destinations."""
    names = [f"d{number}.mpg" for number in range(count)]
    for name in names:
        site.put(name, "src1", "dest1", "dest2")
    return names


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.fresh_database()


@pytest.fixture
def site(make_site: MakeSite, url: str) -> Site:
    """Two sources, two destinations, and nothing on them yet; its state is in PostgreSQL."""
    site = make_site(sources=2, destinations=2)
    site.server_keys = {name: {"capacity": "1MB"} for name in site.destinations}
    site.configure(state={"url": url}, **SHORT)
    site.start()
    return site


@contextmanager
def held_at(site: Site, point: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that waits at the point inside the block, and goes on after it."""
    log = site.folder / "points.log"
    hold = log.with_name(log.name + ".hold")
    hold.touch()
    path = os.pathsep.join([str(FAULT_POINTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"PYTHONPATH": path, "FAULT_LOG": str(log), "FAULT_HOLD": point}
    pipe = subprocess.PIPE
    process = subprocess.Popen(site.command(*words), env=os.environ | more, stdout=pipe, stderr=pipe)
    late = time.monotonic() + SECONDS
    try:
        while not log.exists() or point not in log.read_text().splitlines():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < late, log.read_text()
            time.sleep(0.01)
        yield process
    except BaseException:
        process.kill()
        process.communicate()
        raise
    finally:
        hold.unlink()


def test_a_cycle_keeps_its_state_in_the_database_and_its_locks_too(site: Site, url: str) -> None:
    names = duplicates(site, 3)
    site.put("wanted.mpg", "src1")
    site.write_inputs({"wanted.mpg": [], **{name: ["dest1", "dest2"] for name in names}})
    with held_at(site, "remote opening dest1 unlink #1", "cycle", "--apply") as process:
        held = {row["lock"]: (row["command"], row["pid"]) for row in site.run("locks")}
        assert held["deletion"] == ("cycle", process.pid)
        site.run("cycle", "--apply", expect=75)
        assert site.talk.startswith(f"cftools: lock job-cycle is held by cycle on {os.uname().nodename}, pid ")
    out, talk = process.communicate(timeout=SECONDS)
    assert (process.returncode, talk) == (0, b"")
    done = outcomes([json.loads(line) for line in out.splitlines()])
    assert sorted(done[:3]) == [("dest1", name, "done") for name in names]
    assert sorted(journal(url)) == sorted(done)
    assert site.run("locks") == []
    # The history still tells of the copies that went: they are gone already, and nothing else goes.
    assert {state for _, _, state in outcomes(site.run("dedup", "--apply"))} == {"already"}
    assert not (site.folder / "state").exists()


def test_two_managers_do_nothing_twice(site: Site, url: str) -> None:
    names = duplicates(site, 8)
    wanted = [f"w{number}.mpg" for number in range(6)]
    for name in wanted:
        site.put(name, "src1", "src2")
    site.write_inputs({name: [] for name in wanted} | {name: ["dest1", "dest2"] for name in names})
    config = json.loads((site.folder / "cftools.yaml").read_text())
    config["state"]["directory"] = "second"
    second = site.folder / "second.yaml"
    second.write_text(json.dumps(config))
    commands = [
        [sys.executable, "-m", "cftools", "--config", str(manager), *words]
        for words in (["dedup", "--apply"], ["distribute"])
        for manager in (site.folder / "cftools.yaml", second)
    ]
    running = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for command in commands
    ]
    ended = [(process.communicate(timeout=60), process.returncode) for process in running]
    assert {code for _, code in ended} <= {0, 75}, ended
    assert 0 in {code for _, code in ended}
    site.run("cycle", "--apply")
    done = Counter((server, name) for server, name, state in journal(url) if state == "done")
    assert {name for _, name in done} == {*names, *wanted}
    assert set(done.values()) == {1}
    assert all(len(site.holders(name)) == 2 for name in names), "the origin and one destination"
    assert all(len(site.holders(name)) == 3 for name in wanted), "both sources and one destination"
    assert {state for _, _, state in journal(url)} <= {"done", "already", "skipped", "refused"}


@pytest.mark.parametrize(
    ("point", "deleted"),
    [
        ("remote opening dest2 stat #1", 0),
        ("remote opening dest1 unlink #1", 3),
        ("remote answered dest1 unlink #1", 3),
    ],
)
def test_a_database_that_dies_in_the_middle_ends_the_run_and_the_next_one_finishes(
    site: Site, url: str, postgres: PostgresServer, point: str, deleted: int
) -> None:
    names = duplicates(site, 3)
    site.write_inputs({name: ["dest1", "dest2"] for name in names})
    with held_at(site, point, "dedup", "--apply") as process:
        postgres.kill()
    out, talk = process.communicate(timeout=SECONDS)
    assert process.returncode == 70, talk
    (line,) = talk.decode().splitlines()
    assert line.startswith(f"cftools: {url}: state database unusable: the session is lost, and its locks with it: ")
    assert b'"kind":"end"' not in out.replace(b" ", b"")
    gone = {name for name in names if site.holders(name) == ["src1", "dest2"]}
    assert len(gone) == deleted
    site.run("dedup", "--apply", expect=69)
    assert site.talk.startswith(f"cftools: {url}: state database cannot be reached: ")
    postgres.start()
    assert {(server, name) for server, name, _ in journal(url)} >= {("dest1", name) for name in gone}
    assert end(site.run("dedup", "--apply"))["complete"] is True
    assert all(site.holders(name) == ["src1", "dest2"] for name in names)
    assert Counter(row for row in journal(url) if row[2] == "done") == {("dest1", name, "done"): 1 for name in names}


def test_a_killed_process_frees_its_locks(site: Site, url: str) -> None:
    names = duplicates(site, 2)
    site.write_inputs({name: ["dest1", "dest2"] for name in names})
    with held_at(site, "remote opening dest1 unlink #1", "dedup", "--apply") as process:
        assert [row["lock"] for row in site.run("locks")] == ["deletion", "job-dedup"]
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    assert site.run("locks") == []
    assert {state for _, _, state in journal(url)} == {"intended"}
    # What was intended may still be deleted until it has expired, and is left alone so long.
    rows(url, "UPDATE journal SET expires = expires - 3600")
    site.run("dedup", "--apply")
    assert all(site.holders(name) == ["src1", "dest2"] for name in names)


class KillNineInPostgresql(KillNine):
    """The same with the state in a new database each time."""

    def __init__(self, site: Site, scene: Scene, postgres: PostgresServer) -> None:
        self._postgres, self.url = postgres, ""
        super().__init__(site, scene)

    def _reset_state(self) -> None:
        self.url = self._postgres.fresh_database()
        self.site.configure(**{**self.scene.config, "state": {"url": self.url}})

    def _held(self) -> list[Holder]:
        with PostgresqlDatabase(self.url, "test") as database:
            locks, late = PostgresqlLocks(database, "test"), time.monotonic() + SECONDS
            while (held := locks.held()) and time.monotonic() < late:
                time.sleep(0.01)  # the server hears of it in a moment
            return held

    def _change(self, statement: str) -> None:
        rows(self.url, statement)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        if rows(self.url, "SELECT to_regclass('journal')") == [(None,)]:
            return []  # killed before the first migration was committed
        return rows(self.url, query)

    def _manager_files(self) -> set[str]:
        folder = self.site.folder / "state"
        return {str(path) for path in folder.rglob("*")}


SCENES = {
    "dedup": Scene(("dedup", "--apply"), many(2, "src1", "dest1", "dest2"), SHORT, destinations=2),
    "relay": Scene(
        ("distribute",),
        {"film.mpg": (("src1",), CONTENT * 3000)},
        SHORT | {"distribute": {"via": "relay"}},
        {"dest1": "2MB", "dest2": "1MB"},
        destinations=2,
    ),
}
CHOSEN = {"dedup": 2, "relay": 1}


@pytest.mark.parametrize("name", SCENES)
def test_a_run_killed_at_a_chosen_point_is_settled_by_the_next(
    make_site: MakeSite, postgres: PostgresServer, name: str
) -> None:
    kill_nine = KillNineInPostgresql(make_site(destinations=2), SCENES[name], postgres)
    points = spread(kill_nine.points, CHOSEN[name], name)
    found = {point: kill_nine.kill(point) for point in points}
    assert {point: wrong for point, (_, wrong) in found.items() if wrong} == {}
    assert sum(killed for killed, _ in found.values()) >= 0.8 * len(points)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENES)
def test_a_run_killed_at_any_point_is_settled_by_the_next(
    make_site: MakeSite, postgres: PostgresServer, name: str
) -> None:
    kill_nine = KillNineInPostgresql(make_site(destinations=2), SCENES[name], postgres)
    found = {point: kill_nine.kill(point) for point in kill_nine.points}
    print(f"{name}: {len(found)} points, {sum(killed for killed, _ in found.values())} killed")
    assert {point: wrong for point, (_, wrong) in found.items() if wrong} == {}
