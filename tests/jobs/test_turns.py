"""Turns of the deletion lock: shared by the workers of a process, and given away in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cftools.jobs import turns
from cftools.jobs.job import Job
from cftools.jobs.turns import SharedTurn
from cftools.model.errors import LockHeld
from cftools.state.file_locks import FileLocks
from cftools.state.locks import DELETION


class Turns:
    """A shared turn, how often it was settled, and another process that wants the lock."""

    def __init__(self, folder: Path) -> None:
        self.settled = 0
        self.ended = False
        self.settle: Callable[[], object] = lambda: None
        self.other = FileLocks(folder, "dedup")
        job = cast(Job, SimpleNamespace(locks=FileLocks(folder, "bulk-delete drain")))
        self.turn = SharedTurn(job, self._settle, lambda: self.ended)

    def _settle(self) -> None:
        assert self.is_held(), "nobody deletes anything while it is settled"
        self.settled += 1
        self.settle()

    def is_held(self) -> bool:
        return self.other.holder(DELETION) is not None

    @contextmanager
    def workers(self, count: int, seconds: float = 0.02) -> Iterator[None]:
        """So many workers that delete without a pause."""
        done = threading.Event()

        def work() -> None:
            while not done.is_set():
                with self.turn.join():
                    assert self.is_held()
                    time.sleep(seconds)

        with ThreadPoolExecutor(count) as pool:
            every = [pool.submit(work) for _ in range(count)]
            try:
                yield
            finally:
                done.set()
            for one in every:
                one.result(10)


@pytest.fixture
def made(tmp_path: Path) -> Turns:
    return Turns(tmp_path / "locks")


def test_workers_are_in_one_turn_at_once_which_is_settled_once_and_ends_with_the_last(made: Turns) -> None:
    both = threading.Barrier(2)

    def work() -> None:
        with made.turn.join():
            both.wait(10)
            assert made.is_held()

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(work) for _ in range(2)]:
            one.result(10)
    assert made.settled == 1
    assert not made.is_held()


def test_nobody_deletes_before_the_turn_is_settled(made: Turns) -> None:
    entered: list[int] = []

    def settle() -> None:
        time.sleep(0.2)
        entered.append(0)

    made.settle = settle

    def work() -> None:
        with made.turn.join():
            entered.append(1)

    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(work) for _ in range(3)]:
            one.result(10)
    assert entered[0] == 0
    assert entered.count(1) == 3


@pytest.mark.parametrize("count", [1, 3])
def test_others_get_the_lock_in_time_though_the_workers_go_on(
    made: Turns, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.4)
    with made.workers(count):
        for _ in range(3):
            began = time.monotonic()
            with made.other.wait(DELETION, lambda began=began: time.monotonic() > began + 10):  # type: ignore[misc]
                assert time.monotonic() - began < 0.4 + turns.PAUSE_SECONDS + 2
                before = made.settled
            deadline = time.monotonic() + 10
            while made.settled == before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert made.settled > before, "the workers go on after it, and look first"


def test_the_workers_share_a_turn_for_which_they_had_to_wait_long(made: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.3)
    both = threading.Barrier(2)

    def work() -> None:
        with made.turn.join():
            both.wait(10)  # broken when the second is not let in as long as the first is

    with ThreadPoolExecutor(2) as pool:
        with made.other.hold(DELETION):
            every = [pool.submit(work) for _ in range(2)]
            time.sleep(0.5)
            assert not any(one.done() for one in every)
        for one in every:
            one.result(15)


def test_who_waits_is_told_when_it_ended_and_leaves_nothing_behind(made: Turns) -> None:
    with made.other.hold(DELETION), ThreadPoolExecutor(2) as pool:
        every = [pool.submit(made.turn.join().__enter__) for _ in range(2)]
        time.sleep(0.1)
        assert not any(one.done() for one in every)
        made.ended = True
        for one in every:
            with pytest.raises(LockHeld, match="dedup"):
                one.result(10)
    assert made.settled == 0
    made.ended = False
    with made.turn.join():
        assert made.is_held()
    assert not made.is_held()


def test_a_fault_while_it_is_settled_frees_the_lock_and_the_next_one_tries_again(made: Turns) -> None:
    def broken() -> None:
        raise OSError("the disk is full")

    made.settle = broken
    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(made.turn.join().__enter__) for _ in range(3)]:
            with pytest.raises(OSError, match="the disk is full"):
                one.result(10)
    assert not made.is_held()
    assert made.settled == 3
    made.settle = lambda: None
    with made.turn.join():
        assert made.is_held()
    assert made.settled == 4


def test_a_fault_of_a_worker_ends_its_part_of_the_turn(made: Turns) -> None:
    with pytest.raises(OSError, match="mine"), made.turn.join():
        raise OSError("mine")
    assert not made.is_held()
    with made.turn.join():
        assert made.is_held()
