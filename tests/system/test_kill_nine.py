"""kill -9 after every statement that changes something: the next run settles what was intended, the journal tells the
truth about every file, nothing is done twice, and neither lock nor temporary file stays behind."""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

import pytest
from kill_nine import Files, KillNine, Scene, around, many, spread, stop_script
from site_of_sshd import CONTENT, MakeSite, end

pytestmark = pytest.mark.system

FILM = random.Random(9).randbytes(300_000)
EVERYWHERE = ("src1", "dest1", "dest2", "dest3")
SHORT: dict[str, dict[str, Any]] = {
    "guards": {"percent_from": 1000},
    "ssh": {"response_timeout": "4s"},
    "heartbeat": {"interval": "60s"},  # the points of a heartbeat would come at any moment of a copy
}
EVICT = {"limit_percent": 85, "target_percent": 80}


def dedup(batch: int) -> Scene:
    files: Files = {"a.mpg": (EVERYWHERE, CONTENT), "b.mpg": (EVERYWHERE, CONTENT)}
    return Scene(("dedup", "--apply"), files, SHORT | {"delete": {"batch": batch}})


def copy(via: str) -> Scene:
    config = SHORT | {"distribute": {"via": via, "speed_limit": "8Mbit"}}
    rooms = {"dest1": "2MB", "dest2": "1MB"}
    return Scene(("distribute",), {"film.mpg": (("src1",), FILM)}, config, rooms, destinations=2)


SCENES = {
    "dedup-one-batch": dedup(5000),
    "dedup-batches-of-one": dedup(1),
    "evict": Scene(
        ("evict", "--apply"),
        many(10, "src1", "dest1"),
        SHORT | {"evict": EVICT, "delete": {"batch": 1}},
        {"dest1": "1000B", "dest2": "1000B"},
        destinations=2,
    ),
    "pull": copy("pull"),
    "relay": copy("relay"),
    "cycle": Scene(
        ("cycle", "--apply"),
        {"film.mpg": (("src1",), FILM), "dup.mpg": (("src1", "dest2", "dest3"), CONTENT)} | many(10, "src1", "dest1"),
        SHORT | {"evict": EVICT, "distribute": {"via": "relay"}},
        {"dest1": "1000B", "dest2": "2MB", "dest3": "1MB"},
    ),
}
CHOSEN = {  # in the normal run: how many points by chance, and the remote call around which every point is taken
    "dedup-one-batch": (1, ["dest1 unlink"]),
    "dedup-batches-of-one": (3, []),
    "evict": (3, []),
    "pull": (3, []),
    "relay": (3, []),
    "cycle": (3, []),
}


def kill_at_each(kill_nine: KillNine, points: list[str]) -> tuple[int, dict[str, list[str]]]:
    """How many runs were killed, and what was wrong by point."""
    killed, wrong = 0, {}
    for point in points:
        was_killed, found = kill_nine.kill(point)
        killed += was_killed
        if found:
            wrong[point] = found
    return killed, wrong


@pytest.mark.timeout(300)  # a dozen runs, each killed and settled; some seconds each on a busy machine
@pytest.mark.parametrize("name", SCENES)
def test_a_run_killed_at_a_chosen_point_is_settled_by_the_next(make_site: MakeSite, name: str) -> None:
    kill_nine = KillNine(make_site(destinations=SCENES[name].destinations), SCENES[name])
    count, marks = CHOSEN[name]
    points = list(dict.fromkeys([*spread(kill_nine.points, count, name), *around(kill_nine.points, *marks)]))
    killed, wrong = kill_at_each(kill_nine, points)
    assert wrong == {}
    assert killed >= 0.8 * len(points)


@pytest.mark.parametrize(
    ("via", "point"), [("pull", "stream dest1 pull #2"), ("relay", "remote sent dest1 receive #3")]
)
def test_what_a_killed_copy_had_started_on_the_servers_ends_at_once(make_site: MakeSite, via: str, point: str) -> None:
    kill_nine = KillNine(make_site(destinations=2), copy(via))
    kill_nine.reset()
    slow = {"via": via, "speed_limit": "64kbit"}  # more than half a minute
    kill_nine.site.configure(**SHORT | {"distribute": slow})
    assert kill_nine.run_killed(point)[0] == -signal.SIGKILL
    assert kill_nine.wait_for_servers() == {}
    (part,) = kill_nine.site.root("dest1").glob(".cftools-part-*/film.mpg")
    assert part.stat().st_size < len(FILM)
    kill_nine.site.configure(**copy(via).config)
    assert kill_nine.settle() == []
    assert (kill_nine.site.root("dest1") / "film.mpg").read_bytes() == FILM
    assert not part.parent.exists()


@pytest.mark.parametrize("late", [False, True])
def test_a_server_that_deletes_after_the_next_run_looked_has_a_true_journal(make_site: MakeSite, late: bool) -> None:
    file = "r1.mpg"
    config = SHORT | {"ssh": {"response_timeout": "2s" if late else "20s"}}
    scene = Scene(("dedup", "--apply"), {file: (("src1", "dest1", "dest2"), CONTENT)}, config, destinations=2)
    kill_nine = KillNine(make_site(destinations=2), scene)
    kill_nine.reset()
    with kill_nine.held("remote half dest1 unlink #1", "remote closed dest1 unlink #1"):
        unlinking = stop_script(kill_nine.site.root("dest1"), "unlink")
    said, rows = kill_nine.run_here(*scene.words)
    assert (said, end([json.loads(row) for row in rows.splitlines()])["refused"]) == ("", {"unsettled": 1})
    assert kill_nine.states(file) == ["intended"]
    assert "dest1" in kill_nine.site.holders(file)
    if late:
        kill_nine.wait_for_expiry()
    for number in unlinking:
        os.kill(number, signal.SIGCONT)
    assert kill_nine.wait_for_servers() == {}
    assert ("dest1" in kill_nine.site.holders(file)) is late
    assert kill_nine.settle() == []
    assert kill_nine.site.holders(file) == ["src1", "dest2"]
    assert kill_nine.states(file)[:2] == (["failed", "done"] if late else ["done", "already"])


def test_a_killed_scan_leaves_the_old_known_hosts_or_the_new_and_nothing_beside_it(make_site: MakeSite) -> None:
    scene = Scene(("hosts", "scan", "--add", "--replace"), {}, SHORT, destinations=1)
    kill_nine = KillNine(make_site(destinations=1), scene)
    known_hosts = kill_nine.site.keys.known_hosts
    first, second = known_hosts.read_text().splitlines()
    old = f"{first}\n{second.rpartition(' ')[0]} {first.rpartition(' ')[2]}\n"  # the second host with another's key
    known_hosts.write_text(old)
    _, points = kill_nine.run_killed("")
    new, beside = known_hosts.read_text(), set(known_hosts.parent.iterdir())
    assert new != old
    for point in (one for one in points if one.startswith("file ")):
        known_hosts.write_text(old)
        assert kill_nine.run_killed(point)[0] == -signal.SIGKILL, point
        assert known_hosts.read_text() in (old, new), point
        assert kill_nine.run_here(*scene.words)[0] == "", point
        assert known_hosts.read_text() == new, point
        assert set(known_hosts.parent.iterdir()) == beside, point


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENES)
def test_a_run_killed_at_any_point_is_settled_by_the_next(make_site: MakeSite, name: str) -> None:
    kill_nine = KillNine(make_site(destinations=SCENES[name].destinations), SCENES[name])
    killed, wrong = kill_at_each(kill_nine, kill_nine.points)
    print(f"{name}: {len(kill_nine.points)} points, {killed} killed")
    assert wrong == {}
    assert killed >= 0.8 * len(kill_nine.points)
