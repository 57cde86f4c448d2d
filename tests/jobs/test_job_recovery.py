"""What dead processes left behind, and signals that arrive in and between steps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from local_node import CONTENT, SIZE, put, raising
from local_site import LocalSite
from site_of_sshd import end, kinds, outcomes

from cftools.jobs.stop import StopFlag
from cftools.model.errors import LockHeld, Stopped
from cftools.model.rows import Copy
from cftools.remote.transport import RemoteFault
from cftools.state import runs, tasks
from cftools.state.file_locks import FileLocks
from cftools.state.sqlite import SqliteDatabase


def site_with_task(tmp_path: Path, *, working: bool) -> LocalSite:
    """A node whose one copy, of a.mpg from src1 to dest1, was accepted (and begun) by a run that is gone."""
    site = LocalSite(tmp_path, destinations=2)
    site.configure(distribute={"via": "relay"})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    with SqliteDatabase(site.folder / "state" / "state.db") as database:
        run = runs.begin(database, "distribute", time.time())
        row = Copy("1", "a.mpg", SIZE, "src1", str(site.root("src1") / "a.mpg"), "dest1", 1, 0, "rank")
        (task,) = tasks.accept(database, run, [row], time.time())
        if working:
            assert tasks.start(database, run, task, time.time())
    return site


def ended(site: LocalSite) -> list[tuple[str, str]]:
    with SqliteDatabase(site.folder / "state" / "state.db") as database:
        assert database.rows("SELECT count(*) FROM journal WHERE state = 'intended'") == [(0,)]
        return database.rows("SELECT state, detail FROM task ORDER BY id")


def test_a_copy_whose_process_died_is_failed_and_made_again(tmp_path: Path) -> None:
    site = site_with_task(tmp_path, working=True)
    put(site.root("dest1"), ".cftools-part-1/a.mpg", CONTENT[:5])
    assert [row[1:] for row in outcomes(site.run("distribute"))] == [("a.mpg", "done")]
    assert ended(site) == [("failed", "its run died; what arrived is kept"), ("done", "")]


def test_a_copy_that_became_visible_before_its_process_died_is_done(tmp_path: Path) -> None:
    site = site_with_task(tmp_path, working=True)
    site.put("a.mpg", "dest1")
    assert outcomes(site.run("distribute")) == []
    assert ended(site) == [("done", "its run died; the file is there")]


def test_a_copy_that_waited_for_a_process_that_died_is_cancelled_and_planned_again(tmp_path: Path) -> None:
    site = site_with_task(tmp_path, working=False)
    assert [row[1:] for row in outcomes(site.run("distribute"))] == [("a.mpg", "done")]
    assert ended(site) == [("cancelled", "its run ended"), ("done", "")]


def test_a_copy_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    site = site_with_task(tmp_path, working=True)
    with FileLocks(site.folder / "state" / "locks", "distribute").hold("source-src1"):
        assert kinds(site.run("plan-distribute"), "copy") == []
        site.run("distribute", expect=75)
        rows = site.run("cycle", "--apply")
        assert kinds(rows, "outcome") == []
    with SqliteDatabase(site.folder / "state" / "state.db") as database:
        assert database.rows("SELECT state FROM task") == [("working",)]


@pytest.mark.parametrize("server", ["src1", "dest1", "dest2"])
def test_heartbeat_releases_the_copies_of_the_servers_that_fail_and_no_others(tmp_path: Path, server: str) -> None:
    site = site_with_task(tmp_path, working=True)
    site.wires[server].before = raising(RemoteFault(server, "unreachable", "no route"), "heartbeat")
    rows = site.run("heartbeat", expect=1)
    released = server != "dest2"
    assert end(rows)["counts"] == {"heartbeat": 3, "failed": 1, "released": int(released)}
    with SqliteDatabase(site.folder / "state" / "state.db") as database:
        assert database.rows("SELECT state FROM task") == [("cancelled" if released else "working",)]
    assert f"{server}: no heartbeat: no route" in site.talk


def test_a_server_whose_heartbeat_failed_gets_no_copies_until_it_answers_again(tmp_path: Path) -> None:
    site = LocalSite(tmp_path, destinations=1)
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.run("inventory")
    listing = tmp_path / "inventory.rows"
    listing.write_bytes(site.output)
    site.wires["dest1"].before = raising(RemoteFault("dest1", "unreachable", "no route"), "heartbeat")
    site.run("heartbeat", expect=1)
    assert kinds(site.run("plan-distribute", "--inventory", str(listing)), "copy") == []
    site.wires["dest1"].before = lambda _: None
    site.run("heartbeat")
    assert len(kinds(site.run("plan-distribute", "--inventory", str(listing)), "copy")) == 1


def test_heartbeat_of_a_node_that_is_all_dead_exits_69_after_its_rows(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    for name, wire in site.wires.items():
        wire.before = raising(RemoteFault(name, "unreachable", "no route"), "heartbeat")
    rows = site.run("heartbeat", expect=69)
    assert [row["ok"] for row in kinds(rows, "heartbeat")] == [False] * 4
    assert site.talk.endswith("cftools: no server answered\n")


@pytest.fixture
def flag() -> StopFlag:
    return StopFlag()


def two_steps(flag: StopFlag, done: list[str]) -> None:
    with flag.step():
        with flag.step():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("inner")
        done.append("outer")
    done.append("after")


def test_a_signal_inside_a_step_takes_effect_when_the_step_is_over(flag: StopFlag) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    flag.install()
    done: list[str] = []
    try:
        with pytest.raises(Stopped) as stopped:
            two_steps(flag, done)
        assert (stopped.value.exit_code, done, flag.is_set()) == (143, ["inner", "outer"], True)
        os.kill(os.getpid(), signal.SIGINT)  # it must not cut short what the first one made the job do
        with pytest.raises(Stopped) as stopped:
            flag.check()
        assert stopped.value.exit_code == 143
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_fault_inside_a_step_is_not_hidden_by_the_step(flag: StopFlag) -> None:
    with pytest.raises(ValueError, match="what went wrong"), flag.step():
        raise ValueError("what went wrong")
    flag.check()
    assert flag.wait(0) is False


def _give_a_lock_up() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    raise LockHeld("deletion")


def test_a_lock_that_was_given_up_for_a_signal_ends_with_the_signal(flag: StopFlag) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    flag.install()
    try:
        with pytest.raises(Stopped) as ended, flag.step():
            _give_a_lock_up()
        assert ended.value.exit_code == 143
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
