"""One copy by relay between two local servers: what arrives is the file or nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest
from local_node import CONTENT, ODD, SIZE, LocalNode, put, raising, text

from cftools.actions import arrival, transfer
from cftools.actions import copy as copying
from cftools.config.schema import Distribute
from cftools.model.rows import Copy
from cftools.remote.transport import RemoteFault, Script
from cftools.state.locks import DELETION

POLICY = Distribute(via="relay")


@pytest.fixture
def node(tmp_path: Path) -> LocalNode:
    return LocalNode(tmp_path, destinations=1)


def row(node: LocalNode, name: bytes = b"a.mpg", size: int = SIZE) -> Copy:
    source_path = text(os.fsencode(node.root("src1")) + b"/" + name)
    return Copy("1", text(name), size, "src1", source_path, "dest1", 1, 0, "rank")


def carry(node: LocalNode, wanted: Copy, policy: Distribute = POLICY, stop: str = "") -> copying.Result:
    tools = copying.Tools(node.fleet, node.database, node.locks, policy, "")
    return copying.copy(tools, wanted, copying.Watch(lambda: stop))


def place(node: LocalNode, mtime: int) -> arrival.Place:
    return arrival.place_for(str(node.root("dest1")), "", "a.mpg", SIZE, mtime)


def leave_part(node: LocalNode, content: bytes) -> Path:
    target = place(node, int((node.root("src1") / "a.mpg").stat().st_mtime))
    return put(node.root("dest1"), target.part + b"/" + target.base, content)


@pytest.mark.parametrize("checksum", [True, False])
def test_files_of_any_name_arrive_with_content_and_time(node: LocalNode, checksum: bool) -> None:
    for name in ODD:
        path = put(node.root("src1"), name)
        os.utime(path, (1, 1_500_000_000))
        policy = msgspec.structs.replace(POLICY, checksum=checksum)
        assert carry(node, row(node, name), policy) == copying.Result("done", "done")
        copy = node.root("dest1") / os.fsdecode(name)
        assert copy.read_bytes() == CONTENT
        assert copy.stat().st_mtime == 1_500_000_000
        assert carry(node, row(node, name)).outcome == "already"
        if checksum:
            return


def test_an_empty_file_arrives(node: LocalNode) -> None:
    put(node.root("src1"), b"a.mpg", b"")
    assert carry(node, row(node, size=0)).task == "done"
    assert (node.root("dest1") / "a.mpg").read_bytes() == b""


def test_only_what_is_missing_of_an_earlier_try_is_sent(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    leave_part(node, CONTENT[:60])
    sent: list[tuple[bytes, ...]] = []
    node.wires["src1"].before = lambda script: sent.append(script.arguments) if script.verb == "send" else None
    assert carry(node, row(node)).task == "done"
    assert sent[0][1] == b"61"
    assert (node.root("dest1") / "a.mpg").read_bytes() == CONTENT


def test_an_earlier_try_that_differs_is_sent_anew(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    leave_part(node, b"X" * 60)
    assert carry(node, row(node)).task == "done"
    assert (node.root("dest1") / "a.mpg").read_bytes() == CONTENT


def test_a_complete_part_is_only_made_visible(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    leave_part(node, CONTENT)
    assert carry(node, row(node)).task == "done"
    assert (node.root("dest1") / "a.mpg").read_bytes() == CONTENT


def test_a_source_without_the_file_or_with_another_size_fails_and_leaves_nothing(node: LocalNode) -> None:
    assert carry(node, row(node)).detail.endswith("a.mpg any more")
    node.put("a.mpg", "src1", content=CONTENT + b"!")
    failed = carry(node, row(node))
    assert (failed.task, failed.outcome) == ("failed", "failed")
    assert failed.detail == f"on src1 its size is {SIZE + 1}, {SIZE} was expected"
    (node.root("src1") / "a.mpg").unlink()
    (node.root("src1") / "a.mpg").symlink_to("/etc/passwd")
    assert carry(node, row(node)).task == "failed"
    assert list(node.root("dest1").iterdir()) == []


@pytest.mark.parametrize("change", ["rewritten", "shorter", "gone"])
def test_a_source_that_changes_while_it_is_read_is_never_published(node: LocalNode, change: str) -> None:
    path = put(node.root("src1"), b"a.mpg")
    os.utime(path, (1, 1_500_000_000))

    def rewrite(script: Script) -> None:
        if script.verb == "send":
            path.write_bytes(b"Y" * SIZE if change == "rewritten" else CONTENT[:50])
            if change == "gone":
                path.unlink()

    node.wires["src1"].before = rewrite
    result = carry(node, row(node))
    assert (result.task, result.outcome) == ("failed", "failed"), result
    assert not (node.root("dest1") / "a.mpg").exists()


def test_bytes_that_were_spoilt_on_the_way_are_found_by_their_checksum(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    target = place(node, int((node.root("src1") / "a.mpg").stat().st_mtime))

    def spoil(script: Script) -> None:
        if script.verb == "digest":
            put(node.root("dest1"), target.part + b"/" + target.base, b"Z" * SIZE)

    node.wires["dest1"].before = spoil
    result = carry(node, row(node), msgspec.structs.replace(POLICY, checksum=True))
    assert (result.task, result.detail) == ("failed", "the checksums differ; what arrived was thrown away")
    assert list(node.root("dest1").iterdir()) == []


def test_another_file_in_the_place_is_refused_and_kept(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    node.put("a.mpg", "dest1", content=b"another")
    result = carry(node, row(node))
    assert (result.task, result.outcome) == ("failed", "refused")
    assert (node.root("dest1") / "a.mpg").read_bytes() == b"another"


@pytest.mark.parametrize(
    ("server", "verb"),
    [
        ("src1", "stat"),
        ("src1", "send"),
        ("dest1", "prepare"),
        ("dest1", "receive"),
        ("dest1", "publish"),
    ],
)
def test_a_server_that_is_lost_at_any_step_is_named_and_nothing_is_visible(
    node: LocalNode, server: str, verb: str
) -> None:
    node.put("a.mpg", "src1")
    node.wires[server].before = raising(RemoteFault(server, "broken", "the line went dead"), verb)
    result = carry(node, row(node))
    assert (result.task, result.outcome, result.blame) == ("failed", "failed", server)
    assert result.detail == f"{server}: the line went dead"
    assert not (node.root("dest1") / "a.mpg").exists()
    node.wires[server].before = lambda _: None
    assert carry(node, row(node)).task == "done"


def test_a_copy_that_is_not_wanted_any_more_is_cancelled_before_it_begins(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    assert carry(node, row(node), stop="released") == copying.Result("cancelled", "skipped", "released")
    assert node.calls == []


def test_a_copy_that_is_not_wanted_any_more_ends_while_it_is_sent(node: LocalNode) -> None:
    node.put("a.mpg", "src1", content=CONTENT * 1000)
    policy = msgspec.structs.replace(POLICY, speed_limit=80_000.0)  # 10 s for all of it
    began = time.monotonic()
    tools = copying.Tools(node.fleet, node.database, node.locks, policy, "")
    watch = copying.Watch(lambda: "released" if time.monotonic() - began > 0.5 else "")
    result = copying.copy(tools, row(node, size=SIZE * 1000), watch)
    assert (result.task, result.detail) == ("cancelled", "released")
    assert time.monotonic() - began < 5


def test_a_copy_that_takes_too_long_times_out(node: LocalNode) -> None:
    node.put("a.mpg", "src1", content=CONTENT * 1000)
    policy = msgspec.structs.replace(POLICY, speed_limit=80_000.0, timeout=0.5)
    began = time.monotonic()
    assert carry(node, row(node, size=SIZE * 1000), policy).task == "timeout"
    assert time.monotonic() - began < 5


def test_a_limit_is_kept_to_and_progress_is_told(node: LocalNode) -> None:
    node.put("a.mpg", "src1", content=CONTENT * 200)
    policy = msgspec.structs.replace(POLICY, speed_limit=160_000.0)
    told: list[int] = []
    began = time.monotonic()
    tools = copying.Tools(node.fleet, node.database, node.locks, policy, "")
    result = copying.copy(tools, row(node, size=SIZE * 200), copying.Watch(lambda: "", told.append))
    assert result.task == "done"
    assert time.monotonic() - began > 0.7  # 20 kB at 20 kB/s, the first piece free
    assert max(told) == SIZE * 200


def test_a_file_becomes_visible_only_in_its_turn_of_the_deletion_lock(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    held: list[bool] = []

    def look(script: Script) -> None:
        held.append(node.locks.holder(DELETION) is not None)
        assert held[-1] == (script.verb == "publish")

    node.wires["dest1"].before = look
    assert carry(node, row(node)).task == "done"
    assert held.count(True) == 1


def test_a_checksum_of_a_file_that_is_not_there_is_no_checksum(node: LocalNode) -> None:
    with pytest.raises(transfer.TransferFailed):
        transfer.digest(node.wires["src1"], b"/nowhere/a.mpg", 5, lambda: None)
