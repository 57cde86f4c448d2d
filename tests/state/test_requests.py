"""Requests: accepted whole or not at all, once, and told as they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from requested_files import POLICY, RESTS, TARGET, accounts, ask, blocks, claimed, content

from cftools.model.errors import InputUnusable, UsageFault
from cftools.model.rows import DeadLetter, PlaceStatus, RequestStatus
from cftools.state import partitions, requests
from cftools.state.database import Database
from cftools.state.partitions import Lease, Pair, Settled

TABLES = ("bulk_request", "bulk_block", "bulk_work", "bulk_progress", "bulk_dead")


def sizes(database: Database) -> dict[str, int]:
    """How many rows each table of requests has."""
    return {table: database.rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}


def finish(
    database: Database,
    server: str,
    *,
    failed: Sequence[int] = (),
    keep: bool = False,
    now: float = 100.0,
    seconds: int = 0,
) -> None:
    """Claims the next partition of a server and ends it: these places are given up on, all others done."""
    part = claimed(database, server, now=now)
    count = len(part.names) - len(failed)
    settled = Settled(count, 0, dict.fromkeys(failed, "no"), seconds=seconds)
    assert partitions.settle(database, part, settled, POLICY._replace(attempts=1, keep_names=keep), Lease(1, now, 0))


def test_a_request_is_stored_with_all_its_blocks_for_each_server(database: Database, another: Database) -> None:
    odd = ["a b", "new\nline", "\uf780\uf7ff", "드라마/1.jpg", "e"]
    assert ask(database, "k", odd, ["s1", "s2"], size=2, now=7.0)
    assert [*requests.blocks(another, 1)] == [odd[:2], odd[2:4], odd[4:]]
    assert another.rows(
        "SELECT request, block, target, server, places, resources, attempts, due FROM bulk_work ORDER BY id"
    ) == [
        (1, block, TARGET, server, "0-1" if block < 2 else "0", 2 if block < 2 else 1, 0, 7.0)
        for block in range(3)
        for server in ("s1", "s2")
    ]
    assert requests.find(another, "k") == requests.Known(1, "k", TARGET, "open")


def test_the_same_request_again_changes_nothing(database: Database, another: Database) -> None:
    assert ask(database, "k", ["a", "b"])
    before = sizes(database)
    assert not ask(another, "k", ["a", "b"], ["s1", "s2"], now=9.0)
    assert requests.is_known(another, content("k", ["a", "b"]))
    assert not requests.is_known(another, content("other", ["a", "b"]))
    assert sizes(database) == before
    finish(database, "s1")
    assert not ask(another, "k", ["a", "b"])
    assert requests.find(database, "k").state == "done"
    assert ask(another, "other", ["a", "b"])


@pytest.mark.parametrize(("file_names", "target"), [(["a", "c"], TARGET), (["b", "a"], TARGET), (["a", "b"], "other")])
def test_a_key_that_stands_for_other_content_is_refused(database: Database, file_names: list[str], target: str) -> None:
    ask(database, "k", ["a", "b"])
    before = sizes(database)
    with pytest.raises(InputUnusable, match=r"request k was accepted before with other content \(2 files of images\)"):
        ask(database, "k", file_names, target=target)
    assert sizes(database) == before


def test_a_request_whose_names_end_in_a_fault_is_not_stored_at_all(database: Database, another: Database) -> None:
    file_names = [f"{number}.jpg" for number in range(200)]

    def cut_off() -> Iterator[bytes]:
        yield from list(blocks(file_names, 1))[:150]
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        requests.accept(database, content("k", file_names), cut_off(), ["s1"], 1.0)
    assert set(sizes(another).values()) == {0}
    assert ask(database, "k", file_names, size=1)
    assert sizes(another)["bulk_block"] == sizes(another)["bulk_work"] == 200


def test_a_request_of_no_files_is_done_at_once(database: Database) -> None:
    assert ask(database, "k", [])
    (status,) = requests.statuses(database, 200.0)
    assert (status.state, status.resources, status.finished) == ("done", 0, 100.0)


def test_the_status_counts_each_file_on_each_server_once(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(7)], ["s1", "s2"])
    assert requests.statuses(database, 100.0) == [RequestStatus("k", TARGET, "open", 7, waiting=14, accepted=100.0)]
    part = claimed(database)
    settled = Settled(1, 1, {2: "no"})
    partitions.settle(database, part, settled, POLICY, Lease(1, 101.0, 0))
    finish(database, "s2", failed=[0, 2])
    (status,) = requests.statuses(database, 102.0, "k")
    counts = (status.done, status.already, status.waiting, status.retrying, status.dead)
    assert counts == (2, 1, 14 - 6, 1, 2)
    assert all(type(count) is int for count in counts), "whole numbers from every back end"
    assert sum(counts) == 14
    assert requests.statuses(database, 102.0, "unknown") == []


def test_requests_that_ended_long_ago_are_shown_only_by_their_key(database: Database) -> None:
    for key, when in (("old", 100.0), ("late", 5000.0), ("open", 50.0)):
        ask(database, key, ["a"], now=when)
    finish(database, "s1", now=100.0)  # "open" or "old": whichever is first
    finish(database, "s1", now=9000.0)
    states = {one.request: one.state for one in requests.statuses(database, 9500.0, recent=600.0)}
    assert states == {"late": "done", "open": "open"}
    assert [one.state for one in requests.statuses(database, 9500.0, "old", recent=600.0)] == ["done"]


def test_the_expected_end_follows_the_pace_of_the_slowest_server(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(9)], ["s1", "s2"])
    ask(database, "next", [f"{number}" for number in range(9)], ["s2"])
    finish(database, "s1", seconds=1, now=200.0)  # 3 a second
    assert [one.expected_end for one in requests.statuses(database, 200.0)] == [0, 0], "nobody knows how fast s2 is"
    finish(database, "s2", seconds=3, now=200.0)  # 1 a second
    first, second = requests.statuses(database, 300.0)
    assert first.expected_end == pytest.approx(300 + 6)
    assert second.expected_end == pytest.approx(300 + 6 + 9)
    partitions.pause(database, Pair(TARGET, "s1"), "down", RESTS, 300.0)
    ((until,),) = database.rows("SELECT until FROM bulk_pause")
    assert requests.statuses(database, 300.0, "k")[0].expected_end == pytest.approx(max(until + 2, 306))
    assert requests.statuses(database, 300.0, "next")[0].expected_end == pytest.approx(315)


def test_servers_show_what_is_before_them_in_the_order_of_their_names(database: Database) -> None:
    ask(database, "k", ["a", "b"], ["s2", "s10", "s1"], now=50.0)
    ask(database, "l", ["a"], ["s1"], now=60.0)
    ask(database, "z", ["a"], ["s1"], now=70.0, target="albums")
    part = claimed(database, "s2")
    partitions.settle(database, part, Settled(1, 0, {0: "no"}), POLICY, Lease(1, 101.0, 0))
    finish(database, "s10", failed=[1])
    pause = partitions.pause(database, Pair(TARGET, "s2"), "down", RESTS, 102.0)
    assert requests.place_statuses(database, 103.0) == [
        PlaceStatus("albums", "s1", 1, oldest=70.0),
        PlaceStatus(TARGET, "s1", 3, oldest=50.0),
        PlaceStatus(TARGET, "s10", dead=1),
        PlaceStatus(TARGET, "s2", 0, 1, oldest=50.0, paused_until=pause.until, error="down"),
    ]
    assert [one.waiting for one in requests.place_statuses(database, 103.0, "l")] == [1]
    later = requests.place_statuses(database, pause.until + 1)
    assert [one.paused_until for one in later] == [0, 0, 0, 0]


def test_dead_letters_come_in_the_order_of_requests_servers_and_files(database: Database) -> None:
    ask(database, "k", ["a", "b", "c", "d"], ["s2", "s1"], size=2)
    ask(database, "l", ["e"], ["s1"])
    for server in ("s1", "s2", "s1", "s2"):
        finish(database, server, failed=[0, 1], now=101.0)
    finish(database, "s1", failed=[0], now=102.0)
    found = list(requests.dead_letters(database))
    expected = [("k", server, name) for server in ("s1", "s2") for name in "abcd"] + [("l", "s1", "e")]
    assert [(one.request, one.server, one.resource) for one in found] == expected
    assert found[-1] == DeadLetter("l", TARGET, "s1", "e", 1, "no", 102.0)
    assert list(requests.dead_letters(database, "l")) == found[-1:]
    assert list(requests.dead_letters(database, "unknown")) == []


def test_many_dead_letters_are_all_told(database: Database) -> None:
    file_names = [f"{number}" for number in range(5003)]
    ask(database, "k", file_names, size=10_000)
    finish(database, "s1", failed=range(5003))
    assert [one.resource for one in requests.dead_letters(database)] == file_names


def test_retry_gives_the_dead_letters_back_and_nothing_else(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(6)], ["s1", "s2"])
    ask(database, "other", ["x"], ["s1"])
    for server, failed in (("s1", [0, 1]), ("s1", []), ("s2", [2]), ("s2", [0, 2]), ("s1", [0])):
        finish(database, server, failed=failed)
    partitions.pause(database, Pair(TARGET, "s1"), "down", RESTS, 102.0)
    assert requests.find(database, "k").state == "failed"
    assert requests.retry(database, requests.find(database, "k"), 200.0) == 5
    assert requests.find(database, "k").state == "open"
    assert requests.find(database, "other").state == "failed"
    work = database.rows("SELECT server, block, places, resources, attempts, due FROM bulk_work ORDER BY server, block")
    assert work == [("s1", 0, "0-1", 2, 0, 200.0), ("s2", 0, "2", 1, 0, 200.0), ("s2", 1, "0,2", 2, 0, 200.0)]
    assert partitions.waiting(database, 200.0, 1e4) == [Pair(TARGET, "s1"), Pair(TARGET, "s2")], "nobody rests"
    (status,) = requests.statuses(database, 200.0, "k")
    assert (status.done, status.waiting, status.dead, status.finished) == (7, 5, 0, 0)
    for server in ("s1", "s2", "s2"):
        finish(database, server, now=201.0)
    assert requests.find(database, "k").state == "done"
    assert requests.retry(database, requests.find(database, "k"), 300.0) == 0
    assert requests.find(database, "k").state == "done"


def test_names_are_kept_as_long_as_they_are_wanted(database: Database) -> None:
    for key, failed, keep in (("done", [], False), ("failed", [0], False), ("trash", [], True)):
        ask(database, key, ["a"])
        finish(database, "s1", failed=failed, keep=keep)
    kept = {
        key: list(requests.blocks(database, requests.find(database, key).id)) for key in ("done", "failed", "trash")
    }
    assert kept == {"done": [], "failed": [["a"]], "trash": [["a"]]}
    requests.retry(database, requests.find(database, "failed"), 101.0)
    finish(database, "s1", now=101.0)
    assert list(requests.blocks(database, requests.find(database, "failed").id)) == []


def test_withdrawing_leaves_what_is_claimed_and_then_ends_the_request(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(9)], ["s1"])
    finish(database, "s1", failed=[0])
    part = claimed(database, now=100.0, seconds=50.0)
    request = requests.find(database, "k")
    assert requests.withdraw(database, request, 120.0) == 1
    assert database.rows("SELECT id FROM bulk_work") == [(part.id,)]
    partitions.settle(database, part, Settled(3), POLICY._replace(keep_names=True), Lease(1, 121.0, 0))
    assert requests.withdraw(database, request, 122.0) == 0
    assert requests.find(database, "k").state == "restored"
    assert sizes(database)["bulk_dead"] == sizes(database)["bulk_work"] == 0
    assert [*requests.blocks(database, 1)] == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"]]


@pytest.mark.parametrize("now", [151.0, 100.0 - 2 * requests.LONGEST_LEASE])
def test_a_claim_of_a_dead_run_does_not_hold_a_withdrawal_up(database: Database, now: float) -> None:
    """Its lease is over, or so far ahead that the clock was set back since."""
    ask(database, "k", ["a"])
    claimed(database, now=100.0, seconds=50.0)
    assert requests.withdraw(database, requests.find(database, "k"), now) == 0


def test_what_ended_long_ago_is_forgotten_whole_and_the_rest_kept(database: Database) -> None:
    for key, failed, when in (("old", [0], 100.0), ("older", [], 90.0), ("late", [0], 200.0)):
        ask(database, key, ["a", "b"], ["s1"], now=when)
        finish(database, "s1", failed=failed, keep=True, now=when)
    ask(database, "open", ["a"], now=1.0)
    assert requests.forget(database, 150.0) == 2
    assert [row[0] for row in database.rows("SELECT key FROM bulk_request ORDER BY key")] == ["late", "open"]
    assert sizes(database) == {"bulk_request": 2, "bulk_block": 2, "bulk_work": 1, "bulk_progress": 1, "bulk_dead": 1}
    with pytest.raises(UsageFault, match="request old: not known here"):
        requests.find(database, "old")
    assert ask(database, "old", ["a", "b"]), "its key may stand for a new one"


def test_a_request_that_is_tried_again_meanwhile_is_not_forgotten(
    database: Database, another: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(database, "k", ["a"])
    finish(database, "s1", failed=[0])
    real = database.rows

    def rows(statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        found = real(statement, values)
        if "finished <" in statement:
            requests.retry(another, requests.find(another, "k"), 200.0)
        return found

    monkeypatch.setattr(database, "rows", rows)
    requests.forget(database, 150.0)
    assert requests.find(another, "k").state == "open"
    assert accounts(another, "k", ["s1"]) == ({("s1", 0, 0): 1}, 0)


def test_two_that_accept_the_same_key_at_once_store_it_once(database: Database, another: Database) -> None:
    for round_ in range(5):
        both = Barrier(2)

        def accept(one: Database, key: str = f"k{round_}", both: Barrier = both) -> bool:
            both.wait(10)
            return ask(one, key, ["a", "b", "c", "d"])

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(accept, (database, another))) == [False, True]
    assert sizes(another) == {"bulk_request": 5, "bulk_block": 10, "bulk_work": 10, "bulk_progress": 0, "bulk_dead": 0}
