"""A whole cycle on real servers."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from site_of_sshd import MakeSite, Site, end, kinds, outcomes

pytestmark = pytest.mark.system


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A duplicate, a full dest1, a file that is wanted, and a dead destination."""
    site = make_site(destinations=4)
    site.server_keys = {"dest1": {"capacity": "1000B"}, "dest2": {"capacity": "10kB"}, "dest3": {"capacity": "10kB"}}
    site.configure(distribute={"via": "relay"})
    names = [f"r{number}.mpg" for number in range(9)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.put("dup.mpg", "src1", "dest1", "dest2")
    site.put("low.mpg", "src1", "dest1")
    site.put("wanted.mpg", "src1")
    holders: dict[str, list[str]] = {"wanted.mpg": [], "dup.mpg": ["dest1", "dest2"]}
    site.write_inputs(holders | {name: ["dest1"] for name in [*names, "low.mpg"]})
    site.start("src1", "dest1", "dest2", "dest3")
    return site


def tree(site: Site) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted((site.folder / "servers").rglob("*"))
    }


def test_a_cycle_changes_nothing_until_it_is_told_to(site: Site) -> None:
    before = tree(site)
    rows = site.run("cycle", expect=1)  # dest4 does not answer
    assert tree(site) == before
    assert kinds(rows, "outcome") == []
    deletes = [(row["server"], row["name"], row["reason"]) for row in kinds(rows, "delete")]
    # Without the duplicate dest1 is 100 % full: 880 bytes may stay.
    assert deletes == [
        ("dest1", "dup.mpg", "duplicate"),
        ("dest1", "low.mpg", "disk"),
        ("dest1", "r8.mpg", "disk"),
    ]
    assert [row["name"] for row in kinds(rows, "copy")] == ["wanted.mpg"]
    assert {row["server"]: row["state"] for row in kinds(rows, "server")}["dest4"] == "unreachable"

    rows = site.run("cycle", "--apply", expect=1)
    assert [(row["server"], row["name"], row["reason"]) for row in kinds(rows, "delete")] == deletes
    assert outcomes(rows)[:3] == [(server, name, "done") for server, name, _ in deletes]
    assert [row[1:] for row in outcomes(rows)[3:]] == [("wanted.mpg", "done")]
    assert outcomes(rows)[3][0] in ("dest2", "dest3"), "the most room is there"
    assert end(rows)["complete"] is True
    assert site.talk.splitlines() == [
        "cftools: dest4: no heartbeat: Connection refused",
        "cftools: dest4: unreachable: Connection refused",
    ]
    site.write_inputs({name: [] for name in ("wanted.mpg", "dup.mpg")})
    assert kinds(site.run("cycle", "--apply", expect=1), "outcome") == []


def test_a_second_cycle_exits_75_and_names_the_first(site: Site) -> None:
    site.configure(ssh={"connect_timeout": "30s"}, heartbeat={"timeout": "30s"}, distribute={"via": "relay"})
    site.servers.pause("dest3")
    first = subprocess.Popen(site.command("cycle", "--apply"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 15
    while not site.run("locks"):
        assert time.monotonic() < deadline
    site.run("cycle", "--apply", expect=75)
    assert site.talk.startswith(f"cftools: lock job-cycle is held by cycle on {os.uname().nodename}, pid {first.pid},")
    assert site.run("cycle", "--apply", "--if-free") == []
    site.servers.resume("dest3")
    _, talk = first.communicate(timeout=40)
    assert first.returncode == 1, talk
    assert len(site.holders("wanted.mpg")) == 2
