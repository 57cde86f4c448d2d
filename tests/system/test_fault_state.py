"""A state database that is locked, damaged, lost, or has no room: one line, exit 70, nothing deleted without its row,
and the next run does the work once it is mended."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from faults import Ended, duplicates, ended, gone, held, journal, run, start, state_file, wait_for
from site_of_sshd import MakeSite, Site, kinds

from cftools.model.errors import StateUnusable
from cftools.state.file_locks import FileLocks

pytestmark = pytest.mark.system

COUNT = 4
DEDUP = ("dedup", "--apply")
UNWRITABLE = "/proc"  # a folder in which nobody, not even root, can make a file


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """dest1 and dest2 hold duplicates of what dest3 keeps; a batch for each."""
    site = make_site()
    site.configure(delete={"batch": 1}, guards={"percent_from": 1000}, distribute={"via": "relay"})
    site.write_inputs(duplicates(site, COUNT))
    site.start()
    return site


def names(site: Site) -> list[str]:
    return sorted(path.name for path in site.root("src1").glob("f*.mpg"))


def refused_in_one_line(site: Site, done: Ended, why: str) -> None:
    """The state could not be used: told in one line, and no lock is left."""
    assert done.code == 70, done.talk
    assert done.talk.count("\n") == 1, done.talk
    assert done.talk.startswith(f"cftools: {site.folder / 'state'}")
    assert why in done.talk
    assert kinds(done.rows, "end") == []
    if (site.folder / "state" / "locks").is_dir():
        assert held(site) == []


def has_rows_for_all_that_is_gone(site: Site) -> None:
    told = {(row.server, row.name) for row in journal(site) if row.state in ("done", "intended")}
    assert gone(site, names(site)) <= told


def does_the_work(site: Site) -> None:
    """The next run deletes every duplicate, and its journal is true."""
    assert run(site, *DEDUP).code == 0
    assert all(site.holders(name) == ["src1", "dest3"] for name in names(site))
    assert [row for row in journal(site) if row.state == "intended"] == []
    assert held(site) == []


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """Another process is in the middle of a transaction."""
    with closing(sqlite3.connect(state_file(site), isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_database_that_stays_locked_is_told_in_time_and_nothing_is_done(site: Site) -> None:
    site.put("wanted.mpg", "src1")
    run(site, "heartbeat")
    with locked(site):
        for words in (DEDUP, ("evict", "--apply"), ("cycle", "--apply"), ("distribute",), ("heartbeat",)):
            refused_in_one_line(site, run(site, *words, busy=0.2), "database is locked")
    assert gone(site, names(site)) == set()
    assert site.holders("wanted.mpg") == ["src1"]
    assert journal(site) == []
    does_the_work(site)


def test_a_database_that_gets_locked_in_the_middle_leaves_no_deletion_without_its_row(site: Site) -> None:
    process = start(site, *DEDUP, busy=0.2)
    wait_for(lambda: len(journal(site)) > 2)
    with locked(site):
        refused_in_one_line(site, ended(process), "database is locked")
        has_rows_for_all_that_is_gone(site)
    assert len(gone(site, names(site))) < 2 * COUNT
    does_the_work(site)


def test_a_database_that_is_locked_for_a_moment_is_waited_for(site: Site) -> None:
    run(site, "heartbeat")
    with locked(site):
        process = start(site, *DEDUP)
        wait_for(lambda: any("state.db" in os.path.realpath(one) for one in Path(f"/proc/{process.pid}/fd").iterdir()))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    assert ended(process).code == 0
    does_the_work(site)


def garbage(path: Path, first: int, last: int) -> None:
    with path.open("r+b") as state:
        state.seek(first)
        state.write(random.Random(3).randbytes(last - first))


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as state:
        state.execute("PRAGMA user_version = 9999")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "header": (lambda path: garbage(path, 0, 100), "file is not a database"),
    "pages": (lambda path: garbage(path, 4096, path.stat().st_size), "malformed"),
    "truncated": (lambda path: os.truncate(path, 2 * 4096 + 100), "malformed"),
    "other file": (lambda path: path.write_text("historyheader:1524468282\n" * 99), "file is not a database"),
    "newer": (newer, "the state has schema 9999"),
}


def test_a_damaged_database_is_refused_and_a_new_one_takes_over(site: Site) -> None:
    for damage, why in DAMAGE.values():
        run(site, "heartbeat")
        damage(state_file(site))
        for words in (DEDUP, ("cycle", "--apply")):
            refused_in_one_line(site, run(site, *words), why)
        state_file(site).unlink()
    assert gone(site, names(site)) == set()
    does_the_work(site)


@pytest.mark.parametrize("lost", ["state.db emptied", "state.db", "state.db-wal"])
def test_a_state_that_was_lost_loses_memory_but_no_copy(site: Site, lost: str) -> None:
    process = start(site, *DEDUP)
    wait_for(lambda: len(journal(site)) > 1)
    process.send_signal(signal.SIGKILL)
    ended(process)
    assert (site.folder / "state" / "state.db-wal").exists()
    if lost == "state.db-wal":
        (site.folder / "state" / lost).unlink()
    else:
        for name in ("state.db", "state.db-wal", "state.db-shm"):
            (site.folder / "state" / name).unlink()
        if lost.endswith("emptied"):
            state_file(site).touch()
    does_the_work(site)


@pytest.mark.parametrize("what", ["state", "state/locks"])
def test_a_file_in_place_of_a_folder_is_told(site: Site, what: str) -> None:
    path = site.folder / what
    path.parent.mkdir(exist_ok=True)
    path.touch()
    refused_in_one_line(site, run(site, *DEDUP), "")
    assert gone(site, names(site)) == set()
    path.unlink()
    does_the_work(site)


def test_a_state_folder_that_cannot_be_written_is_told(site: Site) -> None:
    config = site.folder / "cftools.yaml"
    text = config.read_text()
    config.write_text(text.replace('"directory": "state"', f'"directory": "{UNWRITABLE}"'))
    done = run(site, *DEDUP)
    assert (done.code, done.talk.count("\n")) == (70, 1), done.talk
    assert done.talk.startswith(f"cftools: {UNWRITABLE}/state.db: state database unusable: ")
    assert gone(site, names(site)) == set()
    config.write_text(text)
    does_the_work(site)


# No room


def test_files_that_cannot_grow_leave_no_deletion_without_its_row(site: Site) -> None:
    for size in (0, 60_000):  # while the database is made, then while it is written to
        refused_in_one_line(site, run(site, *DEDUP, file_bytes=size), "state database unusable: ")
        assert gone(site, names(site)) == set()
    run(site, "heartbeat")
    for size in (20_000, 50_000):
        refused_in_one_line(site, run(site, *DEDUP, file_bytes=size), "state database unusable: ")
        has_rows_for_all_that_is_gone(site)
    assert gone(site, names(site)) < {(server, name) for server in ("dest1", "dest2") for name in names(site)}
    does_the_work(site)


@contextmanager
def small_disk(site: Site, kilobytes: int) -> Iterator[dict[str, int]]:
    """The state's folder on a disk of that size; where no disk may be mounted, no file of the process may be larger.
    Gives the faults that the process needs for that."""
    state = site.folder / "state"
    state.mkdir(exist_ok=True)
    kept = {path.relative_to(state): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(state)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield {"file_bytes": kilobytes * 512}
        return
    try:
        for path, content in kept.items():
            (state / path).parent.mkdir(exist_ok=True)
            (state / path).write_bytes(content)
        yield {}
        kept = {path.relative_to(state): path.read_bytes() for path in state.rglob("*") if path.is_file()}
    finally:
        subprocess.run(["umount", str(state)], check=True)
    for path, content in kept.items():  # the disk was made larger
        (state / path).parent.mkdir(exist_ok=True)
        (state / path).write_bytes(content)


def test_a_disk_that_fills_up_leaves_no_deletion_without_its_row(site: Site) -> None:
    run(site, "heartbeat")
    least = state_file(site).stat().st_size // 1024 + 40  # room for what is there, and to read it
    for kilobytes in range(least, least + 280, 20):
        with small_disk(site, kilobytes) as faults:
            refused_in_one_line(site, run(site, *DEDUP, **faults), "")
            has_rows_for_all_that_is_gone(site)
        if gone(site, names(site)):
            break
    assert 0 < len(gone(site, names(site))) < 2 * COUNT
    does_the_work(site)


@pytest.mark.parametrize("words", [("distribute",), ("cycle", "--apply"), ("heartbeat",)], ids=" ".join)
def test_a_disk_that_is_full_ends_every_command_in_one_line(site: Site, words: tuple[str, ...]) -> None:
    site.put("wanted.mpg", "src1")
    with small_disk(site, 4) as faults:
        refused_in_one_line(site, run(site, *words, **faults), "")
    assert site.holders("wanted.mpg") == ["src1"]
    does_the_work(site)


def test_a_lock_whose_holder_cannot_be_noted_is_told_and_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    locks = FileLocks(tmp_path, "dedup")
    monkeypatch.setattr(os, "pwrite", full)
    said = re.escape(f"{tmp_path}/job-dedup.lock: cannot write the lock file: No space left on device")
    with pytest.raises(StateUnusable, match=f"^{said}$"), locks.hold("job-dedup"):
        pass
    monkeypatch.undo()
    with locks.hold("job-dedup"):
        assert [one.command for one in locks.held()] == ["dedup"]
