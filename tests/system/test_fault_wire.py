"""The network between the manager and all servers is cut: packets vanish and no end is told."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_tools import (
    FAST_LIMITS,
    Moment,
    Program,
    Run,
    assert_in_order,
    journal,
    part_bytes,
    wait_for,
    wait_for_expiry,
    working_on,
)
from site_of_sshd import outcomes
from wires import Wire, have_namespaces, wired

LARGE = random.Random(11).randbytes(3 << 19)
FILES = ["a.mpg", "b.mpg"]
HOW = "namespaces" if have_namespaces() else "gates"

pytestmark = pytest.mark.system


@pytest.fixture(params=[HOW])
def wire(tmp_path: Path) -> Iterator[Wire]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    with wired(tmp_path / "site", f"127.{60 + worker}.251", destinations=2) as made:
        yield made


def test_a_cut_in_the_middle_of_a_listing_ends_in_time_and_nothing_is_deleted(wire: Wire) -> None:
    site = wire.site
    site.configure(ssh=FAST_LIMITS)
    for name in FILES:
        site.put(name, "src1", "dest1", "dest2")
    site.write_inputs({name: ["dest1", "dest2"] for name in FILES})
    listings = [Program(site, server, "find") for server in site.names]
    wire.start()
    for listing in listings:
        listing.hold("after")
    run = Run(site, "dedup", "--apply")
    for listing in listings:
        listing.wait()
    wire.cut()
    rows = run.end(69, within=8)
    assert rows == []
    assert run.talk[0].startswith("cftools: no source could be listed (src1: "), run.talk
    assert len(run.talk) == 1
    assert journal(site) == []
    for listing in listings:
        listing.release()
    wire.join()
    site.run("dedup", "--apply")
    assert all(site.holders(name) == ["src1", "dest2"] for name in FILES)
    assert_in_order(site)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cut_in_a_batch_of_deletions_is_settled_when_the_servers_can_be_seen_again(
    wire: Wire, moment: Moment
) -> None:
    site = wire.site
    site.configure(ssh=FAST_LIMITS, guards={"percent_from": 100})
    for name in FILES:
        site.put(name, "src1", "dest1", "dest2")
    site.write_inputs({name: ["dest1", "dest2"] for name in FILES})
    deleting = Program(site, "dest1", "rm")
    wire.start()
    deleting.hold(moment)
    run = Run(site, "dedup", "--apply")
    deleting.wait()
    wire.cut()
    rows = run.end(1, within=8)
    assert outcomes(rows) == [("dest1", name, "failed") for name in FILES]
    assert len(run.talk) == len(FILES)
    assert [row[2] for row in journal(site)] == ["intended", "intended"]
    site.run("dedup", "--apply", expect=69)
    assert [row[2] for row in journal(site)] == ["intended", "intended"]
    wait_for_expiry(site)
    deleting.release()  # the server was never cut off from itself, but its time is over
    wait_for(lambda: not working_on(site, "dest1"))
    wire.join()
    gone = moment == "after"
    rows = site.run("dedup", "--apply")
    assert outcomes(rows) == [("dest1", name, "already" if gone else "done") for name in FILES]
    assert [row[2] for row in journal(site)] == (
        ["done"] * 2 + ["already"] * 2 if gone else ["failed"] * 2 + ["done"] * 2
    )
    assert all(site.holders(name) == ["src1", "dest2"] for name in FILES)
    assert_in_order(site)


@pytest.mark.parametrize("via", ["pull", "relay"])
def test_a_cut_in_the_middle_of_a_copy_ends_in_time_and_the_next_run_carries_on(wire: Wire, via: str) -> None:
    site = wire.site
    site.configure(
        ssh={"connect_timeout": "1s", "response_timeout": "3s"},
        heartbeat={"timeout": "1s", "interval": "500ms"},
        distribute={"via": via, "speed_limit": "8Mbit", "cooldown": "0s"},
    )
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    wire.start()
    run = Run(site, "distribute", "--for", "1s")
    wait_for(lambda: any(part_bytes(site, server) for server in site.destinations))
    (first,) = (server for server in site.destinations if part_bytes(site, server))
    wire.cut()
    rows = run.end(1, within=9)
    assert outcomes(rows)[0] == (first, "a.mpg", "failed")
    assert {state for _, _, state in outcomes(rows)} == {"failed"}
    assert len(run.talk) == len(outcomes(rows))
    assert site.holders("a.mpg") == ["src1"]
    assert_in_order(site, keeps_parts=True)
    wire.join()
    wait_for(lambda: not working_on(site, first))
    site.run("heartbeat")
    rows = site.run("distribute")
    assert [state for _, _, state in outcomes(rows)] == ["done"]
    (holder,) = (server for server in site.destinations if (site.root(server) / "a.mpg").exists())
    assert (site.root(holder) / "a.mpg").read_bytes() == LARGE
    assert journal(site, "copy")[-1] == (holder, "a.mpg", "done")
    assert {row[2] for row in journal(site, "copy")[:-1]} <= {"failed", "skipped"}  # skipped: released by a heartbeat
    assert_in_order(site, keeps_parts=holder != first)
