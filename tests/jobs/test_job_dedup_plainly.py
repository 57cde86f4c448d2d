"""`dedup` from odd input files and real folders to its rows, against the same worked out plainly, line by line."""

from __future__ import annotations

import os
import random
import time
from ipaddress import ip_address
from pathlib import Path

import oracle_files
import pytest
from local_site import LocalSite
from site_of_sshd import kinds

PIECES = [
    b"a",
    b"B7",
    b"-",
    b"_",
    b" ",
    b"'",
    b'"',
    b"\xff",
    b"\xc3\xa9",
    b"\xe4\xb8",
    b"$(x)",
    b"[1]",
    b"*",
    b"\\",
    b"%s",
    b"M64",
]
IGNORED = b"M64"
Listing = dict[str, dict[bytes, int]]


def odd_name(chance: random.Random) -> bytes:
    return b"".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6))) + b".%d" % chance.randrange(400)


def odd_line(chance: random.Random, line: bytes) -> bytes:
    """The line as it is, or spoilt in one of the ways in which lines are."""
    kind = chance.randrange(30)
    spoilt = {
        0: b"",
        1: b"   ",
        2: line[: len(line) // 3],
        3: line + b"\r",
        4: line + b"," * 70_000,
        5: line.replace(b",", b",x", 3),
    }
    return spoilt.get(kind, line)


def make(site: LocalSite, chance: random.Random) -> Listing:
    """Odd inputs of some 2,500 lines, and files on the servers that fit them more or less."""
    listing: Listing = {server: {} for server in site.names}
    history, grades = [b"historyheader:%d" % time.time()], [b"filename\tweightcount"]
    addresses = [address.encode() for address in site.destinations.values()]
    for name in sorted({odd_name(chance) for _ in range(1200)}):
        size = chance.choice([0, 1, 7, 30])
        holders = chance.sample([*addresses, b"192.168.9.9", b"not-an-address"], chance.randint(0, 5))
        for _ in range(chance.choice([1, 1, 1, 2])):
            line = b"%b,1508301143,0,%d,%b,2,0,0,1=1" % (name, size, b" ".join(holders))
            history.append(odd_line(chance, line))
        grades.append(odd_line(chance, name + b"\t1\t2"))
        there = {server for server, address in site.destinations.items() if address.encode() in holders}
        for server in site.names:
            wanted = server in there or server.startswith("src")
            if (wanted and chance.random() < 0.9) or (not wanted and chance.random() < 0.05):
                listing[server][name] = size if chance.random() < 0.95 else size + 1
    chance.shuffle(grades[1:])
    for server, files in listing.items():
        for name, size in files.items():
            (site.root(server) / os.fsdecode(name)).write_bytes(b"x" * size)
    (site.folder / "hitcount.history").write_bytes(b"\n".join(history) + b"\n")
    (site.folder / "grade.info").write_bytes(b"\n".join(grades) + b"\n")
    return listing


def plainly(site: LocalSite, listing: Listing, mode: str) -> list[tuple[str, bytes, int, str]]:
    """Server, name, size and keeper of each deletion."""
    history, grades = ((site.folder / name).read_bytes() for name in ("hitcount.history", "grade.info"))
    server_of = {address: server for server, address in site.destinations.items()}
    deletions = []
    for row in oracle_files.answer(history, grades, list(server_of)).rows:
        name, size = row["name"], row["size"]
        if size == 0 or name.startswith(IGNORED) or not any(listing[one].get(name) == size for one in site.sources):
            continue
        holders = [server_of[address] for address in sorted(row["holders"], key=ip_address)]
        alive = [server for server in holders if listing[server].get(name) == size]
        if len(holders) < 2 or not alive:
            continue
        victims = holders[: holders.index(alive[-1])]
        for victim in victims if mode == "all-but-one" else victims[:1]:
            deletions.append((victim, name, size, alive[-1]))
    return deletions


@pytest.mark.parametrize("mode", ["one", "all-but-one"])
@pytest.mark.parametrize("seed", range(4))
def test_odd_inputs_lead_to_the_plain_deletions(tmp_path: Path, seed: int, mode: str) -> None:
    site = LocalSite(tmp_path, sources=2, destinations=4)
    site.configure(dedup={"deletes_per_file": mode}, ignore={"prefixes": [IGNORED.decode()]})
    listing = make(site, random.Random(seed))
    found = [
        (row["server"], os.fsencode(row["name"]), row["size"], row["keeper"])
        for row in kinds(site.run("dedup"), "delete")
    ]
    assert found == plainly(site, listing, mode)
    assert len(found) > 100
