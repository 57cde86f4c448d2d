"""Servers that die (SIGKILL) or hang (SIGSTOP) in the middle of a listing, a batch of deletions, a copy."""

from __future__ import annotations

import random

import pytest
from fault_tools import (
    FAST_LIMITS,
    Moment,
    Program,
    Run,
    assert_in_order,
    journal,
    part_bytes,
    parts,
    state,
    wait_for,
    wait_for_expiry,
    working_on,
)
from site_of_sshd import CONTENT, MakeSite, Row, Site, end, kinds, outcomes

pytestmark = pytest.mark.system

FILES = ["a.mpg", "b.mpg"]
LARGE = random.Random(11).randbytes(3 << 19)


class Fault:
    """A way for a server to fail, and what mends it."""

    def __init__(self, site: Site, how: str) -> None:
        self._site, self._how = site, how

    def strike(self, server: str) -> None:
        """The server fails."""
        (self._site.servers.stop if self._how == "killed" else self._site.servers.pause)(server)

    def mend(self, server: str) -> None:
        """It works again."""
        if self._how == "killed":
            self._site.start(server)
        else:
            self._site.servers.resume(server)


@pytest.fixture(params=["killed", "stopped"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def duplicates(site: Site, *names: str) -> None:
    for name in names:
        site.put(name, "src1", *site.destinations)
    site.write_inputs({name: list(site.destinations) for name in names})


def test_a_server_that_fails_in_the_middle_of_its_listing_was_not_listed(make_site: MakeSite, how: str) -> None:
    site = make_site()
    site.configure(ssh=FAST_LIMITS, guards={"percent_from": 100})
    duplicates(site, *FILES)
    listing = {server: Program(site, server, "find") for server in ("src1", "dest1", "dest3")}
    site.start()
    fault = Fault(site, how)

    def dedup(server: str, expect: int) -> tuple[list[Row], list[str]]:
        listing[server].hold("after")  # every file is in the answer, but not how many they are
        run = Run(site, "dedup", "--apply")
        listing[server].wait()
        fault.strike(server)
        rows = run.end(expect, within=8)
        listing[server].release()
        fault.mend(server)
        return rows, run.talk

    rows, talk = dedup("src1", 69)
    assert rows == []
    assert len(talk) == 1
    assert talk[0].startswith("cftools: no source could be listed (src1: "), talk
    assert all(site.holders(name) == ["src1", *site.destinations] for name in FILES)
    # The highest is not known to be alive: the next one keeps the files, and nothing is asked of the highest.
    rows, talk = dedup("dest3", 0)
    assert outcomes(rows) == [("dest1", name, "done") for name in FILES]
    assert {row["keeper"] for row in kinds(rows, "delete")} == {"dest2"}
    site.put("a.mpg", "dest1")
    site.put("b.mpg", "dest1")
    rows, talk = dedup("dest1", 1)
    expected = [("dest1", "a.mpg", "refused"), ("dest2", "a.mpg", "done")]
    expected += [("dest1", "b.mpg", "refused"), ("dest2", "b.mpg", "done")]
    assert outcomes(rows) == journal(site)[2:] == expected
    why = "Connection refused" if how == "killed" else "no SSH answer in 1 s"
    assert talk == [f"cftools: delete dest1 {name}: refused: {why}" for name in FILES]
    assert all(site.holders(name) == ["src1", "dest1", "dest3"] for name in FILES)
    rows = site.run("dedup", "--apply")
    assert {row[2] for row in outcomes(rows) if row[0] == "dest1"} == {"done"}
    assert all(site.holders(name) == ["src1", "dest3"] for name in FILES)
    assert_in_order(site)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_server_that_fails_in_a_batch_of_deletions_is_looked_at_by_the_next_run(
    make_site: MakeSite, how: str, moment: Moment
) -> None:
    site = make_site(destinations=2)
    site.configure(ssh=FAST_LIMITS, guards={"percent_from": 100})
    duplicates(site, *FILES)
    deleting = Program(site, "dest1", "rm")
    site.start()
    fault = Fault(site, how)
    deleting.hold(moment)
    run = Run(site, "dedup", "--apply")
    deleting.wait()
    assert [row[2] for row in journal(site)] == ["intended", "intended"]
    fault.strike("dest1")
    rows = run.end(1, within=8)
    assert outcomes(rows) == [("dest1", name, "failed") for name in FILES]
    unknown = "failed: the connection ended; the next run looks whether it was deleted"
    assert run.talk == [f"cftools: delete dest1 {name}: {unknown}" for name in FILES]
    assert [row[2] for row in journal(site)] == ["intended", "intended"]
    deleting.release()
    fault.mend("dest1")
    wait_for_expiry(site)
    gone = not (site.root("dest1") / FILES[0]).exists()  # what only hung may have gone on with it in time
    assert gone or moment == "before"
    assert not gone or (how, moment) != ("killed", "before")
    rows = site.run("dedup", "--apply")
    assert {state for _, _, state in outcomes(rows)} == {"already" if gone else "done"}
    assert [row[2] for row in journal(site)][:2] == ["done" if gone else "failed"] * 2
    assert all(site.holders(name) == ["src1", "dest2"] for name in FILES)
    assert_in_order(site)


def test_a_question_that_reaches_a_server_too_late_deletes_nothing(make_site: MakeSite) -> None:
    """It hangs before it looked at the clock; meanwhile the keeper's copy went."""
    site = make_site(destinations=2)
    site.configure(ssh=FAST_LIMITS, guards={"percent_from": 100})
    duplicates(site, "a.mpg")
    reading = Program(site, "dest1", "cat")
    site.start()
    reading.hold("after")
    run = Run(site, "dedup", "--apply")
    reading.wait()
    site.servers.pause("dest1")
    rows = run.end(1, within=8)
    assert outcomes(rows) == [("dest1", "a.mpg", "failed")]
    wait_for_expiry(site)
    (site.root("dest2") / "a.mpg").unlink()
    reading.release()
    site.servers.resume("dest1")
    site.run("heartbeat")
    rows = site.run("dedup", "--apply")
    assert outcomes(rows) == []
    assert site.holders("a.mpg") == ["src1", "dest1"]


@pytest.mark.parametrize("victim", ["destination", "source"])
@pytest.mark.parametrize("via", ["pull", "relay"])
def test_a_server_that_hangs_in_the_middle_of_a_copy_is_left_in_time(
    make_site: MakeSite, via: str, victim: str
) -> None:
    site = make_site(sources=2 if victim == "source" else 1, destinations=2 if victim == "destination" else 1)
    site.configure(
        ssh={"connect_timeout": "1s", "response_timeout": "3s"},  # a copy tells of itself once a second
        heartbeat={"timeout": "1s", "interval": "500ms"},
        distribute={"via": via, "speed_limit": "8Mbit"},  # a second and a half
    )
    site.put("a.mpg", *site.sources, content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    run = Run(site, "distribute")
    wait_for(lambda: any(part_bytes(site, server) for server in site.destinations))
    first = next(server for server in site.destinations if part_bytes(site, server))
    hung = first if victim == "destination" else state(site, "SELECT source FROM task")[0][0]
    site.servers.pause(hung)
    rows = run.end(1, within=9)
    last = next((server for server in site.destinations if server != first), first)
    found = outcomes(rows)
    assert (found[0][:2], found[1:]) == ((first, "a.mpg"), [(last, "a.mpg", "done")]), run.talk
    assert found[0][2] == "failed"
    assert len(run.talk) == 1
    assert run.talk[0].startswith(f"cftools: copy {first} a.mpg: failed: "), run.talk
    assert [row[:2] for row in journal(site, "copy")] == [(first, "a.mpg"), (last, "a.mpg")]
    assert journal(site, "copy")[1][2] == "done"
    site.servers.resume(hung)
    wait_for(lambda: not [line for server in site.names for line in working_on(site, server)])
    holders = [*site.sources, last]
    assert site.holders("a.mpg") == holders
    assert (site.root(last) / "a.mpg").read_bytes() == LARGE
    assert [part.split("/")[0] for part in parts(site)] == ([first] if victim == "destination" else [])
    assert end(site.run("distribute"))["counts"]["copy"] == 0
    assert_in_order(site, keeps_parts=True)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_destination_that_dies_at_the_rename_of_a_copy_has_the_file_once(make_site: MakeSite, moment: Moment) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": "relay", "cooldown": "0s"}, evict={"min_residency": "0s"})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    renaming = Program(site, "dest1", "mv")
    site.start()
    renaming.hold(moment)
    run = Run(site, "distribute", "--for", "1s")
    renaming.wait()
    site.servers.stop("dest1")
    rows = run.end(1)
    assert outcomes(rows) == [("dest1", "a.mpg", "failed")]
    assert run.talk == ["cftools: copy dest1 a.mpg: failed: dest1: the connection ended before the script did"]
    renaming.release()
    site.start("dest1")
    rows = site.run("distribute")
    assert outcomes(rows) == ([("dest1", "a.mpg", "done")] if moment == "before" else [])
    assert len(journal(site, "copy")) == (2 if moment == "before" else 1)
    assert site.holders("a.mpg") == ["src1", "dest1"]
    assert (site.root("dest1") / "a.mpg").read_bytes() == CONTENT
    assert parts(site) == []
    assert_in_order(site, keeps_parts=True)  # an empty folder is swept some day
