"""Deleting on real servers: evict, the guards, unusable inputs, plans in pipes, and runs that meet or are stopped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import Any

import pytest
from site_of_sshd import MakeSite, Row, Site, end, kinds, outcomes

pytestmark = pytest.mark.system


def journal(site: Site) -> list[tuple[str, str, str, str]]:
    """Server, name, reason and state of each deletion in the journal."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        return state.execute(
            "SELECT server, name, reason, state FROM journal WHERE verb = 'delete' ORDER BY id"
        ).fetchall()


def standing(site: Site) -> dict[str, int]:
    """Every file on every server with its size."""
    return {
        str(path.relative_to(site.folder)): path.stat().st_size
        for path in sorted((site.folder / "servers").rglob("*"))
        if path.is_file()
    }


def start(site: Site, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(site.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def duplicates(site: Site, count: int) -> list[str]:
    names = [f"f{number:03}.mpg" for number in range(count)]
    for name in names:
        site.put(name, "src1", *site.destinations)
    site.write_inputs({name: list(site.destinations) for name in names})
    return names


# evict


def full_site(make_site: MakeSite, capacity: int, count: int = 10, **keys: Any) -> Site:
    """dest1 holds ``count`` files of 100 bytes, r1.mpg the best; dest2 is nearly empty."""
    site = make_site(destinations=2)
    site.server_keys = {"dest1": {"capacity": f"{capacity}B"}, "dest2": {"capacity": "10000B"}}
    site.configure(**keys)
    names = [f"r{number}.mpg" for number in range(1, count + 1)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.write_inputs({name: ["dest1"] for name in names})
    site.start()
    return site


def test_a_disk_over_its_limit_is_emptied_down_to_its_target(make_site: MakeSite) -> None:
    site = full_site(make_site, 1000, guards={"max_deletes": 1})
    before = standing(site)
    site.run("evict", "--apply", expect=73)
    assert site.talk.startswith("cftools: guard max_deletes: the plan deletes 2 files, the limit is 1; ")
    assert site.talk.count("\n") == 1
    assert standing(site) == before
    rows = site.run("evict", "--apply", "--override", "max_deletes")
    assert outcomes(rows) == [("dest1", "r10.mpg", "done"), ("dest1", "r9.mpg", "done")]
    assert journal(site) == [("dest1", name, "disk", "done") for name in ("r10.mpg", "r9.mpg")]
    (site.folder / "hitcount.history").write_text("r1.mpg,1,1,100,\n")
    site.run("evict", "--apply", expect=65)


# Plans in pipes


def pipe(site: Site, text: str) -> tuple[int, list[Row], str]:
    command = " ".join(site.command())
    shell = ["bash", "-o", "pipefail", "-c", text.replace("cftools", command)]
    done = subprocess.run(shell, capture_output=True, timeout=60, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_a_plan_of_deletions_goes_through_a_pipe_and_only_to_its_own_command(make_site: MakeSite) -> None:
    site = full_site(make_site, 1000)
    site.put("dup.mpg", "src1", "dest1", "dest2")
    holders: dict[str, list[str]] = {f"r{number}.mpg": ["dest1"] for number in range(1, 11)}
    site.write_inputs({"dup.mpg": ["dest1", "dest2"], **holders})
    before = standing(site)
    code, rows, talk = pipe(site, "cftools evict | cftools dedup --apply -")
    assert (code, kinds(rows, "outcome")) == (65, [])
    assert "give each plan to its own command" in talk
    assert standing(site) == before
    code, rows, talk = pipe(site, "cftools dedup | cftools dedup --apply -")
    assert (code, outcomes(rows), talk) == (0, [("dest1", "dup.mpg", "done")], "")
    code, rows, talk = pipe(site, "cftools evict | cftools evict --apply -")
    assert (code, outcomes(rows), talk) == (0, [("dest1", "r10.mpg", "done"), ("dest1", "r9.mpg", "done")], "")
    assert end(rows)["counts"] == {"delete": 2, "delete_bytes": 200, "outcome": 2, "delete_done": 2}


# Runs that meet, and runs that are stopped


def test_a_second_run_exits_75_and_names_the_first(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(ssh={"connect_timeout": "30s"})
    site.start()
    duplicates(site, 1)
    site.servers.pause("dest1")
    first = start(site, "dedup", "--apply")
    deadline = time.monotonic() + 15
    while not site.run("locks"):
        assert time.monotonic() < deadline
    site.run("dedup", "--apply", expect=75)
    assert site.talk.startswith(
        f"cftools: lock job-dedup is held by dedup on {os.uname().nodename}, pid {first.pid}, since "
    )
    assert site.run("dedup", "--apply", "--if-free") == []
    site.servers.resume("dest1")
    out, talk = first.communicate(timeout=30)
    assert first.returncode == 0, talk
    assert outcomes([json.loads(line) for line in out.splitlines()])[0] == ("dest1", "f000.mpg", "done")
    assert site.run("locks") == []


def test_sigterm_ends_a_run_after_its_batch_with_a_true_journal(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(delete={"batch": 1}, guards={"percent_from": 1000})
    site.start()
    names = duplicates(site, 7)
    running = start(site, "dedup", "--apply")
    deadline = time.monotonic() + 20
    while (site.root("dest1") / names[1]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    out, talk = running.communicate(timeout=20)
    assert running.returncode == 143, talk
    assert b"Traceback" not in talk
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[-1]["kind"] == "outcome"
    gone = [(server, name) for name in names for server in ("dest1", "dest2") if server not in site.holders(name)]
    assert 2 <= len(gone) < 2 * len(names)
    assert journal(site) == [(server, name, "duplicate", "done") for server, name in gone]
    assert outcomes(rows) == [(server, name, "done") for server, name in gone]
    left = site.run("dedup", "--apply")
    assert all(site.holders(name) == ["src1", "dest3"] for name in names)
    assert {row["state"] for row in kinds(left, "outcome")} == {"done", "already"}


def test_a_run_that_is_killed_leaves_a_journal_that_the_next_makes_true(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(delete={"batch": 1}, guards={"percent_from": 1000})
    site.start()
    names = duplicates(site, 7)
    running = start(site, "dedup", "--apply")
    deadline = time.monotonic() + 20
    while (site.root("dest1") / names[1]).exists():
        assert time.monotonic() < deadline
    running.kill()
    running.communicate()
    time.sleep(1)  # what the servers were just told comes to its end
    known = {(server, name): state for server, name, _, state in journal(site)}
    gone = {(server, name) for name in names for server in ("dest1", "dest2") if server not in site.holders(name)}
    assert {place for place, state in known.items() if state == "done"} <= gone <= known.keys()
    count = len(known)
    site.run("dedup", "--apply")
    settled = {(server, name): state for server, name, _, state in journal(site)[:count]}
    assert settled == {place: "done" if place in gone else "failed" for place in known}
    assert all(site.holders(name) == ["src1", "dest3"] for name in names)
