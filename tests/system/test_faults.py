"""Servers that are dead, hang, or are not who they were: what is refused, how long it takes, which exit code it has."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import pytest
from site_of_sshd import MakeSite, Row, Site, end, kinds, outcomes

from cftools.lab.keys import known_hosts_name, public_line

pytestmark = pytest.mark.system

LARGE = bytes(3 << 20)


def states(rows: list[Row]) -> dict[str, str]:
    return {row["server"]: row["state"] for row in kinds(rows, "server")}


def host_keys(site: Site, **changes: str | None) -> None:
    """Writes known_hosts anew: without the servers given None, with another server's key for those given its name."""
    lines = []
    for name, address in (site.sources | site.destinations).items():
        owner = changes.get(name, name)
        if owner is not None:
            kind, key = public_line(site.keys.host_key(owner)).split(" ")[:2]
            lines.append(f"{known_hosts_name(address, site.port)} {kind} {key}\n")
    site.keys.known_hosts.write_text("".join(lines))


def test_a_dead_source_protects_what_only_it_could_prove(make_site: MakeSite) -> None:
    site = make_site(sources=2)
    site.configure(guards={"percent_from": 100})
    site.put("proven.mpg", "src1", *site.destinations)
    site.put("unproven.mpg", "src2", *site.destinations)
    site.write_inputs({name: list(site.destinations) for name in ("proven.mpg", "unproven.mpg")})
    site.start()
    site.run("dedup")
    plan = site.output
    site.servers.stop("src2")
    rows = site.run("dedup", "--apply")
    assert outcomes(rows) == [(server, "proven.mpg", "done") for server in ("dest1", "dest2")]
    assert end(rows)["refused"] == {"origin-unknown": 1}
    again = site.run("dedup", "--apply", "-", stdin=plan, expect=1)
    assert [row["state"] for row in kinds(again, "outcome")] == ["already"] * 2 + ["refused"] * 2
    assert "unproven.mpg: refused: the origin cannot be asked: src2: Connection refused" in site.talk
    assert site.holders("unproven.mpg") == ["src2", *site.destinations]
    site.servers.stop("src1")
    site.run("dedup", "--apply", expect=69)
    assert site.talk.startswith("cftools: no source could be listed (src1: Connection refused; src2: ")


def test_a_server_that_hangs_costs_its_time_limit_and_holds_no_other_up(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(ssh={"connect_timeout": "1500ms", "response_timeout": "2s"}, heartbeat={"timeout": "1s"})
    site.put("a.mpg", "src1", *site.destinations)
    site.write_inputs({"a.mpg": list(site.destinations)})
    site.start()
    site.servers.pause("dest3")
    for command, code, row_kind in (("inventory", 1, "server"), ("heartbeat", 1, "heartbeat")):
        began = time.monotonic()
        rows = site.run(command, expect=code)
        assert time.monotonic() - began < 8
        bad = [row["server"] for row in kinds(rows, row_kind) if row.get("state", "ok") != "ok" or row.get("error")]
        assert bad == ["dest3"]
    # The keeper would be dest3; without it the highest that is alive keeps the file.
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", "a.mpg", "done")]
    site.servers.resume("dest3")
    assert {row["ok"] for row in kinds(site.run("heartbeat"), "heartbeat")} == {True}


def test_a_server_that_hangs_in_the_middle_of_a_deletion_is_given_up_and_looked_after(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.configure(delete={"batch": 1}, guards={"percent_from": 100}, ssh={"response_timeout": "1s"})
    names = [f"f{number:02}.mpg" for number in range(8)]
    for name in names:
        site.put(name, "src1", *site.destinations)
    site.write_inputs({name: list(site.destinations) for name in names})
    site.start()
    running = subprocess.Popen(site.command("dedup", "--apply"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while (site.root("dest1") / names[1]).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    site.servers.pause("dest1")
    time.sleep(1.5)
    site.servers.resume("dest1")
    out, talk = running.communicate(timeout=40)
    rows = [json.loads(line) for line in out.splitlines()]
    found = {row["name"]: row["state"] for row in kinds(rows, "outcome")}
    gone = {name for name in names if site.holders(name) == ["src1", "dest2"]}
    assert {name for name, state in found.items() if state == "done"} <= gone
    assert running.returncode == (1 if {"failed", "refused"} & set(found.values()) else 0), talk
    site.run("dedup", "--apply")
    assert all(site.holders(name) == ["src1", "dest2"] for name in names)
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        assert state.execute("SELECT count(*) FROM journal WHERE state = 'intended'").fetchone() == (0,)


@pytest.mark.parametrize("key", [None, "dest2"])
def test_an_unknown_or_changed_host_key_is_refused(make_site: MakeSite, key: str | None) -> None:
    site = make_site()
    site.configure()
    site.put("a.mpg", "src1", *site.destinations)
    site.write_inputs({"a.mpg": list(site.destinations)})
    site.start()
    host_keys(site, dest1=key)
    rows = site.run("inventory", expect=1)
    assert states(rows) == {"src1": "ok", "dest1": "refused", "dest2": "ok", "dest3": "ok"}
    assert end(rows)["complete"] is False
    rows = site.run("dedup", "--apply", expect=1)
    assert outcomes(rows) == [("dest1", "a.mpg", "refused"), ("dest2", "a.mpg", "done")]
    assert "dest1" in site.holders("a.mpg")
    if key is None:
        host_keys(site, src1=None, dest1=None, dest2=None, dest3=None)
        for command in ("inventory", "heartbeat", "dedup", "distribute"):
            site.run(command, expect=69)


def test_heartbeat_releases_the_copy_of_a_server_that_hangs_and_its_process_ends_it(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.configure(
        distribute={"via": "relay", "speed_limit": "2Mbit"},  # twelve seconds for LARGE
        ssh={"response_timeout": "60s"},
        heartbeat={"timeout": "1s", "interval": "60s"},
    )
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    site.start()
    running = subprocess.Popen(
        site.command("distribute", "--for", "1s"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 20
    parts: list[str] = []
    while not parts:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        parts = [server for server in site.destinations if list(site.root(server).glob(".cftools-part-*/*"))]
    site.servers.pause(parts[0])
    time.sleep(1.2)
    rows = site.run("heartbeat", expect=1)
    noticed = time.monotonic()
    assert end(rows)["counts"] == {"heartbeat": 3, "failed": 1, "released": 1}
    assert f"copy of a.mpg from src1 to {parts[0]} released" in site.talk
    out, talk = running.communicate(timeout=30)
    assert time.monotonic() - noticed < 4, talk
    assert running.returncode == 1
    (outcome,) = kinds([json.loads(line) for line in out.splitlines()], "outcome")
    assert (outcome["server"], outcome["state"]) == (parts[0], "failed")
    assert outcome["detail"] == "released: one of its servers does not answer"
    with closing(sqlite3.connect(site.folder / "state" / "state.db")) as state:
        assert state.execute("SELECT state FROM task").fetchall() == [("cancelled",)]
    assert site.holders("a.mpg") == ["src1"]


def test_a_signal_waits_for_a_server_that_hangs_no_longer_than_its_time_limit(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(ssh={"connect_timeout": "4s"})
    site.put("a.mpg", "src1", *site.destinations)
    site.write_inputs({"a.mpg": list(site.destinations)})
    site.start()
    site.servers.pause("dest1")
    running = subprocess.Popen(site.command("dedup", "--apply"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 15
    while not site.run("locks"):
        assert time.monotonic() < deadline
    running.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, talk = running.communicate(timeout=40)
    assert (running.returncode, talk) == (143, b"cftools: stopped by signal 15\n")
    assert time.monotonic() - began < 7
