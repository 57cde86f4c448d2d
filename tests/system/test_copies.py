"""Copies by pull and by relay between real servers, and what happens when one of them dies on the way."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from fault_tools import assert_in_order, journal
from local_site import LocalSite
from site_of_sshd import CONTENT, MakeSite, Row, Site, end, kinds, outcomes

pytestmark = pytest.mark.system

LARGE = random.Random(7).randbytes(3 << 20)
ODD = [
    b"two words.mpg",
    b"-rf.mpg",
    b"a[1]*?.mpg",
    b"q'uo\"te$(id).mpg",
    b"\xff\xfe.mpg",
    "드라마.mpg".encode(),
    b"#c.mpg",
]
SLOW = {"speed_limit": "8Mbit"}  # three seconds for LARGE


@pytest.fixture(params=["pull", "relay"])
def via(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rows_of(process: subprocess.Popen[bytes]) -> tuple[int, list[tuple[str, str, str]], str]:
    out, err = process.communicate(timeout=60)
    rows = [] if not out else [json.loads(line) for line in out.splitlines()]
    return process.returncode, outcomes(rows), err.decode()


def start(site: Site, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(site.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(what: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def partial_bytes(site: Site, server: str) -> int:
    return sum(path.stat().st_size for path in site.root(server).glob(".cftools-part-*/*"))


def task_states(site: Site) -> list[str]:
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        return [row[0] for row in state.execute("SELECT state FROM task ORDER BY id")]


def test_wanted_files_are_copied_whole_with_their_time_and_nothing_else_is_left(make_site: MakeSite, via: str) -> None:
    site = make_site(sources=2, destinations=2)
    site.configure(distribute={"via": via, "checksum": True})
    site.put("low.mpg", "src1")
    site.put("best.mpg", "src1", "src2", content=LARGE)
    site.put("sub/dir/deep.mpg", "src2")
    site.put("empty-of-hits.mpg", "src2")
    order = ["best.mpg", "sub/dir/deep.mpg", "empty-of-hits.mpg", "low.mpg"]
    site.write_inputs({name: [] for name in order}, {"best.mpg": len(LARGE)})
    site.start()
    rows = site.run("distribute")
    assert sorted(row["name"] for row in kinds(rows, "outcome") if row["state"] == "done") == sorted(order)
    assert end(rows)["counts"]["copy_done"] == 4
    for name in order:
        (holder,) = (server for server in site.holders(name) if server.startswith("dest"))
        copy, original = site.root(holder) / name, site.root(site.holders(name)[-1]) / name
        assert copy.read_bytes() == (LARGE if name == "best.mpg" else CONTENT)
        assert int(copy.stat().st_mtime) == int(original.stat().st_mtime)
    assert [path.name for server in site.destinations for path in site.root(server).glob(".cftools*")] == []
    assert end(site.run("distribute"))["counts"] == {"copy": 0, "outcome": 0}


def test_names_of_any_bytes_arrive_as_they_are(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via})
    (site.root("src1") / "a1x.mpg").write_bytes(b"what a pattern would match")
    header = f"historyheader:{int(time.time())}\n".encode()
    lines, grades = [header], [b"filename\tweightcount\n"]
    for name in ODD:
        (site.root("src1") / os.fsdecode(name)).write_bytes(CONTENT)
        lines.append(name + b",1508301143,0,%d,,2,0,0,1=1\n" % len(CONTENT))
        grades.append(name + b"\t1\n")
    (site.folder / "hitcount.history").write_bytes(b"".join(lines))
    (site.folder / "grade.info").write_bytes(b"".join(grades))
    site.start()
    rows = site.run("distribute")
    assert [row["state"] for row in kinds(rows, "outcome")] == ["done"] * len(ODD), rows
    assert sorted(os.fsencode(path.name) for path in site.root("dest1").iterdir()) == sorted(ODD)


def test_a_destination_that_dies_mid_copy_is_left_and_another_takes_the_file(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=2)
    site.configure(distribute={"via": via, **SLOW}, evict={"min_residency": "0s"})
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    running = start(site, "distribute")
    wait_for(lambda: any(partial_bytes(site, server) for server in site.destinations))
    first = next(server for server in site.destinations if partial_bytes(site, server))
    killed = time.monotonic()
    site.servers.stop(first)
    code, seen, talk = rows_of(running)
    second = next(server for server in site.destinations if server != first)
    assert code == 1, talk
    assert seen[0][:2] == (first, "a.mpg")
    assert seen[0][2] in ("failed", "skipped")
    assert seen[1:] == [(second, "a.mpg", "done")]
    assert (site.root(second) / "a.mpg").read_bytes() == LARGE
    assert not (site.root(first) / "a.mpg").exists()
    assert "done" not in task_states(site)[:1]
    assert journal(site, "copy")[-1] == (second, "a.mpg", "done")
    assert len(talk.splitlines()) == 1, talk
    assert_in_order(site, keeps_parts=True)
    assert time.monotonic() - killed < 20, "the source was blocked by its dead destination"


def test_a_source_that_dies_mid_copy_is_left_and_another_serves_the_file(make_site: MakeSite, via: str) -> None:
    site = make_site(sources=2, destinations=1)
    site.configure(distribute={"via": via, **SLOW})
    site.put("a.mpg", "src1", "src2", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    running = start(site, "distribute")
    wait_for(lambda: partial_bytes(site, "dest1"))
    site.servers.stop("src1")
    code, seen, talk = rows_of(running)
    assert code == 1, talk
    assert [row[2] for row in seen] in (["failed", "done"], ["skipped", "done"]), talk
    assert (site.root("dest1") / "a.mpg").read_bytes() == LARGE
    assert task_states(site)[-1] == "done"
    assert task_states(site)[0] in ("failed", "cancelled")
    assert journal(site, "copy")[-1] == ("dest1", "a.mpg", "done")
    assert len(talk.splitlines()) == 1, talk
    assert_in_order(site)


def test_a_killed_manager_leaves_a_part_that_the_next_run_carries_on_with(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via, **SLOW})
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    running = start(site, "distribute")
    wait_for(lambda: partial_bytes(site, "dest1") > 1 << 20)
    running.kill()
    running.communicate()
    assert not (site.root("dest1") / "a.mpg").exists()
    assert task_states(site) == ["working"]
    time.sleep(1.5)  # whatever ran on the destination must end with its manager
    arrived = partial_bytes(site, "dest1")
    time.sleep(1.0)
    assert partial_bytes(site, "dest1") == arrived < len(LARGE)
    rows = site.run("distribute")
    assert outcomes(rows) == [("dest1", "a.mpg", "done")]
    assert kinds(rows, "outcome")[0]["milliseconds"] < 3000, "what had arrived was sent again"
    assert (site.root("dest1") / "a.mpg").read_bytes() == LARGE
    assert task_states(site) == ["failed", "done"]
    assert list(site.root("dest1").glob(".cftools*")) == []


def test_sigterm_ends_in_order_and_the_second_run_of_a_busy_source_exits_75(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via, **SLOW})
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    running = start(site, "distribute", "--for", "1s")
    wait_for(lambda: partial_bytes(site, "dest1"))
    site.run("distribute", expect=75)
    assert f"lock source-src1 is held by distribute on {os.uname().nodename}, pid {running.pid}" in site.talk
    held = site.run("locks")
    assert {row["lock"] for row in held} >= {"source-src1"}
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=20)
    assert running.returncode == 143, err
    assert b'"kind":"end"' not in out
    assert task_states(site) == ["cancelled"]
    assert site.run("locks") == []


def test_a_reader_that_goes_away_ends_the_run_in_order(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via, **SLOW})
    for name in ("a.mpg", "b.mpg"):
        site.put(name, "src1", content=LARGE)
    site.write_inputs({"a.mpg": [], "b.mpg": []}, {"a.mpg": len(LARGE), "b.mpg": len(LARGE)})
    site.start()
    running = start(site, "distribute")
    assert running.stdout
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr
    talk = running.stderr.read().decode()
    running.stderr.close()
    assert running.wait(30) != 0
    assert "Traceback" not in talk
    assert {*task_states(site)} <= {"done", "cancelled"}
    assert site.run("locks") == []


def test_a_copy_that_takes_too_long_times_out_and_its_pair_rests(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via, "speed_limit": "2Mbit", "timeout": "2s"})
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    rows = site.run("distribute", expect=1)
    assert outcomes(rows) == [("dest1", "a.mpg", "failed")]
    assert "not done after 2 s" in site.talk
    assert task_states(site) == ["timeout"]
    again = site.run("distribute")
    assert outcomes(again) == []
    assert end(again)["refused"] == {"pair-cooling": 1}


def test_a_source_file_of_another_size_is_never_published(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    plan = site.run("plan-distribute")
    lines = site.output
    site.put("a.mpg", "src1", content=CONTENT + b"!")
    rows = site.run("distribute", "-", stdin=lines, expect=1)
    assert [row["id"] for row in kinds(plan, "copy")] == [row["id"] for row in kinds(rows, "copy")]
    assert outcomes(rows) == [("dest1", "a.mpg", "failed")]
    assert site.holders("a.mpg") == ["src1"]


def test_another_file_in_the_place_is_never_overwritten(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    site.run("plan-distribute")
    lines = site.output
    site.put("a.mpg", "dest1", content=b"something else")
    rows = site.run("distribute", "-", stdin=lines, expect=1)
    assert outcomes(rows) == [("dest1", "a.mpg", "refused")]
    assert (site.root("dest1") / "a.mpg").read_bytes() == b"something else"


def test_a_source_never_makes_two_copies_at_once(make_site: MakeSite, via: str) -> None:
    site = make_site(sources=2, destinations=4)
    site.configure(distribute={"via": via, "speed_limit": "8Mbit"})
    names = [f"f{number}.mpg" for number in range(6)]
    for number, name in enumerate(names):
        site.put(name, "src1" if number % 2 else "src2", content=LARGE[: 1 << 19])
    site.write_inputs({name: [] for name in names}, dict.fromkeys(names, 1 << 19))
    site.start()
    runs = [start(site, "distribute") for _ in range(2)]
    ended = [rows_of(run) for run in runs]
    assert {code for code, _, _ in ended} <= {0, 75}, ended
    assert sorted(name for _, seen, _ in ended for _, name, state in seen if state == "done") == names
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        times = state.execute(
            "SELECT source, started, finished FROM task WHERE state = 'done' ORDER BY started"
        ).fetchall()
    for source in site.sources:
        mine = [(began, ended_at) for name, began, ended_at in times if name == source]
        assert len(mine) == 3
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(mine)), mine


def test_pipes_carry_a_plan_from_command_to_command(make_site: MakeSite, via: str) -> None:
    site = make_site()
    site.configure(distribute={"via": via})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    command = " ".join(site.command())
    pipe = f"{command} parse-history | {command} plan-distribute --files - | {command} distribute -"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(site.holders("a.mpg")) == 2


@pytest.mark.parametrize("cut", ["before end", "in a line", "a row missing"])
def test_a_pipe_cut_off_before_its_end_does_nothing(tmp_path: Path, cut: str) -> None:
    site = LocalSite(tmp_path)
    for name in ("a.mpg", "b.mpg"):
        site.put(name, "src1", "dest1", "dest2") if name == "a.mpg" else site.put(name, "src1")
    site.write_inputs({"a.mpg": ["dest1", "dest2"], "b.mpg": []})

    def cut_off(lines: bytes) -> bytes:
        whole = lines.splitlines(keepends=True)
        if cut == "before end":
            return b"".join(whole[:-1])
        if cut == "in a line":
            return lines[:-20]
        return b"".join([*whole[:-2], whole[-1]])

    consumers: list[tuple[str, list[str]]] = [
        ("parse-history", ["plan-distribute", "--files", "-"]),
        ("parse-history", ["dedup", "--apply", "--files", "-"]),
        ("plan-distribute", ["distribute", "-"]),
        ("dedup", ["dedup", "--apply", "-"]),
        ("inventory", ["evict", "--apply", "--inventory", "-"]),
    ]
    for producer, consumer in consumers:
        site.run(producer)
        rows: list[Row] = site.run(*consumer, stdin=cut_off(site.output), expect=65)
        assert [row for row in rows if row["kind"] in ("outcome", "copy", "end")] == []
        assert site.talk.startswith("cftools: stdin")
        assert site.talk.count("\n") == 1
    assert site.holders("a.mpg") == ["src1", "dest1", "dest2"]
    assert site.holders("b.mpg") == ["src1"]
