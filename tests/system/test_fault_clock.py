"""The manager's clock set back: no server stays dead and no pair at rest for ever, nothing young looks old, and nothing
is deleted that would stay otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Ended, duplicates, gone, held, journal, query, run
from site_of_sshd import MakeSite, Site, kinds, outcomes

pytestmark = pytest.mark.system

HOUR = 3600
EVICT = ("evict", "--apply")
STEPS = [0, -HOUR, -10 * HOUR, 1]


def full_site(make_site: MakeSite, **sections: dict[str, Any]) -> Site:
    """dest1 may hold 1000 bytes and gets one more file of 100 bytes by `distribute`; ranks in the order of names."""
    site = make_site(destinations=1)
    site.server_keys = {"dest1": {"capacity": "1000B"}}
    always: dict[str, dict[str, Any]] = {"guards": {"percent_from": 1000}, "distribute": {"via": "relay"}}
    site.configure(**(always | sections))
    names = [f"r{number}.mpg" for number in range(7)]
    for name in names:
        site.put(name, "src1", "dest1")
    site.put("young.mpg", "src1")
    site.write_inputs({**{name: ["dest1"] for name in names}, "young.mpg": []})
    site.start()
    return site


def overfill(site: Site) -> None:
    site.server_keys = {"dest1": {"capacity": "800B"}}
    site.configure(guards={"percent_from": 1000}, distribute={"via": "relay"})
    site.write_inputs({**{f"r{number}.mpg": ["dest1"] for number in range(7)}, "young.mpg": ["dest1"]})


def deleted(done: Ended) -> list[str]:
    return [name for _, name, state in outcomes(done.rows) if state == "done"]


@pytest.mark.parametrize("shift", STEPS)
def test_a_copy_that_just_arrived_does_not_look_old_after_a_step(make_site: MakeSite, shift: int) -> None:
    site = full_site(make_site)
    assert run(site, "distribute").code == 0
    assert site.holders("young.mpg") == ["src1", "dest1"]
    overfill(site)
    done = run(site, *EVICT, clock=shift)
    if shift == -10 * HOUR:  # the inputs are then further in the future than they may be old
        assert done.code == 73
        assert "in the future; set the clocks right" in done.talk
        assert deleted(done) == []
    else:
        assert (done.code, deleted(done)) == (0, ["r6.mpg"])
    assert site.holders("young.mpg") == ["src1", "dest1"]


def test_a_copy_that_arrived_while_the_clock_was_behind_does_not_look_old_when_it_is_mended(
    make_site: MakeSite,
) -> None:
    site = full_site(make_site)
    site.put("before.mpg", "src1")
    site.write_inputs({**{f"r{number}.mpg": ["dest1"] for number in range(7)}, "before.mpg": []})
    assert run(site, "distribute").code == 0
    (site.root("dest1") / "before.mpg").unlink()
    site.write_inputs({**{f"r{number}.mpg": ["dest1"] for number in range(7)}, "young.mpg": []})
    assert run(site, "distribute", clock=-10 * HOUR).code == 0
    assert site.holders("young.mpg") == ["src1", "dest1"]
    overfill(site)
    done = run(site, *EVICT)
    assert (done.code, deleted(done)) == (0, ["r6.mpg"])


def test_a_heartbeat_that_failed_in_the_future_makes_no_server_dead(make_site: MakeSite) -> None:
    site = full_site(make_site)
    assert run(site, "inventory").code == 0
    site.servers.stop("dest1")
    assert run(site, "heartbeat").code == 1
    site.start("dest1")
    for shift in (-HOUR, -10 * HOUR):
        done = run(site, "plan-distribute", clock=shift)
        assert [row["name"] for row in kinds(done.rows, "copy")] == ["young.mpg"], done.talk


@pytest.mark.parametrize("shift", STEPS)
def test_a_rest_from_the_future_is_over(make_site: MakeSite, shift: int) -> None:
    site = full_site(make_site, distribute={"via": "relay", "cooldown": "10m"})
    plan = site.run("plan-distribute")
    assert len(kinds(plan, "copy")) == 1
    site.root("dest1").rename(site.root("dest1").with_name("away"))  # what it is sent fails, and not for its name
    site.run("distribute", "-", stdin=site.output, expect=1)
    site.root("dest1").with_name("away").rename(site.root("dest1"))
    assert query(site, "SELECT source, destination FROM cooldown") == [("src1", "dest1")]
    rests = not kinds(run(site, "plan-distribute", clock=shift).rows, "copy")
    assert rests == (shift >= 0)


def test_duplicates_go_by_the_same_rules_whatever_the_clock_says(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.configure(guards={"percent_from": 1000})
    site.start()
    for number, shift in enumerate(STEPS):
        holders = duplicates(site, 2, f"s{number}")
        site.write_inputs(holders)
        done = run(site, "dedup", "--apply", clock=shift)
        names = list(holders)
        if shift == -10 * HOUR:
            assert (done.code, gone(site, names)) == (73, set()), done.talk
        else:
            assert (done.code, gone(site, names)) == (0, {("dest1", name) for name in names}), done.talk
        assert held(site) == []
    assert {row.state for row in journal(site)} == {"done"}
    assert query(site, "SELECT count(*) FROM run WHERE exit_code IS NULL") == [(0,)]


@pytest.mark.parametrize("shift", [0, -HOUR])
def test_a_file_that_is_hot_is_not_deleted_because_its_hits_lie_in_the_future(make_site: MakeSite, shift: int) -> None:
    site = full_site(make_site)
    hot = {"hot_files": {"served_by": ["125.159.40.3"], "min_hits": 5, "window": "10m"}}
    site.server_keys = {"dest1": {"capacity": "700B"}}
    site.configure(guards={"percent_from": 1000}, **hot)
    site.write_log({"r6.mpg": 5})
    done = run(site, *EVICT, clock=shift)
    assert "r6.mpg" not in deleted(done)
    if shift:
        assert (done.code, done.talk.count("\n"), deleted(done)) == (65, 1, [])
        assert "s in the future; set the clocks right; nothing is deleted" in done.talk
        done = run(site, *EVICT)
    assert (done.code, deleted(done)) == (0, ["r5.mpg"])
