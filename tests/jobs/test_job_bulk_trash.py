"""`bulk-delete restore` and `empty-trash`: what was deleted comes back, or goes for good when its time is over."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from local_node import CONTENT, Wire, put, raising
from local_site import LocalSite
from site_of_sshd import Row, end, kinds, outcomes

from cftools.remote.transport import RemoteFault, Reply, Script

SHARED = "/cftools-album"  # the target's folder, which is another one on each server
DOWN = RemoteFault("dest2", "unreachable", "no route")


BOTH = ("dest1", "dest2")


class OwnFolder(Wire):
    """A server on which the target's folder is one of its own."""

    folder: Path

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        own = str(self.folder).encode()
        words = tuple(
            own + word.removeprefix(SHARED.encode()) if word.startswith(SHARED.encode()) else word
            for word in script.arguments
        )
        return super().call(script._replace(arguments=words), stdin, repeatable=repeatable, limit=limit)


class Album(LocalSite):
    """A site with the target `album` on all destinations."""

    def __init__(self, folder: Path, **target: Any) -> None:
        super().__init__(folder, destinations=2)
        for name in self.destinations:
            wire = OwnFolder(name, self.calls)
            wire.folder = self.album(name)
            wire.folder.mkdir()
            self.wires[name] = wire
        self.aim(**target)

    def aim(self, more: dict[str, Any] | None = None, **target: Any) -> None:
        """Writes the config, with these keys of the target and more targets."""
        album = {"servers": ["dest2", "dest1"], "root": SHARED, "trash": "7d", **target}
        targets = {"album": {key: value for key, value in album.items() if value is not None}, **(more or {})}
        self.configure(
            bulk_delete={"partition": 2, "retry_delay": "0.1s", "targets": targets}, ssh={"response_timeout": "2s"}
        )

    def album(self, server: str) -> Path:
        """Where the files lie on a server."""
        return self.root(server).with_name("album")

    def give(self, *names: str, servers: tuple[str, ...] = ("dest1", "dest2")) -> None:
        """Puts files there."""
        for server in servers:
            for name in names:
                put(self.album(server), name)

    def left(self) -> dict[str, list[str]]:
        """The files that stand there; those in the trash by their names without their day and request."""
        found: dict[str, list[str]] = {}
        for server in sorted(self.destinations):
            base = self.album(server)
            paths = [path.relative_to(base) for path in sorted(base.rglob("*")) if path.is_file()]
            found[server] = ["~" + "/".join(p.parts[3:]) if p.parts[0] == ".cftools-trash" else str(p) for p in paths]
        return found

    def submit(self, *names: str, key: str = "k") -> None:
        """Sends a request."""
        text = "".join(f"{name}\n" for name in names).encode()
        self.run("bulk-delete", "submit", "-", "--request", key, "--target", "album", stdin=text)

    def restore(self, key: str = "k", expect: int = 0) -> list[Row]:
        """Restores; the rows."""
        return self.run("bulk-delete", "restore", key, expect=expect)

    def state(self, statement: str, *values: object) -> list[Any]:
        """Asks or changes the state behind the program's back."""
        with closing(sqlite3.connect(self.folder / "state" / "state.db", isolation_level=None)) as database:
            return database.execute(statement, values).fetchall()

    def status(self) -> str:
        """The state of the request."""
        return str(self.state("SELECT state FROM bulk_request")[0][0])


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path)


def test_what_was_deleted_comes_back_and_is_not_deleted_again(album: Album) -> None:
    names = ["a", "sub/b", "sub/c d", "é"]
    album.give(*names, "other")
    album.submit(*names)
    album.run("bulk-delete", "drain")
    assert album.left() == {server: ["~a", "~sub/b", "~sub/c d", "~é", "other"] for server in BOTH}
    rows = album.restore()
    assert end(rows)["counts"] == {"partition": 4, "done": 8, "already": 0, "failed": 0, "waiting": 0}
    assert [(row["server"], row["resources"], row["done"]) for row in kinds(rows, "partition")] == [
        *(("dest1", 2, 2), ("dest2", 2, 2)) * 2
    ]
    assert album.left() == {server: ["a", "other", "sub/b", "sub/c d", "é"] for server in BOTH}
    assert album.status() == "restored"
    assert end(album.run("bulk-delete", "drain"))["counts"]["done"] == 0
    again = album.restore()
    assert end(again)["counts"] == {"partition": 4, "done": 0, "already": 8, "failed": 0, "waiting": 0}
    album.submit(*names)  # the same request again changes nothing
    album.run("bulk-delete", "drain")
    assert album.left()["dest1"] == ["a", "other", "sub/b", "sub/c d", "é"]


def test_what_was_not_deleted_yet_stays(album: Album) -> None:
    album.give("a", "b", "c")
    album.submit("a", "b", "c")
    album.wires["dest2"].before = raising(DOWN, "stat")
    album.run("bulk-delete", "drain", expect=1)
    album.wires["dest2"].before = lambda _: None
    assert album.left() == {"dest1": ["~a", "~b", "~c"], "dest2": ["a", "b", "c"]}
    assert end(album.restore())["counts"] == {"partition": 4, "done": 3, "already": 3, "failed": 0, "waiting": 0}
    assert album.left() == {server: ["a", "b", "c"] for server in BOTH}
    assert album.state("SELECT count(*) FROM bulk_work") == [(0,)]


def test_each_file_that_does_not_come_back_is_named(album: Album) -> None:
    album.give("a", "b")
    album.submit("a", "b", "never")
    album.run("bulk-delete", "drain")
    put(album.album("dest1"), "a", b"another")
    rows = album.restore(expect=1)
    assert outcomes(rows) == [("dest1", "a", "refused"), ("dest1", "never", "failed"), ("dest2", "never", "failed")]
    assert {row["verb"] for row in kinds(rows, "outcome")} == {"restore"}
    assert end(rows)["counts"]["failed"] == 3
    assert "restore dest1 a: refused: another file stands in its place" in album.talk
    assert (album.album("dest1") / "a").read_bytes() == b"another"
    assert album.left() == {"dest1": ["~a", "a", "b"], "dest2": ["a", "b"]}


def test_a_server_that_cannot_be_asked_is_named_and_restoring_again_completes(album: Album) -> None:
    album.give("a", "b", "c")
    album.submit("a", "b", "c")
    album.run("bulk-delete", "drain")
    album.wires["dest2"].before = raising(DOWN, "stat")
    rows = album.restore(expect=1)
    (told,) = [row for row in kinds(rows, "partition") if row["server"] == "dest2"]
    assert (told["waiting"], told["resources"], "no route" in told["detail"]) == (3, 3, True)
    assert album.talk.count("no route") == 1
    assert album.left() == {"dest1": ["a", "b", "c"], "dest2": ["~a", "~b", "~c"]}
    album.wires["dest2"].before = lambda _: None
    assert end(album.restore())["counts"] == {"partition": 4, "done": 3, "already": 3, "failed": 0, "waiting": 0}
    assert album.left() == {server: ["a", "b", "c"] for server in BOTH}


def test_a_restoration_that_was_cut_off_goes_on_where_it_was(album: Album) -> None:
    album.give("a", "b", "c")
    album.submit("a", "b", "c")
    album.run("bulk-delete", "drain")
    seen: list[str] = []

    def die(script: Script, reply: Reply) -> Reply:
        seen.append(script.verb)
        if script.verb == "restore":
            raise RuntimeError
        return reply

    album.wires["dest2"].after = die
    album.restore(expect=70)
    assert "restore" in seen
    album.wires["dest2"].after = lambda _, reply: reply
    album.restore()
    assert album.left() == {server: ["a", "b", "c"] for server in BOTH}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"trash": None}, "has no trash"),
        ({"servers": None, "root": None, "trash": None, "url": "s3://bucket"}, "has no trash"),
    ],
)
def test_without_a_trash_nothing_can_be_brought_back(album: Album, change: dict[str, Any], complaint: str) -> None:
    album.give("a")
    album.submit("a")
    album.aim(**change)
    album.restore(expect=2)
    assert complaint in album.talk
    assert album.status() == "open"


def test_an_unknown_request_and_names_that_are_gone_are_refused(album: Album) -> None:
    album.restore("unknown", expect=2)
    assert "not known" in album.talk
    album.submit("a")
    album.state("DELETE FROM bulk_block")
    album.restore(expect=2)
    assert "names of its files were not kept" in album.talk
    album.aim({"other": {"servers": ["dest1"], "root": SHARED}})
    album.state("UPDATE bulk_request SET target = 'former'")
    album.restore(expect=2)
    assert "former no more" in album.talk


def test_restoring_waits_for_the_calls_under_way(album: Album) -> None:
    album.give("a", "b", "c")
    album.submit("a", "b", "c")
    lease = time.time() + 1.5
    album.state("UPDATE bulk_work SET claimed_by = 99, lease = ? WHERE server = 'dest1' AND block = 0", lease)
    album.restore()
    assert time.time() >= lease
    assert album.status() == "restored"


def test_a_request_is_withdrawn_though_it_waits_for_one_call(album: Album) -> None:
    """Nothing more of it is begun meanwhile."""
    album.give("a", "b", "c")
    album.submit("a", "b", "c")
    album.state(
        "UPDATE bulk_work SET claimed_by = 99, lease = ? WHERE server = 'dest1' AND block = 0", time.time() + 60
    )
    seen: list[Any] = []

    def drain() -> None:
        late = time.monotonic() + 10
        while album.state("SELECT count(*) FROM bulk_work") != [(1,)] and time.monotonic() < late:
            time.sleep(0.02)
        seen.extend(album.state("SELECT w.server, w.block, r.state FROM bulk_work w JOIN bulk_request r"))
        album.state("DELETE FROM bulk_work")  # its call is over

    thread = threading.Thread(target=drain)
    thread.start()
    album.restore()
    thread.join()
    assert seen == [("dest1", 0, "restored")]
    assert album.status() == "restored"


def test_restoring_waits_for_a_deletion_that_a_server_may_still_be_at(album: Album) -> None:
    album.give("a")
    album.submit("a")
    album.run("bulk-delete", "drain")
    expires = int(time.time()) - 1  # by the server's clock, which gives it two seconds more
    album.give("a", servers=("dest1",))
    album.state("UPDATE journal SET state = 'intended', expires = ? WHERE server = 'dest1'", expires)
    rows = album.restore(expect=1)  # the new file stands in its place
    assert time.time() >= expires + 2
    assert ("dest1", "a", "refused") in outcomes(rows)
    assert album.state("SELECT state FROM journal WHERE server = 'dest1'") == [("failed",)]


def test_a_server_that_stays_at_a_deletion_is_left_for_another_time(album: Album) -> None:
    album.give("a")
    album.submit("a")
    album.run("bulk-delete", "drain")
    album.give("a", servers=("dest1",))
    album.state("UPDATE journal SET state = 'intended', expires = ? WHERE server = 'dest1'", int(time.time()) + 999)
    album.configure(
        ssh={"response_timeout": "0.3s"},
        bulk_delete={"targets": {"album": {"servers": ["dest1", "dest2"], "root": SHARED, "trash": "7d"}}},
    )
    rows = album.restore(expect=1)
    assert "may still be deleting" in album.talk
    assert end(rows)["counts"]["waiting"] == 1
    assert album.left()["dest2"] == ["a"]


def test_in_a_layout_of_any_a_server_that_never_had_a_file_is_no_news(album: Album) -> None:
    album.aim(layout="any")
    album.give("a", servers=("dest1",))
    album.give("b", servers=("dest2",))
    album.submit("a", "b", "nowhere")
    album.run("bulk-delete", "drain")
    rows = album.restore(expect=1)
    assert outcomes(rows) == [("dest1", "nowhere", "failed")]
    assert album.left() == {"dest1": ["a"], "dest2": ["b"]}


def lay(album: Album, server: str, *days: str) -> None:
    for day in days:
        put(album.album(server), f".cftools-trash/{day}/1/a", CONTENT)


def days(album: Album, server: str) -> list[str]:
    return sorted(path.name for path in (album.album(server) / ".cftools-trash").iterdir())


def test_the_trash_is_emptied_of_days_whose_time_is_over(album: Album) -> None:
    for server in ("dest1", "dest2"):
        lay(album, server, "20260101", "20260102", "20260103")
    # At this moment the last minute of 2 January is not yet seven days ago.
    rows = album.run("bulk-delete", "empty-trash", "--at", "2026-01-09T23:59:00Z")
    assert end(rows)["counts"] == {"server": 2, "folder": 2, "outcome": 0}
    assert days(album, "dest1") == days(album, "dest2") == ["20260102", "20260103"]
    album.run("bulk-delete", "empty-trash", "--at", "2026-01-10T00:00:00Z")
    assert days(album, "dest1") == ["20260103"]


@pytest.mark.parametrize(("first", "second"), [("7d", "30d"), ("30d", "7d")])
def test_targets_with_one_folder_keep_what_the_longest_of_them_says(album: Album, first: str, second: str) -> None:
    more = {
        "twin": {"servers": ["dest1"], "root": SHARED, "trash": second},
        "none": {"servers": ["dest2"], "root": SHARED},
    }
    album.aim(more, servers=["dest1"], trash=first)
    for server in BOTH:
        lay(album, server, "20260101")
    album.run("bulk-delete", "empty-trash", "--at", "2026-01-20T00:00:00Z")
    assert days(album, "dest1") == ["20260101"]
    album.run("bulk-delete", "empty-trash", "--at", "2026-02-01T00:00:00Z")
    assert days(album, "dest1") == []
    assert days(album, "dest2") == ["20260101"]  # no target has a trash there


def test_what_cannot_be_emptied_is_named_and_holds_nothing_back(album: Album) -> None:
    lay(album, "dest1", "20260101")
    lay(album, "dest2", "20260101")
    (album.album("dest1") / ".cftools-trash" / "20250101").symlink_to("/nowhere")
    album.wires["dest2"].before = raising(DOWN, "empty")
    rows = album.run("bulk-delete", "empty-trash", "--at", "2026-02-01", expect=1)
    assert [(row["server"], row["name"], row["detail"]) for row in kinds(rows, "outcome")] == [
        ("dest1", f"{SHARED}/.cftools-trash/20250101", "a link stands there"),
        ("dest2", f"{SHARED}/.cftools-trash", "no route"),
    ]
    assert days(album, "dest1") == ["20250101"]


def test_two_copies_never_empty_the_trash_at_once(album: Album) -> None:
    lay(album, "dest1", "20200101")
    held: list[int] = []

    def meanwhile(script: Script) -> None:
        if script.verb == "empty" and not held:
            held.append(1)
            album.wires["dest1"].before = lambda _: None
            other = Album.__new__(Album)
            other.__dict__.update(album.__dict__)
            other.run("bulk-delete", "empty-trash", expect=75)
            other.run("bulk-delete", "empty-trash", "--if-free")

    album.aim(servers=["dest1"])  # one server is worked on in the same thread, which may set signal handlers
    album.wires["dest1"].before = meanwhile
    album.run("bulk-delete", "empty-trash")
    assert held == [1]
    assert days(album, "dest1") == []
