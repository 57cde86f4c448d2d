"""bulk-delete submit as a process: killed at any moment, stopped, out of room, fed slowly, and with much to take in."""

from __future__ import annotations

import fcntl
import random
import resource
import signal
import subprocess
import sys
import termios
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

import pytest
from fault_tools import wait_for
from local_site import LocalSite
from site_of_sshd import Row
from stored_requests import KilledRuns, Stored, forget_all, stored

NAMES = [f"photos/{number % 7}/{number:06d}.jpg".encode() for number in range(3000)]
STDIN = b"".join(name + b"\n" for name in NAMES)
WORDS = ("bulk-delete", "submit", "-", "--request", "album-7", "--target", "images")
# A process begins with the peak memory of the one that starts it: that must be a small one.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
WORK = 600  # rows of work: 300 blocks on 2 servers


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    site = LocalSite(tmp_path)
    target = {"servers": ["dest1", "dest2"], "root": "/images"}
    site.configure(bulk_delete={"partition": 10, "targets": {"images": target}})
    return site


def submitted(site: LocalSite, names: bytes = STDIN) -> Row:
    (row,) = site.run(*WORDS, stdin=names)
    return row


def is_whole(request: Stored) -> bool:
    return request.names == NAMES and len(request.work) == WORK and request.resources == len(NAMES)


def feed(process: subprocess.Popen[bytes], names: bytes) -> None:
    """Writes to its stdin, and waits until all of that was read and it waits for more."""
    assert process.stdin is not None
    process.stdin.write(names)
    process.stdin.flush()
    left = array("i", [1])

    def is_drained() -> bool:
        assert process.stdin is not None
        fcntl.ioctl(process.stdin, termios.FIONREAD, left)
        return left[0] == 0

    wait_for(is_drained)


class Kills:
    """Submits of one request that are killed, each with no request there before."""

    def __init__(self, site: LocalSite) -> None:
        self._site = site
        self._runs = KilledRuns(site, WORDS, STDIN)
        site.run("bulk-delete", "status")  # migrations that are killed have tests of their own
        began = time.monotonic()
        assert self._runs.run() == 0
        self.seconds = time.monotonic() - began
        self.points = self._runs.points()
        assert is_whole(stored(site)[0])
        self.killed, self.wrong = 0, list[str]()

    def at(self, points: Iterable[str]) -> None:
        """Kills a run at each of these points."""
        for point in points:
            forget_all(self._site)
            self.killed += self._runs.run(point) != 0
            self._look(point)

    def by_chance(self, count: int, chance: random.Random) -> None:
        """Kills that many runs at any time after the first third of an undisturbed one, which is its start-up."""
        wanted = self.killed + count
        for _ in range(3 * count):
            if self.killed == wanted:
                return
            delay = self.seconds * chance.uniform(0.33, 1.0)
            forget_all(self._site)
            with self._runs.start() as process:
                assert process.stdin is not None
                process.stdin.write(STDIN)
                process.stdin.close()
                time.sleep(delay)
                process.kill()
            if process.returncode == -signal.SIGKILL:
                self.killed += 1
            else:
                self.seconds = delay  # the machine has more time for it than it had
            self._look(f"after {delay:.3f} s")

    def _look(self, when: str) -> None:
        """After a kill the request is whole or absent, and sent again it is there once."""
        before = stored(self._site)
        if [is_whole(request) for request in before] not in ([], [True]):
            self.wrong.append(f"{when}: half a request")
        if submitted(self._site)["duplicate"] != bool(before):
            self.wrong.append(f"{when}: it does not know what it has")
        if [is_whole(request) for request in stored(self._site)] != [True]:
            self.wrong.append(f"{when}: sent again it is not there once")


def start(site: LocalSite, *words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(site.command(*words), stdin=pipe, stdout=pipe, stderr=pipe)


def is_reading(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has opened the file in which the names wait, which it does before it reads."""
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        if "/state/" in target and target.endswith("(deleted)"):
            return True
    return False


@pytest.mark.timeout(300)  # two dozen processes; some seconds each on a busy machine
def test_a_submit_killed_at_any_moment_stored_all_or_nothing(site: LocalSite) -> None:
    kills = Kills(site)
    kills.at(kills.points)
    kills.by_chance(max(4, 24 - len(kills.points)), random.Random(4))
    assert kills.wrong == []
    assert kills.killed >= 20


@pytest.mark.sweep
@pytest.mark.timeout(600)
def test_a_submit_killed_at_a_hundred_moments_stored_all_or_nothing(site: LocalSite) -> None:
    kills = Kills(site)
    kills.by_chance(100, random.Random())
    assert kills.wrong == []
    assert kills.killed >= 100


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_names_come_in_stores_nothing(site: LocalSite, number: signal.Signals, code: int) -> None:
    with start(site, *WORDS) as process:
        feed(process, STDIN)
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read().count(b"\n")) == (b"", 1)
    assert stored(site) == []
    assert list((site.folder / "state").glob("tmp*")) == []


def test_a_signal_while_it_is_stored_waits_for_the_end(site: LocalSite) -> None:
    runs = KilledRuns(site, WORDS, STDIN)
    with runs.start(hold="sql INSERT INTO bulk_block #2") as process:
        assert process.stdin is not None
        process.stdin.write(STDIN)
        process.stdin.close()
        process.stdin = None
        wait_for(lambda: "sql INSERT INTO bulk_block #2" in runs.points())
        process.send_signal(signal.SIGTERM)
        runs.release()
        process.communicate(timeout=20)
        assert process.returncode == 143
    assert [is_whole(request) for request in stored(site)] == [True]
    assert submitted(site)["duplicate"] is True


def test_a_slow_reader_holds_nobody_up(site: LocalSite) -> None:
    with start(site, *WORDS) as process:
        feed(process, STDIN[:1000])
        assert site.run(*WORDS[:4], "album-8", *WORDS[5:], stdin=b"a\n")[0]["duplicate"] is False
        out, _ = process.communicate(STDIN[1000:], timeout=20)
    assert process.returncode == 0
    assert b'"album-7"' in out
    assert [request.key for request in stored(site)] == ["album-8", "album-7"]


def test_of_two_at_once_one_stores_and_the_other_knows(site: LocalSite) -> None:
    with start(site, *WORDS) as one, start(site, *WORDS) as other:
        for process in (one, other):
            feed(process, STDIN)
        for process in (one, other):
            assert process.stdin is not None
            process.stdin.close()
        said = sorted(process.stdout.read() for process in (one, other) if process.stdout)
        assert (one.wait(20), other.wait(20)) == (0, 0)
    assert [b'"duplicate":true' in row for row in said] == [False, True]
    assert [is_whole(request) for request in stored(site)] == [True]


@pytest.mark.parametrize("room", ["for nothing", "for the names alone"])
def test_without_room_nothing_is_stored_and_one_line_says_so(site: LocalSite, room: str) -> None:
    names = STDIN * 20
    submitted(site, b"first\n")
    site.run(*WORDS[:4], "first", *WORDS[5:], stdin=b"first\n")
    before = stored(site)
    most = len(names) + 1 if room == "for the names alone" else 300_000
    with start(site, *WORDS[:4], "large", *WORDS[5:]) as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        out, said = process.communicate(names, timeout=30)
    assert (process.returncode, out) == (70, b"")
    assert said.count(b"\n") == 1
    where = b"state database unusable" if room == "for the names alone" else b"no place for the names"
    assert where in said
    assert stored(site) == before
    site.run(*WORDS[:4], "large", *WORDS[5:], stdin=names)


def test_many_names_take_little_memory_and_time(site: LocalSite) -> None:
    """The agreement is 200 MB and 10 s for 1,000,000; tests/benchmarks/submit.py measures that."""
    site.configure(bulk_delete={"partition": 2000, "targets": {"images": {"servers": ["dest1"], "root": "/i"}}})
    path = site.folder / "names"
    path.write_text("".join(f"photos/2026/album-{number // 100:06d}/{number:07d}.jpg\n" for number in range(200_000)))
    began = time.monotonic()
    with path.open("rb") as names:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *site.command(*WORDS)], stdin=names, capture_output=True, check=True
        )
    row, kilobytes = done.stdout.splitlines()
    assert b'"resources":200000' in row
    assert int(kilobytes) < 120_000
    assert time.monotonic() - began < 10
