"""Locks between threads and between real processes, whichever back end keeps them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from state_back_ends import BackEnd

from cftools.model.errors import LockHeld
from cftools.state.locks import UNNAMED_SECONDS, Locks, job_lock, run_lock, source_lock

Start = Callable[..., "subprocess.Popen[bytes]"]
SOON = 5.0  # seconds within which anything that is to happen has happened
HOLD = """
import sys
from state_back_ends import BackEnd
with BackEnd(sys.argv[1]).locks("dedup").hold("deletion"):
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE_TURNS = """
import sys, time
from pathlib import Path
from state_back_ends import BackEnd
counter = Path(sys.argv[2])
locks = BackEnd(sys.argv[1]).locks("test")
print("ready", flush=True)
sys.stdin.read()
for _ in range(15):
    with locks.wait("deletion", pause=0.001):
        number = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(number + 1))
"""


@pytest.fixture
def locks(back_end: BackEnd) -> Locks:
    return back_end.locks("evict")


@pytest.fixture
def held(back_end: BackEnd, locks: Locks, other_process: Start) -> subprocess.Popen[bytes]:
    """Another process that holds the lock `deletion`."""
    del locks  # a state that is made by one process at a time is made faster
    process = other_process(HOLD, back_end.place)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def wait_until_free(locks: Locks) -> None:
    """A kernel frees the locks of a process that ended at once; a server hears of it in a moment."""
    late = time.monotonic() + SOON
    while locks.holder("deletion") is not None:
        assert time.monotonic() < late
        time.sleep(0.01)


def refusal(locks: Locks, name: str = "deletion") -> LockHeld:
    with pytest.raises(LockHeld) as caught, locks.hold(name):
        pass
    return caught.value


def test_the_holder_is_named_while_it_holds_and_not_after(locks: Locks) -> None:
    assert locks.holder("deletion") is None
    with locks.hold("deletion"):
        holder = locks.holder("deletion")
        assert holder is not None
        assert holder[:4] == ("deletion", "evict", socket.gethostname(), os.getpid())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", holder.since)
    assert locks.holder("deletion") is None


def test_a_lock_of_another_process_is_refused_at_once_with_its_holder(
    locks: Locks, held: subprocess.Popen[bytes]
) -> None:
    began = time.monotonic()
    said = refusal(locks)
    assert time.monotonic() - began < UNNAMED_SECONDS
    assert (said.exit_code, said.command, said.host, said.pid) == (75, "dedup", socket.gethostname(), held.pid)
    assert str(said) == f"lock deletion is held by dedup on {said.host}, pid {held.pid}, since {said.since}"
    with locks.hold("another"):
        pass


def test_a_lock_is_free_when_its_process_ended_in_order(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    held.communicate(timeout=SOON)
    wait_until_free(locks)
    with locks.hold("deletion"):
        assert locks.holder("deletion") is not None


def test_a_killed_process_frees_its_lock_at_once(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    held.send_signal(signal.SIGKILL)
    held.wait(SOON)
    wait_until_free(locks)
    assert locks.held() == []
    began = time.monotonic()
    with locks.hold("deletion"):
        holder = locks.holder("deletion")
    assert time.monotonic() - began < UNNAMED_SECONDS
    assert holder is not None
    assert holder.command == "evict"


def test_a_stopped_process_keeps_its_lock(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    held.send_signal(signal.SIGSTOP)
    assert refusal(locks).pid == held.pid


def test_threads_exclude_each_other_like_processes(locks: Locks) -> None:
    with locks.hold("deletion"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(refusal, locks).result(SOON).pid == os.getpid()


def test_waiting_gets_the_lock_when_its_holder_is_killed(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    timer = threading.Timer(0.2, held.kill)
    began = time.monotonic()
    timer.start()
    with locks.wait("deletion", pause=0.01):
        assert 0.15 < time.monotonic() - began < SOON
    timer.join()


def test_waiting_ends_when_it_is_told_to(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    asked = iter([False, False, True])
    with pytest.raises(LockHeld) as caught, locks.wait("deletion", lambda: next(asked), 0.01):
        pass
    assert caught.value.pid == held.pid
    assert next(asked, "all asked") == "all asked"


def test_processes_and_threads_that_wait_all_get_their_turn_alone(
    back_end: BackEnd, locks: Locks, other_process: Start, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [other_process(TAKE_TURNS, back_end.place, counter) for _ in range(3)]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"

    def count() -> None:
        for _ in range(15):
            with locks.wait("deletion", pause=0.001):
                number = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(number + 1))

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(count) for _ in range(2)]
        talk = [process.communicate(timeout=30) for process in processes]
        for one in done:
            one.result(30)
    assert talk == [(b"", b"")] * 3
    assert counter.read_text() == str(5 * 15)


def test_every_held_lock_is_listed_by_name(locks: Locks) -> None:
    assert locks.held() == []
    names = [job_lock("cycle"), run_lock(7), source_lock("src1")]
    with locks.hold(names[0]), locks.hold(names[1]), locks.hold(names[2]), locks.hold("freed"):
        pass
    with locks.hold(names[0]), locks.hold(names[1]), locks.hold(names[2]):
        assert [one.lock for one in locks.held()] == ["job-cycle", "run-7", "source-src1"]
    assert locks.held() == []


def test_a_lock_is_freed_when_its_block_fails(locks: Locks) -> None:
    for take in (locks.hold, locks.wait):
        with pytest.raises(KeyError), take("deletion"):
            raise KeyError
        assert locks.holder("deletion") is None


def test_a_command_that_is_started_while_a_lock_is_held_does_not_keep_it(locks: Locks) -> None:
    with locks.hold("deletion"):
        child = subprocess.Popen(["sleep", "30"])
    try:
        assert locks.holder("deletion") is None
        with locks.hold("deletion"):
            assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_clearing_leaves_locks_that_are_held_and_those_of_other_names(back_end: BackEnd, locks: Locks) -> None:
    other = back_end.locks("distribute")
    with locks.hold("run-1", remove=True), other.hold("run-2"), locks.hold("deletion"):
        locks.clear(run_lock("*"))
        other.clear(run_lock("*"))
        assert [one.lock for one in locks.held()] == ["deletion", "run-1", "run-2"]
        assert refusal(other, "run-1").command == "evict"
        assert refusal(locks, "run-2").command == "distribute"
    assert other.held() == []
    with other.hold("run-1"), locks.hold("run-2"):
        assert [one.command for one in locks.held()] == ["distribute", "evict"]


def test_looking_never_makes_a_lock_seem_held(back_end: BackEnd, locks: Locks) -> None:
    over = threading.Event()

    def look(looker: Locks) -> int:
        looks = 0
        while not over.is_set():
            looker.held()
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look, looker) for looker in (locks, back_end.locks("looker"))]
        try:
            for _ in range(100):
                with locks.hold("deletion"):
                    pass
        finally:
            over.set()
        assert all(one.result(SOON) > 5 for one in looking)
