"""Partitions: one run at a time has each, nothing of them is lost or counted twice, whatever happens to the runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requested_files import HORIZON, POLICY, RESTS, TARGET, accounts, ask, claim, claimed

from cftools.model import rows
from cftools.state import journal, partitions, requests, runs
from cftools.state.database import Database
from cftools.state.partitions import Lease, Pair, Partition, Policy, Rests, Settled

S1, S2 = Pair(TARGET, "s1"), Pair(TARGET, "s2")


def settle(
    database: Database, part: Partition, settled: Settled, policy: Policy = POLICY, *, run: int = 1, now: float = 100.0
) -> bool:
    return partitions.settle(database, part, settled, policy, Lease(run, now, 0))


def work(database: Database, columns: str = "places, attempts") -> list[tuple[object, ...]]:
    return database.rows(f"SELECT {columns} FROM bulk_work ORDER BY request, block, id")


def test_partitions_are_claimed_in_the_order_of_requests_and_files_each_once(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(7)], ["s1", "s2"], now=90.0)
    ask(database, "l", ["x"], ["s1"], now=80.0)
    got = [claimed(database) for _ in range(4)]
    assert [(part.key, part.block, list(part.places), list(part.names)) for part in got] == [
        ("k", 0, [0, 1, 2], ["0", "1", "2"]),
        ("k", 1, [0, 1, 2], ["3", "4", "5"]),
        ("k", 2, [0], ["6"]),
        ("l", 0, [0], ["x"]),
    ]
    assert {(part.target, part.server, part.attempts, part.was_claimed_by) for part in got} == {(TARGET, "s1", 0, 0)}
    assert claim(database) is None
    assert claimed(database, "s2").names == got[0].names
    assert claim(database, "s3") is None
    assert claim(database, target="albums") is None


def test_what_is_not_due_yet_is_passed_over(database: Database) -> None:
    ask(database, "late", ["a"], now=300.0)
    ask(database, "due", ["b"], now=100.0)
    assert claimed(database, now=100.0, seconds=900.0).key == "due"
    assert claim(database, now=299.9) is None
    assert claimed(database, now=300.0).key == "late"


def test_a_claim_holds_until_its_lease_is_over_and_is_then_seen_to_be_a_dead_runs(database: Database) -> None:
    ask(database, "k", ["a"])
    claimed(database, run=4, now=100.0, seconds=50.0)
    assert claim(database, run=5, now=149.9) is None
    assert partitions.waiting(database, 149.9, HORIZON) == []
    assert partitions.waiting(database, 150.0, HORIZON) == [S1]
    assert claimed(database, run=5, now=150.0).was_claimed_by == 4


def test_what_is_noted_far_in_the_future_was_noted_before_the_clock_was_set_back(database: Database) -> None:
    now = 1e6
    ask(database, "k", ["a"], now=now)
    ask(database, "l", ["b"], ["s2"], now=now)
    claimed(database, now=now)
    partitions.pause(database, S2, "down", Rests(100.0, 100.0), now)
    for back in (10.0, HORIZON - 200.0):
        assert partitions.waiting(database, now - back, HORIZON) == []
    earlier = now - HORIZON - 1
    database.execute("UPDATE bulk_work SET due = 1")
    assert partitions.waiting(database, earlier, HORIZON) == [S1, S2]
    database.execute("UPDATE bulk_work SET due = ?", (now,))
    assert partitions.waiting(database, earlier, HORIZON) == [S1, S2], "due in a future that was"
    assert [row.request for row in partitions.due(database, earlier, HORIZON)] == ["k", "l"]
    assert claimed(database, run=2, now=earlier).was_claimed_by == 1


def test_what_would_be_asked_now_is_told_by_server_and_request(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(7)], ["s1", "s2"])
    ask(database, "l", ["x"], ["s1", "s3"])
    ask(database, "a", ["y"], ["s1"], target="albums")
    claimed(database)
    partitions.pause(database, S2, "down", RESTS, 100.0)
    assert partitions.due(database, 100.0, HORIZON) == [
        rows.Partition("a", "albums", "s1", 1, waiting=1),
        rows.Partition("k", TARGET, "s1", 4, waiting=4),
        rows.Partition("l", TARGET, "s1", 1, waiting=1),
        rows.Partition("l", TARGET, "s3", 1, waiting=1),
    ]
    assert partitions.waiting(database, 100.0, HORIZON) == [Pair("albums", "s1"), S1, Pair(TARGET, "s3")]


def test_connections_that_claim_at_once_never_get_the_same_partition(database: Database, another: Database) -> None:
    count = 60
    ask(database, "k", [f"{number}" for number in range(count)], size=1)
    both = Barrier(2)

    def claim_all(place: int) -> list[str]:
        both.wait(10)
        found: list[str] = []
        while part := claim((database, another)[place], run=place + 1):
            found += part.names
        return found

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(claim_all, range(2))
    assert sorted(first + second, key=int) == [f"{number}" for number in range(count)]
    assert first == sorted(first, key=int)
    assert second == sorted(second, key=int)


def test_connections_that_claim_and_settle_at_once_finish_a_request_exactly(
    database: Database, another: Database
) -> None:
    ask(database, "k", [f"{number}" for number in range(40)], ["s1", "s2"], size=1)

    def drain(place: int) -> int:
        own, ended = (database, another)[place], 0
        for server in ("s1", "s2"):
            while part := claim(own, server, run=place + 1):
                ended += partitions.settle(own, part, Settled(1), POLICY, Lease(place + 1, 101.0, 0))
        return ended

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(drain, range(2))) == 80
    (status,) = requests.statuses(database, 102.0)
    assert (status.state, status.done, status.finished) == ("done", 80, 101.0)


def test_a_row_that_another_transaction_is_claiming_is_passed_over_not_waited_for(
    database: Database, another: Database
) -> None:
    ask(database, "k", ["a", "b"], size=1)
    with ThreadPoolExecutor(1) as pool:
        with database.transaction(shared=True):
            (first,) = database.rows("SELECT id FROM bulk_work ORDER BY id LIMIT 1" + database.skip_locked)
            waiter = pool.submit(claimed, another)
            if database.skip_locked:
                assert waiter.result(10).names == ["b"]
            database.execute("UPDATE bulk_work SET lease = 1000 WHERE id = ?", first)
        assert waiter.result(10).names == ["b"]  # SQLite: it had to wait for its turn
    assert claim(another) is None


def test_what_is_given_back_is_claimed_again_at_once(database: Database) -> None:
    ask(database, "k", ["a"])
    part = claimed(database, run=1)
    assert claim(database, run=2) is None
    partitions.release(database, part, run=2)
    assert claim(database, run=2) is None, "only who has it gives it back"
    partitions.release(database, part, run=1)
    assert claimed(database, run=2).names == ["a"]


def test_who_lost_a_claim_settles_nothing_but_the_journal(database: Database) -> None:
    ask(database, "k", ["a", "b"])
    part = claimed(database, run=1, now=100.0, seconds=50.0)
    numbers = journal.intend_requested(database, 1, journal.Ground("s1", "/images"), part.names, 200, 100.0)
    again = claimed(database, run=2, now=150.0)
    noted = journal.Noted(numbers, [rows_done(), rows_done()])
    before = work(database, "id, places, attempts, claimed_by, lease")
    assert not partitions.settle(database, part, Settled(2), POLICY, Lease(1, 151.0, 0), noted)
    assert work(database, "id, places, attempts, claimed_by, lease") == before
    assert database.rows("SELECT state FROM journal") == [("done",), ("done",)]
    assert requests.statuses(database, 151.0)[0].done == 0
    assert settle(database, again, Settled(0, 2), run=2)
    assert not settle(database, again, Settled(0, 2), run=2), "twice is once"
    (status,) = requests.statuses(database, 152.0)
    assert (status.state, status.done, status.already) == ("done", 0, 2)


def rows_done() -> rows.Outcome:
    return rows.Outcome("delete", "1", "s1", "a", 0, "done")


def test_a_settlement_that_cannot_be_written_changes_nothing(
    database: Database, another: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(database, "k", ["a", "b", "c"])
    part = claimed(database)
    numbers = journal.intend_requested(database, 1, journal.Ground("s1", "/images"), part.names, 200, 100.0)
    noted = journal.Noted(numbers, [rows_done()] * 3)

    def broken(*_: object, **__: object) -> None:
        raise OSError("died here")

    monkeypatch.setattr("cftools.state.requests.finish_if_over", broken)
    with pytest.raises(OSError, match="died here"):
        partitions.settle(database, part, Settled(3), POLICY, Lease(1, 101.0, 0), noted)
    assert another.rows("SELECT DISTINCT state FROM journal") == [("intended",)]
    assert accounts(another, "k", ["s1"]) == ({("s1", 0, place): 1 for place in range(3)}, 0)
    monkeypatch.undo()
    assert partitions.settle(database, part, Settled(3), POLICY, Lease(1, 101.0, 0), noted)


def test_what_failed_is_tried_again_by_itself_and_then_becomes_a_dead_letter(database: Database) -> None:
    ask(database, "k", ["a", "b", "c", "d"], size=4)
    settle(database, claimed(database), Settled(2, 0, {3: "x" * 600, 1: "no"}))
    assert work(database, "places, resources, attempts, claimed_by, lease") == [("1,3", 2, 1, 0, 0)]
    ((due, error),) = work(database, "due, error")
    assert error == "x" * 500
    assert 100 + 7.5 <= float(str(due)) <= 100 + 12.5
    part = claimed(database, now=120.0)
    assert (list(part.places), list(part.names), part.attempts) == ([1, 3], ["b", "d"], 1)
    settle(database, part, Settled(0, 1, {1: "still"}), now=120.0)
    ((due,),) = work(database, "due")
    assert 120 + 15 <= float(str(due)) <= 120 + 25
    settle(database, claimed(database, now=150.0), Settled(0, 0, {0: "for ever"}), now=150.0)
    assert work(database) == []
    (letter,) = requests.dead_letters(database)
    assert letter == rows.DeadLetter("k", TARGET, "s1", "d", 3, "for ever", 150.0)
    (status,) = requests.statuses(database, 150.0)
    assert (status.state, status.done, status.already, status.dead, status.finished) == ("failed", 2, 1, 1, 150.0)


def test_nothing_is_asked_again_before_the_call_is_certainly_over(database: Database) -> None:
    ask(database, "k", ["a", "b", "c"])
    settle(database, claimed(database), Settled(0, 0, {0: "no"}, [[1], [2]], not_before=500.0))
    assert {due for (due,) in work(database, "due")} == {500.0}


def test_halves_are_asked_again_without_a_failure_being_counted(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(5)], size=5)
    settle(database, claimed(database), Settled(1, 0, {}, [[0, 1], [3, 4]]))
    assert work(database) == [("0-1", 0), ("3-4", 0)]
    first = claimed(database, now=200.0)
    settle(database, first, Settled(0, 0, {0: "slow"}, [[1]]), now=200.0)
    assert sorted(work(database)) == [("0", 1), ("1", 0), ("3-4", 0)]
    assert accounts(database, "k", ["s1"])[0] == {("s1", 0, place): 1 for place in (0, 1, 3, 4)}


def test_a_request_is_over_when_its_last_file_is_on_its_last_server(database: Database) -> None:
    ask(database, "k", ["a", "b"], ["s1", "s2"], size=1)
    for server in ("s1", "s2", "s1"):
        settle(database, claimed(database, server), Settled(1))
        assert requests.find(database, "k").state == "open"
    settle(database, claimed(database, "s2"), Settled(0, 0, {0: "no"}))
    assert requests.find(database, "k").state == "open"
    settle(database, claimed(database, "s2", now=200.0), Settled(1), now=201.0)
    assert requests.find(database, "k").state == "done"
    assert database.rows("SELECT count(*) FROM bulk_block") == [(0,)]


def test_rests_double_up_to_their_limit_give_or_take_a_quarter() -> None:
    rests = Rests(10.0, 100.0)
    for failures, middle in ((1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (6, 100), (5000, 100)):
        drawn = [rests.after(failures) for _ in range(300)]
        assert middle * 0.75 <= min(drawn) < middle * 0.85
        assert middle * 1.15 < max(drawn) <= middle * 1.25


def test_a_server_rests_longer_with_each_failure_until_it_answers(database: Database) -> None:
    ask(database, "k", ["a"], ["s1", "s2"])
    now = 100.0
    for failures in range(1, 12):
        pause = partitions.pause(database, S1, "down", RESTS, now)
        expected = min(10.0 * 2 ** (failures - 1), 1000.0)
        assert expected * 0.75 <= pause.until - now <= expected * 1.25
        assert pause.since == 100.0
        assert partitions.waiting(database, pause.until - 0.1, HORIZON) == [S2]
        assert partitions.waiting(database, pause.until, HORIZON) == [S1, S2]
        now = pause.until
    partitions.resume(database, S1)
    assert partitions.pause(database, S1, "down", RESTS, now).since == now
    assert partitions.pause(database, S1, "down", RESTS, 50.0).since == 50.0, "the clock was set back"


def test_giving_up_on_a_server_buries_all_that_waits_for_it_and_no_more(database: Database) -> None:
    ask(database, "k", [f"{number}" for number in range(7)], ["s1", "s2"])
    ask(database, "l", ["x"], ["s1"], now=5000.0)
    settle(database, claimed(database), Settled(2, 0, {1: "no"}))
    other = claimed(database, run=9, now=100.0, seconds=500.0)
    assert partitions.give_up(database, S1, "gone since May", Lease(1, 200.0, 260.0), HORIZON) == 3
    assert [(one.request, one.resource, one.attempts) for one in requests.dead_letters(database)] == [
        ("k", "1", 1),
        ("k", "6", 0),
        ("l", "x", 0),
    ]
    assert {one.error for one in requests.dead_letters(database)} == {"gone since May"}
    assert [requests.find(database, key).state for key in "kl"] == ["open", "failed"]
    assert accounts(database, "k", ["s1", "s2"])[0] == {
        **{("s1", block, place): 1 for block, place in [(0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]},
        **{("s2", block, place): 1 for block, place in [*((b, p) for b in (0, 1) for p in range(3)), (2, 0)]},
    }
    settle(database, other, Settled(3), run=9, now=201.0)
    assert [(part.server, part.resources) for part in partitions.due(database, 300.0, HORIZON)] == [("s2", 7)]


def test_names_are_still_there_for_those_that_are_given_up_on(database: Database) -> None:
    ask(database, "k", ["a"])
    partitions.give_up(database, S1, "gone", Lease(1, 200.0, 260.0), HORIZON)
    requests.retry(database, requests.find(database, "k"), 300.0)
    assert claimed(database, now=300.0).names == ["a"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["settle", "settle", "settle", "crash", "release", "retry", "late"]),
        st.sampled_from(["s1", "s2"]),
        st.lists(st.sampled_from(["done", "already", "failed", "again"]), min_size=3, max_size=3),
        st.integers(1, 400),
    ),
    max_size=25,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_every_file_is_accounted_for_exactly_once_whatever_happens_to_the_runs(
    database: Database, steps: list[tuple[str, str, list[str], int]]
) -> None:
    key, servers, count = f"k{runs.begin(database, 'test', 1.0)}", ["s1", "s2"], 7
    database.execute("DELETE FROM bulk_work")
    ask(database, key, [f"{number}" for number in range(count)], servers, now=0.0)
    now, run, over = 0.0, 10, 0

    def end(part: Partition, fates: list[str]) -> int:
        kinds = fates[: len(part.names)]
        of = {kind: [place for place, one in enumerate(kinds) if one == kind] for kind in fates}
        failed = dict.fromkeys(of.get("failed", []), "no")
        again = [[place] for place in of.get("again", [])]
        done, already = len(of.get("done", [])), len(of.get("already", []))
        assert settle(database, part, Settled(done, already, failed, again), run=run, now=now)
        assert not settle(database, part, Settled(len(part.names)), run=run, now=now)
        return done + already

    lost: list[tuple[Partition, int]] = []
    for what, server, fates, seconds in steps:
        now += seconds
        if what == "retry":
            requests.retry(database, requests.find(database, key), now)
        elif what == "late":  # a run that lost its claims comes back
            for part, owner in lost:
                if database.rows("SELECT 1 FROM bulk_work WHERE id = ? AND claimed_by = ?", (part.id, owner)) == []:
                    assert not settle(database, part, Settled(len(part.names)), run=owner, now=now)
        elif found := claim(database, server, run, now):
            if what == "settle":
                over += end(found, fates)
            elif what == "release":
                partitions.release(database, found, run)
            else:
                lost.append((found, run))
                run += 1
        times, counted = accounts(database, key, servers)
        assert set(times.values()) <= {1}
        assert counted == over
        assert len(times) + over == count * len(servers)
    while database.rows("SELECT 1 FROM bulk_work"):
        now += 2000.0
        for server in servers:
            while found := claim(database, server, run, now):
                over += end(found, ["done", "failed", "done"])
    (status,) = requests.statuses(database, now, key)
    assert status.done + status.already + status.dead == count * len(servers)
    assert status.state == ("failed" if status.dead else "done")
