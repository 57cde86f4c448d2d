"""The delete protocol broken off in every way: what its journal says is true, or is made true by the next run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_node import LocalNode, cut, duplicate, raising, states, surplus

from cftools.actions import protocol, settling
from cftools.config.servers import ServerSettings
from cftools.model.errors import LockHeld, StateUnusable
from cftools.model.rows import Outcome
from cftools.remote.transport import FaultKind, RemoteFault, Reply, Script
from cftools.state import runs
from cftools.state.file_locks import FileLocks
from cftools.state.locks import DELETION
from cftools.state.sqlite import SqliteDatabase


@pytest.fixture
def node(tmp_path: Path) -> LocalNode:
    node = LocalNode(tmp_path)
    node.put("a.mpg", "src1", "dest1", "dest2", "dest3")
    return node


def journal_of_another_process(node: LocalNode) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(node.database.path)) as reader:
        return reader.execute("SELECT server, state FROM journal ORDER BY id").fetchall()


# The journal


def test_rows_are_committed_as_intended_before_a_server_is_asked(node: LocalNode) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look(script: Script) -> None:
        if script.verb == "unlink":
            seen.append(journal_of_another_process(node))

    for wire in node.wires.values():
        wire.before = look
    node.delete([duplicate("dest1"), duplicate("dest2"), surplus("dest9")])
    # What is refused is settled before anybody is asked, dest1 before dest2 is asked.
    assert seen == [
        [("dest1", "intended"), ("dest2", "intended"), ("dest9", "refused")],
        [("dest1", "done"), ("dest2", "intended"), ("dest9", "refused")],
    ]


def test_nothing_is_deleted_when_the_journal_cannot_be_written(node: LocalNode) -> None:
    node.database.execute("CREATE TRIGGER broken BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(StateUnusable, match="disk full"):
        node.delete([duplicate("dest1")])
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2", "dest3"]
    assert ("dest1", "unlink") not in node.calls


def test_rows_that_cannot_be_settled_are_settled_by_the_next_run(node: LocalNode) -> None:
    node.database.execute(
        "CREATE TRIGGER broken BEFORE UPDATE ON journal WHEN new.state = 'done' BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(StateUnusable):
        node.delete([duplicate("dest1")])
    assert [state for _, _, state, _ in node.journal()] == ["intended"]
    node.database.execute("DROP TRIGGER broken")
    node.delete([duplicate("dest2")])
    assert [row[2:] for row in node.journal()] == [("done", "its run died; the file is gone"), ("done", "")]


# Connections that break


def losing(kind: FaultKind, *, after: bool) -> Callable[[LocalNode], None]:
    def arrange(node: LocalNode) -> None:
        fault = RemoteFault("dest1", kind, "the line went dead")

        def late(script: Script, reply: Reply) -> Reply:
            if script.verb == "unlink":
                raise fault
            return reply

        if after:
            node.wires["dest1"].after = late
        else:
            node.wires["dest1"].before = raising(fault, "unlink")

    return arrange


@pytest.mark.parametrize("kind", ["broken", "silent"])
def test_an_answer_lost_after_the_server_acted_is_found_out_by_looking(node: LocalNode, kind: FaultKind) -> None:
    losing(kind, after=True)(node)
    (one,) = node.delete([duplicate("dest1")])
    assert (one.state, one.detail) == ("done", "gone, though the answer was lost: the line went dead")
    assert node.journal()[0][2] == "done"


@pytest.mark.parametrize("kind", ["broken", "silent"])
def test_a_connection_lost_before_the_server_acted_stays_intended_until_the_next_run_looks(
    node: LocalNode, kind: FaultKind
) -> None:
    losing(kind, after=False)(node)
    node.put("b.mpg", "src1", "dest2")
    outcomes = node.delete([duplicate("dest1"), surplus("dest2", "b.mpg")])
    assert states(outcomes) == [("dest1", "a.mpg", "failed"), ("dest2", "b.mpg", "done")]
    assert outcomes[0].detail == "the connection ended; the next run looks whether it was deleted"
    assert [state for _, _, state, _ in node.journal()] == ["intended", "done"]
    node.wires["dest1"].before = lambda _: None
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "refused")]
    node.expire()
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "done")]
    assert node.journal()[0][2:] == ("failed", "its run died before the file was deleted")


def test_while_a_deletion_may_still_happen_no_other_copy_of_the_file_is_deleted(node: LocalNode) -> None:
    """dest1 hangs: it was told that dest3 keeps the file, and may come to it long after it was given up."""
    losing("silent", after=False)(node)
    node.delete([duplicate("dest1")])
    node.wires["dest1"].before = lambda _: None
    node.put("b.mpg", "src1", "dest3")
    outcomes = node.delete([surplus("dest3"), duplicate("dest2"), surplus("dest3", "b.mpg")])
    assert [one.state for one in outcomes] == ["refused", "refused", "done"]
    settling = "an earlier deletion of it is not settled: dest1 may be at it for 18"  # three times 60 s
    assert outcomes[0].detail.startswith(settling)
    node.wires["dest1"].before = raising(RemoteFault("dest1", "unreachable", "no route"), "look")
    assert node.delete([surplus("dest3")])[0].detail.endswith("not settled: dest1 cannot be asked: no route")
    node.expire()
    assert node.delete([surplus("dest3")])[0].state == "refused"
    node.wires["dest1"].before = lambda _: None
    assert node.delete([surplus("dest3")])[0].state == "done"
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2"]


def test_a_question_that_reaches_its_server_too_late_deletes_nothing(node: LocalNode) -> None:
    """The server hangs with the whole question and wakes after the next run has settled the deletion."""
    questions: list[tuple[Script, bytes]] = []
    wire = node.wires["dest1"]

    def hang(script: Script) -> None:
        if script.verb == "unlink":
            questions.append((script, asked[-1]))
            raise RemoteFault("dest1", "silent", "no answer for 60 s")

    asked: list[bytes] = []
    call = wire.call

    def calling(script: Script, stdin: bytes = b"", **more: Any) -> Reply:
        asked.append(stdin)
        return call(script, stdin, **more)

    wire.call = calling  # type: ignore[method-assign]
    wire.before = hang
    assert node.delete([duplicate("dest1")])[0].state == "failed"
    wire.before = lambda _: None
    (expires,) = node.database.rows("SELECT expires FROM journal")[0]
    (question,) = questions
    late = question[0]._replace(arguments=(*question[0].arguments[:2], str(int(time.time()) - 1).encode()))
    assert question[0].arguments[2] == str(expires).encode()
    assert abs(expires - time.time() - 180) < 5
    wire.call(late, question[1])
    assert node.holders("a.mpg") == ["src1", "dest1", "dest2", "dest3"]
    wire.call(*question)
    assert node.holders("a.mpg") == ["src1", "dest2", "dest3"], "in time the same question deletes"


def test_a_server_that_can_not_be_looked_at_leaves_its_rows_for_later(node: LocalNode) -> None:
    dead = RemoteFault("dest1", "broken", "gone for good")

    def never(script: Script) -> None:
        if script.verb != "stat":
            raise dead

    node.wires["dest1"].before = never
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "failed")]
    node.expire()
    assert settling.settle_dead_runs(node.tools(), {}) == {"a.mpg": "dest1 cannot be asked: gone for good"}
    assert [state for _, _, state, _ in node.journal()] == ["intended"]
    node.wires["dest1"].before = lambda _: None
    assert settling.settle_dead_runs(node.tools(), {}) == {}
    assert node.journal()[0][2] == "failed"


@pytest.mark.parametrize("length", [0, 1, 20, -1])
def test_an_answer_that_is_cut_off_is_looked_after(node: LocalNode, length: int) -> None:
    node.wires["dest1"].after = cut(length, "unlink")
    (one,) = node.delete([duplicate("dest1")])
    assert one.state == "done"
    assert one.detail.startswith("gone, though the answer was lost")
    assert node.holders("a.mpg") == ["src1", "dest2", "dest3"]


def test_rows_of_a_server_that_left_the_config_are_settled_as_not_known_after_a_day(node: LocalNode) -> None:
    node.database.execute(
        "INSERT INTO journal (run, verb, server, name, size, reason, state, at)"
        " VALUES (?, 'delete', 'removed', 'a.mpg', 1, 'disk', 'intended', ?)",
        (node.run, time.time() - 86000),
    )
    (one,) = node.delete([duplicate("dest1")])
    assert (one.state, "removed left the config" in one.detail) == ("refused", True)
    node.database.execute("UPDATE journal SET at = at - 500")
    assert states(node.delete([duplicate("dest1")])) == [("dest1", "a.mpg", "done")]
    rows = [row[2:] for row in node.journal()]
    assert (rows[0], rows[-1]) == (("failed", "not known: its server left the config"), ("done", ""))


def test_rows_of_a_server_that_is_no_destination_any_more_are_treated_like_those_of_one_that_left(
    node: LocalNode,
) -> None:
    node.database.execute(
        "INSERT INTO journal (run, verb, server, name, size, reason, state, at)"
        " VALUES (?, 'delete', 'other', 'a.mpg', 1, 'disk', 'intended', ?)",
        (node.run, time.time()),
    )
    node.fleet.servers["other"] = ServerSettings("other", "server", "10.0.0.99")
    assert "other left the config" in node.delete([duplicate("dest1")])[0].detail


def test_a_server_that_cannot_be_asked_what_became_of_its_rows_is_asked_once_in_a_run(node: LocalNode) -> None:
    losing("silent", after=False)(node)
    node.delete([duplicate("dest1")])
    for name in ("b.mpg", "c.mpg", "d.mpg"):
        node.put(name, "src1", "dest2", "dest3")
    node.calls.clear()
    node.wires["dest1"].before = raising(RemoteFault("dest1", "silent", "no answer for 60 s"), "look")
    batches = [[duplicate("dest2", name)] for name in ("b.mpg", "c.mpg", "d.mpg")]
    told = [one for batch in protocol.delete(node.tools(), batches) for one in batch]
    assert [one.state for one in told] == ["done"] * 3
    assert node.calls.count(("dest1", "look")) == 1


def test_the_second_copy_of_a_file_has_the_time_of_two(node: LocalNode) -> None:
    node.delete([duplicate("dest1"), duplicate("dest2")])
    (first,), (second,) = node.database.rows("SELECT expires FROM journal ORDER BY id")
    assert 175 <= second - first <= 185


def test_a_disk_that_is_not_mounted_settles_nothing(node: LocalNode) -> None:
    for server in ("src1", "dest1", "dest2", "dest3"):
        node.put(".cftools-root", server)
    losing("broken", after=False)(node)
    node.delete([duplicate("dest1")], marker=".cftools-root")
    node.wires["dest1"].before = lambda _: None
    node.expire()
    mounted, root = node.folder / "mounted", node.root("dest1")
    root.rename(mounted)
    root.mkdir()
    (one,) = node.delete([duplicate("dest1")], marker=".cftools-root")
    assert (one.state, ".cftools-root does not stand in" in one.detail) == ("refused", True)
    assert [row[2] for row in node.journal()] == ["intended", "refused"]
    root.rmdir()
    mounted.rename(root)
    assert node.delete([duplicate("dest1")], marker=".cftools-root")[0].state == "done"
    assert [row[2] for row in node.journal()] == ["failed", "refused", "done"]


# Turns


@pytest.fixture
def holder(node: LocalNode) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the deletion lock until its stdin ends."""
    text = (
        "import sys; from pathlib import Path; from cftools.state.file_locks import FileLocks\n"
        f"with FileLocks(Path({str(node.locks.directory)!r}), 'evict').hold('deletion'):\n"
        "    print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"\n"
        yield process
        process.stdin.close()


def test_a_deletion_waits_for_its_turn(node: LocalNode, holder: subprocess.Popen[bytes]) -> None:
    done: list[Outcome] = []
    thread = threading.Thread(target=lambda: done.extend(node.delete([duplicate("dest1")])))
    thread.start()
    time.sleep(0.3)
    assert node.calls == []
    assert thread.is_alive()
    assert holder.stdin
    holder.stdin.close()
    thread.join(10)
    assert states(done) == [("dest1", "a.mpg", "done")]


def test_a_deletion_that_is_told_to_stop_gives_its_turn_up(node: LocalNode, holder: subprocess.Popen[bytes]) -> None:
    stopped = threading.Event()
    threading.Timer(0.3, stopped.set).start()
    with pytest.raises(LockHeld, match=f"lock deletion is held by evict on .*, pid {holder.pid},"):
        node.delete([duplicate("dest1")], stop=stopped.is_set)
    assert node.calls == []
    assert node.journal() == []


def test_a_run_that_is_told_to_stop_ends_between_two_batches(node: LocalNode) -> None:
    stopped = threading.Event()
    done = []
    for batch in protocol.delete(node.tools(stop=stopped.is_set), [[duplicate("dest1")], [duplicate("dest2")]]):
        done += batch
        stopped.set()
    assert states(done) == [("dest1", "a.mpg", "done")]
    assert node.holders("a.mpg") == ["src1", "dest2", "dest3"]
    assert len(node.journal()) == 1


def test_the_lock_is_held_from_the_look_at_the_keeper_to_the_last_answer(node: LocalNode) -> None:
    held = []
    for wire in node.wires.values():
        wire.before = lambda _: held.append(node.locks.holder(DELETION) is not None)
    node.delete([duplicate("dest1")])
    assert set(held) == {True}
    assert {("dest3", "stat"), ("src1", "stat"), ("dest1", "unlink")} <= set(node.calls)
    assert node.locks.holder(DELETION) is None


# Crashes


def die(folder: str, moment: str) -> None:
    """Runs in a child process: deletes two copies and is killed right before, or right after, the second call."""
    node = LocalNode(Path(folder))

    def before(script: Script) -> None:
        if moment == "before" and script.verb == "unlink":
            os.kill(os.getpid(), signal.SIGKILL)

    def after(script: Script, reply: Reply) -> Reply:
        if moment == "after" and script.verb == "unlink":
            os.kill(os.getpid(), signal.SIGKILL)
        return reply

    node.wires["dest2"].before, node.wires["dest2"].after = before, after
    node.delete([duplicate("dest1"), duplicate("dest2")])


@pytest.mark.parametrize(("moment", "state"), [("before", "failed"), ("after", "done")])
def test_a_run_that_is_killed_is_settled_truthfully_by_the_next(node: LocalNode, moment: str, state: str) -> None:
    helpers = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    code = f"import test_action_journal as tests; tests.die({str(node.folder)!r}, {moment!r})"
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": helpers}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    left = ["src1", "dest2", "dest3"] if moment == "before" else ["src1", "dest3"]
    assert node.holders("a.mpg") == left
    assert [(server, found) for server, _, found, _ in node.journal()] == [("dest1", "done"), ("dest2", "intended")]
    node.expire()
    next_run = node.tools(run=runs.begin(node.database, "dedup", time.time()))
    (again,) = [one for batch in protocol.delete(next_run, [[duplicate("dest2")]]) for one in batch]
    assert again.state == ("done" if moment == "before" else "already")
    assert [found for _, _, found, _ in node.journal()] == ["done", state, again.state]
    assert node.holders("a.mpg") == ["src1", "dest3"]


def test_two_processes_that_delete_at_once_take_turns_and_lose_nothing(node: LocalNode) -> None:
    """With stale facts each of them may take the other's keeper for alive; under the lock it cannot."""
    results: list[list[Outcome]] = []
    other = SqliteDatabase(node.database.path)
    tools = [
        node.tools(),
        node.tools(database=other, locks=FileLocks(node.locks.directory, "other"), run=runs.begin(other, "other", 0.0)),
    ]
    plans = [[duplicate("dest1", keeper="dest2")], [duplicate("dest2", keeper="dest1")]]

    def work(number: int) -> None:
        results.append([one for batch in protocol.delete(tools[number], [plans[number]]) for one in batch])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    (node.root("dest3") / "a.mpg").unlink()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(one.state for result in results for one in result) == ["done", "refused"]
    assert len(node.holders("a.mpg")) == 2
