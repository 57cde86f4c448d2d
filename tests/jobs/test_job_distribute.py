"""Continuous copying: it ends, goes on around faults, takes over what died, and says when somebody else is at it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from local_node import SIZE, raising
from local_site import LocalSite
from site_of_sshd import end, kinds, outcomes

from cftools.model.rows import Copy
from cftools.remote.transport import RemoteFault, Script
from cftools.state import runs, tasks
from cftools.state.file_locks import FileLocks
from cftools.state.sqlite import SqliteDatabase


def node(tmp_path: Path, files: dict[str, list[str]], **distribute: object) -> LocalSite:
    """Two sources and three destinations; ``files`` with the sources that have them, best rank first."""
    site = LocalSite(tmp_path, sources=2, destinations=3)
    site.configure(distribute={"via": "relay", **distribute})
    for name, sources in files.items():
        site.put(name, *sources)
    site.write_inputs({name: [] for name in files})
    return site


def state_of(site: LocalSite) -> SqliteDatabase:
    return SqliteDatabase(site.folder / "state" / "state.db")


def dead_task(site: LocalSite, name: str, source: str) -> None:
    """A copy that a process which is gone had begun from ``source``."""
    with state_of(site) as database:
        run = runs.begin(database, "distribute", time.time())
        row = Copy("1", name, SIZE, source, str(site.root(source) / name), "dest1", 1, 0, "rank")
        (task,) = tasks.accept(database, run, [row], time.time())
        assert tasks.start(database, run, task, time.time())


def test_a_task_of_a_dead_process_on_another_source_does_not_keep_a_run_from_ending(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"], "b.mpg": ["src1", "src2"]})
    dead_task(site, "b.mpg", "src2")
    rows = site.run("distribute", "--source", "src1")
    assert sorted(name for _, name, state in outcomes(rows) if state == "done") == ["a.mpg", "b.mpg"]
    with state_of(site) as database:
        assert database.rows("SELECT state FROM task WHERE source = 'src2'") == [("failed",)]


def test_a_source_whose_process_dies_during_the_run_is_taken_over(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"], "b.mpg": ["src2"]})
    with FileLocks(site.folder / "state" / "locks", "distribute").hold("source-src2"):
        site.run("plan-distribute")
        dead_task(site, "x.mpg", "src2")
        plan = site.output
    rows = site.run("distribute", "-", stdin=plan)
    assert sorted(outcomes(rows))[0][1:] in (("a.mpg", "done"), ("b.mpg", "done"))
    assert sorted(name for _, name, state in outcomes(rows) if state == "done") == ["a.mpg", "b.mpg"]


def test_a_file_that_cannot_be_copied_holds_no_other_back(tmp_path: Path) -> None:
    site = node(tmp_path, {"sub/bad.mpg": ["src1"], "good.mpg": ["src1"], "fine.mpg": ["src1"]})
    for server in site.destinations:
        (site.root(server) / "sub").write_bytes(b"a file where the folder should be")
    rows = site.run("distribute", expect=1)
    assert [row[1:] for row in outcomes(rows)].count(("sub/bad.mpg", "refused")) == 1
    assert {name for _, name, state in outcomes(rows) if state == "done"} == {"good.mpg", "fine.mpg"}
    with state_of(site) as database:
        assert tasks.cooling(database, time.time()) == frozenset()


def test_a_pair_that_cannot_be_reached_rests_and_another_pair_takes_the_file(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"]}, cooldown="10m")
    down = raising(RemoteFault("dest1", "broken", "cable pulled"), "receive")
    site.wires["dest1"].before = down
    site.wires["dest2"].before = raising(RemoteFault("dest2", "broken", "cable pulled"), "receive")
    rows = site.run("distribute", expect=1)
    assert outcomes(rows)[-1] == ("dest3", "a.mpg", "done")
    with state_of(site) as database:
        resting = tasks.cooling(database, time.time())
    assert resting <= {("src1", "dest1"), ("src1", "dest2")}
    assert len(resting) == len(outcomes(rows)) - 1
    assert "cable pulled" in site.talk


def test_copy_rows_and_outcomes_have_the_same_ids(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"], "b.mpg": ["src2"]})
    rows = site.run("distribute")
    assert sorted(row["id"] for row in kinds(rows, "copy")) == sorted(row["id"] for row in kinds(rows, "outcome"))
    assert end(rows)["counts"]["copy_done"] == 2


def test_a_run_that_did_nothing_because_another_is_at_it_exits_75(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"]})
    site.run("plan-distribute")
    plan = site.output
    with FileLocks(site.folder / "state" / "locks", "distribute").hold("source-src1"):
        dead_task(site, "a.mpg", "src1")
        site.run("distribute", expect=75)
        assert site.talk.startswith("cftools: lock source-src1 is held by distribute on ")
        assert site.run("distribute", "--if-free")[-1]["kind"] == "end"
        assert site.talk == ""
    with state_of(site) as database:
        database.execute("DELETE FROM task")
    with FileLocks(site.folder / "state" / "locks", "distribute").hold("source-src1"):
        assert [row[1:] for row in outcomes(site.run("distribute", "-", stdin=plan, expect=75))] == [
            ("a.mpg", "skipped")
        ]


def test_a_run_with_no_time_left_begins_nothing(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"]})
    assert outcomes(site.run("distribute", "--for", "1ms")) == []
    assert site.holders("a.mpg") == ["src1"]


def test_round_robin_goes_on_where_the_last_plan_ended(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"]}, spread="round-robin")
    (first,) = outcomes(site.run("distribute"))
    site.put("b.mpg", "src1")
    site.write_inputs({"a.mpg": [first[0]], "b.mpg": []})
    (second,) = outcomes(site.run("distribute"))
    assert (first[0], second[0]) == ("dest1", "dest2")


def test_sources_are_used_in_turn_by_plans_of_one_file(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1", "src2"]})
    (first,) = kinds(site.run("distribute"), "copy")
    site.put("b.mpg", "src1", "src2")
    site.write_inputs({"a.mpg": [first["destination"]], "b.mpg": []})
    (second,) = kinds(site.run("distribute"), "copy")
    assert {first["source"], second["source"]} == {"src1", "src2"}


def test_a_copy_that_waits_for_deletions_to_end_keeps_its_time_limit_and_is_not_published(tmp_path: Path) -> None:
    site = node(tmp_path, {"a.mpg": ["src1"]}, timeout="1s")
    seen: list[str] = []
    site.wires["dest1"].before = site.wires["dest2"].before = site.wires["dest3"].before = lambda script: _note(
        script, seen
    )
    with FileLocks(site.folder / "state" / "locks", "dedup").hold("deletion"):
        rows = site.run("distribute", expect=1)
    assert {row[2] for row in outcomes(rows)} == {"failed"}
    assert "receive" in seen
    assert "publish" not in seen
    assert "not done after 1 s" in site.talk


def _note(script: Script, seen: list[str]) -> None:
    seen.append(script.verb)


@pytest.mark.parametrize("sign", ["history", "inventory"])
def test_facts_that_shrank_are_not_remembered_by_a_step_that_had_nothing_to_delete(tmp_path: Path, sign: str) -> None:
    site = LocalSite(tmp_path, destinations=2)
    site.server_keys = {"dest1": {"capacity": "5000B"}, "dest2": {"capacity": "99000B"}}
    site.configure(distribute={"via": "relay"})
    names = [f"f{number:02}.mpg" for number in range(60)]
    for name in names:
        site.put(name, "src1", "dest1" if name < "f40" else "dest2")
    site.write_inputs({name: ["dest1" if name < "f40" else "dest2"] for name in names})
    assert outcomes(site.run("evict", "--apply")) == []
    site.server_keys["dest1"] = {"capacity": "1000B"} if sign == "history" else {"capacity": "4100B"}
    site.configure(distribute={"via": "relay"})
    if sign == "history":
        site.write_inputs({name: ["dest1"] for name in names[:10]})
    else:
        for name in names[40:]:
            (site.root("dest2") / name).unlink()
    rows = site.run("cycle", "--apply", expect=73)
    assert [row for row in outcomes(rows) if row[1] in names[:40]] == []
    assert f"{sign}_shrink" in site.talk


def test_evict_deletes_nothing_when_the_log_that_may_name_hot_files_is_missing(tmp_path: Path) -> None:
    site = LocalSite(tmp_path, destinations=1)
    site.server_keys = {"dest1": {"capacity": "1000B"}}
    site.configure(hot_files={"served_by": ["125.159.40.3"], "min_hits": 1}, inputs={"event_log_timezone": ""})
    names = [f"r{number}.mpg" for number in range(10)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.write_inputs({name: ["dest1"] for name in names})
    for other in (-86400, 86400):  # at any hour one of the two is a day that some time zone has
        day = time.strftime("%Y%m%d", time.gmtime(time.time() + other))
        (site.folder / "logs" / f"EventLog[{day}].log").write_text("0x40ffff,4,1527951601,File Not Found\n")
    site.run("evict", "--apply", expect=65)
    assert "no such event log" in site.talk
    assert len(site.holders("r9.mpg")) == 2


def test_a_root_without_its_mount_marker_gets_no_copy(tmp_path: Path) -> None:
    site = LocalSite(tmp_path, destinations=2)
    site.configure(guards={"mount_marker": ".cftools-root"}, distribute={"via": "relay"})
    for server in ("src1", "dest2"):
        (site.root(server) / ".cftools-root").touch()
    names = [f"a{number}.mpg" for number in range(4)]
    for name in names:
        site.put(name, "src1")
    site.write_inputs({name: [] for name in names})
    plan = site.run("plan-distribute")
    assert {row["destination"] for row in kinds(plan, "copy")} == {"dest2"}
    (site.folder / "plan.ndjson").write_bytes(site.output)
    (site.root("dest2") / ".cftools-root").rename(site.root("dest1") / ".cftools-root")
    before = site.standing()
    rows = site.run("distribute", str(site.folder / "plan.ndjson"), expect=1)
    assert {row["state"] for row in kinds(rows, "outcome")} == {"refused"}
    assert ".cftools-root does not stand in" in site.talk
    assert site.standing() == before
    (site.root("dest1") / ".cftools-root").unlink()
    assert kinds(site.run("distribute"), "copy") == []
    assert site.standing() == {path: size for path, size in before.items() if "dest1" not in path}
