"""Disks and files that are not what they were: full, read-only, replaced by something else, a root that is a link."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_tools import Program, Run, assert_in_order, journal, part_bytes, parts, tree
from site_of_sshd import CONTENT, MakeSite, Site, kinds, outcomes

from cftools.lab.sshd import Shape

pytestmark = pytest.mark.system

LARGE = random.Random(13).randbytes(3 << 19)
FULL = 1000  # blocks of 512 bytes
CALM = {"percent_from": 1000}


@pytest.fixture(params=["pull", "relay"])
def via(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def replace_word(site: Site, server: str, program: str, old: str, new: str) -> None:
    """Makes a program of a server take one of its words for another."""
    path = Program(site, server, program).path
    path.write_text(
        f'#!/bin/bash\nwords=(); for word; do [ "$word" = "{old}" ] && word={new}; words+=("$word"); done\n'
        f'exec {shutil.which(program)} "${{words[@]}}"\n'
    )


# A full disk


def test_a_copy_onto_a_full_disk_fails_and_is_carried_on_with_when_there_is_room(make_site: MakeSite, via: str) -> None:
    site = make_site(destinations=1)
    site.configure(distribute={"via": via})
    site.put("a.mpg", "src1", content=LARGE)
    site.put("small.mpg", "src1")
    site.write_inputs({"a.mpg": [], "small.mpg": []}, {"a.mpg": len(LARGE)})
    writer = Program(site, "dest1", "rsync" if via == "pull" else "cat")
    site.start()
    writer.limit(FULL)
    site.run("plan-distribute")
    plan = site.output
    said: set[str] = set()
    for _ in range(2):
        rows = site.run("distribute", "-", stdin=plan, expect=1)
        small = "done" if not said else "already"
        assert outcomes(rows) == [("dest1", "a.mpg", "failed"), ("dest1", "small.mpg", small)]
        said.add(site.talk)
        assert part_bytes(site, "dest1") == FULL * 512  # kept, and not one more beside it
        assert len(parts(site)) == 1
        assert_in_order(site, keeps_parts=True)
    assert all(text.startswith("cftools: copy dest1 a.mpg: failed: ") and text.count("\n") == 1 for text in said)
    assert all("File too large" in text for text in said), said  # what a limit says; a full disk has its own words
    writer.limit(None)
    rows = site.run("distribute", "-", stdin=plan)
    assert ("dest1", "a.mpg", "done") in outcomes(rows)
    assert (site.root("dest1") / "a.mpg").read_bytes() == LARGE
    assert [state for _, name, state in journal(site, "copy") if name == "a.mpg"] == ["failed", "failed", "done"]
    assert_in_order(site)


def test_a_full_disk_holds_no_other_destination_up_and_its_part_is_not_kept_for_ever(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.server_keys = {"dest1": {"capacity": "1GB"}, "dest2": {"capacity": "100MB"}}
    age = {"partial_max_age": "60s", "timeout": "30s"}
    site.configure(distribute={"via": "relay", **age})
    site.put("a.mpg", "src1", content=LARGE)
    site.write_inputs({"a.mpg": []}, {"a.mpg": len(LARGE)})
    writer = Program(site, "dest1", "cat")
    replace_word(site, "dest1", "find", "+1", "-60")  # older than a minute: younger than an hour
    site.start()
    writer.limit(FULL)
    rows = site.run("distribute", expect=1)
    assert outcomes(rows) == [("dest1", "a.mpg", "failed"), ("dest2", "a.mpg", "done")]
    (left,) = parts(site)
    assert left.startswith("dest1/data/.cftools-part-")
    os.utime(site.folder / "servers" / left, (0, 0))
    site.run("distribute")
    assert part_bytes(site, "dest1") == 0
    assert site.holders("a.mpg") == ["src1", "dest2"]


# A read-only root

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && '
PROVEN = '! touch -- "$0/probe" 2>/dev/null && exec "$@"'


@contextmanager
def read_only(site: Site, server: str) -> Iterator[None]:
    """Runs a server that cannot write below its root, and proves that it cannot; afterwards it can again."""
    root = str(site.root(server))
    modes: list[Path] = []
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0:
        before = ("unshare", "--mount", "sh", "-c", READ_ONLY + PROVEN, root)
    else:
        modes = [site.root(server), *(path for path in site.root(server).rglob("*") if path.is_dir())]
        # Permissions do not bind root as long as it may override them.
        weak = ("setpriv", "--bounding-set=-dac_override") if os.getuid() == 0 else ()
        before = (*weak, "sh", "-c", PROVEN, root)
    for path in modes:
        path.chmod(0o555)
    site.servers.shapes[server] = Shape(before=before)
    try:
        site.start(server)
        yield
    finally:
        site.servers.stop(server)
        for path in modes:
            path.chmod(0o755)
        del site.servers.shapes[server]
        site.start(server)


def test_a_read_only_root_loses_nothing_takes_nothing_and_says_so(make_site: MakeSite) -> None:
    site = make_site()
    site.configure(distribute={"via": "relay"}, guards=CALM)
    names = ["a.mpg", "sub/b.mpg"]
    for name in names:
        site.put(name, "src1", *site.destinations)
    site.put("new.mpg", "src1")
    site.put("newer.mpg", "src1")
    holders = {name: list(site.destinations) for name in names}
    site.write_inputs({**holders, "new.mpg": [], "newer.mpg": []})
    site.start("src1", "dest2", "dest3")
    with read_only(site, "dest1"):
        before = tree(site.root("dest1"))
        rows = site.run("dedup", "--apply", expect=1)
        expected = [("dest1", "a.mpg", "failed"), ("dest2", "a.mpg", "done")]
        expected += [("dest1", "sub/b.mpg", "failed"), ("dest2", "sub/b.mpg", "done")]
        assert outcomes(rows) == journal(site) == expected
        own = [line for line in site.talk.splitlines() if "rm: cannot remove './" in line]
        assert [line.split(": ")[1] for line in own] == ["delete dest1 a.mpg", "delete dest1 sub/b.mpg"]
        assert all(line.endswith(("Read-only file system", "Permission denied")) for line in own)
        assert len(site.talk.splitlines()) == 2
        site.run("plan-distribute")
        rows = [json.loads(line) for line in site.output.splitlines()]
        for row in kinds(rows, "copy"):
            row["destination"] = "dest1" if row["name"] == "new.mpg" else "dest2"
        plan = "".join(json.dumps(row) + "\n" for row in rows).encode()
        rows = site.run("distribute", "-", stdin=plan, expect=1)
        assert sorted(outcomes(rows)) == [("dest1", "new.mpg", "refused"), ("dest2", "newer.mpg", "done")]
        assert "dest1 new.mpg: refused: dest1: prepare: mkdir: cannot create directory" in site.talk
        assert tree(site.root("dest1")) == before
        assert_in_order(site)
    site.run("dedup", "--apply")
    assert all(site.holders(name) == ["src1", "dest3"] for name in names)
    site.run("distribute")
    assert len(site.holders("new.mpg")) == 2
    assert_in_order(site)


# What stands in the place of a file between the plan and the deletion

# How it is refused as a victim, and as a keeper.
REPLACEMENTS = {
    "folder": ("not a regular file but a directory", "not a regular file"),
    "link": ("not a regular file but a symbolic link", "not a regular file"),
    "size": ("its size is 101, 100 was expected", "its size is 101, 100 was expected"),
    "fifo": ("not a regular file but a fifo", "not a regular file"),
    "way": ("its folder cannot be looked into, or a link stands on the way", "the file was not seen there"),
    "gone": ("not there any more", "the file was not seen there"),
}


def replace(what: str, path: Path, outside: Path) -> None:
    """Puts something else in the place of a file; ``outside`` is a folder outside the roots that has the file, too."""
    if what == "size":
        path.write_bytes(CONTENT + b"!")
        return
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(outside / path.name)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "way":
        path.parent.rmdir()
        path.parent.symlink_to(outside)


def test_whatever_takes_the_place_of_victim_keeper_or_origin_after_the_plan_is_not_deleted(
    make_site: MakeSite,
) -> None:
    site = make_site(destinations=2)
    site.configure(guards=CALM)
    cases = [(server, what) for server in ("dest1", "dest2", "src1") for what in REPLACEMENTS]
    names = {(server, what): f"in-{what}-{server}/{what}-{server}.mpg" for server, what in cases}
    names["", ""] = "fine/fine.mpg"
    for name in names.values():
        site.put(name, *site.names)
    site.write_inputs({name: ["dest1", "dest2"] for name in names.values()})
    site.start()
    site.run("dedup")
    plan = site.output
    outside = site.folder / "servers" / "outside"
    for (server, what), name in names.items():
        (outside / name).parent.mkdir(parents=True)
        (outside / name).write_bytes(CONTENT)
        if server:
            replace(what, site.root(server) / name, (outside / name).parent)
    before = tree(site.folder / "servers")
    rows = site.run("dedup", "--apply", "-", stdin=plan, expect=1)
    found = {row["name"]: (row["state"], row["detail"]) for row in kinds(rows, "outcome")}
    expected = {names["", ""]: ("done", "")}
    for (server, what), name in names.items():
        if server:
            as_victim, as_witness = REPLACEMENTS[what]
            why = {"dest1": as_victim, "dest2": f"keeper dest2: {as_witness}"}
            verdict = "already" if (server, what) == ("dest1", "gone") else "refused"
            expected[name] = (verdict, why.get(server, "no source has it with the expected size"))
    assert found == expected
    assert {name: state for _, name, state in journal(site)} == {name: state for name, (state, _) in expected.items()}
    gone = before.keys() - tree(site.folder / "servers").keys()
    assert gone == {str(site.root("dest1") / names["", ""])}
    assert all(before[path] == now for path, now in tree(site.folder / "servers").items())
    assert len(site.talk.splitlines()) == len(cases) - 1
    assert_in_order(site)


# A root that is a link


def disks(site: Site, server: str) -> tuple[Path, Path]:
    """Makes a server's root a link to the first of two folders."""
    root = site.root(server)
    first, second = root.with_name("disk1"), root.with_name("disk2")
    root.rename(first)
    second.mkdir()
    root.symlink_to(first)
    return first, second


def aim(site: Site, server: str, disk: Path) -> None:
    """Lets the root point elsewhere, in one step."""
    link = site.root(server).with_name("new-link")
    link.symlink_to(disk)
    link.rename(site.root(server))


def test_a_root_that_is_a_link_is_the_folder_it_points_to_for_every_command(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.configure(distribute={"via": "pull"}, guards={**CALM, "mount_marker": ".cftools-root"})
    at = {server: disks(site, server) for server in site.names}
    for server in site.names:
        (at[server][0] / ".cftools-root").touch()
    site.put("a.mpg", *site.names)
    site.put("new.mpg", "src1")
    for _, other in at.values():
        (other / "a.mpg").write_bytes(CONTENT)
    site.write_inputs({"a.mpg": ["dest1", "dest2"], "new.mpg": []})
    site.start()
    before = tree(*(other for _, other in at.values()))
    rows = site.run("inventory")
    assert sorted((row["server"], row["name"]) for row in kinds(rows, "holding")) == [
        ("dest1", "a.mpg"),
        ("dest2", "a.mpg"),
        ("src1", "a.mpg"),
        ("src1", "new.mpg"),
    ]
    assert outcomes(site.run("dedup", "--apply")) == [("dest1", "a.mpg", "done")]
    assert not (at["dest1"][0] / "a.mpg").exists()
    ((taker, _, done),) = outcomes(site.run("distribute"))
    assert done == "done"
    assert (at[taker][0] / "new.mpg").read_bytes() == CONTENT
    assert tree(*(other for _, other in at.values())) == before
    assert all(site.root(server).is_symlink() for server in site.names)
    assert_in_order(site)


def test_a_root_that_points_elsewhere_after_the_plan_is_refused_by_its_mount_marker(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    site.configure(guards={**CALM, "mount_marker": ".cftools-root"})
    first, second = disks(site, "dest1")
    for server in site.names:
        site.put(".cftools-root", server)
    site.put("a.mpg", *site.names)
    (second / "a.mpg").write_bytes(CONTENT)
    site.write_inputs({"a.mpg": ["dest1", "dest2"]})
    origin = Program(site, "src1", "xargs")
    site.start()
    site.run("dedup")
    plan = site.output
    before = tree(first, second)
    # After every guard was asked and dest1 showed its file, while the origin is asked.
    origin.hold("before")
    run = Run(site, "dedup", "--apply")
    origin.wait()
    aim(site, "dest1", second)
    origin.release()
    assert outcomes(run.end(1)) == [("dest1", "a.mpg", "refused")]
    why = f".cftools-root does not stand in {site.root('dest1')}: is the disk mounted?"
    assert run.talk == [f"cftools: delete dest1 a.mpg: refused: {why}"]
    site.run("dedup", "--apply", "-", stdin=plan, expect=73)
    assert site.talk.startswith("cftools: guard mount_marker: .cftools-root is missing in a root of dest1; ")
    assert tree(first, second) == before
    assert_in_order(site)


def test_without_a_mount_marker_the_folder_a_root_points_to_now_is_the_root(make_site: MakeSite) -> None:
    """Nothing tells two folders with the same files apart, so the marker is worth having; the other is left alone."""
    site = make_site(destinations=2)
    site.configure(guards=CALM)
    first, second = disks(site, "dest1")
    site.put("a.mpg", *site.names)
    (second / "a.mpg").write_bytes(CONTENT)
    site.write_inputs({"a.mpg": ["dest1", "dest2"]})
    site.start()
    site.run("dedup")
    before = tree(first)
    aim(site, "dest1", second)
    assert outcomes(site.run("dedup", "--apply", "-", stdin=site.output)) == [("dest1", "a.mpg", "done")]
    assert tree(first) == before
    assert tree(second) == {}
