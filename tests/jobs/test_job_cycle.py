"""The cycle in one process: each fact read once, each step minding the ones before it, no step hiding the others."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_node import raising
from local_site import LocalSite
from site_of_sshd import end, kinds, outcomes

from cftools.remote.transport import RemoteFault
from cftools.state.file_locks import FileLocks


def site_with(tmp_path: Path, capacity: int = 1000, **sections: dict[str, Any]) -> LocalSite:
    """dest1 holds r0 (best) to r8; dest1 and dest2 hold dup.mpg, ranked last; wanted.mpg is missing."""
    site = LocalSite(tmp_path)
    site.server_keys = {
        "dest1": {"capacity": f"{capacity}B"},
        "dest2": {"capacity": "10kB"},
        "dest3": {"capacity": "10kB"},
    }
    site.configure(distribute={"via": "relay"}, **sections)
    names = [f"r{number}.mpg" for number in range(9)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.put("dup.mpg", "src1", "dest1", "dest2")
    site.put("wanted.mpg", "src1")
    holders: dict[str, list[str]] = {"wanted.mpg": []}
    site.write_inputs(holders | {name: ["dest1"] for name in names} | {"dup.mpg": ["dest1", "dest2"]})
    return site


def done(site: LocalSite, expect: int = 0, *words: str) -> list[tuple[str, str]]:
    rows = site.run("cycle", "--apply", *words, expect=expect)
    assert {state for _, _, state in outcomes(rows)} <= {"done"}
    return [(server, name) for server, name, _ in outcomes(rows)]


def test_every_server_is_listed_once_in_a_cycle(tmp_path: Path) -> None:
    site = site_with(tmp_path)
    done(site)
    asked = Counter(site.calls)
    assert {asked[server, "inventory"] for server in site.names} == {1}
    assert {asked[server, "heartbeat"] for server in site.names} == {1}
    assert asked["dest1", "unlink"] == 1, "what dedup freed was enough"


def test_evict_reckons_with_what_dedup_freed_and_never_takes_it_again(tmp_path: Path) -> None:
    # 10 files of 100 bytes: over 90 %, and at 90 % without the duplicate.
    assert done(site_with(tmp_path / "a", 1000))[:-1] == [("dest1", "dup.mpg")]
    # Over the limit without it too: the next lowest rank goes, not the duplicate again.
    assert done(site_with(tmp_path / "b", 950))[:-1] == [("dest1", "dup.mpg"), ("dest1", "r8.mpg")]


def test_copies_go_on_the_room_that_deletions_made(tmp_path: Path) -> None:
    site = site_with(tmp_path)
    site.server_keys = {name: {"capacity": "1250B"} for name in site.destinations}
    site.configure(distribute={"via": "relay"}, dedup={"deletes_per_file": "one"})
    for server, count in (("dest2", 10), ("dest3", 11)):
        for number in range(count):
            site.put(f"x{number}.mpg", server, "src1")
    # 88 % of 1250 bytes are 1100: dest1 alone has room, and only when its duplicate is gone.
    site.put("y.mpg", "dest1")
    assert done(site) == [("dest1", "dup.mpg"), ("dest1", "wanted.mpg")]


@pytest.mark.parametrize("fault", ["guard", "history"])
def test_copies_are_made_though_deletions_are_refused_and_the_exit_code_tells(tmp_path: Path, fault: str) -> None:
    site = site_with(tmp_path, 950, guards={"max_deletes": 0})
    if fault == "history":
        history = site.folder / "hitcount.history"
        history.write_bytes(history.read_bytes()[:-1])
    code = 73 if fault == "guard" else 65
    rows = site.run("cycle", "--apply", expect=code)
    assert [(name, state) for _, name, state in outcomes(rows)] == [("wanted.mpg", "done")]
    assert end(rows)["complete"] is False
    assert len(site.holders("dup.mpg")) == 3
    assert site.talk.startswith("cftools: guard max_deletes: " if fault == "guard" else "cftools: /")
    assert done(site, 0 if fault == "guard" else code, "--override", "max_deletes") == (
        [("dest1", "dup.mpg"), ("dest1", "r8.mpg")] if fault == "guard" else []
    )


@pytest.mark.parametrize("job", ["dedup", "evict"])
def test_a_step_that_another_process_is_at_is_left_out_and_the_exit_code_tells(tmp_path: Path, job: str) -> None:
    site = site_with(tmp_path, 950)
    with FileLocks(site.folder / "state" / "locks", "somebody").hold(f"job-{job}"):
        found = done(site, 75)
    assert site.talk.startswith(f"cftools: lock job-{job} is held by somebody on ")
    left = [("dest1", "dup.mpg")] if job == "evict" else [("dest1", "dup.mpg"), ("dest1", "r8.mpg")]
    assert found[-1][1] == "wanted.mpg"
    assert found[:-1] == left


def test_a_destination_that_is_lost_after_the_listing_fails_alone(tmp_path: Path) -> None:
    site = site_with(tmp_path, 950)
    site.wires["dest1"].before = raising(RemoteFault("dest1", "unreachable", "no route"), "unlink")
    rows = site.run("cycle", "--apply", expect=1)
    found = {(name, state) for _, name, state in outcomes(rows)}
    assert ("dup.mpg", "refused") in found
    assert ("wanted.mpg", "done") in found
    assert "dest1 dup.mpg: refused: no route" in site.talk


def test_without_apply_nothing_is_changed_journalled_or_locked(tmp_path: Path) -> None:
    site = site_with(tmp_path, 950)
    before = site.standing()
    with FileLocks(site.folder / "state" / "locks", "somebody").hold("job-cycle"):
        rows = site.run("cycle")
    assert site.standing() == before
    assert [row["name"] for row in kinds(rows, "delete")] == ["dup.mpg", "r8.mpg"]
    assert [row["name"] for row in kinds(rows, "copy")] == ["wanted.mpg"]
    assert {verb for _, verb in site.calls} == {"heartbeat", "inventory"}
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        for table in ("journal", "task", "inventory_seen", "history_seen", "cooldown"):
            assert state.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_no_source_at_all_ends_the_cycle_before_it_acts(tmp_path: Path) -> None:
    site = site_with(tmp_path)
    site.wires["src1"].before = raising(RemoteFault("src1", "unreachable", "no route"), "inventory")
    before = site.standing()
    site.run("cycle", "--apply", expect=69)
    assert site.talk == "cftools: no source could be listed (src1: no route); nothing was done\n"
    assert site.standing() == before
