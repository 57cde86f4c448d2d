"""bulk-delete collect as a process: killed at any moment, two at once, and a database that goes away."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from fault_tools import wait_for
from kill_nine import around, spread
from outbox_shop import VARIABLE, Shop
from postgres_server import PostgresServer
from site_of_sshd import end, kinds
from stored_requests import KilledRuns, forget_all, stored

WORDS = ("bulk-delete", "collect", "--source", "shop")
WANTED = {f"album-{number}": [f"{number}/{file}.jpg" for file in range(number * 40)] for number in range(1, 5)}
REFUSED = "album-2b"


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path, postgres)
    monkeypatch.setenv(VARIABLE, shop.address)
    return shop


class Kills:
    """Collects of the same requests that are killed, each beginning with nothing taken."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._runs = KilledRuns(shop.site, WORDS)
        for key, names in WANTED.items():
            shop.ask(key, names)
        shop.ask(REFUSED, ["../etc/passwd"])
        shop.site.run("bulk-delete", "status")  # migrations that are killed have tests of their own
        began = time.monotonic()
        assert self._runs.run(expect=1) == 1
        self.seconds = time.monotonic() - began
        self.points = self._runs.points()
        self.killed, self.wrong = 0, list[str]()

    def at(self, points: Iterable[str]) -> None:
        """Kills a run at each of these points."""
        for point in points:
            self._begin()
            self.killed += self._runs.run(point, expect=1) != 1
            self._look(point)

    def by_chance(self, count: int, chance: random.Random) -> None:
        """Kills that many runs at any time after the first third of an undisturbed one, which is its start-up."""
        wanted = self.killed + count
        for _ in range(3 * count):
            if self.killed == wanted:
                return
            delay = self.seconds * chance.uniform(0.33, 1.0)
            self._begin()
            with self._runs.start() as process:
                time.sleep(delay)
                process.kill()
            if process.returncode == -signal.SIGKILL:
                self.killed += 1
            else:
                self.seconds = delay  # the machine has more time for it than it had
            self._look(f"after {delay:.3f} s")

    def _begin(self) -> None:
        forget_all(self._shop.site)
        self._shop.run("UPDATE bulk_delete_outbox SET taken = NULL, error = NULL")

    def _look(self, when: str) -> None:
        """After a kill each request is whole or absent, and marked only when it is there; the next run takes the rest,
        each once."""
        before = {request.key: request.names for request in stored(self._shop.site)}
        taken = {key for key, is_taken, _ in self._shop.rows() if is_taken}
        if any(names != [name.encode() for name in WANTED[key]] for key, names in before.items()):
            self.wrong.append(f"{when}: half a request")
        if not taken <= before.keys():
            self.wrong.append(f"{when}: marked before it was stored: {taken - before.keys()}")
        refused = any(error for _, _, error in self._shop.rows())
        rows = kinds(self._shop.collect(expect=0 if refused else 1), "request")
        told = {row["request"]: row["duplicate"] for row in rows}
        if told != {key: key in before for key in WANTED.keys() - taken}:
            self.wrong.append(f"{when}: the next run says {told}")
        if self._shop.files() != {key: [name.encode() for name in names] for key, names in WANTED.items()}:
            self.wrong.append(f"{when}: not all is there once")
        if [(key, taken) for key, taken, _ in self._shop.rows()] != [
            (key, key in WANTED) for key in sorted([*WANTED, REFUSED])
        ]:
            self.wrong.append(f"{when}: not every row is marked")


@pytest.mark.timeout(300)  # two dozen processes; some seconds each on a busy machine
def test_a_collect_killed_at_any_moment_takes_each_request_once(shop: Shop) -> None:
    kills = Kills(shop)
    near = around(kills.points, "outbox", "sql COMMIT")
    others = [point for point in kills.points if point not in near]
    kills.at([*spread(near, 14, "collect"), *spread(others, 6, "collect")])
    kills.by_chance(2, random.Random(4))
    assert kills.wrong == []
    assert kills.killed >= 20


@pytest.mark.sweep
@pytest.mark.timeout(900)
def test_a_collect_killed_at_a_hundred_moments_takes_each_request_once(shop: Shop) -> None:
    kills = Kills(shop)
    kills.at(kills.points)
    kills.by_chance(100, random.Random())
    print(f"{len(kills.points)} points, {kills.killed} killed")
    assert kills.wrong == []
    assert kills.killed >= 100


def test_two_at_once_take_each_request_once(shop: Shop) -> None:
    keys = [f"album-{number:03d}" for number in range(60)]
    for key in keys:
        shop.ask(key, [f"{key}/1.jpg", f"{key}/2.jpg"])
    pipe = subprocess.PIPE
    running = [subprocess.Popen(shop.site.command(*WORDS), stdout=pipe, stderr=pipe) for _ in range(2)]
    said = [process.communicate(timeout=40) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert [talk for _, talk in said] == [b"", b""]
    assert b"".join(out for out, _ in said).count(b'"kind":"request"') == len(keys)
    assert b'"duplicate":true' not in said[0][0] + said[1][0]
    assert sorted(request.key for request in stored(shop.site)) == keys
    assert shop.rows() == [(key, True, None) for key in keys]


def test_a_signal_ends_it_in_order_and_what_was_taken_stays(shop: Shop) -> None:
    for key in ("a", "b"):
        shop.ask(key, [f"{key}.jpg"])
    runs = KilledRuns(shop.site, WORDS)
    with runs.start(hold="outbox find #2") as process:
        wait_for(lambda: "outbox find #2" in runs.points())
        process.send_signal(signal.SIGTERM)
        out, talk = process.communicate(timeout=20)
    runs.release()
    assert process.returncode == 143
    assert talk == b"cftools: stopped by signal 15\n"
    assert out.count(b'"kind":"request"') == 1
    assert shop.rows() == [("a", True, None), ("b", False, None)]
    assert end(shop.collect())["counts"]["request"] == 1


def test_a_database_that_dies_in_the_middle_is_unreachable_and_the_next_run_goes_on(shop: Shop) -> None:
    for key in ("a", "b", "c"):
        shop.ask(key, [f"{key}.jpg"])
    runs = KilledRuns(shop.site, WORDS)
    with runs.start(hold="outbox find #2") as process:
        wait_for(lambda: "outbox find #2" in runs.points())
        shop.postgres.kill()
        runs.release()
        out, talk = process.communicate(timeout=20)
    assert (process.returncode, out.count(b'"kind":"request"'), talk.count(b"\n")) == (69, 1, 1)
    assert b"what was taken before stays taken" in talk
    shop.postgres.start()
    assert [row["request"] for row in kinds(shop.collect(), "request")] == ["b", "c"]
    assert [taken for _, taken, _ in shop.rows()] == [True, True, True]


def test_a_table_that_is_locked_can_be_waited_for_and_left(shop: Shop) -> None:
    shop.ask("a", ["a.jpg"])
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with shop.connected() as other:
        other.execute("LOCK TABLE bulk_delete_outbox")
        with subprocess.Popen(shop.site.command(*WORDS), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_for(lambda: shop.postgres.query(waiting))
            process.send_signal(signal.SIGINT)
            _, talk = process.communicate(timeout=10)
    assert (process.returncode, talk) == (130, b"cftools: stopped by signal 2\n")
    assert shop.rows() == [("a", False, None)]
