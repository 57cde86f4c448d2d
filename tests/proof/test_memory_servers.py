"""The servers in memory, on which the proofs rest, answer the real questions as a real shell does."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from local_node import LocalNode, Wire
from memory_node import SIZE, Killed, Manager, MemoryTransport, Step, World

from cftools.actions import arrival
from cftools.actions.unlink import LATE, Ground, Verdict, unlink
from cftools.facts import presence
from cftools.model.errors import LockHeld
from cftools.model.rows import Delete
from cftools.remote.transport import RemoteFault, Script, Transport

NAMES = [f"{letter}.mpg" for letter in "abcdef"]


def shelf(folder: Path, random: Random) -> tuple[World, MemoryTransport, Wire]:
    """The same files in memory and in a folder."""
    world = World(1)
    world.now = time.time()
    folder.mkdir()
    for name in random.sample(NAMES, random.randrange(len(NAMES))):
        size = random.choice([SIZE, SIZE, SIZE + 1])
        world.servers["dst1"].files[name] = size
        (folder / name).write_bytes(bytes(size))
    return world, MemoryTransport(Manager(world, "test"), "dst1"), Wire("dst1")


def deleted(transport: Transport, root: str, expires: int, rows: list[Delete]) -> list[Verdict] | str:
    try:
        return unlink(transport, Ground(root, "", expires), rows)
    except RemoteFault as fault:
        return f"{fault.kind}: {fault.detail}"


@pytest.mark.parametrize("seed", range(12))
def test_they_see_miss_and_delete_what_a_shell_does(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    world, memory, shell = shelf(tmp_path / "data", random)
    root = str(tmp_path / "data")
    for _ in range(3):
        asked = random.sample(NAMES, random.randrange(len(NAMES)))
        seen = [
            {name: (one.regular, one.size) for name, one in presence.see(way, root, asked).items()}
            for way in (memory, shell)
        ]
        assert seen[0] == seen[1]
        assert presence.gone(memory, root, "", asked).gone == presence.gone(shell, root, "", asked).gone
        rows = [Delete("dst1", name, SIZE, "disk") for name in asked]
        expires = int(time.time()) + random.choice([60, -5])
        told = deleted(memory, root, expires, rows)
        assert told == deleted(shell, root, expires, rows)
        assert expires > time.time() or told == f"refused: {LATE}"
        assert world.servers["dst1"].files == {path.name: path.stat().st_size for path in Path(root).iterdir()}
        assert {one.name for one in world.unlinked}.isdisjoint(world.servers["dst1"].files)
    assert abs(presence.look(memory, root, []).clock - presence.look(shell, root, []).clock) <= 60


def test_a_finished_copy_becomes_visible_there_too(tmp_path: Path) -> None:
    node = LocalNode(tmp_path)
    root = node.root("dest1")
    world = World(1)
    place = arrival.Place(str(root), "", b".cftools-part-0", b"a.mpg", "a.mpg", SIZE)
    for expected in (True, False):
        part = root / ".cftools-part-0" / "a.mpg"
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(bytes(SIZE))
        ways: list[Any] = [node.wires["dest1"], MemoryTransport(Manager(world, "test"), "dst1")]
        assert [arrival.publish(way, place) for way in ways] == [expected] * 2
    assert list(world.servers["dst1"].files) == ["a.mpg"]


def test_what_a_dead_manager_still_does_reaches_nobody_and_its_lock_is_free() -> None:
    world = World(1)
    world.servers["dst1"].files["a"] = world.servers["src1"].files["a"] = SIZE
    manager, other = Manager(world, "one"), Manager(world, "other")
    other.gives_up = True

    def die_at_the_question(who: Manager, step: Step) -> None:
        if who is manager and step == Step("ask", "dst1", "unlink"):
            with pytest.raises(LockHeld), other.tools.locks.wait("deletion", lambda: True):
                pass
            manager.die()

    world.on_step = die_at_the_question
    assert manager.delete([Delete("dst1", "a", SIZE, "disk")]) == []
    assert world.holders("a") == ["dst1"]
    assert world.database.rows("SELECT state FROM journal") == [("intended",)]
    with other.tools.locks.wait("deletion", lambda: True):
        assert world.lock_owner is other
    with pytest.raises(Killed):
        manager.tools.fleet.transport("dst1").call(Script("look", ""))
