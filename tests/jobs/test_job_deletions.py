"""Deleting from the command line to the folders: evict, the guards, inputs that cannot be used, plans by hand."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_node import raising
from local_site import LocalSite
from site_of_sshd import CONTENT, Site, end, kinds, outcomes

from cftools.plans.guards import GUARDS
from cftools.remote.transport import RemoteFault


def journal(site: Site) -> list[tuple[str, str, str, str]]:
    """Server, name, reason and state of each deletion in the journal."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        return state.execute(
            "SELECT server, name, reason, state FROM journal WHERE verb = 'delete' ORDER BY id"
        ).fetchall()


def duplicates(site: Site, count: int) -> list[str]:
    names = [f"f{number:03}.mpg" for number in range(count)]
    for name in names:
        site.put(name, "src1", *site.destinations)
    site.write_inputs({name: list(site.destinations) for name in names})
    return names


# evict


def full_site(tmp_path: Path, capacity: int, count: int = 10, **keys: Any) -> LocalSite:
    """dest1 holds ``count`` files of 100 bytes, r1.mpg the best; dest2 is nearly empty."""
    site = LocalSite(tmp_path, destinations=2)
    site.server_keys = {"dest1": {"capacity": f"{capacity}B"}, "dest2": {"capacity": "10000B"}}
    site.configure(**keys)
    names = [f"r{number}.mpg" for number in range(1, count + 1)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.write_inputs({name: ["dest1"] for name in names})
    return site


@pytest.mark.parametrize(
    ("capacity", "target", "gone"),
    [(1112, 88, []), (1111, 88, ["r10.mpg"]), (1000, 88, ["r10.mpg", "r9.mpg"]), (1000, 80, ["r10.mpg", "r9.mpg"])],
)
def test_the_lowest_ranks_go_until_the_target_is_reached_and_not_one_more(
    tmp_path: Path, capacity: int, target: int, gone: list[str]
) -> None:
    site = full_site(tmp_path, capacity, evict={"limit_percent": 90, "target_percent": target})
    rows = site.run("evict", "--apply")
    assert outcomes(rows) == [("dest1", name, "done") for name in gone]
    assert [(row["reason"], row["keeper"]) for row in kinds(rows, "delete")] == [("disk", "")] * len(gone)
    assert journal(site) == [("dest1", name, "disk", "done") for name in gone]
    used = sum(path.stat().st_size for path in site.root("dest1").iterdir())
    assert used == 1000 - 100 * len(gone)
    if gone:
        assert used * 100 <= target * capacity
        assert (used + 100) * 100 > target * capacity, "one less would have been enough"
    assert outcomes(site.run("evict", "--apply")) == []


def test_what_exceeds_its_capacity_is_brought_under_it_in_one_run(tmp_path: Path) -> None:
    site = full_site(tmp_path, 500)
    assert len(kinds(site.run("evict", "--apply"), "outcome")) == 6
    assert sum(path.stat().st_size for path in site.root("dest1").iterdir()) == 400


def test_what_is_hot_ignored_unknown_young_or_not_on_the_origin_stays(tmp_path: Path) -> None:
    site = full_site(
        tmp_path,
        1000,
        count=4,
        ignore={"prefixes": ["M64"]},
        hot_files={"served_by": ["125.159.40.3"], "min_hits": 5, "window": "10m"},
    )
    kept = ["hot.mpg", "M64ad.mpg", "lacks.mpg", "young.mpg", "other.mpg"]
    for name in [*kept, "unknown.mpg"]:
        site.put(name, "src1", "dest1")
    (site.root("src1") / "lacks.mpg").unlink()
    site.put("young.mpg", "dest1", age=60)
    site.write_inputs({name: ["dest1"] for name in ["r1.mpg", "r2.mpg", "r3.mpg", "r4.mpg", *kept]}, {"other.mpg": 99})
    site.write_log({"hot.mpg": 5, "r4.mpg": 4})
    rows = site.run("evict", "--apply")
    assert outcomes(rows) == [("dest1", "r4.mpg", "done"), ("dest1", "r3.mpg", "done")]
    assert end(rows)["refused"] == {
        "hot": 1,
        "ignored-prefix": 1,
        "unknown": 1,
        "young": 1,
        "origin-lacks": 1,
        "size-differs": 1,
    }
    assert all("dest1" in site.holders(name) for name in [*kept, "unknown.mpg"])


def test_without_apply_evict_changes_nothing(tmp_path: Path) -> None:
    site = full_site(tmp_path, 1000)
    before = site.standing()
    rows = site.run("evict")
    assert [row["name"] for row in kinds(rows, "delete")] == ["r10.mpg", "r9.mpg"]
    assert kinds(rows, "outcome") == []
    assert site.standing() == before
    assert journal(site) == []


# Guards


GUARDED: dict[str, dict[str, Any]] = {
    "max_deletes": {"max_deletes": 1},
    "max_delete_bytes": {"max_delete_bytes": "150B"},
    "max_delete_percent": {"max_delete_percent": 20, "percent_from": 1},
    "max_age": {},
    "history_not_newer": {},
    "inventory_shrink": {"percent_from": 1, "max_delete_percent": 100},
    "history_shrink": {"percent_from": 1, "max_delete_percent": 100},
    "mount_marker": {"mount_marker": ".cftools-root"},
    "destinations_changed": {},
}


def break_guard(site: LocalSite, guard: str) -> None:
    names = duplicates(site, 2)
    if guard == "max_age":
        site.write_inputs({name: list(site.destinations) for name in names}, age=7 * 3600)
    elif guard == "history_not_newer":
        site.run("dedup", "--apply")
        site.write_inputs({name: list(site.destinations) for name in names}, age=60)
        for name in names:
            site.put(name, *site.destinations)
    elif guard == "mount_marker":
        for server in site.destinations:
            site.put(".cftools-root", server)
    elif guard in ("inventory_shrink", "history_shrink", "destinations_changed"):
        others = {f"x{number}.mpg": ["dest3"] for number in range(4)}
        for name in others:
            site.put(name, "src1", "dest3")
        site.put("first.mpg", "src1", *site.destinations)
        everything = {name: list(site.destinations) for name in ("first.mpg", *names)} | others
        site.write_inputs(everything | ({f"y{n}.mpg": [] for n in range(4)} if guard == "history_shrink" else {}))
        site.run("dedup", "--apply")
        for name in names:
            site.put(name, *site.destinations)
        if guard == "inventory_shrink":
            for name in others:
                (site.root("dest3") / name).unlink()
        elif guard == "history_shrink":
            site.write_inputs({name: list(site.destinations) for name in names})
        else:
            removed = site.destinations.pop("dest1")
            site.configure(guards=GUARDED[guard])
            site.destinations = {"dest1": removed, **site.destinations}


@pytest.mark.parametrize("guard", sorted(GUARDS))
def test_a_guard_refuses_the_whole_plan_until_overridden(tmp_path: Path, guard: str) -> None:
    site = LocalSite(tmp_path)
    site.configure(guards=GUARDED[guard])
    break_guard(site, guard)
    before, rows_before = site.standing(), len(journal(site)) if (site.folder / "state").exists() else 0
    rows = site.run("dedup", "--apply", expect=73)
    assert kinds(rows, "outcome") == []
    assert rows[-1]["kind"] != "end"
    # A line for each server, or input, that breaks it.
    said = site.talk.splitlines()
    assert len(said) == (2 if guard in ("max_age", "max_delete_percent") else 1)
    assert all(line.startswith(f"cftools: guard {guard}: ") for line in said)
    assert all(line.endswith(f", or pass --override {guard}") for line in said)
    assert site.standing() == before
    assert len(journal(site)) == rows_before
    site.run("dedup")
    assert site.talk.startswith(f"cftools: with --apply a guard would refuse this plan: {guard}: ")
    other = "max_age" if guard == "max_deletes" else "max_deletes"
    site.run("dedup", "--apply", "--override", other, expect=73)
    assert site.standing() == before
    rows = site.run("dedup", "--apply", "--override", guard)
    assert "done" in {row["state"] for row in kinds(rows, "outcome")} <= {"done", "already"}
    assert site.talk.startswith(f"cftools: overridden guard {guard}: ")


def test_an_unknown_override_is_a_mistake_of_usage_that_lists_the_guards(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    site.configure()
    duplicates(site, 1)
    before = site.standing()
    site.run("dedup", "--apply", "--override", "max_delete", expect=2)
    assert "no guard 'max_delete'; the guards are max_deletes, " in site.talk
    assert site.standing() == before


# Inputs that cannot be used


@pytest.mark.parametrize("fault", ["no header", "unterminated", "empty", "grades unterminated"])
def test_an_incomplete_history_or_grades_deletes_nothing_but_still_plans_copies(tmp_path: Path, fault: str) -> None:
    site = full_site(tmp_path, 1000)
    site.put("dup.mpg", "src1", "dest1", "dest2")
    site.put("new.mpg", "src1")
    names: dict[str, list[str]] = {f"r{number}.mpg": ["dest1"] for number in range(1, 11)}
    site.write_inputs({"new.mpg": [], "dup.mpg": ["dest1", "dest2"], **names})
    path = site.folder / ("grade.info" if fault.startswith("grades") else "hitcount.history")
    lines = path.read_bytes()
    broken = {"no header": lines.partition(b"\n")[2], "empty": b""}.get(fault, lines[:-1])
    path.write_bytes(broken)
    before = site.standing()
    for command in ("dedup", "evict"):
        for apply in ([], ["--apply"]):
            rows = site.run(command, *apply, expect=65)
            assert [row["kind"] for row in rows if row["kind"] in ("delete", "outcome", "end")] == []
            assert site.talk.startswith(f"cftools: {path}: ")
            assert site.talk.count("\n") == 1
    assert site.standing() == before
    copies = site.run("plan-distribute")
    assert end(copies)["complete"] is False
    assert [row["name"] for row in kinds(copies, "copy")] == ([] if fault == "empty" else ["new.mpg"])


# Plans made by hand


def test_nothing_outside_the_roots_is_touched_by_a_plan_made_by_hand(tmp_path: Path) -> None:
    site = LocalSite(tmp_path / "site")
    site.configure()
    duplicates(site, 1)
    outside = tmp_path / "outside.mpg"
    outside.write_bytes(CONTENT)
    site.run("dedup")
    begin, *_ = site.output.splitlines()
    names = ["../../../../../outside.mpg", str(outside), "", ".", "link/outside.mpg"]
    (site.root("dest1") / "link").symlink_to(tmp_path)
    (site.root("src1") / "link").mkdir()
    (site.root("dest3") / "link").mkdir()
    site.put("link/outside.mpg", "src1", "dest3")
    rows = [
        {"kind": "delete", "server": "dest1", "name": name, "size": 100, "reason": "duplicate", "keeper": "dest3"}
        for name in names
    ]
    ending = {"kind": "end", "command": "dedup", "complete": True, "counts": {"delete": len(rows)}}
    plan = begin + b"\n" + b"".join(json.dumps(row).encode() + b"\n" for row in [*rows, ending])
    done = site.run("dedup", "--apply", "-", stdin=plan, expect=1)
    assert [row["state"] for row in kinds(done, "outcome")] == ["refused"] * len(names)
    assert outside.read_bytes() == CONTENT


def test_a_plan_is_carried_out_by_its_own_command_alone(tmp_path: Path) -> None:
    site = full_site(tmp_path, 1000)
    site.put("dup.mpg", "src1", "dest1", "dest2")
    holders: dict[str, list[str]] = {f"r{number}.mpg": ["dest1"] for number in range(1, 11)}
    site.write_inputs({"dup.mpg": ["dest1", "dest2"], **holders})
    before = site.standing()
    for maker, taker in (("evict", "dedup"), ("dedup", "evict")):
        site.run(maker)
        plan = site.output
        assert kinds(site.run(taker, "--apply", "-", stdin=plan, expect=65), "outcome") == []
        assert site.talk.endswith("; give each plan to its own command\n")
        rows = site.run(maker, "-", stdin=plan)
        assert kinds(rows, "delete")
        assert kinds(rows, "outcome") == []
    assert site.standing() == before


@pytest.mark.parametrize("mounted", [True, False])
def test_a_given_inventory_lets_the_mount_marker_be_looked_for_now(tmp_path: Path, mounted: bool) -> None:
    site = LocalSite(tmp_path, destinations=2)
    site.configure(guards={"mount_marker": ".cftools-root"})
    for server in site.names:
        (site.root(server) / ".cftools-root").touch()
    (name,) = duplicates(site, 1)
    site.run("inventory")
    (site.folder / "inventory.ndjson").write_bytes(site.output)
    if not mounted:
        (site.root("dest1") / ".cftools-root").unlink()
    site.run("dedup", "--apply", "--inventory", str(site.folder / "inventory.ndjson"), expect=0 if mounted else 73)
    assert site.holders(name) == (["src1", "dest2"] if mounted else ["src1", "dest1", "dest2"])


def test_what_may_still_be_deleted_is_not_evicted_a_second_time(tmp_path: Path) -> None:
    """r10.mpg was asked to be deleted by a run that died; its bytes count as free until that is settled."""
    site = full_site(tmp_path, 980)
    assert [row["name"] for row in kinds(site.run("evict"), "delete")] == ["r10.mpg", "r9.mpg"]
    open_row(site, "dest1", "r10.mpg")
    planned = site.run("evict")
    assert [row["name"] for row in kinds(planned, "delete")] == ["r9.mpg"]
    assert end(planned)["refused"] == {"taken": 1}
    assert outcomes(site.run("evict", "--apply")) == [("dest1", "r9.mpg", "done")]
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state, state:
        state.execute("UPDATE journal SET expires = 0")
    assert outcomes(site.run("evict", "--apply")) == [("dest1", "r10.mpg", "done")]
    assert journal(site)[0] == ("dest1", "r10.mpg", "disk", "failed")


def open_row(site: LocalSite, server: str, name: str, expires: str = "unixepoch() + 60") -> None:
    """A deletion that an earlier run left open."""
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state, state:
        state.execute(
            "INSERT INTO journal (run, verb, server, name, size, reason, state, at, expires)"
            f" VALUES (1, 'delete', ?, ?, 100, 'disk', 'intended', unixepoch(), {expires})",
            (server, name),
        )


def test_a_file_that_may_still_be_deleted_elsewhere_is_planned_nowhere_and_the_next_one_goes(tmp_path: Path) -> None:
    site = full_site(tmp_path, 980)
    site.put("r10.mpg", "dest2")
    site.write_inputs({f"r{number}.mpg": ["dest1", "dest2"] if number == 10 else ["dest1"] for number in range(1, 11)})
    site.run("dedup")
    open_row(site, "dest2", "r10.mpg")
    rows = site.run("evict", "--apply")
    assert outcomes(rows) == [("dest1", name, "done") for name in ("r9.mpg", "r8.mpg")]
    assert end(rows)["refused"]["unsettled"] == 1
    rows = site.run("dedup", "--apply")
    assert (outcomes(rows), end(rows)["refused"]) == ([], {"unsettled": 1})


def test_in_mode_one_a_run_that_deleted_nothing_does_not_use_a_history_up(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    site.configure(dedup={"deletes_per_file": "one"})
    duplicates(site, 1)
    site.run("dedup")
    plan = site.output
    site.wires["dest3"].before = raising(RemoteFault("dest3", "unreachable", "no route"), "stat")
    refused = site.run("dedup", "--apply", "-", stdin=plan, expect=1)
    assert [state for _, _, state in outcomes(refused)] == ["refused"]
    site.wires["dest3"].before = lambda _: None
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", "f000.mpg", "done")]
    site.put("f000.mpg", "dest1")
    site.run("dedup", "--apply", expect=73)
    assert "history_not_newer: history" in site.talk
    assert "was acted upon before" in site.talk


def test_a_history_from_the_future_does_not_make_the_true_ones_look_old(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    site.configure()
    names = duplicates(site, 1)
    site.write_inputs({name: list(site.destinations) for name in names}, age=-3600)
    assert len(outcomes(site.run("dedup", "--apply"))) == 2
    for name in names:
        site.put(name, "dest1")
    site.write_inputs({name: ["dest1", "dest3"] for name in names}, age=-2)
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", names[0], "done")]


def test_what_cftools_deleted_itself_is_no_shrunken_inventory_even_when_its_run_was_killed(tmp_path: Path) -> None:
    site = LocalSite(tmp_path)
    site.configure(guards={"percent_from": 1, "max_delete_percent": 100}, delete={"batch": 1})
    names = duplicates(site, 6)
    site.write_inputs({names[0]: list(site.destinations)} | {name: ["dest3"] for name in names[1:]})
    site.run("dedup", "--apply")
    for name in names[1:4]:
        (site.root("dest1") / name).unlink()
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state, state:
        state.executemany(
            "INSERT INTO journal (run, verb, server, name, size, reason, state, at, finished)"
            " VALUES (1, 'delete', 'dest1', ?, 100, 'disk', 'done', unixepoch() + 1, unixepoch() + 1)",
            [(name,) for name in names[1:4]],
        )
    site.write_inputs({name: list(site.destinations) for name in names})
    assert site.run("dedup", "--apply")
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state, state:
        state.execute("DELETE FROM journal WHERE finished > unixepoch() - 60")
        state.execute("UPDATE inventory_seen SET files = 6 WHERE server = 'dest1'")
    for name in names:
        site.put(name, "dest2")
    site.run("dedup", "--apply", expect=73)
    assert "inventory_shrink: dest1 had 6 files" in site.talk


@pytest.mark.parametrize("emptied", [False, True])
def test_a_state_that_was_lost_is_told_once(tmp_path: Path, emptied: bool) -> None:
    site = LocalSite(tmp_path)
    site.configure()
    duplicates(site, 1)
    site.run("dedup", "--apply")
    assert site.talk == ""
    database = site.folder / "state" / "state.db"
    database.unlink()
    if emptied:
        database.touch()
    site.run("dedup", "--apply")
    assert site.talk == (
        f"cftools: {database} is gone, a new one begins; what guards and cooldowns remembered is lost\n"
    )
    site.run("dedup", "--apply")
    assert site.talk == ""
