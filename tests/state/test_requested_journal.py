"""The journal of requested files: a row a file before anything is asked, settled by what became of each."""

from __future__ import annotations

import pytest

from cftools.actions.unlink import Verdict
from cftools.model.rows import Delete
from cftools.state import journal, runs
from cftools.state.database import Database
from cftools.state.journal import Ground, Intent, Noted, Settlement

GROUND = Ground("s1", "/images")
DONE = Verdict("done")
ODD = ["a b", "new\nline", "\uf780\uf7ff", 'q"uo\\te', "드라마/1.jpg", "[1]", "{}", "a,b", "NULL", "\x01"]


def states(database: Database) -> list[tuple[object, ...]]:
    return database.rows("SELECT name, state, detail, finished FROM journal ORDER BY id")


def settle(database: Database, noted: Noted, now: float = 20.0) -> None:
    with database.transaction():
        journal.settle_requested_inside(database, noted, now)


def test_requested_files_are_noted_in_their_order_with_all_they_need(database: Database, another: Database) -> None:
    first = journal.intend_requested(database, 1, GROUND, ODD, 99, 10.0)
    second = journal.intend_requested(another, 1, Ground("s2", ""), ["x"], 0, 11.0)
    assert [*first, *second] == list(range(1, len(ODD) + 2))
    columns = "id, run, verb, server, root, name, size, reason, state, at, finished, expires"
    assert another.rows(f"SELECT {columns} FROM journal ORDER BY id") == [
        *(
            (number, 1, "delete", "s1", "/images", name, 0, "requested", "intended", 10.0, None, 99)
            for number, name in enumerate(ODD, 1)
        ),
        (len(ODD) + 1, 1, "delete", "s2", "", "x", 0, "requested", "intended", 11.0, None, 0),
    ]


def test_a_call_of_which_all_was_done_is_settled_and_its_neighbours_are_not(database: Database) -> None:
    journal.intend_requested(database, 1, GROUND, ["before"], 99, 10.0)
    numbers = journal.intend_requested(database, 1, GROUND, ["a", "b", "c"], 99, 10.0)
    journal.intend_requested(database, 1, GROUND, ["after"], 99, 10.0)
    settle(database, Noted(numbers, [DONE] * 3))
    assert [row[1] for row in states(database)] == ["intended", "done", "done", "done", "intended"]
    assert states(database)[1] == ("a", "done", "", 20.0)


@pytest.mark.parametrize("unknown", [True, False])
def test_each_file_gets_its_own_end_and_what_nobody_knows_stays_open(database: Database, unknown: bool) -> None:
    verdicts = [DONE, Verdict("already", "gone"), Verdict("failed", "no"), Verdict("done", "late"), DONE]
    expected = [("done", ""), ("already", "gone"), ("failed", "no"), ("done", "late"), ("done", "")]
    asked: list[Verdict | None] = [*verdicts, None] if unknown else [*verdicts]
    numbers = journal.intend_requested(database, 1, GROUND, [str(place) for place in range(len(asked))], 99, 10.0)
    settle(database, Noted(numbers, asked))
    found = [(state, detail, finished) for _, state, detail, finished in states(database)]
    assert found[:5] == [(*one, 20.0) for one in expected]
    assert [(row[0], row[2]) for row in found[5:]] == [("intended", None)] * unknown


def test_what_another_run_settled_by_looking_stays_as_it_is(database: Database) -> None:
    numbers = journal.intend_requested(database, 1, GROUND, ["a", "b"], 99, 10.0)
    journal.settle(database, [Settlement(numbers[0], "failed", "its run died")], 15.0)
    settle(database, Noted(numbers, [DONE, DONE]))
    settle(database, Noted(numbers, [Verdict("failed", "x"), Verdict("failed", "y")]), 30.0)
    assert states(database) == [("a", "failed", "its run died", 15.0), ("b", "done", "", 20.0)]


def test_files_below_other_roots_are_told_apart_from_the_nodes_own(database: Database) -> None:
    journal.intend_requested(database, 1, GROUND, ["album.jpg"], 99, 10.0)
    journal.intend_requested(database, 1, Ground("s1", ""), ["images/own.jpg"], 98, 11.0)
    journal.intend_deletes(database, 1, [Intent(Delete("s1", "a.mpg", 5, "disk"), 97)], 12.0)
    own = [(row.name, row.expires, row.root) for row in journal.unsettled_deletes(database)]
    assert own == [("images/own.jpg", 98, ""), ("a.mpg", 97, "")]
    (other,) = journal.unsettled_deletes(database, elsewhere=True)
    assert (other.server, other.root, other.name, other.expires, other.at) == ("s1", "/images", "album.jpg", 99, 10.0)
    assert journal.may_be_deleted(database, "s1", "images/own.jpg")
    assert not journal.may_be_deleted(database, "s1", "album.jpg")


def test_what_a_dead_run_left_at_object_storage_is_disowned_and_nothing_else(database: Database) -> None:
    bucket = Ground("s3://albums", "/")
    numbers = journal.intend_requested(database, 1, bucket, ["a", "b"], 0, 10.0)
    journal.settle(database, [Settlement(numbers[0], "done")], 11.0)
    journal.intend_requested(database, runs.begin(database, "drain", 2.0), bucket, ["c"], 0, 10.0)
    journal.intend_requested(database, 1, GROUND, ["d"], 99, 10.0)
    journal.disown(database, 1, "s3://albums", "its run died", 30.0)
    assert [(name, state) for name, state, _, _ in states(database)] == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "intended"),
        ("d", "intended"),
    ]


def test_ten_thousand_files_are_noted_and_settled_at_once(database: Database) -> None:
    file_names = [f"{number:0200}" for number in range(10_000)]
    numbers = journal.intend_requested(database, 1, GROUND, file_names, 99, 10.0)
    verdicts = [Verdict("failed", "no") if number == 7 else DONE for number in range(10_000)]
    settle(database, Noted(numbers, verdicts))
    found = database.rows("SELECT state, count(*), min(name) FROM journal GROUP BY state ORDER BY state")
    assert found == [("done", 9_999, file_names[0]), ("failed", 1, file_names[7])]


def test_what_was_deleted_below_other_roots_excuses_no_lack_among_the_nodes_own_files(database: Database) -> None:
    for root, count in (("/images", 5), ("", 2)):
        file_names = [str(place) for place in range(count)]
        settle(
            database,
            Noted(journal.intend_requested(database, 1, Ground("s1", root), file_names, 99, 10.0), [DONE] * count),
        )
    assert journal.deleted_since(database, {"s1": 9.0, "s2": 9.0}) == {"s1": 2, "s2": 0}
