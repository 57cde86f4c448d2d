"""Locks between threads and between real processes, and what their files tell."""

from __future__ import annotations

import json
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

from cftools.model.errors import LockHeld, StateUnusable
from cftools.state.locks import UNNAMED_SECONDS, Holder, Locks, job_lock, run_lock, source_lock

Start = Callable[..., "subprocess.Popen[bytes]"]
SOON = 5.0  # seconds within which anything that is to happen has happened
HOLD = """
import sys
from pathlib import Path
from cftools.state.locks import Locks
with Locks(Path(sys.argv[1]), "dedup").hold("deletion"):
    print("held", flush=True)
    sys.stdin.read()
"""
TAKE_TURNS = """
import sys, time
from pathlib import Path
from cftools.state.locks import Locks
counter = Path(sys.argv[2])
locks = Locks(Path(sys.argv[1]), "test")
sys.stdin.read()
for _ in range(15):
    with locks.wait("deletion", pause=0.001):
        number = int(counter.read_text())
        time.sleep(0.001)
        counter.write_text(str(number + 1))
"""


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / "locks", "evict")


@pytest.fixture
def held(locks: Locks, other_process: Start) -> subprocess.Popen[bytes]:
    """Another process that holds the lock `deletion`."""
    process = other_process(HOLD, locks.directory)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


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
        assert json.loads((locks.directory / "deletion.lock").read_text())["pid"] == os.getpid()
    assert locks.holder("deletion") is None
    assert (locks.directory / "deletion.lock").read_bytes() == b""


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
    assert locks.holder("deletion") is None
    with locks.hold("deletion"):
        assert locks.holder("deletion") is not None


def test_a_killed_process_frees_its_lock_at_once(locks: Locks, held: subprocess.Popen[bytes]) -> None:
    held.send_signal(signal.SIGKILL)
    held.wait(SOON)
    assert b"dedup" in (locks.directory / "deletion.lock").read_bytes()
    assert locks.holder("deletion") is None
    assert locks.held() == []
    began = time.monotonic()
    with locks.hold("deletion"):
        holder = locks.holder("deletion")
    assert time.monotonic() - began < 0.2
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
    locks: Locks, other_process: Start, tmp_path: Path
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [other_process(TAKE_TURNS, locks.directory, counter) for _ in range(3)]

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


def test_a_holder_that_has_not_yet_written_its_name_is_given_a_moment(locks: Locks) -> None:
    with locks.hold("deletion"):
        (locks.directory / "deletion.lock").write_bytes(b"")
        began = time.monotonic()
        said = refusal(locks)
        assert UNNAMED_SECONDS <= time.monotonic() - began < UNNAMED_SECONDS + SOON
        assert str(said) == "lock deletion is held by a process that is just starting"
        assert locks.held() == [Holder("deletion", "", "", 0, "")]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"pid": 1}', b"\xff\xfe", b'{"pid":"x"}' * 999])
def test_what_stands_in_a_free_lock_file_does_not_matter(locks: Locks, body: bytes) -> None:
    locks.directory.mkdir()
    (locks.directory / "deletion.lock").write_bytes(body)
    assert locks.holder("deletion") is None
    with locks.hold("deletion"):
        holder = locks.holder("deletion")
        (locks.directory / "deletion.lock").write_bytes(body)
        assert locks.holder("deletion") == Holder("deletion", "", "", 0, "")
    assert holder is not None
    assert holder.pid == os.getpid()


@pytest.mark.parametrize("after", ["an orderly end", "a kill"])
def test_looking_never_makes_a_hold_fail(locks: Locks, held: subprocess.Popen[bytes], after: str) -> None:
    # After a kill the name of the dead holder still stands in the file.
    if after == "a kill":
        held.kill()
    held.communicate(timeout=SOON)
    body = (locks.directory / "deletion.lock").read_bytes()
    assert bool(body) == (after == "a kill")
    over = threading.Event()

    def look() -> int:
        looks = 0
        while not over.is_set():
            locks.held()
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as pool:
        looking = [pool.submit(look) for _ in range(3)]
        try:
            for _ in range(300):
                with locks.hold("deletion"):
                    pass
                (locks.directory / "deletion.lock").write_bytes(body)
        finally:
            over.set()
        assert all(one.result(SOON) > 20 for one in looking)


def test_every_held_lock_is_listed_by_name(locks: Locks) -> None:
    assert locks.held() == []
    names = [job_lock("cycle"), run_lock(7), source_lock("src1")]
    with locks.hold(names[0]), locks.hold(names[1]), locks.hold(names[2]), locks.hold("freed"):
        pass
    with locks.hold(names[0]), locks.hold(names[1]), locks.hold(names[2]):
        assert [one.lock for one in locks.held()] == ["job-cycle", "run-7", "source-src1"]
    assert locks.held() == []


def test_the_file_of_a_run_goes_with_the_run_and_others_stay(locks: Locks) -> None:
    with locks.hold("run-1", remove=True), locks.hold("deletion"):
        assert sorted(path.name for path in locks.directory.iterdir()) == ["deletion.lock", "run-1.lock"]
    assert [path.name for path in locks.directory.iterdir()] == ["deletion.lock"]
    assert locks.holder("run-1") is None


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


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    locks = Locks(tmp_path / "file" / "locks", "dedup")
    with pytest.raises(StateUnusable) as caught, locks.hold("deletion"):
        pass
    assert str(caught.value) == (f"{tmp_path}/file/locks/deletion.lock: cannot open the lock file: Not a directory")
    assert locks.held() == []
