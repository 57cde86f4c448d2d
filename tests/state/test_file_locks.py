"""Locks on files: what their bodies tell, and what happens to the files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cftools.model.errors import LockHeld, StateUnusable
from cftools.state.file_locks import FileLocks
from cftools.state.locks import UNNAMED_SECONDS, Holder

SOON = 5.0  # seconds within which anything that is to happen has happened
HOLD = """
import sys
from pathlib import Path
from cftools.state.file_locks import FileLocks
with FileLocks(Path(sys.argv[1]), "dedup").hold("deletion"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path) -> FileLocks:
    return FileLocks(tmp_path / "locks", "evict")


@pytest.fixture
def held(locks: FileLocks) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock `deletion`."""
    command = [sys.executable, "-c", HOLD, str(locks.directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_body_names_the_holder_as_long_as_it_holds(locks: FileLocks) -> None:
    with locks.hold("deletion"):
        body = json.loads((locks.directory / "deletion.lock").read_text())
        assert (body["command"], body["pid"]) == ("evict", os.getpid())
    assert (locks.directory / "deletion.lock").read_bytes() == b""


def test_the_body_of_a_killed_holder_stays_and_counts_no_more(locks: FileLocks, held: subprocess.Popen[bytes]) -> None:
    held.kill()
    held.wait(SOON)
    assert b"dedup" in (locks.directory / "deletion.lock").read_bytes()
    assert locks.holder("deletion") is None


def refusal(locks: FileLocks) -> LockHeld:
    with pytest.raises(LockHeld) as caught, locks.hold("deletion"):
        pass
    return caught.value


def test_a_holder_that_has_not_yet_written_its_name_is_given_a_moment(locks: FileLocks) -> None:
    with locks.hold("deletion"):
        (locks.directory / "deletion.lock").write_bytes(b"")
        began = time.monotonic()
        said = refusal(locks)
        assert UNNAMED_SECONDS <= time.monotonic() - began < UNNAMED_SECONDS + SOON
        assert str(said) == "lock deletion is held by a process that is just starting"
        assert locks.held() == [Holder("deletion", "", "", 0, "")]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b'{"pid": 1}', b"\xff\xfe", b'{"pid":"x"}' * 999])
def test_what_stands_in_a_free_lock_file_does_not_matter(locks: FileLocks, body: bytes) -> None:
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
def test_looking_never_makes_a_hold_fail(locks: FileLocks, held: subprocess.Popen[bytes], after: str) -> None:
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


def test_the_file_of_a_run_goes_with_the_run_and_others_stay(locks: FileLocks) -> None:
    with locks.hold("run-1", remove=True), locks.hold("deletion"):
        assert sorted(path.name for path in locks.directory.iterdir()) == ["deletion.lock", "run-1.lock"]
    assert [path.name for path in locks.directory.iterdir()] == ["deletion.lock"]
    assert locks.holder("run-1") is None


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    locks = FileLocks(tmp_path / "file" / "locks", "dedup")
    with pytest.raises(StateUnusable) as caught, locks.hold("deletion"):
        pass
    assert str(caught.value) == (f"{tmp_path}/file/locks/deletion.lock: cannot open the lock file: Not a directory")
    assert locks.held() == []
