"""The lines of the crontab started at the same moments again and again: they take turns, and nothing is done twice."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections import Counter

import pytest
from faults import Ended, duplicates, ended, held, journal, parts, query, start
from site_of_sshd import MakeSite, Site, kinds

pytestmark = pytest.mark.system

LARGE = bytes(range(256)) * 1000  # a quarter of a second at 8 Mbit/s
LINES = [
    ("distribute", "--if-free", "--for", "2s"),
    ("dedup", "--apply", "--if-free"),
    ("evict", "--apply", "--if-free"),
    ("cycle", "--apply", "--for", "2s"),
]
SECONDS = 6.0


def node_with_work(make_site: MakeSite) -> tuple[Site, list[str], list[str]]:
    """Duplicates on all destinations, a dest1 that is too full, and files that are wanted; from two sources."""
    site = make_site(sources=2, destinations=3)
    site.server_keys = {"dest1": {"capacity": "3kB"}}
    site.configure(
        delete={"batch": 2},
        guards={"percent_from": 1000},
        distribute={"via": "relay", "speed_limit": "8Mbit"},
        heartbeat={"timeout": "10s"},
        ssh={"connect_timeout": "10s"},
    )
    holders = duplicates(site, 20, "d")
    twice = list(holders)
    for number in range(20):
        site.put(f"r{number:02}.mpg", "src1", "dest1")
        holders[f"r{number:02}.mpg"] = ["dest1"]
    wanted = [f"w{number:02}.mpg" for number in range(12)]
    for number, name in enumerate(wanted):
        site.put(name, "src1" if number % 2 else "src2", content=LARGE)
    site.write_inputs({**{name: [] for name in wanted}, **holders}, dict.fromkeys(wanted, len(LARGE)))
    site.start()
    return site, twice, wanted


def all_at_once(site: Site) -> list[tuple[tuple[str, ...], Ended]]:
    """Every line twice, started together."""
    processes = [(words, start(site, *words)) for words in [*LINES, *LINES]]
    return [(words, ended(process)) for words, process in processes]


def test_crons_that_meet_take_turns_and_do_nothing_twice(make_site: MakeSite) -> None:
    site, twice, wanted = node_with_work(make_site)
    runs: list[tuple[tuple[str, ...], Ended]] = []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until or not runs:
        runs += all_at_once(site)
    for words, done in runs:
        assert done.code in ((0, 75) if words[0] == "cycle" else (0,)), (words, done.talk)
    assert held(site) == []
    # Nobody deleted or copied what another one had: each outcome `done` is the only one for its file.
    made = Counter(
        (row["verb"], row["server"], row["name"])
        for _, done in runs
        for row in kinds(done.rows, "outcome")
        if row["state"] == "done"
    )
    assert set(made.values()) == {1}
    told = Counter((row.verb, row.server, row.name) for row in journal(site) if row.state == "done")
    assert told == made
    assert {row.state for row in journal(site)} <= {"done", "already", "skipped"}
    for name in twice:
        assert site.holders(name) == ["src1", "dest3"]
    for name in wanted:
        assert sum(one.startswith("dest") for one in site.holders(name)) <= 1
    one_at_a_time(site)
    last = subprocess.run(site.command("cycle", "--apply"), capture_output=True, check=False, timeout=60)
    assert last.returncode == 0, last.stderr.decode()
    assert all(sum(one.startswith("dest") for one in site.holders(name)) == 1 for name in wanted)
    assert parts(site) == []
    assert len([1 for verb, _, name in told if verb == "copy"]) == len(
        {name for verb, _, name in told if verb == "copy"}
    )


def one_at_a_time(site: Site) -> None:
    """No source made two copies at once."""
    for source in site.sources:
        rows = query(
            site, f"SELECT started, finished FROM task WHERE source = '{source}' AND started NOT NULL ORDER BY started"
        )
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(rows)), rows  # type: ignore[operator]
