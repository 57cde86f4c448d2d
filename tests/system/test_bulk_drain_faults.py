"""bulk-delete drain that is stopped, killed, doubled, cut off, out of room, or held up by one file: nothing is lost,
nothing is done behind the journal's back, and the next drain does the rest."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest
from bulk_site import DRAIN, LIMITS, STUCK_FIND, Album, calls, files, notes, states, working
from fault_tools import wait_for
from faults import ended, held, query, run, start
from site_of_sshd import MakeSite, end, kinds
from test_fault_network import behind_gate
from test_fault_state import locked
from test_restricted import bind

pytestmark = pytest.mark.system

QUICK = {"ssh": {"connect_timeout": "2s", "response_timeout": "0.5s"}}
PATIENT = {"ssh": {"response_timeout": "20s"}}


def in_order(album: Album) -> None:
    """No lock is held; no deletion is unsettled; each file that is gone has a row, each that stands has none `done`."""
    assert held(album.site) == []
    told = notes(album.site)
    assert [note for note in told if note.state == "intended"] == []
    done = [(note.server, note.name) for note in told if note.state == "done"]
    assert len(done) == len(set(done))
    assert not [(server, name) for server, name in done if (album.folder(server) / name).exists()]


def test_a_file_that_takes_for_ever_is_found_and_all_others_are_deleted(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=2))
    album.configure(QUICK, attempts=1, retry_delay="0.1s")
    names = ["a.jpg", "b.jpg", "slow.jpg", "c.jpg"]
    album.put(names)
    stuck = album.stuck_find("dest1")
    album.site.start(*album.site.destinations)
    album.submit("a", names)
    rows = album.drain(expect=1)
    assert sorted(calls(rows)) == [("dest1", 4, 0, 0, 0, 4), ("dest2", 4, 4, 0, 0, 0)]
    found = working(album.site)
    assert [work[:3] for work in found] == [("dest1", 2, 0), ("dest1", 2, 0)]
    # What was asked may go on until its time on the server is over; until then nobody asks again.
    assert all(2 < left < 5 for _, _, _, left, _ in found)
    for _ in range(2):
        album.make_due()
        rows = album.drain(expect=1)
    assert [(server, name, tries) for server, name, tries, _ in album.dead()] == [("dest1", "slow.jpg", 1)]
    (error,) = (error for *_, error in album.dead())
    assert "no answer" in error
    assert album.everywhere() == {"dest1": ["slow.jpg"]}
    assert (working(album.site), album.status("a")["dead"]) == ([], 1)
    assert kinds(rows, "outcome")[0]["detail"] == f"{error}; given up after 1 try"
    album.let_expire()
    assert album.drain()[1:-1] == []  # nothing to do but to settle
    assert states(album.site) == {"done": 7, "already": 2, "failed": 5}
    stuck.unlink()
    album.run("bulk-delete", "retry", "a")
    assert calls(album.drain()) == [("dest1", 1, 1, 0, 0, 0)]
    assert album.status("a")["state"] == "done"
    in_order(album)


# find that works for ever on a file called slow…, and whose server shows that it is alive.
BUSY_FIND = STUCK_FIND.replace("exec sleep 60", "while sleep 0.2; do echo + >&2; done")


def test_what_is_not_got_to_in_time_is_asked_again_and_the_rest_is_settled_at_once(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure(QUICK, attempts=2, retry_delay="0.1s")
    names = ["a.jpg", "slow.jpg", "c.jpg", "d.jpg"]
    album.put(names)
    album.stuck_find("dest1", BUSY_FIND)
    album.site.start("dest1")
    album.submit("a", names)
    (row,) = kinds(album.drain(expect=1), "partition")
    assert calls([row]) == [("dest1", 4, 1, 0, 0, 3)]
    assert row["detail"] == "3 not in time; asked again in smaller calls"
    assert [work[:3] for work in working(album.site)] == [("dest1", 1, 0), ("dest1", 2, 0)]
    album.make_due()
    assert calls(album.drain(expect=1)) == [("dest1", 1, 0, 0, 1, 0), ("dest1", 2, 2, 0, 0, 0)]
    ((server, count, attempts, _, error),) = working(album.site)
    assert (server, count, attempts, error.startswith("no answer about it for ")) == ("dest1", 1, 1, True)
    assert (album.left("dest1"), states(album.site)["done"]) == (["slow.jpg"], 3)


def test_two_drains_at_once_share_the_work_and_do_nothing_twice(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=2))
    album.configure(PATIENT, partition=3)
    names = files(60)
    album.put([*names, "stays.jpg"])
    album.site.start(*album.site.destinations)
    for number in range(4):
        album.submit(f"r{number}", names[number * 15 : number * 15 + 15])
    several = [start(album.site, *DRAIN, "--for", "30s") for _ in range(2)]
    wait_for(lambda: not query(album.site, "SELECT 1 FROM bulk_work LIMIT 1"))
    for process in several:
        process.terminate()
    found = [ended(process) for process in several]
    assert [one.code for one in found] == [143, 143]
    assert sum(call[2] for one in found for call in calls(one.rows)) == 120
    assert all(call[3:] == (0, 0, 0) for one in found for call in calls(one.rows))
    assert album.everywhere() == {"dest1": ["stays.jpg"], "dest2": ["stays.jpg"]}
    assert states(album.site) == {"done": 120}
    in_order(album)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_call_under_way(make_site: MakeSite, number: signal.Signals) -> None:
    album = Album(make_site(destinations=1))
    album.configure(PATIENT, partition=2)
    album.put(files(6))
    find = album.slow_find("dest1", 0.5)
    album.site.start("dest1")
    album.submit("a", files(6))
    process = start(album.site, *DRAIN)
    wait_for(find.with_name("find.began").exists)
    process.send_signal(number)
    done = ended(process)
    assert (done.code, done.talk) == (128 + number, f"cftools: stopped by signal {int(number)}\n")
    assert calls(done.rows) == [("dest1", 2, 2, 0, 0, 0)]
    assert (album.left("dest1"), states(album.site)) == (sorted(files(6)[2:]), {"done": 2})
    in_order(album)
    find.unlink()
    assert sum(call[2] for call in calls(album.drain())) == 4  # at once: nothing was left claimed
    assert album.status("a")["state"] == "done"


def test_a_reader_that_goes_away_ends_it_with_the_state_true(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure(PATIENT, partition=1)
    album.put(files(40))
    album.site.start("dest1")
    album.submit("a", files(40))
    process = start(album.site, *DRAIN)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 1
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    count = len(album.left("dest1"))
    assert count > 20  # it began nothing more
    assert states(album.site)["done"] == 40 - count
    in_order(album)
    assert sum(call[2] for call in calls(album.drain())) == count
    assert album.everywhere() == {}


def test_a_killed_drain_s_claim_holds_until_its_call_is_over_for_certain(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure({"ssh": LIMITS}, retry_delay="0.1s", retry_delay_limit="0.1s")
    names = ["a.jpg", "slow.jpg"]
    album.put(names)
    find = album.stuck_find("dest1")
    album.site.start("dest1")
    album.submit("a", names)
    process = start(album.site, *DRAIN)
    wait_for(find.with_name("find.stuck").exists)
    process.kill()
    ended(process)
    find.unlink()
    assert calls(album.drain("--dry-run")) == calls(album.drain()) == []
    assert states(album.site) == {"done": 1, "intended": 1}
    ((left,),) = query(album.site, "SELECT lease - max(expires) FROM bulk_work, journal")
    assert float(str(left)) > 2  # an rm is killed a second after its time is over
    album.change("UPDATE bulk_work SET lease = 1")
    album.let_expire()
    assert calls(album.drain()) == [("dest1", 2, 1, 1, 0, 0)]
    assert [(note.name, note.state, note.detail) for note in notes(album.site)][:2] == [
        ("a.jpg", "done", "its run died; the file is gone"),
        ("slow.jpg", "failed", "its run died before the file was deleted"),
    ]
    assert (album.status("a")["done"], album.status("a")["already"]) == (1, 1)
    in_order(album)


def test_what_a_killed_drain_may_still_delete_is_not_counted_on_by_dedup(make_site: MakeSite) -> None:
    site = make_site(destinations=2)
    album = Album(site)
    own = {"own": {"servers": ["dest2"], "root": str(site.root("dest2"))}}
    album.configure({"ssh": {"response_timeout": "20s"}, "guards": {"percent_from": 1000}}, targets=own)
    site.put("slow.mpg", "src1", "dest1", "dest2")
    site.write_inputs({"slow.mpg": ["dest1", "dest2"]})
    find = album.stuck_find("dest2")
    site.start()
    album.submit("a", ["slow.mpg"], "own")
    process = start(site, *DRAIN)
    wait_for(find.with_name("find.stuck").exists)
    process.kill()
    ended(process)
    find.unlink()
    refused = end(album.run("dedup", "--apply"))["refused"]
    assert (refused, site.holders("slow.mpg")) == ({"unsettled": 1}, ["src1", "dest1", "dest2"])
    assert [(note.root, note.name, note.state) for note in notes(site)] == [("", "slow.mpg", "intended")]


def test_an_answer_that_is_lost_on_its_way_is_asked_for_again_and_the_journal_is_true(make_site: MakeSite) -> None:
    site = make_site(destinations=1)
    with ExitStack() as stack:
        gate = behind_gate(site, "dest1", stack)
        album = Album(site)
        album.configure({"ssh": {"connect_timeout": "2s", "response_timeout": "4s"}}, attempts=1)
        site.start("dest1")
        for key in ("whole", "cut"):
            names = files(50, key)
            album.put(names)
            album.submit(key, names)
            if key == "whole":
                assert calls(album.drain()) == [("dest1", 50, 50, 0, 0, 0)]
                total = gate.passed["down"]
                gate.mend()
                gate.cut("down", total - 400)
        assert calls(album.drain(expect=1)) == [("dest1", 50, 0, 0, 0, 50)]
        assert album.everywhere() == {}
        album.make_due()
        assert calls(album.drain()) == [("dest1", 25, 0, 25, 0, 0)] * 2
    assert states(site) == {"done": 100, "already": 50}
    assert (album.status("cut")["already"], album.status("cut")["state"], album.dead()) == (50, "done", [])
    in_order(album)


def has_rows_for_all_that_is_gone(album: Album, names: list[str]) -> None:
    told = {note.name for note in notes(album.site) if note.state in ("done", "intended")}
    assert set(names) - set(album.left("dest1")) <= told


def test_a_state_that_gets_locked_or_full_leaves_no_deletion_without_its_row(make_site: MakeSite) -> None:
    album = Album(make_site(destinations=1))
    album.configure(PATIENT, partition=1)
    site, names = album.site, files(30)
    album.put(names)
    site.start("dest1")
    album.submit("a", names)
    process = start(site, *DRAIN, busy=0.2)
    wait_for(lambda: len(notes(site)) > 2)
    with locked(site):
        done = ended(process)
        has_rows_for_all_that_is_gone(album, names)
    assert (done.code, done.talk.count("\n"), "database is locked" in done.talk) == (70, 1, True)
    assert 0 < len(album.left("dest1")) < 30
    left = set(album.left("dest1"))
    for room in ({"file_bytes": 20_000}, {"file_bytes": 50_000}):
        done = run(site, *DRAIN, **room)
        assert (done.code, done.talk.count("\n"), "state database unusable" in done.talk) == (70, 1, True)
        has_rows_for_all_that_is_gone(album, names)
    assert set(album.left("dest1")) <= left
    album.change("UPDATE bulk_work SET lease = 0")
    album.let_expire()
    album.drain()
    assert album.everywhere() == {}
    found = album.status("a")
    assert (found["state"], found["done"] + found["already"]) == ("done", 30)
    in_order(album)


def test_it_works_through_gates_and_that_of_a_source_refuses_it(make_site: MakeSite) -> None:
    site = make_site(destinations=1)
    album = Album(site)
    own = site.root("dest1") / "photos"
    targets = {
        "own": {"servers": ["dest1"], "root": str(own)},
        "origin": {"servers": ["src1"], "root": str(site.root("src1"))},
    }
    album.configure({"ssh": {"restricted": True}}, targets=targets, attempts=1)
    bind(site)
    names = files(5)
    for name in names:
        site.put(f"photos/{name}", "dest1", "src1")
    site.start()
    album.submit("a", names, "own")
    assert calls(album.drain()) == [("dest1", 5, 5, 0, 0, 0)]
    assert [(note.root, note.name, note.state) for note in notes(site)] == [
        ("", f"photos/{name}", "done") for name in names
    ]
    album.submit("b", [f"photos/{name}" for name in names], "origin")
    (row,) = kinds(album.drain(expect=1), "partition")
    assert (row["server"], row["waiting"], "cftools-gate: refused" in row["detail"]) == ("src1", 5, True)
    assert all(site.holders(f"photos/{name}") == ["src1"] for name in names)
    assert album.dead() == []  # it is not the files' fault
    assert {work[:3] for work in working(site)} == {("src1", 5, 0)}
    assert states(site) == {"done": 5, "refused": 5}
