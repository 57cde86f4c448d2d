"""Connections that are reset (RST) at any byte, and logins that are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_tools import FAST_LIMITS, Run, assert_in_order, journal, wait_for, wait_for_expiry, working_on
from site_of_sshd import MakeSite, Site, kinds, outcomes
from tcp_gate import Direction, TcpGate

from cftools.lab.keys import known_hosts_name, make_pair, public_line

pytestmark = pytest.mark.system

COUNT = 40
WAYS: tuple[Direction, ...] = ("up", "down")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def behind_gate(site: Site, server: str, stack: ExitStack) -> TcpGate:
    """Lets the manager reach a server through a gate; call it before `configure`."""
    address = (site.sources | site.destinations)[server]
    gate = stack.enter_context(TcpGate(address, (address, site.port)))
    site.server_keys[server] = {"port": gate.port}
    site.keys.trust(server, address, gate.port)
    return gate


def names_of(number: int) -> list[str]:
    return [f"round-{number:02}-file-{place:03}.mpg" for place in range(COUNT)]


def sweep_listing(make_site: MakeSite, stack: ExitStack, points: int) -> None:
    """Resets the connection at that many points of it, by turns once and each time it is made anew."""
    site = make_site(destinations=1)
    gate = behind_gate(site, "dest1", stack)
    site.configure(ssh=FAST_LIMITS)
    for name in names_of(0):
        site.put(name, "dest1")
    site.start()
    site.run("inventory")
    assert gate.connections == 1
    totals = dict(gate.passed)
    dice = random.Random(3)
    states = []
    for number in range(points):
        way = WAYS[number % 2]
        # The question and the answer are the last thousands of bytes, the very last ones only close the channel.
        after = dice.randrange(1 if number % 5 == 4 else totals[way] - 2500, totals[way] - 300)
        gate.mend()
        gate.cut(way, after, connections=9 if number % 4 < 2 else 1)
        run = Run(site, "inventory")
        rows = run.end(0, 1)
        (server,) = (row for row in kinds(rows, "server") if row["server"] == "dest1")
        holdings = sorted(row["name"] for row in kinds(rows, "holding") if row["server"] == "dest1")
        case = (way, after, totals, gate.connections, server)
        states.append(server["state"])
        if number % 4 >= 2 and server["state"] == "ok":
            assert (holdings, server["files"], run.talk, run.process.returncode) == (names_of(0), COUNT, [], 0), case
            assert gate.connections == 2, case
        else:
            assert (holdings, server["files"], run.process.returncode) == ([], -1, 1), case
            assert server["state"] in ("unreachable", "incomplete"), case
            assert run.talk == [f"cftools: dest1: {server['state']}: {server['error']}"], case
    assert {"ok", "incomplete"} <= set(states), states


def test_a_listing_that_is_reset_is_never_a_short_listing(make_site: MakeSite, stack: ExitStack) -> None:
    sweep_listing(make_site, stack, 5)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_a_listing_that_is_reset_at_many_points_is_never_a_short_listing(make_site: MakeSite, stack: ExitStack) -> None:
    sweep_listing(make_site, stack, 60)


def sweep_deletions(make_site: MakeSite, stack: ExitStack, points: int) -> None:
    """Resets the connection at that many points of a batch of deletions; each has files of its own."""
    site = make_site(destinations=2)
    gate = behind_gate(site, "dest1", stack)
    site.configure(ssh=FAST_LIMITS, guards={"percent_from": 10_000})
    site.start()
    expected: dict[tuple[str, str], str] = {}

    def dedup(number: int, *codes: int) -> None:
        """One run on fresh files, and whether its rows, the journal and the servers tell the same."""
        for name in names_of(number):
            site.put(name, "src1", "dest1", "dest2")
        site.write_inputs({name: ["dest1", "dest2"] for name in names_of(number)})
        run = Run(site, "dedup", "--apply")
        states = {name: (server, found) for server, name, found in outcomes(run.end(*codes))}
        wait_for(lambda: not working_on(site, "dest1"))
        assert sorted(states) == names_of(number)
        noted = {name: found for _, name, found in journal(site)[-COUNT:]}
        for name, (server, found) in states.items():
            stands = (site.root("dest1") / name).exists()
            assert server == "dest1"
            assert found in ({"failed", "refused"} if stands else {"done", "failed"}), (name, found)
            assert noted[name] == ("intended" if found == "failed" else found)
            expected["dest1", name] = found if found != "failed" else "failed" if stands else "done"
            assert {"src1", "dest2"} <= set(site.holders(name))

    dedup(0, 0)
    totals = dict(gate.passed)
    dice = random.Random(5)
    for number in range(1, points + 1):
        gate.mend()
        # Here too the last thousands of bytes are the question and the answer that matter.
        way = WAYS[number % 2]
        gate.cut(way, dice.randrange(totals[way] - 3500, totals[way] - 100), connections=9 if number % 3 == 0 else 1)
        dedup(number, 0, 1)
    found = set(expected.values())
    assert {"done", "failed"} <= found, "no cut hit a deletion, or each did"
    gate.mend()
    wait_for_expiry(site)
    names = [name for number in range(points + 1) for name in names_of(number)]
    site.write_inputs({name: ["dest1", "dest2"] for name in names})
    site.run("dedup", "--apply")
    assert [(site.holders(name)) for name in names] == [["src1", "dest2"]] * len(names)
    rows = journal(site)[: len(names)]
    assert {(server, name): found for server, name, found in rows} == expected
    assert_in_order(site)


def test_a_batch_of_deletions_that_is_reset_is_told_as_it_was(make_site: MakeSite, stack: ExitStack) -> None:
    sweep_deletions(make_site, stack, 4)


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_a_batch_of_deletions_that_is_reset_at_many_points_is_told_as_it_was(
    make_site: MakeSite, stack: ExitStack
) -> None:
    sweep_deletions(make_site, stack, 30)


REFUSALS = {
    "unknown host key": "unknown host key; ",
    "changed host key": "host key changed: ",
    "unknown user key": "login refused: Authentication failed.",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_destination_that_is_not_let_in_to_gets_no_copy_and_its_plan_says_why(
    make_site: MakeSite, tmp_path: Path, fault: str
) -> None:
    site = make_site(destinations=2)
    site.configure(distribute={"via": "relay"})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    plan = kinds(site.run("plan-distribute"), "copy")
    lines = site.output.replace(plan[0]["destination"].encode(), b"dest2")
    known = site.keys.known_hosts.read_text()
    place = known_hosts_name(site.destinations["dest2"], site.port)
    if fault == "unknown user key":
        make_pair(tmp_path / "other", "other")
        site.server_keys["dest2"] = {"identity": str(tmp_path / "other")}
        site.configure(distribute={"via": "relay"})
    else:
        kind, key = public_line(site.keys.host_key("dest1")).split(" ")[:2]
        others = [line for line in known.splitlines() if not line.startswith(place)]
        changed = [f"{place} {kind} {key}"] if fault == "changed host key" else []
        site.keys.known_hosts.write_text("".join(line + "\n" for line in [*others, *changed]))
    rows = site.run("distribute", "-", stdin=lines, expect=1)
    assert outcomes(rows) == [("dest2", "a.mpg", "failed")]
    assert site.talk.startswith(f"cftools: copy dest2 a.mpg: failed: dest2: {REFUSALS[fault]}"), site.talk
    assert site.talk.count("\n") == 1
    assert site.holders("a.mpg") == ["src1"]
    assert journal(site, "copy")[0][:2] == ("dest2", "a.mpg")
    assert journal(site, "copy")[0][2] in ("failed", "skipped")  # skipped: a heartbeat was faster
    assert_in_order(site)
    rows = site.run("distribute")  # by itself it takes the one that lets it in
    assert outcomes(rows) == [("dest1", "a.mpg", "done")]
    assert_in_order(site)


def test_a_pull_from_a_source_whose_host_key_the_destination_does_not_know_is_refused_by_it(
    make_site: MakeSite, tmp_path: Path
) -> None:
    site = make_site(destinations=1)
    nobody = tmp_path / "known_hosts"
    nobody.touch()
    site.configure(distribute={"via": "pull", "pull_known_hosts": str(nobody)})
    site.put("a.mpg", "src1")
    site.write_inputs({"a.mpg": []})
    site.start()
    site.run("plan-distribute")
    plan = site.output
    rows = site.run("distribute", "-", stdin=plan, expect=1)
    assert outcomes(rows) == [("dest1", "a.mpg", "failed")]
    assert site.talk.startswith("cftools: copy dest1 a.mpg: failed: "), site.talk
    assert "host key" in site.talk.lower()
    assert site.talk.count("\n") == 1
    assert nobody.read_bytes() == b"", "the key was learnt by itself"
    assert_in_order(site, keeps_parts=True)
    nobody.write_bytes(site.keys.known_hosts.read_bytes())
    assert outcomes(site.run("distribute", "-", stdin=plan)) == [("dest1", "a.mpg", "done")]
    assert_in_order(site)
