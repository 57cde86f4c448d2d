"""Names that a shell, an option parser, a pattern or a path could take for something else, through the whole chain."""

from __future__ import annotations

import json
import os
import pwd
import time
from pathlib import Path

import pytest
from fault_tools import assert_in_order, journal, tree
from site_of_sshd import CONTENT, MakeSite, Row, Site, end, kinds

from cftools.model.names import bytes_from_text

pytestmark = pytest.mark.system

TRAP = "pwned-by-a-name"
# These fit into a line of the history; the others come as rows.
PLAIN = [
    b"-rf",
    b"--help",
    b"-",
    b" ",
    b"two  words .mpg ",
    b"q'u\"o$(touch " + TRAP.encode() + b")`touch " + TRAP.encode() + b"`;touch " + TRAP.encode() + b"&|<>.mpg",
    b"$HOME ~root ${IFS}#.mpg",
    b"\xff\xfe\x80.mpg",
    b"a[1]*?{b}.mpg",
    b"*",
    b"a..b",
    b"..a",
    b"...",
    b".hidden",
    b"x",
    b"back\\slash\\n%s%b\\0000\\c.mpg",
    b"pipe|.",
    b"n" * 255,
    "é".encode() * 127 + b"x",
    b"sub dir/-n/'x'",
    b".hid/..x/\xe9.mpg",
    b"l" * 255 + b"/" + b"m" * 255,
]
ODD = [b"new\nline.mpg", b"\n", b"tab\tand\rreturn.mpg", b"com,ma.mpg", b"folder\n/-\n-", b"\x01\x1b[2J.mpg"]
GOOD = PLAIN + ODD
# A copy takes long, so only what rsync, ssh and two shells could stumble over.
TAME = [b"-", b" ", b"..a", b"...", b".hidden", b"x", b"\n", b"com,ma.mpg", b"--help", b"a..b", b"*"]
COPIED = [name for name in GOOD if name not in TAME]
UNSAFE = {
    b"../canary.mpg": "path part '..'",
    b"sub dir/../../canary.mpg": "path part '..'",
    b"..": "path part '..'",
    b"./x": "path part '.'",
    b"sub dir//x": "path part ''",
    b"x/": "path part ''",
    b"n" * 256: "a part longer than 255 bytes",
    b".cftools-part-0/x": "a name that cftools keeps for itself",
}


def known_files(site: Site) -> list[Row]:
    """The rows of history and grades with all these names; every one on both destinations."""
    absolute = os.fsencode(site.folder / "servers" / "dest1" / "canary.mpg")
    holders = " ".join(site.destinations.values()).encode()
    names = [*PLAIN, *UNSAFE, absolute]
    lines = [b"%b,1508301143,6399785,%d,%b,2,0,0,1=1 2\n" % (name, len(CONTENT), holders) for name in names]
    header = b"historyheader:%d\n" % int(time.time())
    (site.folder / "hitcount.history").write_bytes(header + b"".join(lines))
    (site.folder / "grade.info").write_bytes(b"filename\tgrade\n" + b"".join(name + b"\t1\n" for name in names))
    rows = site.run("parse-history")
    (sample,) = (row for row in kinds(rows, "file") if row["name"] == "x")
    more = [sample | {"name": os.fsdecode(name), "rank": 1000 + place} for place, name in enumerate(ODD)]
    rows[-1]["counts"]["file"] += len(more)
    assert rows[-1]["counts"]["file"] == len(names) + len(more)
    return [*rows[:-1], *more, rows[-1]]


def stream(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def names_in(rows: list[Row], kind: str, **fields: str) -> list[bytes]:
    chosen = [row for row in kinds(rows, kind) if all(row[key] == value for key, value in fields.items())]
    return sorted(os.fsencode(row["name"]) for row in chosen)


def on_disk(site: Site, server: str) -> list[bytes]:
    root = site.root(server)
    return sorted(os.fsencode(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def surroundings(site: Site) -> dict[str, tuple[object, ...]]:
    """Everything that is not below a destination's root."""
    roots = [str(site.root(server)) + "/" for server in site.destinations]
    found = tree(site.folder / "servers")
    return {path: what for path, what in found.items() if not path.startswith(tuple(roots))}


def traps(site: Site) -> list[Path]:
    homes = [Path(pwd.getpwuid(os.getuid()).pw_dir), Path.cwd()]
    return [*site.folder.rglob(TRAP), *(home / TRAP for home in homes if (home / TRAP).exists())]


def untouched(site: Site, before: dict[str, tuple[object, ...]]) -> None:
    """Nothing outside the roots of the destinations changed, and no name was run as a command."""
    assert surroundings(site) == before
    assert traps(site) == []
    assert_in_order(site)


def site_with(make_site: MakeSite, names: list[bytes], *servers: str) -> Site:
    """A site whose files have these names, and a file beside each root."""
    site = make_site(destinations=2)
    for name in names:
        site.put(os.fsdecode(name), *servers)
    for server in site.names:
        (site.root(server).parent / "canary.mpg").write_bytes(CONTENT)
    return site


def test_no_name_is_taken_for_anything_but_a_name_when_files_are_listed_and_deleted(make_site: MakeSite) -> None:
    site = site_with(make_site, GOOD, "src1", "dest1", "dest2")
    site.server_keys = {server: {"capacity": f"{100 * len(GOOD)}B"} for server in site.destinations}
    evict = {"limit_percent": 2, "target_percent": 1, "min_residency": "0s"}
    site.configure(guards={"percent_from": 10_000}, evict=evict)
    site.start()
    before = surroundings(site)
    given = site.folder / "files.ndjson"
    given.write_bytes(stream(known_files(site)))

    rows = site.run("inventory")
    for server in site.names:
        assert names_in(rows, "holding", server=server) == sorted(GOOD)

    rows = site.run("dedup", "--apply", "--files", str(given))
    assert names_in(rows, "outcome", server="dest1", state="done") == sorted(GOOD)
    assert end(rows)["refused"] == {"unsafe-name": len(UNSAFE) + 1}
    assert on_disk(site, "dest1") == []
    assert on_disk(site, "dest2") == sorted(GOOD)
    assert sorted(bytes_from_text(name) for _, name, _ in journal(site)) == sorted(GOOD)

    by_hand(site, rows)
    assert on_disk(site, "dest2") == sorted(GOOD)

    rows = site.run("evict", "--apply", "--files", str(given))
    assert names_in(rows, "outcome", server="dest2", state="done") == sorted(GOOD)
    assert on_disk(site, "dest2") == []
    untouched(site, before)


@pytest.mark.parametrize("via", ["pull", "relay"])
def test_no_name_is_taken_for_anything_but_a_name_when_files_are_copied(make_site: MakeSite, via: str) -> None:
    site = site_with(make_site, GOOD, "src1")
    site.configure(distribute={"via": via})
    site.start()
    before = surroundings(site)
    wanted = [os.fsdecode(name) for name in COPIED]
    first, *files, last = known_files(site)
    files = [row | {"holders": []} for row in files if row["name"] in wanted]
    rows = [first, *files, last | {"counts": {"file": len(files)}}]
    rows = site.run("distribute", "--files", "-", stdin=stream(rows))
    assert len(files) == len(COPIED)
    assert names_in(rows, "outcome", state="done") == sorted(COPIED)
    assert sorted(on_disk(site, "dest1") + on_disk(site, "dest2")) == sorted(COPIED)
    for server in site.destinations:
        assert all((site.root(server) / os.fsdecode(name)).read_bytes() == CONTENT for name in on_disk(site, server))
    untouched(site, before)


def by_hand(site: Site, rows: list[Row]) -> None:
    """Plans that somebody wrote: of deletions and of copies, with names that lead out of the root."""
    unsafe = {**UNSAFE, os.fsencode(site.folder / "servers" / "dest1" / "canary.mpg"): "absolute path"}
    begin, last = rows[0], end(rows)
    row = kinds(rows, "delete")[0]
    deletes = [row | {"name": os.fsdecode(name), "server": "dest1", "keeper": "dest2"} for name in unsafe]
    closing = last | {"counts": {"delete": len(deletes)}}
    found = site.run("dedup", "--apply", "-", stdin=stream([begin, *deletes, closing]), expect=1)
    told = {os.fsencode(row["name"]): (row["state"], row["detail"]) for row in kinds(found, "outcome")}
    assert told == {name: ("refused", why) for name, why in unsafe.items()}
    source = str(site.root("src1"))
    for name, why in list(unsafe.items())[-3:]:
        copy = {"kind": "copy", "id": "x", "name": os.fsdecode(name), "size": len(CONTENT), "source": "src1"}
        copy |= {"source_path": f"{source}/{os.fsdecode(name)}", "destination": "dest1"}
        copy |= {"rank": 1, "hits": 0, "reason": "by hand"}
        closing = {**last, "command": "plan-distribute", "counts": {"copy": 1}}
        site.run("distribute", "-", stdin=stream([begin, copy, closing]), expect=65)
        assert why in site.talk
        assert site.talk.count("\n") == 1
