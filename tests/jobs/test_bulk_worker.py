"""A worker of a drain: what it makes of every answer, of every fault, and of none."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_node import Wire, put, raising, tree
from local_site import LocalSite
from postgres_server import PostgresServer
from site_of_sshd import Row, end, kinds, outcomes

from cftools.actions.unlink import Verdict
from cftools.remote.transport import FaultKind, RemoteFault, Reply, Script

URL = "s3://albums/photos"
TIMES = {"at", "accepted", "finished", "expected_end", "milliseconds"}
NAMES = [f"{number}.jpg" for number in range(4)]
Calls = list[tuple[int, int, int, int, int]]


class Shop:
    """A node with the target `images` on dest1, and what is known of its requests."""

    def __init__(self, folder: Path) -> None:
        self.site = LocalSite(folder, destinations=2)
        self.root = folder / "images"
        self.root.mkdir(parents=True)
        self.configure()

    def configure(self, more: dict[str, Any] | None = None, **keys: Any) -> None:
        """Writes the config; ``more`` are further sections."""
        targets = {
            "images": {"servers": ["dest1"], "root": str(self.root)},
            "own": {"servers": ["dest2"], "root": str(self.site.root("dest2") / "sub")},
            "objects": {"url": URL},
        }
        given = {"partition": 4, "retry_delay": "1h", "retry_delay_limit": "1h", "targets": targets, **keys}
        self.site.configure(bulk_delete=given, **(more or {}))

    def submit(self, names: list[str], target: str = "images", key: str = "k") -> None:
        """Asks for these files."""
        lines = "".join(f"{name}\n" for name in names).encode()
        self.site.run("bulk-delete", "submit", "--request", key, "--target", target, stdin=lines)

    def drain(self, expect: int = 0) -> list[Row]:
        """Drains; its rows."""
        return self.site.run("bulk-delete", "drain", expect=expect)

    def state(self, statement: str) -> list[tuple[Any, ...]]:
        """What a statement finds in the state, or what it changes there."""
        with closing(sqlite3.connect(self.site.folder / "state" / "state.db")) as state, state:
            return state.execute(statement).fetchall()

    def make_due(self) -> None:
        """Lets the time of all rests, claims and calls pass."""
        self.state("UPDATE bulk_work SET due = 0, lease = 0")
        self.state("DELETE FROM bulk_pause")
        self.state("UPDATE journal SET expires = 0")

    def notes(self) -> list[tuple[str, str]]:
        """Name and state of each journal row."""
        return self.state("SELECT name, state FROM journal ORDER BY id")

    def status(self, key: str = "k") -> Row:
        """Where a request is."""
        return kinds(self.site.run("bulk-delete", "status", key), "request_status")[0]

    @property
    def wire(self) -> Wire:
        """The way to dest1."""
        return self.site.wires["dest1"]

    @property
    def left(self) -> list[str]:
        """What stands there."""
        return sorted(tree(self.root))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    for name in NAMES:
        put(shop.root, name)
    return shop


def calls(rows: list[Row]) -> Calls:
    """What the partition rows count: resources, done, already, failed, waiting."""
    columns = ("resources", "done", "already", "failed", "waiting")
    return [tuple(row[column] for column in columns) for row in kinds(rows, "partition")]


def fault(kind: FaultKind) -> RemoteFault:
    return RemoteFault("dest1", kind, "gone away")


def losing(verb: str, kind: FaultKind) -> Callable[[Script, Reply], Reply]:
    """An ``after`` that loses the answer to scripts of that verb, which were carried out."""

    def after(script: Script, reply: Reply) -> Reply:
        if script.verb == verb:
            raise fault(kind)
        return reply

    return after


def test_each_file_is_told_and_journalled_as_what_became_of_it(shop: Shop) -> None:
    (shop.root / "2.jpg").unlink()
    (shop.root / "2.jpg").mkdir()
    shop.submit([*NAMES, "missing"])
    rows = shop.drain(expect=1)
    assert calls(rows) == [(4, 3, 0, 1, 0), (1, 0, 1, 0, 0)]
    assert outcomes(rows) == [("dest1", "2.jpg", "failed")]
    assert kinds(rows, "outcome")[0]["id"] == "3"
    states = ["done", "done", "failed", "done", "already"]
    assert shop.notes() == list(zip([*NAMES, "missing"], states, strict=True))
    assert shop.state("SELECT DISTINCT root FROM journal") == [(str(shop.root),)]
    assert shop.state("SELECT places, attempts FROM bulk_work") == [("2", 1)]
    assert end(rows)["counts"] == {"partition": 2, "done": 3, "already": 1, "failed": 1}


def test_after_its_last_try_a_file_is_a_dead_letter_and_the_row_says_so(shop: Shop) -> None:
    shop.configure(attempts=2)
    (shop.root / "folder").mkdir()
    shop.submit(["folder"])
    assert "given up" not in kinds(shop.drain(expect=1), "outcome")[0]["detail"]
    shop.make_due()
    (row,) = kinds(shop.drain(expect=1), "outcome")
    assert row["detail"] == "not a regular file but a folder; given up after 2 tries"
    assert (shop.status()["state"], shop.status()["dead"]) == ("failed", 1)


@pytest.mark.parametrize("kind", ["unreachable", "refused"])
@pytest.mark.parametrize("verb", ["stat", "remove"])
def test_a_server_that_was_not_asked_costs_no_attempt_and_the_others_go_on(
    shop: Shop, kind: FaultKind, verb: str
) -> None:
    shop.wire.before = raising(fault(kind), verb)
    put(shop.site.root("dest2"), "sub/a")
    shop.submit(NAMES)
    shop.submit(["a"], "own", "other")
    rows = shop.drain(expect=1)
    assert sorted(calls(rows)) == [(1, 1, 0, 0, 0), (4, 0, 0, 0, 4)]
    assert shop.left == NAMES
    assert shop.state("SELECT places, attempts, lease FROM bulk_work") == [("0-3", 0, 0)]
    noted = [(name, "refused") for name in NAMES] if verb == "remove" else []
    assert sorted(shop.notes()) == sorted([*noted, ("sub/a", "done")])
    assert calls(shop.drain()) == [], "it rests"
    shop.wire.before = lambda _: None
    shop.make_due()
    assert calls(shop.drain()) == [(4, 4, 0, 0, 0)]
    assert shop.state("SELECT count(*) FROM bulk_pause") == [(0,)]


@pytest.mark.parametrize("kind", ["broken", "silent"])
def test_an_answer_that_is_lost_is_asked_for_again_in_halves_and_the_journal_finds_the_truth(
    shop: Shop, kind: FaultKind
) -> None:
    shop.configure(retry_delay="0.1s")
    shop.wire.after = losing("remove", kind)
    shop.submit(NAMES)
    assert calls(shop.drain(expect=1)) == [(4, 0, 0, 0, 4)]
    assert shop.left == []
    assert shop.state("SELECT places, attempts FROM bulk_work ORDER BY id") == [("0-1", 0), ("2-3", 0)]
    assert {due > time.time() + 50 for (due,) in shop.state("SELECT due FROM bulk_work")} == {True}
    assert shop.notes() == [(name, "done") for name in NAMES], "the next turn of the lock began with a look"
    shop.wire.after = lambda _, reply: reply
    shop.make_due()
    assert calls(shop.drain()) == [(2, 0, 2, 0, 0)] * 2
    assert shop.notes() == [(name, "done") for name in NAMES] + [(name, "already") for name in NAMES]
    assert (shop.status()["state"], shop.status()["already"]) == ("done", 4)


def test_a_server_that_answers_again_has_all_its_time_even_when_it_is_slow(shop: Shop) -> None:
    shop.wire.before = raising(fault("unreachable"), "remove")
    shop.submit(NAMES)
    shop.drain(expect=1)
    shop.state("UPDATE bulk_pause SET until = 0, since = since - 600000")
    shop.wire.before = raising(fault("silent"), "remove")
    shop.drain(expect=1)
    assert shop.state("SELECT count(*) FROM bulk_pause") == [(0,)]


def test_one_file_of_which_the_answer_is_always_lost_becomes_a_dead_letter(shop: Shop) -> None:
    shop.configure(attempts=2)
    shop.wire.before = raising(fault("silent"), "remove")
    shop.submit(["0.jpg"])
    for _ in range(2):
        assert calls(shop.drain(expect=1)) == [(1, 0, 0, 1, 0)]
        shop.make_due()
    assert shop.state("SELECT name, attempts, error FROM bulk_dead") == [("0.jpg", 2, "gone away")]
    assert shop.drain() != []
    assert shop.notes() == [("0.jpg", "failed")] * 2, "it stands there, so it was not deleted"


def test_a_server_that_vanishes_during_a_call_keeps_its_claim_until_that_is_over_for_certain(shop: Shop) -> None:
    asked: list[str] = []

    def vanish(script: Script) -> None:
        asked.append(script.verb)
        if "remove" in asked:
            raise fault("broken" if script.verb == "remove" else "unreachable")

    shop.wire.before = vanish
    shop.submit(NAMES)
    assert calls(shop.drain(expect=1)) == [(4, 0, 0, 0, 4)]
    ((lease, attempts),) = shop.state("SELECT lease, attempts FROM bulk_work")
    assert lease > time.time() + 60
    assert attempts == 0
    shop.wire.before = lambda _: None
    shop.state("DELETE FROM bulk_pause")
    assert calls(shop.drain()) == []
    assert shop.left == NAMES
    shop.make_due()
    assert calls(shop.drain()) == [(4, 4, 0, 0, 0)]


def test_a_look_that_fails_after_the_deletion_does_not_make_it_unasked(shop: Shop) -> None:
    shop.wire.before = raising(fault("unreachable"), "look")
    shop.wire.after = lambda script, reply: reply._replace(err=b"") if script.verb == "remove" else reply
    shop.submit(["0.jpg", "missing"])
    shop.drain(expect=1)
    assert shop.left == NAMES[1:]
    assert shop.notes() == [("0.jpg", "intended"), ("missing", "intended")]


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_a_server_whose_clock_jumps_deletes_late_or_not_but_counts_no_attempt(shop: Shop, ahead: int) -> None:
    """Its clock was read, then set: back, so that the question is good for hours, or forward, so that it is over."""

    def jumped(script: Script, reply: Reply) -> Reply:
        if script.verb != "stat":
            return reply
        clock = int(reply.out.removeprefix(b". ").rstrip(b"\0"))
        return reply._replace(out=b". %d\0" % (clock - ahead))

    shop.wire.after = jumped
    shop.submit(NAMES)
    rows = shop.drain(expect=int(ahead > 0))
    if ahead < 0:
        assert calls(rows) == [(4, 4, 0, 0, 0)]
        return
    assert calls(rows) == [(4, 0, 0, 0, 4)]
    assert shop.left == NAMES
    assert shop.state("SELECT places, attempts FROM bulk_work ORDER BY id") == [("0-1", 0), ("2-3", 0)]
    shop.wire.after = lambda _, reply: reply
    shop.make_due()
    assert calls(shop.drain()) == [(2, 2, 0, 0, 0)] * 2
    assert shop.notes()[:4] == [(name, "failed") for name in NAMES]


def test_what_a_server_says_is_kept_without_what_a_state_cannot_hold(shop: Shop) -> None:
    said = b"\0odd\0 words\n"
    shop.wire.after = lambda script, reply: reply._replace(status=1, err=said) if script.verb == "remove" else reply
    shop.submit(NAMES)
    (row,) = kinds(shop.drain(expect=1), "partition")
    assert row["detail"].endswith(": odd words; asked again in two halves")


def test_names_that_the_config_protects_by_now_are_failed_and_the_others_deleted(shop: Shop) -> None:
    put(shop.root, "M64-1.jpg")
    shop.submit(["0.jpg", "M64-1.jpg", "missing", "1.jpg"])
    shop.configure({"ignore": {"prefixes": ["M64"]}})
    rows = shop.drain(expect=1)
    assert calls(rows) == [(4, 2, 1, 1, 0)]
    assert kinds(rows, "outcome")[0]["detail"].startswith("the config's ignore.prefixes say")
    assert shop.notes() == [("0.jpg", "done"), ("M64-1.jpg", "failed"), ("missing", "already"), ("1.jpg", "done")]
    assert shop.left == ["2.jpg", "3.jpg", "M64-1.jpg"]
    shop.make_due()
    assert calls(shop.drain(expect=1)) == [(1, 0, 0, 1, 0)]


def test_a_server_that_left_its_target_is_asked_nothing_and_given_up_in_the_end(shop: Shop) -> None:
    shop.submit(NAMES)
    shop.configure(targets={"images": {"servers": ["dest2"], "root": str(shop.root)}})
    rows = shop.drain(expect=1)
    assert "the config has this server no more" in kinds(rows, "partition")[0]["detail"]
    assert shop.site.calls == []
    shop.state("UPDATE bulk_pause SET until = since, since = since - 700000")
    shop.drain(expect=1)
    assert (shop.status()["state"], shop.status()["dead"]) == ("failed", 4)
    assert shop.left == NAMES
    shop.configure()
    shop.site.run("bulk-delete", "retry", "k")
    assert calls(shop.drain()) == [(4, 4, 0, 0, 0)]


def test_files_in_a_folder_of_the_nodes_own_are_journalled_as_the_nodes_own(shop: Shop) -> None:
    put(shop.site.root("dest2"), "sub/a")
    shop.submit(["a", "b"], "own")
    shop.drain()
    assert shop.state("SELECT root, name, state FROM journal") == [("", "sub/a", "done"), ("", "sub/b", "already")]


def test_who_loses_its_claim_during_a_call_tells_nothing_and_counts_nothing(shop: Shop) -> None:
    def taken(script: Script, reply: Reply) -> Reply:
        if script.verb == "remove":
            shop.state("UPDATE bulk_work SET claimed_by = claimed_by + 1000")
        return reply

    shop.wire.after = taken
    shop.submit(NAMES)
    assert calls(shop.drain()) == []
    assert shop.notes() == [(name, "done") for name in NAMES]
    assert (shop.status()["done"], shop.status()["waiting"]) == (0, 4)


def test_a_drain_that_dies_during_a_call_leaves_the_truth_to_the_next(shop: Shop) -> None:
    def die(script: Script, reply: Reply) -> Reply:
        if script.verb == "remove":
            raise RuntimeError("killed")
        return reply

    shop.wire.after = die
    shop.submit([*NAMES, "missing"])
    shop.drain(expect=70)
    assert shop.notes() == [(name, "intended") for name in NAMES]
    shop.wire.after = lambda _, reply: reply
    shop.make_due()
    assert calls(shop.drain()) == [(4, 0, 4, 0, 0), (1, 0, 1, 0, 0)]
    expected = [(name, "done") for name in NAMES] + [(name, "already") for name in [*NAMES, "missing"]]
    assert shop.notes() == expected
    assert shop.status()["state"] == "done"


def test_object_storage_that_loses_an_answer_leaves_no_journal_row_open(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = [RemoteFault(URL, "broken", "half an answer"), *[[Verdict("done")] * 2] * 2]

    def remove(*_: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, RemoteFault):
            raise answer
        return answer

    monkeypatch.setattr("cftools.actions.objects.remove", remove)
    monkeypatch.setattr("cftools.actions.objects.check", lambda _: None)
    shop.submit(NAMES, "objects")
    assert calls(shop.drain(expect=1)) == [(4, 0, 0, 0, 4)]
    details = shop.state("SELECT DISTINCT state, detail FROM journal")
    assert details == [("failed", "not known: half an answer; asked again")]
    shop.make_due()
    assert calls(shop.drain()) == [(2, 2, 0, 0, 0)] * 2
    assert shop.notes()[4:] == [(name, "done") for name in NAMES]


def test_object_storage_that_answers_nobody_costs_no_attempts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise RemoteFault(URL, "broken", "HTTP 503")

    monkeypatch.setattr("cftools.actions.objects.remove", down)
    monkeypatch.setattr("cftools.actions.objects.check", down)
    shop.submit(NAMES, "objects")
    assert calls(shop.drain(expect=1)) == [(4, 0, 0, 0, 4)]
    assert shop.state("SELECT places, attempts FROM bulk_work") == [("0-3", 0)]
    assert shop.state("SELECT failures, error FROM bulk_pause") == [(1, "broken: HTTP 503")]
    shop.make_due()
    monkeypatch.setattr("cftools.actions.objects.remove", lambda _, names: [Verdict("done")] * len(names))
    assert calls(shop.drain()) == [(4, 4, 0, 0, 0)]
    assert [state for _, state in shop.notes()] == ["failed"] * 4 + ["done"] * 4


def test_both_back_ends_of_the_state_tell_the_same(tmp_path: Path, postgres: PostgresServer) -> None:
    told = []
    for name, state in (("sqlite", {}), ("postgresql", {"url": postgres.fresh_database()})):
        shop = Shop(tmp_path / name)
        shop.configure({"state": state}, attempts=1)
        put(shop.root, "a")
        (shop.root / "folder").mkdir()
        shop.submit(["a", "folder", "missing"])
        rows = shop.drain(expect=1)
        for command in (["status"], ["dead", "k"], ["retry", "k"], ["drain", "--dry-run"]):
            rows += shop.site.run("bulk-delete", *command)
        rows += shop.drain(expect=1)
        told.append([{key: row[key] for key in row.keys() - TIMES} for row in rows])
    assert told[0] == told[1]
    assert len(told[0]) > 15
