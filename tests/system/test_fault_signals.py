"""SIGTERM and SIGINT in each phase of the commands that list, delete and copy: the step is finished or undone, the
journal is true, no lock is left, and the next run does the work."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from faults import duplicates, ended, gone, held, journal, locks_of, parts, run, slow, start, wait_for
from site_of_sshd import CONTENT, MakeSite, Site

from cftools.state.locks import DELETION

pytestmark = pytest.mark.system

LARGE = bytes(range(256)) * 6000  # a second and a half at 8 Mbit/s
WANTED = "wanted.mpg"
COMMANDS = {
    "dedup": ("dedup", "--apply"),
    "evict": ("evict", "--apply"),
    "distribute": ("distribute",),
    "cycle": ("cycle", "--apply"),
    "inventory": ("inventory",),
}
EVERY = tuple(COMMANDS)
DELETING = ("dedup", "evict", "cycle")
COPYING = ("distribute", "cycle")
PHASES: dict[str, tuple[str, ...]] = {
    "config": EVERY,
    "inputs": tuple(command for command in EVERY if command != "inventory"),
    "listing": EVERY,
    "deletion lock": DELETING,
    "between batches": DELETING,
    "unlinking": DELETING,
    "pull": COPYING,
    "relay": COPYING,
    "waiting to publish": COPYING,
    "publishing": COPYING,
}
EACH = [(phase, command) for phase, commands in PHASES.items() for command in commands]
# A command of each phase, and each command in some phase; all others in the sweep.
USUAL = {
    *(("config", "inventory"), ("inputs", "evict"), ("listing", "dedup"), ("listing", "inventory")),
    *(("listing", "distribute"), ("deletion lock", "dedup"), ("deletion lock", "cycle"), ("between batches", "dedup")),
    *(("between batches", "evict"), ("between batches", "cycle"), ("unlinking", "dedup"), ("unlinking", "cycle")),
    *(("pull", "distribute"), ("relay", "cycle"), ("waiting to publish", "cycle"), ("publishing", "distribute")),
}
CASES = [
    pytest.param(phase, command, number, id=f"{phase}-{command}-{number.name}", marks=marks)
    for place, (phase, command) in enumerate(EACH)
    for number in (signal.SIGTERM, signal.SIGINT)
    for usual in [(phase, command) in USUAL and (place % 2 == 0) == (number == signal.SIGTERM)]
    for marks in [[] if usual else [pytest.mark.sweep]]
]


def node_with_work(make_site: MakeSite, phase: str) -> Site:
    """Files d… are duplicates (dest2 is to keep them), r… fill dest1, and one is wanted."""
    site = make_site(destinations=2)
    site.server_keys = {"dest1": {"capacity": "2kB"}, "dest2": {"capacity": "20MB"}}
    sections: dict[str, dict[str, Any]] = {
        "delete": {"batch": 1 if phase == "between batches" else 100},
        "guards": {"percent_from": 1000},
        "distribute": {"via": "pull" if phase == "pull" else "relay"},
    }
    if phase in ("pull", "relay"):
        sections["distribute"]["speed_limit"] = "8Mbit"
    site.configure(**sections)
    holders = duplicates(site, 4, "d")
    for number in range(18):
        site.put(f"r{number:02}.mpg", "src1", "dest1")
        holders[f"r{number:02}.mpg"] = ["dest1"]
    site.put(WANTED, "src1", content=LARGE)
    site.write_inputs({WANTED: [], **holders}, {WANTED: len(LARGE)})
    return site


@contextmanager
def at_work(site: Site, phase: str, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the command that is in the phase, which lasts until the end of the block, or for a second."""
    if phase in ("config", "inputs"):
        path = site.folder / ("cftools.yaml" if phase == "config" else "hitcount.history")
        with held_up_by_reading(path, lambda: start(site, *words)) as process:
            yield process
    elif phase in ("deletion lock", "waiting to publish"):
        with locks_of(site).hold(DELETION), opened(site.folder / "state" / "locks" / "deletion.lock") as is_opened:
            process = start(site, *words)
            wait_for(is_opened)
            yield process
    else:
        process = start(site, *words)
        if phase in SLOW:
            wait_for((site.folder / "shims" / f"{SLOW[phase]}-began").exists)
        elif phase == "between batches":
            wait_for(lambda: any(row.state == "done" for row in journal(site)))
        else:
            wait_for(lambda: any(path.stat().st_size for path in parts(site)))
        yield process


SLOW = {"listing": "find", "unlinking": "rm", "publishing": "mv"}


@contextmanager
def held_up_by_reading(path: Path, begin: Callable[[], subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for what it reads from ``path``."""
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    process = begin()
    ends: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            ends.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    wait_for(is_read)
    # Python hears a signal between opening and reading only after the reading: let it sleep in there.
    wait_for(lambda: all(sleeps(process) for _ in range(5)))
    try:
        yield process
    finally:
        process.wait(20)
        os.close(ends[0])
        path.unlink()
        path.write_bytes(content)


def sleeps(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process waits for something, a moment later."""
    time.sleep(0.005)
    return Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b") ")[2].startswith(b"S")


@contextmanager
def opened(path: Path) -> Iterator[Callable[[], bool]]:
    """Tells whether anybody opened the file since: who waits for a lock opens its file again and again."""
    library = ctypes.CDLL(None, use_errno=True)
    handle = library.inotify_init1(os.O_NONBLOCK)
    try:
        assert library.inotify_add_watch(handle, os.fsencode(path), 0x20) >= 0, "IN_OPEN cannot be watched"
        yield lambda: bool(select.select([handle], [], [], 0)[0])
    finally:
        os.close(handle)


def is_true(site: Site, names: list[str]) -> None:
    """The journal tells what became of every file, and nothing is left over."""
    assert held(site) == []
    told = journal(site)
    assert [row for row in told if row.state == "intended"] == []
    deleted = {(row.server, row.name) for row in told if row.verb == "delete" and row.state == "done"}
    assert deleted == {place for place in gone(site, names) if place in before(names)}
    copied = {(row.server, row.name) for row in told if row.verb == "copy" and row.state == "done"}
    assert copied == {(server, WANTED) for server in site.holders(WANTED) if server != "src1"}
    assert all((site.root(server) / WANTED).read_bytes() == LARGE for server in site.holders(WANTED))
    assert all("src1" in site.holders(name) for name in names)


def before(names: list[str]) -> set[tuple[str, str]]:
    return {("dest1", name) for name in names} | {("dest2", name) for name in names if name.startswith("d")}


@pytest.mark.parametrize(("phase", "command", "number"), CASES)
def test_a_signal_ends_every_phase_in_order_and_the_next_run_does_the_work(
    make_site: MakeSite, phase: str, command: str, number: signal.Signals
) -> None:
    site = node_with_work(make_site, phase)
    names = sorted(path.name for path in site.root("dest1").iterdir())
    if phase in SLOW:
        slow(site, SLOW[phase])
    site.start()
    insist = EACH.index((phase, command)) % 3 == 0
    again = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
    with at_work(site, phase, *COMMANDS[command]) as process:
        process.send_signal(number)
        while insist and process.poll() is None:  # a second one, and more, must not hurt the first one's work
            time.sleep(0.01)
            process.send_signal(again)
        done = ended(process)
    # Of two that come at once Python tells the lower number first.
    assert done.code - 128 in ({number, again} if insist else {number}), done.talk
    said = [line for line in done.talk.splitlines() if WANTED not in line]
    assert said == [f"cftools: stopped by signal {done.code - 128}"]
    assert not [row for row in done.rows if row["kind"] == "end"]
    is_true(site, names)
    assert not parts(site) or phase in ("pull", "relay", "waiting to publish")

    site.servers.environment.clear()
    for server in site.names if phase in SLOW else ():
        site.servers.stop(server)
        site.start(server)
    assert run(site, *COMMANDS[command]).code == 0
    is_true(site, names)
    if command in ("dedup", "cycle"):
        assert all(site.holders(f"d{place:03}.mpg") == ["src1", "dest2"] for place in range(4))
    if command in ("evict", "cycle"):
        assert sum(path.stat().st_size for path in site.root("dest1").glob("*.mpg")) <= 18 * len(CONTENT)
    if command in COPYING:
        assert (site.holders(WANTED), parts(site)) == (["src1", "dest2"], [])


def test_a_signal_ends_a_command_that_has_nothing_to_undo(make_site: MakeSite) -> None:
    site = node_with_work(make_site, "inputs")
    with at_work(site, "inputs", "parse-history") as process:
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert (done.code, done.rows, done.talk) == (143, [], "cftools: stopped by signal 15\n")
    assert run(site, "parse-history").code == 0


def test_signals_that_never_cease_leave_a_true_state(make_site: MakeSite) -> None:
    site = node_with_work(make_site, "between batches")
    names = sorted(path.name for path in site.root("dest1").iterdir())
    site.start()
    process = start(site, "dedup", "--apply")
    wait_for(lambda: any(row.state == "done" for row in journal(site)))
    while process.poll() is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.002)
    done = ended(process)
    assert (done.code, done.talk) == (143, "cftools: stopped by signal 15\n")
    is_true(site, names)
