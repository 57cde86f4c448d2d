"""bulk-delete drain on real servers: what was requested goes from every server, and each failure stands alone."""

from __future__ import annotations

import os
import time

import pytest
from bulk_site import ALBUM, DRAIN, Album, calls, files, notes, states, unremovable, working
from fault_tools import Run, tree, wait_for
from faults import locks_of, query
from site_of_sshd import MakeSite, Site, end, kinds, outcomes

from cftools.lab.sshd import Shape
from cftools.state.locks import DELETION

pytestmark = pytest.mark.system


def one_server(make_site: MakeSite, **target: object) -> Album:
    """An album on dest1, which runs; nothing else does."""
    album = Album(make_site(destinations=1), **target)
    album.configure()
    album.site.start("dest1")
    return album


def test_an_album_goes_from_all_servers_in_partitions(make_site: MakeSite) -> None:
    album = Album(make_site())
    album.configure({"ssh": {"response_timeout": "5s", "parallel": 1}}, partition=4)
    names = files(10)
    album.put([*names, "bystander.jpg"])
    album.site.start(*album.site.destinations)
    assert album.submit("a", names)["resources"] == 10
    before = tree(album.site.folder / "servers")
    shown = album.drain("--dry-run")
    assert calls(shown) == [(server, 10, 0, 0, 0, 10) for server in ("dest1", "dest2", "dest3")]
    assert (tree(album.site.folder / "servers"), notes(album.site)) == (before, [])
    assert end(album.drain("--dry-run"))["counts"] == {"partition": 3, "resources": 30}
    rows = album.drain()
    # One at a time: the servers in their order, the files in that of the request.
    assert calls(rows) == [(f"dest{n}", count, count, 0, 0, 0) for n in (1, 2, 3) for count in (4, 4, 2)]
    assert end(rows)["counts"] == {"partition": 9, "done": 30, "already": 0, "failed": 0}
    assert [(note.server, note.name, note.state) for note in notes(album.site)] == [
        (server, name, "done") for server in ("dest1", "dest2", "dest3") for name in names
    ]
    assert {note.root for note in notes(album.site)} == {str(album.root)}
    assert album.everywhere() == {f"dest{number}": ["bystander.jpg"] for number in (1, 2, 3)}
    assert (album.status("a")["state"], album.status("a")["done"]) == ("done", 30)
    assert album.drain()[1:-1] == []


def test_one_file_in_a_thousand_is_tried_again_by_itself_and_then_named(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure({"ssh": {"response_timeout": "5s"}}, attempts=3, retry_delay="100s", retry_delay_limit="1h")
    names = files(1000)
    album.put(names)
    album.site.start("dest1")
    album.submit("a", names)
    with unremovable(album.folder("dest1") / names[500]):
        rows = album.drain(expect=1)
        assert calls(rows) == [("dest1", 1000, 999, 0, 1, 0)]
        assert outcomes(rows) == [("dest1", names[500], "failed")]
        assert album.left("dest1") in ([names[500]], [])  # a folder in place of the file is no file
        said = kinds(rows, "outcome")[0]["detail"]
        assert album.talk == f"cftools: delete dest1 {names[500]}: failed: {said}\n"
        for tries, rest in ((1, 100), (2, 200)):
            ((server, count, attempts, left, error),) = working(album.site)
            assert (server, count, attempts, error) == ("dest1", 1, tries, said)
            assert rest * 0.74 < left < rest * 1.26
            assert album.drain()[1:-1] == []  # it rests in the state, in no process
            album.make_due()
            assert calls(album.drain(expect=1)) == [("dest1", 1, 0, 0, 1, 0)]
        assert (working(album.site), album.dead()) == ([], [("dest1", names[500], 3, said)])
        assert album.status("a")["state"] == "failed"
        assert kinds(album.run("bulk-delete", "wait", "a", expect=1), "request_status")[0]["dead"] == 1
    assert album.run("bulk-delete", "retry", "a")[-1]["counts"]["retried"] == 1
    assert calls(album.drain()) == [("dest1", 1, 1, 0, 0, 0)]
    assert (album.left("dest1"), album.dead(), album.status("a")["state"]) == ([], [], "done")
    assert states(album.site) == {"done": 1000, "failed": 3}


def test_a_server_that_is_down_costs_no_attempts_and_catches_up_when_it_is_back(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=2))
    album.configure({"ssh": {"connect_timeout": "2s", "response_timeout": "5s"}}, attempts=1)
    album.put(files(20))
    site = album.site
    site.start("dest1")
    album.submit("a", files(10))
    running = Run(site, *DRAIN, "--for", "50s")
    wait_for(lambda: states(site)["done"] == 10 and query(site, "SELECT failures FROM bulk_pause") >= [(2,)])
    assert {work[:3] for work in working(site)} == {("dest2", 10, 0)}
    album.submit("b", files(20)[10:])  # comes while it drains
    wait_for(lambda: states(site)["done"] == 20)
    assert sorted({note.server for note in notes(site)}) == ["dest1"]
    watching = Run(site, "bulk-delete", "wait", "b", "--timeout", "40s")
    site.start("dest2")
    watching.end(0)
    album.run("bulk-delete", "wait", "a", "--timeout", "20s")
    running.process.terminate()
    rows = running.end(143)
    assert album.everywhere() == {}
    assert (states(site), album.dead()) == ({"done": 40}, [])
    assert query(site, "SELECT * FROM bulk_pause") == []
    rests = [row for row in kinds(rows, "partition") if row["waiting"]]
    assert {(row["server"], row["done"], row["failed"]) for row in rests} == {("dest2", 0, 0)}
    assert all("unreachable" in row["detail"] for row in rests)


def test_a_server_that_stays_away_is_given_up_in_the_end(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure(give_up_after="1h", retry_delay="10s", retry_delay_limit="15s", partition=2)
    album.put(files(3))
    album.submit("a", files(3))
    rests = []
    for _ in range(3):
        before = time.time()
        assert "unreachable" in kinds(album.drain(expect=1), "partition")[0]["detail"]
        ((until, attempts),) = query(album.site, "SELECT until, max(attempts) FROM bulk_pause, bulk_work")
        assert attempts == 0
        rests.append(float(str(until)) - before)
        assert album.drain()[1:-1] == []
        album.make_due()
    for rest, nominal in zip(rests, (10, 15, 15), strict=True):
        assert nominal * 0.75 <= rest < nominal * 1.25 + 5
    album.change("UPDATE bulk_pause SET since = since - 3600")
    rows = album.drain(expect=1)
    assert end(rows)["counts"]["failed"] == 3
    assert [(server, name) for server, name, _, _ in album.dead()] == [("dest1", name) for name in files(3)]
    assert all(error.startswith("could not be asked since 20") for *_, error in album.dead())
    assert (album.status("a")["state"], notes(album.site)) == ("failed", [])
    album.site.start("dest1")
    album.run("bulk-delete", "retry", "a")
    assert end(album.drain())["counts"]["done"] == 3
    assert (album.everywhere(), album.status("a")["state"]) == ({}, "done")


def test_a_server_that_cannot_be_trusted_or_has_no_folder_is_paused_and_nothing_counts_as_gone(
    make_site: MakeSite,
) -> None:
    album = Album(make_site(destinations=5))
    site = album.site
    album.configure({"guards": {"mount_marker": ".marker"}})
    for server in site.destinations:
        (album.folder(server) / ".marker").touch()
    album.put(files(3))
    key, login, folder, marker, _ = sorted(site.destinations)
    site.servers.shapes[login] = Shape(site.servers.shapes[login].environment, authorized_keys=site.folder / "nobody")
    (site.folder / "nobody").touch()
    album.folder(folder).rename(album.folder(folder).with_name("elsewhere"))
    (album.folder(marker) / ".marker").unlink()
    site.start(*site.destinations)
    hosts = site.keys.known_hosts.read_text().splitlines()
    place = next(number for number, line in enumerate(hosts) if site.destinations[key] in line.split(" ")[0])
    hosts[place] = hosts[place].rpartition(" ")[0] + " " + hosts[place - 1].rpartition(" ")[2]
    site.keys.known_hosts.write_text("\n".join(hosts) + "\n")
    album.submit("a", files(3))
    rows = album.drain(expect=1)
    details = {row["server"]: row["detail"] for row in kinds(rows, "partition")}
    assert details.pop("dest5") == ""
    for server, what in (
        (key, "host key"),
        (login, "login refused"),
        (folder, "album"),
        (marker, "is the disk mounted"),
    ):
        assert what in details[server]
        assert "it rests for" in details[server]
    assert {(work[0], work[1], work[2]) for work in working(site)} == {(f"dest{n}", 3, 0) for n in (1, 2, 3, 4)}
    assert states(site) == {"done": 3, "refused": 3}
    assert all(len(album.left(server)) >= 3 for server in (key, login, marker))
    assert album.status("a")["done"] == 3


def test_whichever_server_has_a_file_loses_it(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=2), layout="any")
    album.configure()
    album.put(["a.jpg"], "dest1")
    album.put(["b.jpg", "gone.jpg"], "dest2")
    album.site.start(*album.site.destinations)
    album.submit("a", ["a.jpg", "b.jpg", "gone.jpg", "never.jpg"])
    (album.folder("dest2") / "gone.jpg").unlink()
    assert sorted(calls(album.drain())) == [("dest1", 4, 1, 3, 0, 0), ("dest2", 4, 1, 3, 0, 0)]
    assert (album.everywhere(), album.status("a")["state"]) == ({}, "done")
    assert states(album.site) == {"done": 2, "skipped": 6}  # a lack is no news


ODD = [
    *(
        "-rf",
        "--",
        "-delete",
        "a b",
        "*",
        "?",
        "[a-z]",
        "$(touch x)",
        "`id`",
        ";id",
        "a'b\"c",
        "back\\slash\\n",
        "%s%b",
        "|.",
    ),
    *(
        "~",
        "#x",
        "!f",
        "!f./x",
        "@",
        "end",
        "cut",
        "./-x"[2:],
        "드라마.jpg",
        "a|b",
        "x\\0001y",
        ".hidden",
        "..x",
        "d/-name",
    ),
]


def test_names_of_any_bytes_mean_nothing_but_themselves(make_site: MakeSite) -> None:
    album = one_server(make_site)
    names = [*map(os.fsencode, ODD), b"bytes-\xff\xfe", b"\xe9t\xe9.jpg", b"x" * 255, b"/".join([b"y" * 200] * 5)]
    stay = ["x", "a", "z", "id", "f", "ab", "slash", "name", "-"]
    album.put([*names, *stay])
    before = tree(album.folder("dest1"))
    album.submit("a", names)
    assert calls(album.drain()) == [("dest1", len(names), len(names), 0, 0, 0)]
    assert album.left("dest1") == sorted(stay)
    assert tree(album.folder("dest1")).items() <= before.items()
    assert states(album.site) == {"done": len(names)}


def test_only_regular_files_that_stand_below_no_link_are_deleted(make_site: MakeSite) -> None:
    album = one_server(make_site)
    base = album.folder("dest1")
    album.put(["real/a.jpg", "real/deep/b.jpg", "c.jpg", "folder/d.jpg", "last.jpg"])
    (base / "link").symlink_to("real")
    (base / "link.jpg").symlink_to("c.jpg")
    (base / "loop").symlink_to("loop")
    os.mkfifo(base / "pipe")
    album.submit("a", ["link/a.jpg", "link/deep/b.jpg", "link.jpg", "loop/x", "pipe", "folder", "last.jpg"])
    rows = album.drain(expect=1)
    assert calls(rows) == [("dest1", 7, 1, 0, 6, 0)]
    assert {row["name"]: row["detail"] for row in kinds(rows, "outcome")} == {
        **dict.fromkeys(("link/a.jpg", "link/deep/b.jpg"), "link, on its way, is a link"),
        "link.jpg": "not a regular file but a link",
        "loop/x": "loop, on its way, is a link",
        "pipe": "not a regular file but a pipe",
        "folder": "not a regular file but a folder",
    }
    stay = ["c.jpg", "folder/d.jpg", "link", "link.jpg", "loop", "pipe", "real/a.jpg", "real/deep/b.jpg"]
    assert album.left("dest1") == stay


# find after somebody else deleted the file that it has just looked at.
OVERTAKEN_FIND = r"""#!/bin/sh
rm -- "$1" && printf '!f%s\0' "$1"
echo "find: cannot delete '$1': No such file or directory" >&2
exit 1
"""


def test_a_file_that_vanishes_while_it_is_looked_at_is_already_gone(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure(attempts=1)
    album.put(["a.jpg"])
    album.program("dest1", "find", OVERTAKEN_FIND)
    album.site.start("dest1")
    album.submit("a", ["a.jpg"])
    assert calls(album.drain()) == [("dest1", 1, 0, 1, 0, 0)]
    assert (album.dead(), album.status("a")["state"]) == ([], "done")


def test_a_request_that_is_taken_back_takes_the_impatience_with_its_server_along(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1), trash="7d")
    album.configure(give_up_after="1h")
    album.submit("a", files(2))
    album.drain(expect=1)
    assert query(album.site, "SELECT failures FROM bulk_pause") == [(1,)]
    album.run("bulk-delete", "restore", "a", expect=1)
    assert (query(album.site, "SELECT * FROM bulk_pause"), working(album.site)) == ([], [])


def own_and_other(site: Site) -> dict[str, object]:
    """Targets on a destination's own folder, below it, beside it, and on a server that is nothing else."""
    for server in site.destinations:
        (site.root(server).parent / "beside").mkdir()
    return {
        "own": {"servers": ["dest1"], "root": str(site.root("dest1"))},
        "below": {"servers": ["dest1"], "root": f"{site.root('dest1')}/photos"},
        "beside": {"servers": ["dest1"], "root": str(site.root("dest1").parent / "beside")},
        "origin": {"servers": ["src1"], "root": f"{site.root('src1')}/cache"},
        "other": {"servers": ["extra"], "root": str(site.root("dest2").parent / "beside")},
    }


def test_a_target_lies_anywhere_and_in_the_node_s_own_folders_the_journal_names_its_files(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    album = Album(site)
    found = own_and_other(site)
    address = site.destinations.pop("dest2")
    album.target["servers"] = ["dest1"]
    album.configure({"guards": {"percent_from": 1000}}, targets=found)
    config = site.folder / "cftools.yaml"
    extra = f'"servers": [{{"name": "extra", "address": "{address}"}}], "destinations"'
    config.write_text(config.read_text().replace('"destinations"', extra))
    site.destinations["dest2"] = address
    site.start("src1", "dest1", "dest2")
    roots = {"origin": site.root("src1") / "cache", "own": site.root("dest1"), "below": site.root("dest1") / "photos"}
    roots |= {"beside": site.root("dest1").parent / "beside", "other": site.root("dest2").parent / "beside"}
    for target, root in roots.items():
        root.mkdir(exist_ok=True)
        for name in ("stays.jpg", f"{target}.jpg"):
            (root / name).touch()
        album.submit(target, [f"{target}.jpg"], target)
    album.drain()
    assert {path.name for root in roots.values() for path in root.glob("*.jpg")} == {"stays.jpg"}
    assert sorted((note.server, note.root, note.name, note.state) for note in notes(site)) == [
        ("dest1", "", "own.jpg", "done"),
        ("dest1", "", "photos/below.jpg", "done"),
        ("dest1", str(roots["beside"]), "beside.jpg", "done"),
        ("extra", str(roots["other"]), "other.jpg", "done"),
        ("src1", str(roots["origin"]), "origin.jpg", "done"),
    ]


def test_it_waits_for_its_turn_among_the_node_s_deletions_but_begins_nothing_late(make_site: MakeSite) -> None:
    album = one_server(make_site)
    album.put(files(2))
    album.submit("a", files(1))
    with locks_of(album.site).hold(DELETION):
        late = Run(album.site, *DRAIN, "--for", "0.5s")
        patient = Run(album.site, *DRAIN)
        assert late.end(0, within=5)[-1]["counts"]["partition"] == 0
        assert patient.process.poll() is None
        stopped = Run(album.site, *DRAIN)
        wait_for(lambda: query(album.site, "SELECT count(*) FROM run WHERE command LIKE '%drain'") == [(3,)])
        stopped.process.terminate()
        stopped.end(143)
        assert notes(album.site) == []
    assert calls(patient.end(0)) == [("dest1", 1, 1, 0, 0, 0)]
    assert album.left("dest1") == files(2)[1:]


def test_a_drain_and_a_dedup_take_turns(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    album = Album(site)
    album.configure({"guards": {"percent_from": 1000}, "ssh": {"response_timeout": "5s"}}, partition=3)
    names = [f"f{number:02}.mpg" for number in range(12)]
    for name in names:
        site.put(name, "src1", "dest1", "dest2")
    site.write_inputs({name: ["dest1", "dest2"] for name in names})
    album.put(files(60))
    site.start()
    album.submit("a", files(60))
    draining, cleaning = Run(site, *DRAIN), Run(site, "dedup", "--apply")
    assert sum(call[2] for call in calls(draining.end(0))) == 120
    assert len(outcomes(cleaning.end(0))) == 12
    assert album.everywhere() == {}
    assert all(site.holders(name) == ["src1", "dest2"] for name in names)
    at = {own: [(note.at, note.finished) for note in notes(site) if (note.root == "") == own] for own in (True, False)}
    assert (len(at[True]), len(at[False])) == (12, 120)
    # Never both at once: what dedup did lies between two calls of the drain.
    assert not [1 for a, b in at[True] for c, d in at[False] if a < d and c < b]
    assert ALBUM in album.status("a")["target"]
