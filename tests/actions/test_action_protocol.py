"""The delete protocol on local servers with a real journal and real locks: what it refuses, in which order it acts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from local_node import CONTENT, ODD, SIZE, LocalNode, cut, duplicate, put, raising, states, surplus, text

from cftools.actions import protocol
from cftools.model.rows import Delete, Outcome
from cftools.remote.transport import FaultKind, RemoteFault, Reply, Script


@pytest.fixture
def node(tmp_path: Path) -> LocalNode:
    node = LocalNode(tmp_path)
    node.put("a.mpg", "src1", "dest1", "dest2", "dest3")
    return node


def detail(outcomes: list[Outcome]) -> str:
    (one,) = outcomes
    assert one.state == "refused", one
    return one.detail


# What is refused


def test_a_duplicate_goes_while_keeper_and_origin_have_the_file(node: LocalNode) -> None:
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "done")]
    assert node.holders("a.mpg") == ["src1", "dest2", "dest3"]
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "already")]
    assert node.journal() == [("dest1", "a.mpg", "done", ""), ("dest1", "a.mpg", "already", "not there any more")]


def test_names_of_any_bytes_pass_through_plan_servers_and_journal(node: LocalNode) -> None:
    for name in ODD:
        node.put(name, "src1", "dest1", "dest2", "dest3")
    rows = [duplicate(server, text(name)) for name in ODD for server in ("dest1", "dest2")]
    assert {outcome.state for outcome in node.delete(rows)} == {"done"}
    assert all(node.holders(text(name)) == ["src1", "dest3"] for name in ODD)
    assert [(row[0], row[1]) for row in node.journal()] == [(row.server, row.name) for row in rows]


@pytest.mark.parametrize("fault", ["missing", "other size", "link", "folder", "unmounted"])
def test_a_keeper_without_the_file_refuses_its_victims(node: LocalNode, fault: str) -> None:
    path = node.root("dest3") / "a.mpg"
    path.unlink()
    if fault == "other size":
        path.write_bytes(CONTENT + b"!")
    elif fault == "link":
        path.symlink_to(node.root("src1") / "a.mpg")
    elif fault == "folder":
        path.mkdir()
    elif fault == "unmounted":
        node.root("dest3").rmdir()
    said = detail(node.delete([duplicate("dest1")]))
    expected = {
        "missing": "keeper dest3: the file was not seen there",
        "other size": f"keeper dest3: its size is {SIZE + 1}, {SIZE} was expected",
        "link": "keeper dest3: not a regular file",
        "folder": "keeper dest3: not a regular file",
        "unmounted": "keeper dest3 cannot be asked",
    }
    assert said.startswith(expected[fault])
    assert node.holders("a.mpg")[:3] == ["src1", "dest1", "dest2"]
    assert ("dest1", "unlink") not in node.calls


@pytest.mark.parametrize("fault", ["missing", "other size", "link", "unmounted"])
@pytest.mark.parametrize("make", [duplicate, surplus])
def test_an_origin_without_the_file_refuses_every_deletion_of_it(
    node: LocalNode, fault: str, make: Callable[[str], Delete]
) -> None:
    path = node.root("src1") / "a.mpg"
    path.unlink()
    if fault == "other size":
        path.write_bytes(CONTENT[1:])
    elif fault == "link":
        path.symlink_to(node.root("dest3") / "a.mpg")
    elif fault == "unmounted":
        node.root("src1").rmdir()
    said = detail(node.delete([make("dest1")]))
    if fault == "unmounted":
        assert said.startswith("the origin cannot be asked: src1: stat below")
    else:
        assert said == "no source has it with the expected size"
    assert "dest1" in node.holders("a.mpg")
    assert ("dest1", "unlink") not in node.calls


@pytest.mark.parametrize("kind", ["unreachable", "refused", "broken", "silent"])
@pytest.mark.parametrize("server", ["src1", "dest3"])
def test_a_keeper_or_origin_that_cannot_be_asked_refuses_the_file(
    node: LocalNode, kind: FaultKind, server: str
) -> None:
    node.wires[server].before = raising(RemoteFault(server, kind, "the line is dead"), "stat")
    said = detail(node.delete([duplicate("dest1")]))
    who = "the origin cannot be asked: src1" if server == "src1" else "keeper dest3 cannot be asked"
    assert said == f"{who}: the line is dead"
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2", "dest3"]


@pytest.mark.parametrize("server", ["src1", "dest3"])
def test_an_answer_of_keeper_or_origin_that_is_cut_off_is_no_answer(node: LocalNode, server: str) -> None:
    node.wires[server].after = lambda _, reply: whole.append(len(reply.out)) or reply  # type: ignore[func-returns-value]
    whole: list[int] = []
    node.delete([duplicate("dest2")])
    for length in range(whole[0]):
        node.wires[server].after = cut(length, "stat")
        assert "cannot be asked" in detail(node.delete([duplicate("dest1")]))
    assert "dest1" in node.holders("a.mpg")


@pytest.mark.parametrize("other", ["dest3", "src1"])
def test_a_victim_that_is_the_very_file_of_keeper_or_origin_is_refused(node: LocalNode, other: str) -> None:
    victim = node.root("dest1") / "a.mpg"
    victim.unlink()
    victim.hardlink_to(node.root(other) / "a.mpg")  # as it looks when two servers mount one storage
    assert detail(node.delete([duplicate("dest1")])).endswith("both use one storage")
    assert victim.exists()


def test_one_source_that_has_the_file_is_enough_on_whichever_root(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, sources=2, roots=2)
    put(node.root("src2", 1), "a.mpg")
    node.put("a.mpg", "dest1", "dest3")
    node.wires["src1"].before = raising(RemoteFault("src1", "unreachable", "no route"), "stat")
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "done")]
    put(node.root("dest1"), "a.mpg")
    (node.root("src2", 1) / "a.mpg").unlink()
    # src2 says no, but src1 might have it: that is not known.
    assert detail(node.delete([duplicate("dest1")])) == "the origin cannot be asked: src1: no route"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (duplicate("dest3"), "no keeper other than itself"),
        (duplicate("dest1", keeper=""), "no keeper other than itself"),
        (duplicate("dest1", keeper="src1"), "keeper src1 is not a configured destination"),
        (duplicate("dest1", keeper="dest9"), "keeper dest9 is not a configured destination"),
        (duplicate("src1"), "not a configured destination"),
        (surplus("src1"), "not a configured destination"),
        (surplus("dest9"), "not a configured destination"),
        (surplus("dest1", "../src1/root0/a.mpg"), "path part '..'"),
        (surplus("dest1", "/etc/passwd"), "absolute path"),
        (surplus("dest1", ""), "empty name"),
        (surplus("dest1", "a.mpg/"), "path part ''"),
        (surplus("dest1", "./a.mpg"), "path part '.'"),
        (surplus("dest1", "a.mpg\0b"), "NUL in the name"),
        (surplus("dest1", "x" * 256), "a part longer than 255 bytes"),
        (surplus("dest1", ".cftools-root"), "a name that cftools keeps for itself"),
        (surplus("dest1", "M64a.mpg"), "the config's ignore.prefixes say that it is never deleted"),
    ],
)
def test_a_row_that_must_not_be_carried_out_is_refused_whatever_the_plan_says(
    node: LocalNode, row: Delete, said: str
) -> None:
    node.put("M64a.mpg", "src1", "dest1", "dest3")
    node.put(".cftools-root", "src1", "dest1")
    assert detail(node.delete([row], ignore_prefixes=("MN1", "M64"))) == said
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2", "dest3"]
    assert node.holders("M64a.mpg") == ["src1", "dest1", "dest3"]
    assert not [call for call in node.calls if call[1] == "unlink"]
    assert [state for _, _, state, _ in node.journal()] == ["refused"]


def test_a_plan_that_deletes_its_own_keeper_is_refused_in_both_directions(node: LocalNode) -> None:
    rows = [duplicate("dest1"), duplicate("dest3", keeper="dest1"), duplicate("dest2", keeper="dest1")]
    outcomes = node.delete(rows)
    assert {(one.state, one.detail) for one in outcomes} == {
        ("refused", "its keeper is to be deleted in the same plan")
    }
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2", "dest3"]


def test_a_plan_that_deletes_its_keeper_for_its_disk_is_refused_for_the_duplicate(node: LocalNode) -> None:
    outcomes = node.delete([duplicate("dest1"), surplus("dest3")])
    assert [one.state for one in outcomes] == ["refused", "done"]
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2"]


def test_a_file_that_is_named_twice_is_deleted_by_neither_row(node: LocalNode) -> None:
    outcomes = node.delete([surplus("dest1"), surplus("dest1")])
    assert [one.detail for one in outcomes] == ["the plan names this file twice"] * 2
    assert "dest1" in node.holders("a.mpg")


def test_a_keeper_that_an_earlier_batch_deleted_keeps_nothing(node: LocalNode) -> None:
    batches = [[surplus("dest3")], [duplicate("dest1"), duplicate("dest2")]]
    done = [one for batch in protocol.delete(node.tools(), batches) for one in batch]
    assert [one.state for one in done] == ["done", "refused", "refused"]
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2"]


def test_one_row_that_is_refused_hides_no_other(node: LocalNode) -> None:
    node.put("b.mpg", "src1", "dest1")
    node.put("c.mpg", "dest1", "dest3")
    node.wires["dest2"].before = raising(RemoteFault("dest2", "unreachable", "no route"), "unlink")
    outcomes = node.delete(
        [duplicate("dest1"), duplicate("dest2"), surplus("dest1", "b.mpg"), surplus("dest1", "c.mpg")]
    )
    assert [one.state for one in outcomes] == ["done", "refused", "done", "refused"]
    assert outcomes[1].detail == "no route"


def test_a_missing_mount_marker_refuses_on_its_server_only(node: LocalNode) -> None:
    put(node.root("dest1"), ".cftools-root", b"")
    outcomes = node.delete([duplicate("dest1"), duplicate("dest2")], marker=".cftools-root")
    assert [one.state for one in outcomes] == ["done", "refused"]
    assert "is the disk mounted" in outcomes[1].detail
    assert [state for _, _, state, _ in node.journal()] == ["done", "refused"]


# The order


def test_copies_of_one_file_go_from_the_lowest_address_up_one_after_the_other(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, destinations=5)
    for name in ("a.mpg", "b.mpg"):
        node.put(name, "src1", *(f"dest{n}" for n in range(1, 6)))
    times: dict[tuple[str, str], float] = {}
    turn = threading.Lock()

    def noting(server: str) -> None:
        def before(script: Script) -> None:
            with turn:
                times[server, script.verb] = time.monotonic()

        def after(script: Script, reply: Reply) -> Reply:
            time.sleep(0.05 if server in ("dest1", "dest3") else 0)
            with turn:
                times[server, script.verb + " answered"] = time.monotonic()
            return reply

        node.wires[server].before, node.wires[server].after = before, after

    for server in node.wires:
        noting(server)
    rows = [duplicate(f"dest{n}", name, "dest5") for name in ("a.mpg", "b.mpg") for n in range(1, 5)]
    assert {one.state for one in node.delete(rows)} == {"done"}
    for lower, higher in (("dest1", "dest2"), ("dest2", "dest3"), ("dest3", "dest4")):
        assert times[lower, "unlink answered"] <= times[higher, "unlink"]
    assert times["dest5", "stat answered"] <= times["dest1", "unlink"]
    assert times["src1", "stat answered"] <= times["dest1", "unlink"]
    assert [call for call in node.calls if call[1] == "unlink"] == [(f"dest{n}", "unlink") for n in range(1, 5)]


def test_a_batch_takes_one_call_a_server_whatever_the_number_of_files(node: LocalNode) -> None:
    names = [f"{number}.mpg" for number in range(50)]
    for name in names:
        node.put(name, "src1", "dest1", "dest2", "dest3")
    node.delete([duplicate(server, name) for name in names for server in ("dest1", "dest2")])
    looks = [(server, "stat") for server in ("dest1", "dest2", "dest3", "src1")]
    assert sorted(node.calls) == sorted([("dest1", "unlink"), ("dest2", "unlink"), *looks])
