"""`cftools locks` shows who holds what; a lock that a killed process left blocks nobody."""

from __future__ import annotations

import os
from typing import Any

import pytest
from faults import duplicates, ended, held, journal, locks_of, run, slow, start, wait_for
from site_of_sshd import MakeSite, Site, end

from cftools.state.locks import DELETION

pytestmark = pytest.mark.system

LARGE = bytes(range(256)) * 12000  # three seconds at 8 Mbit/s
CASES: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "dedup": (("dedup", "--apply"), {"job-dedup", "deletion"}),
    "evict": (("evict", "--apply"), {"job-evict", "deletion"}),
    "cycle": (("cycle", "--apply"), {"job-cycle", "job-dedup", "deletion"}),
    "distribute": (("distribute",), {"source-src1", "run-"}),
    "cycle that copies": (("cycle", "--apply"), {"job-cycle", "source-src1", "run-"}),
}


def node_with_work(make_site: MakeSite, case: str) -> Site:
    """Deletions that take two seconds, or a copy that takes three."""
    site = make_site(destinations=2)
    site.server_keys = {"dest1": {"capacity": "500B"}} if case == "evict" else {}
    sections: dict[str, dict[str, Any]] = {
        "guards": {"percent_from": 1000},
        "distribute": {"via": "relay", "speed_limit": "8Mbit"},
    }
    site.configure(**sections)
    if case in ("distribute", "cycle that copies"):
        site.put("wanted.mpg", "src1", content=LARGE)
        site.write_inputs({"wanted.mpg": []}, {"wanted.mpg": len(LARGE)})
    else:
        site.write_inputs(duplicates(site, 5))
        slow(site, "rm", 2)
    site.start()
    return site


@pytest.mark.parametrize("case", CASES)
def test_every_lock_is_shown_with_its_holder_and_is_free_when_that_is_killed(make_site: MakeSite, case: str) -> None:
    site = node_with_work(make_site, case)
    words, expected = CASES[case]
    process = start(site, *words)

    def of_the_kind() -> set[str]:
        return {"run-" if one.lock.startswith("run-") else one.lock for one in held(site)}

    wait_for(lambda: of_the_kind() == expected)
    shown = site.run("locks")
    assert {"run-" if row["lock"].startswith("run-") else row["lock"] for row in shown} == expected
    told = {(row["kind"], row["command"], row["host"], row["pid"]) for row in shown}
    assert told == {("lock", words[0], os.uname().nodename, process.pid)}
    assert all(row["since"].endswith("+00:00") for row in shown)

    process.kill()
    ended(process)
    assert site.run("locks") == []
    done = run(site, *words)  # at once: nothing is waited for
    # A deletion that the server may still be at is refused until it is settled.
    assert done.code in (0, 1), done.talk
    assert end(done.rows)["complete"] is True
    deleted = [site.root(row.server) / row.name for row in journal(site) if row.verb == "delete"]
    wait_for(lambda: not any(path.exists() for path in deleted))
    assert run(site, *words).code == 0
    assert {row.state for row in journal(site)} <= {"done", "already", "refused", "failed"}
    assert held(site) == []


def test_a_command_that_finds_a_lock_held_names_the_holder_that_locks_shows(make_site: MakeSite) -> None:
    site = node_with_work(make_site, "cycle")
    with locks_of(site).hold(DELETION):
        process = start(site, "cycle", "--apply")
        wait_for(lambda: {"job-cycle", "job-dedup"} <= {one.lock for one in held(site)})
        rows = {row["lock"]: row for row in site.run("locks")}
        assert rows["deletion"]["command"] == "test"
        for command in ("cycle", "dedup"):
            site.run(command, "--apply", expect=75)
            row = rows[f"job-{command}"]
            who = f"held by cycle on {row['host']}, pid {process.pid}, since {row['since']}"
            assert site.talk == f"cftools: lock job-{command} is {who}\n"
            assert site.run(command, "--apply", "--if-free") == []
    assert ended(process).code == 0
    assert site.run("locks") == []
