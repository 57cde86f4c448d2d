"""`hosts scan`: host keys are compared, learned when asked for, and replaced only when asked for that, too."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from site_of_sshd import MakeSite, Row, Site, end, kinds

from cftools.cli import app
from cftools.lab.keys import make_pair, public_line
from cftools.lab.servers import own_name
from cftools.lab.sshd import Shape

pytestmark = pytest.mark.system

ALL = {"src1", "dest1", "dest2"}


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """Three servers that run; nothing is known of them."""
    made: Site = make_site(destinations=2)
    configure(made)
    made.start()
    return made


def scan(site: Site, *words: str, expect: int = 0) -> list[Row]:
    """Runs `hosts scan` in this process, as `Site.run` does it in one of its own."""
    out, talk = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with mock.patch.multiple(sys, stdout=out, stderr=talk):
        try:
            code = app.run(["--config", str(site.folder / "cftools.yaml"), "hosts", "scan", *words])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    out.flush()
    site.talk = talk.getvalue()
    assert code == expect, site.talk
    return [json.loads(line) for line in out.buffer.getvalue().splitlines()]


def known_hosts(site: Site) -> Path:
    return site.folder / "ssh" / "known_hosts"


def configure(site: Site, **ssh: Any) -> None:
    site.configure(ssh={"known_hosts": "ssh/known_hosts", **ssh})


def states(rows: list[Row]) -> dict[str, str]:
    return {row["server"]: row["state"] for row in kinds(rows, "host_key")}


def name_of(site: Site, server: str) -> str:
    return f"[{(site.sources | site.destinations)[server]}]:{site.port}"


def test_nothing_is_written_and_nobody_logged_in_to_without_being_asked_to(site: Site) -> None:
    configure(site, identity="none")
    rows = scan(site, expect=1)
    assert states(rows) == dict.fromkeys(ALL, "new")
    assert end(rows)["counts"] == {"host_key": 3, "new": 3}
    assert not known_hosts(site).parent.exists()
    assert site.talk.count("\n") == 3
    first = kinds(rows, "host_key")[0]
    shown = subprocess.run(
        ["ssh-keygen", "-lf", site.keys.host_key("src1")], capture_output=True, text=True, check=True
    )
    assert (first["type"], first["fingerprint"]) == ("ssh-ed25519", shown.stdout.split()[1])
    assert (first["server"], first["address"], first["port"]) == ("src1", site.sources["src1"], site.port)
    assert site.talk.startswith(f"cftools: src1: host key new: not in {known_hosts(site)}; compare the fingerprint, ")


def test_keys_that_were_added_are_known_to_cftools_and_to_ssh(site: Site) -> None:
    assert states(scan(site, "--add")) == dict.fromkeys(ALL, "added")
    written = known_hosts(site).read_text()
    assert len(written.splitlines()) == 3
    assert states(scan(site, "--add")) == dict.fromkeys(ALL, "known")
    assert states(scan(site)) == dict.fromkeys(ALL, "known")
    assert site.talk == ""
    assert known_hosts(site).read_text() == written
    assert all(row["ok"] for row in kinds(site.run("heartbeat"), "heartbeat"))
    options = [
        "-F",
        "none",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=yes",
        f"-oUserKnownHostsFile={known_hosts(site)}",
    ]
    where = ["-i", str(site.keys.identity), "-p", str(site.port), f"{own_name()}@{site.sources['src1']}", "echo in"]
    assert subprocess.run(["ssh", *options, *where], capture_output=True, check=True).stdout == b"in\n"


def test_only_the_servers_named_are_looked_at(site: Site) -> None:
    assert states(scan(site, "--server", "dest2", "--server", "src1", "--add")) == {
        "src1": "added",
        "dest2": "added",
    }
    assert len(known_hosts(site).read_text().splitlines()) == 2
    scan(site, "--server", "dest9", expect=2)
    assert site.talk == "cftools: no server 'dest9' in the config; there are: src1, dest1, dest2\n"
    scan(site, "--replace", expect=2)
    assert "--add" in site.talk


def test_a_changed_key_is_replaced_only_when_that_is_asked_for(site: Site) -> None:
    scan(site, "--add")
    make_pair(site.folder / "old", "old")
    old = " ".join(public_line(site.folder / "old").split()[:2])
    lines = ["# ours", *known_hosts(site).read_text().splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith(name_of(site, "dest1")))
    lines[at] = f"{name_of(site, 'dest1')},elsewhere {old}"
    known_hosts(site).write_text("\n".join(lines))
    for words in ([], ["--add"]):
        found = scan(site, *words, expect=1)
        assert states(found) == {"src1": "known", "dest1": "changed", "dest2": "known"}
        assert f"{known_hosts(site)}:{at + 1}" in site.talk
        assert known_hosts(site).read_text() == "\n".join(lines)
    assert states(scan(site, "--add", "--replace"))["dest1"] == "replaced"
    after = known_hosts(site).read_text().splitlines()
    assert after[:-1] == [*lines[:at], f"elsewhere {old}", *lines[at + 1 :]]
    assert states(scan(site)) == dict.fromkeys(ALL, "known")


def test_hashed_lines_are_known_and_a_revoked_key_is_never_learned(site: Site) -> None:
    scan(site, "--add")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known_hosts(site)], capture_output=True, check=True)
    assert "|1|" in known_hosts(site).read_text()
    assert states(scan(site)) == dict.fromkeys(ALL, "known")
    kind, key = public_line(site.keys.host_key("dest2")).split()[:2]
    known_hosts(site).write_text(f"@revoked * {kind} {key}\n")
    rows = scan(site, "--add", "--replace", expect=1)
    assert states(rows) == {"src1": "added", "dest1": "added", "dest2": "revoked"}


def test_servers_that_show_no_key_are_told_within_the_time_for_connecting(site: Site) -> None:
    configure(site, connect_timeout="1s")
    site.servers.pause("dest1")
    site.servers.stop("dest2")
    began = time.monotonic()
    rows = scan(site, "--add", expect=1)
    assert time.monotonic() - began < 4
    assert states(rows) == {"src1": "added", "dest1": "unreachable", "dest2": "unreachable"}
    errors = {row["server"]: row["error"] for row in kinds(rows, "host_key")}
    assert (errors["dest1"], errors["dest2"]) == ("no SSH answer in 1 s", "Connection refused")


def test_when_no_server_answers_the_exit_code_tells(site: Site) -> None:
    for server in site.names:
        site.servers.stop(server)
    rows = scan(site, expect=69)
    assert {row["state"] for row in rows if row["kind"] == "host_key"} == {"unreachable"}
    assert site.talk.endswith("cftools: no server answered\n")


def test_a_server_is_asked_for_the_type_of_key_that_is_known(make_site: MakeSite) -> None:
    site: Site = make_site(destinations=1)
    rsa = site.folder / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa], check=True)
    site.servers.shapes["dest1"] = Shape(before=("sh", "-c", f'exec "$@" -h {rsa}', "sh"))
    site.start()
    configure(site)
    known_hosts(site).parent.mkdir()
    known_hosts(site).write_text(f"{name_of(site, 'dest1')} {public_line(rsa)}\n")
    rows = kinds(scan(site, "--add"), "host_key")
    assert [(row["server"], row["type"], row["state"]) for row in rows] == [
        ("src1", "ssh-ed25519", "added"),
        ("dest1", "ssh-rsa", "known"),
    ]
    assert all(row["ok"] for row in kinds(site.run("heartbeat"), "heartbeat"))


def test_the_key_of_a_jump_host_is_learned_first_and_each_only_once(make_site: MakeSite) -> None:
    site: Site = make_site(destinations=2, sources=2)
    configure(site)
    site.start()
    gate = site.sources["src2"]
    inner = " ".join(site.destinations.values())
    config = f"Host gate\n HostName {gate}\n Port {site.port}\n User {own_name()}\nHost {inner}\n ProxyJump gate\n"
    (site.folder / "ssh_config").write_text(config)
    wanted = ["--server", "dest1", "--server", "dest2"]
    rows = scan(site, *wanted, expect=1)
    assert states(rows) == {"gate": "new", "dest1": "unreachable", "dest2": "unreachable"}
    assert "dest1: host key unreachable: jump host gate: unknown host key; " in site.talk
    assert [row["server"] for row in kinds(rows, "host_key")] == ["gate", "dest1", "dest2"]
    assert states(scan(site, *wanted, "--add")) == dict.fromkeys(["gate", "dest1", "dest2"], "added")
    assert len(known_hosts(site).read_text().splitlines()) == 3
    scan(site, "--add")
    assert all(row["ok"] for row in kinds(site.run("heartbeat"), "heartbeat"))


def test_two_scans_at_once_double_nothing(site: Site) -> None:
    known_hosts(site).parent.mkdir()

    def at_once(_: int) -> set[str]:
        done = subprocess.run(site.command("hosts", "scan", "--add"), capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return {row["state"] for row in map(json.loads, done.stdout.splitlines()) if row["kind"] == "host_key"}

    with ThreadPoolExecutor(3) as pool:
        assert set().union(*pool.map(at_once, range(3))) <= {"added", "known"}
    assert len(known_hosts(site).read_text().splitlines()) == 3
    assert [path.name for path in known_hosts(site).parent.iterdir()] == ["known_hosts"]


def test_a_known_hosts_that_cannot_be_written_is_told(site: Site) -> None:
    configure(site, known_hosts="/dev/null")
    rows = scan(site, "--add", expect=1)
    assert {row["error"] for row in kinds(rows, "host_key")} == {"/dev/null: not a regular file"}
    assert set(states(rows).values()) == {"new"}


def test_a_scan_needs_neither_state_nor_inputs_and_has_every_format(site: Site) -> None:
    (site.folder / "state").write_text("in the way")
    table = subprocess.run(
        site.command("--format", "table", "hosts", "scan", "--add"), capture_output=True, text=True, check=True
    )
    assert table.stdout.splitlines()[0].split() == [
        *("server", "address", "port", "type", "fingerprint", "state", "error")
    ]
    assert table.stdout.splitlines()[1].split()[0] == "src1"
    done = subprocess.run(site.command("--format", "csv", "hosts", "scan"), capture_output=True, text=True, check=True)
    assert [row["state"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["known"] * 3
