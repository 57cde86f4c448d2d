"""What goes through a gate: all that cftools sends, whatever the names, and nothing that leads out of the roots."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from local_node import CONTENT, ODD, SIZE, LocalNode, Wire, surplus, text, tree

from cftools.actions import copy as copying
from cftools.actions import remove, sweep, transfer, trash, unlink
from cftools.config.load import load
from cftools.config.schema import Distribute
from cftools.config.servers import servers
from cftools.facts import heartbeat, inventory, presence
from cftools.jobs import gate
from cftools.model.rows import Copy
from cftools.remote.gate import REFUSED, command_line
from cftools.remote.local import LocalSession
from cftools.remote.transport import RemoteFault, Reply, Script, nothing

TEXTS = {rule.verb: rule.text for rule in gate.RULES}
READING = {"heartbeat", "inventory", "stat", "look", "digest", "send"}
PART = b".cftools-part-0123456789abcdef"
CONFIG = """\
node: n
inputs: {hitcount_history: h, grade_info: g}
ssh: {user: vod}
distribute: {via: pull, pull_identity: "/keys/a key"}
sources:
  - {name: src1, address: 10.0.1.1, roots: [/data2, /data3]}
  - {name: src2, address: "fd00::2", roots: [/data2], port: 2222}
destinations:
  - {name: dst1, address: 10.0.0.9, root: /no/such/data}
"""


class Gated(Wire):
    """A local server behind a gate."""

    def __init__(self, server: str, printed: str, folder: Path) -> None:
        super().__init__(server)
        self.path = folder / f"gate-{server}"
        self.path.write_text(printed)

    def through(self, script: Script) -> Script:
        """The script as sshd hands it to the gate."""
        words = (command_line(script), os.fsencode(self.path))
        return Script(script.verb, 'SSH_ORIGINAL_COMMAND=$1 exec sh "$2"', words)

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        return super().call(self.through(script), stdin, repeatable=repeatable, limit=limit)

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> LocalSession:
        """See `Transport.open`."""
        return super().open(self.through(script), watch)


@pytest.fixture
def node(tmp_path: Path) -> LocalNode:
    """One source and one destination behind their gates; outside their roots a file that nobody may see or touch."""
    node = LocalNode(tmp_path / "node", destinations=1)
    for one in node.settings:
        printed = gate.for_roots(one.roots, read_only=one.role == "source")
        node.wires[one.name] = Gated(one.name, printed, tmp_path)
        (node.root(one.name).parent / "outside").write_bytes(CONTENT)
    return node


def test_whatever_cftools_does_goes_through_the_gate_whatever_the_names(node: LocalNode) -> None:
    for name in ODD:
        node.put(text(name), "src1")
    for one in node.settings:
        assert heartbeat.check(node.wires[one.name], one, 5).ok
    tools = copying.Tools(node.fleet, node.database, node.locks, Distribute(via="relay", checksum=True), "")
    for name in ODD:
        path = text(os.fsencode(node.root("src1")) + b"/" + name)
        row = Copy("1", text(name), SIZE, "src1", path, "dest1", 1, 0, "rank")
        assert copying.copy(tools, row, copying.Watch(lambda: "")) == copying.Result("done", "done"), name
    listing = inventory.look(node.wires["dest1"], node.settings[1], ".marker", ["src1", "dest1"])
    assert (listing.server.state, listing.server.files, listing.marked) == ("ok", len(ODD), False)
    seen = presence.see(node.wires["dest1"], str(node.root("dest1")), [text(name) for name in ODD])
    assert set(seen) == {text(name) for name in ODD}
    rows = [surplus("dest1", text(name)) for name in ODD]
    assert [one.state for one in node.delete(rows)] == ["done"] * len(ODD)
    gone = presence.gone(node.wires["dest1"], str(node.root("dest1")), "", [text(name) for name in ODD])
    assert set(gone.gone.values()) == {True}
    assert sweep.sweep(node.wires["dest1"], str(node.root("dest1")), 60) == 0


def test_requested_files_are_deleted_through_the_gate_whatever_their_names(node: LocalNode) -> None:
    odd = [text(name) for name in ODD]
    for name in odd:
        node.put(name, "dest1")
    (node.root("dest1") / "way").symlink_to("..")
    wire, ground = node.wires["dest1"], unlink.Ground(str(node.root("dest1")), "", 1 << 40)
    linked = unlink.Verdict("failed", "way, on its way, is a link")
    assert remove.remove(wire, ground, [*odd, "way/outside"]) == [unlink.Verdict("done")] * len(odd) + [linked]
    assert {verdict and verdict.state for verdict in remove.remove(wire, ground, odd)} == {"already"}
    assert (node.root("dest1").parent / "outside").exists()
    reply = wire.call(Script("remove", remove.REMOVE + "#", (os.fsencode(ground.root), b"", b"9")), b"./a\0|.")
    assert (reply.status, b"another version" in reply.err) == (REFUSED, True)


def test_files_go_to_the_trash_and_back_through_the_gate_whatever_their_names(node: LocalNode) -> None:
    odd = [text(name) for name in ODD]
    for name in odd:
        node.put(name, "dest1")
    before = tree(node.root("dest1"))
    wire, ground = node.wires["dest1"], unlink.Ground(str(node.root("dest1")), "", 1 << 40)
    assert trash.move(wire, ground, "20260102/7", odd) == [unlink.Verdict("done")] * len(odd)
    assert trash.restore(wire, ground, 7, odd) == [unlink.Verdict("done")] * len(odd)
    assert trash.empty(wire, ground.root, "", 20260103).removed == [20260102]
    assert tree(node.root("dest1")) == before | {".cftools-trash": b"a folder"}


LEAVING = [
    ("heartbeat", (b"@/..",)),
    ("heartbeat", (b"/",)),
    ("inventory", (b"", b"@/../..")),
    ("inventory", (b"../outside", b"@")),
    ("stat", (b"/etc",)),
    ("look", (b"@/sub", b"")),
    ("digest", (b"@/../outside", b"5")),
    ("digest", (b"@", b"5")),
    ("digest", (b"@/link", b"5")),
    ("send", (b"@/../outside", b"1")),
    ("send", (b"@/sub/../../outside", b"1")),
    ("send", (b"/etc/passwd", b"1")),
    ("send", (b"@x/a", b"1")),
    ("send", (b"@/link", b"1")),
    ("send", (b"@/way/outside", b"1")),
    ("send", (b"@/a.mpg", b"1 --pid=1")),
    ("send", (b"@/a.mpg", b"-5")),
    ("send", (b"@//etc/passwd", b"1")),
    ("send", (b"outside", b"1")),
    ("receive", (b"@", b"..", b"outside", b"1", b"1")),
    ("receive", (b"@", b"sub", b"a", b"1", b"1")),
    ("receive", (b"@", PART + b"/..", b"a", b"1", b"1")),
    ("receive", (b"@", b".cftools-part-/./../../../", b"a", b"1", b"1")),
    ("receive", (b"@", PART, b"../../outside", b"1", b"1")),
    ("receive", (b"@", PART, b"..", b"1", b"1")),
    ("receive", (b"@", PART, b"a", b"yesterday", b"1")),
    ("receive", (b"/tmp", PART, b"a", b"1", b"1")),
    ("prepare", (b"@", b"", PART, b"a", b"../a", b"1")),
    ("prepare", (b"@", b"", PART, b"a", b"/a", b"1")),
    ("prepare", (b"@", b"/etc/passwd", PART, b"a", b"a", b"1")),
    ("publish", (b"@", b"", PART, b"a", b"sub/../../a", b"1")),
    ("publish", (b"@", b"", PART, b"a", b"", b"1")),
    ("publish", (b"@", b"", PART, b"a", b"a", b"1*")),
    ("publish", (b"@", b"", PART, b"a", b".cftools-part-x/a", b"1")),
    ("publish", (b"@", b"", b".cftools-part-*", b"a", b"a", b"1")),
    ("discard", (b"@", b"", b"..", b"outside", b"a", b"1")),
    ("discard", (b"@", b"", PART, b"", b"a", b"1")),
    ("sweep", (b"@/..", b"1")),
    ("sweep", (b"@", b"1 -delete")),
    ("unlink", (b"@/..", b"", b"99999999999")),
    ("unlink", (b"@", b"..", b"99999999999")),
    ("unlink", (b"@", b"", b"")),
    ("remove", (b"@/..", b"", b"99999999999")),
    ("remove", (b"@/sub", b"", b"99999999999")),
    ("remove", (b"@", b"../outside", b"99999999999")),
    ("remove", (b"@", b"", b"9-9")),
    ("remove", (b"@", b"", b"99999999999", b"99999999999")),
    ("trash", (b"@/..", b"", b"99999999999", b"20260101", b"1")),
    ("trash", (b"@", b"", b"99999999999", b"20260101", b"../1")),
    ("trash", (b"@", b"", b"99999999999", b"..", b"1")),
    ("trash", (b"@", b"", b"99999999999", b"20260101", b"")),
    ("restore", (b"@/sub", b"", b"99999999999", b"1")),
    ("restore", (b"@", b"", b"99999999999", b"1/..")),
    ("restore", (b"@", b"", b"99999999999", b"*")),
    ("empty", (b"@/..", b"", b"99999999")),
    ("empty", (b"@", b"", b"-1")),
    ("pull", (b"@", PART, b"a", b"a", b"1", b"", b"1", b"10.0.0.1", b"/", b"", b"", b"", b"")),
]


@pytest.mark.parametrize(("verb", "arguments"), LEAVING)
def test_no_argument_leads_out_of_the_roots(node: LocalNode, verb: str, arguments: tuple[bytes, ...]) -> None:
    root = node.root("dest1")
    node.put("sub/a.mpg", "dest1")
    node.put("a.mpg", "dest1")
    (root / "link").symlink_to("../outside")
    (root / "way").symlink_to("..")
    before = tree(node.folder / "dest1")
    words = tuple(word.replace(b"@", os.fsencode(root)) for word in arguments)
    reply = node.wires["dest1"].call(Script(verb, TEXTS[verb], words))
    assert (reply.status, reply.out) == (REFUSED, b"")
    assert reply.err.startswith(b"cftools-gate: refused: " + verb.encode())
    assert tree(node.folder / "dest1") == before


@pytest.mark.parametrize("verb", sorted(TEXTS))
def test_nothing_that_writes_runs_on_a_read_only_server(node: LocalNode, verb: str) -> None:
    reply = node.wires["src1"].call(Script(verb, TEXTS[verb], (b"/nowhere",)))
    assert reply.status == REFUSED
    assert (b"nothing this gate runs" in reply.err) == (verb not in READING)


OUTSIDE = [
    b"../outside",
    b"./../outside",
    b"./sub/../../outside",
    b"./..",
    b"@/../outside",
    b"sub/a.mpg",
    b"",
    b"./way/..",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("verb", ["stat", "look"])
def test_names_on_stdin_that_lead_out_of_the_root_are_not_looked_at(node: LocalNode, verb: str, name: bytes) -> None:
    node.put("sub/a.mpg", "dest1")
    name = name.replace(b"@", os.fsencode(node.root("dest1")))
    words = (os.fsencode(node.root("dest1")), *([b""] if verb == "look" else []))
    reply = node.wires["dest1"].call(Script(verb, TEXTS[verb], words), b"./sub/a.mpg\0" + name + b"\0")
    assert reply.status not in (0, REFUSED)
    assert b"outside" not in reply.out
    assert node.wires["dest1"].call(Script(verb, TEXTS[verb], words), b"./sub/a.mpg\0").status == 0


@pytest.mark.parametrize("name", [*OUTSIDE, b"./way/outside"])
def test_names_on_stdin_that_lead_out_of_the_root_are_not_deleted(node: LocalNode, name: bytes) -> None:
    root = node.root("dest1")
    node.put("sub/a.mpg", "dest1")
    (root / "way").symlink_to("..")
    before = tree(node.folder / "dest1")
    name = name.replace(b"@", os.fsencode(root))
    for folders in (b"", name + b"\0"):
        for record in (
            b"regular file/%d/%b" % (SIZE, name),
            b"regular file/%d/./sub/a.mpg\0regular file/%d/%b" % (SIZE, SIZE, name),
        ):
            question = b"%b|%b|." % (unlink.encode(folders), unlink.encode(record + b"\0"))
            words = (os.fsencode(root), b"", b"99999999999")
            reply = node.wires["dest1"].call(Script("unlink", unlink.UNLINK, words), question)
            assert reply.status in (6, 9)
            assert tree(node.folder / "dest1") == before
    with pytest.raises(RemoteFault, match="leads out of the root"):
        unlink.unlink(node.wires["dest1"], unlink.Ground(str(root), "", 1 << 40), [surplus("dest1", "../outside")])


@pytest.mark.parametrize("name", [*OUTSIDE, b"./way/outside"])
def test_names_on_stdin_that_lead_out_of_the_root_are_not_asked_for(node: LocalNode, name: bytes) -> None:
    root = node.root("dest1")
    node.put("sub/a.mpg", "dest1")
    (root / "way").symlink_to("..")
    before = tree(node.folder / "dest1")
    name = name.replace(b"@", os.fsencode(root))
    for other in (b"", b"./sub/a.mpg\0"):
        question = unlink.encode(other + name + b"\0") + b"|."
        words = (os.fsencode(root), b"", b"99999999999")
        reply = node.wires["dest1"].call(Script("remove", TEXTS["remove"], words), question)
        assert (reply.status, reply.out) in [(9, b""), (0, b"@./way\0cut")]
        assert tree(node.folder / "dest1") == before


@pytest.mark.parametrize("name", [*OUTSIDE, b"./way/outside"])
@pytest.mark.parametrize(("verb", "more"), [("trash", (b"20260101", b"7")), ("restore", (b"7",))])
def test_names_on_stdin_that_lead_out_of_the_root_are_not_moved(
    node: LocalNode, verb: str, more: tuple[bytes, ...], name: bytes
) -> None:
    root = node.root("dest1")
    node.put("sub/a.mpg", "dest1")
    node.put("sub/b.mpg", "dest1")
    (root / "way").symlink_to("..")
    ground = unlink.Ground(str(root), "", 1 << 40)
    assert trash.move(node.wires["dest1"], ground, "20260101/7", ["sub/b.mpg"]) == [unlink.Verdict("done")]
    (root / ".cftools-trash" / "20260101" / "outside").write_bytes(CONTENT)
    before = tree(node.folder / "dest1")
    name = name.replace(b"@", os.fsencode(root))
    for other in (b"", b"./sub/a.mpg\0", b"./sub/b.mpg\0"):
        question = unlink.encode(other + name + b"\0") + b"|."
        words = (os.fsencode(root), b"", b"99999999999", *more)
        reply = node.wires["dest1"].call(Script(verb, TEXTS[verb], words), question)
        assert (reply.status, reply.out) in [(9, b""), (0, b"@./way\0cut")]
        assert tree(node.folder / "dest1") == before


def ask(printed: str, folder: Path, command: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    path = folder / "cftools-gate"
    path.write_text(printed)
    environment = {b"SSH_ORIGINAL_COMMAND": command, b"HOME": b"/nowhere"}
    return subprocess.run(
        ["sh", path, *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def test_a_pull_fetches_from_the_configured_sources_in_the_configured_way_alone(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    given = load(tmp_path / "c.yaml")
    printed = gate.for_server(given, "dst1")
    source = servers(given)[1]
    way = transfer.way_to(source, "/data2", given.distribute)
    assert way == (b"fd00::2", b"/data2", b"vod", b"2222", b"/keys/a key", b"")
    start = (b"/no/such/data", PART, b"a", b"s/a", b"60", b"", b"5")

    def status(*arguments: bytes) -> tuple[int, bytes]:
        done = ask(printed, tmp_path, command_line(Script("pull", transfer.PULL, arguments)))
        return done.returncode, done.stderr

    code, said = status(*start, *way)
    assert b"refused" not in said, said  # /data is not there, or rsync cannot log in; but the gate let it run
    for place, other in enumerate(
        [b"10.6.6.6", b"/", b"root", b"22", b"/data/.cftools-part-0/key", b"/data/known_hosts"]
    ):
        changed = (*way[:place], other, *way[place + 1 :])
        code, said = status(*start, *changed)
        assert (code, b"see cftools gate" in said) == (REFUSED, True)
    assert status(*start, *way[:5])[0] == REFUSED
    assert status(*start, *way, b"")[0] == REFUSED
    for place, other in [
        (3, b"../a"),
        (3, b"/a"),
        (4, b"5 -e sh"),
        (5, b"--rsh=sh"),
        (6, b"5,x"),
        (1, b".."),
        (2, b"x/y"),
    ]:
        assert status(*start[:place], other, *start[place + 1 :], *way)[0] == REFUSED


GOOD = (
    b"rsync --server --sender -te.LsfxCIvu --timeout=60 --bwlimit=1220 --append --append"
    b" --files-from=- --from0 --no-relative . @/"
)
BAD = [
    GOOD.replace(b" --sender", b""),
    GOOD.replace(b" --server", b""),
    GOOD.replace(b"@/", b"/"),
    GOOD.replace(b"@/", b"@"),
    GOOD.replace(b"@/", b"@//"),
    GOOD.replace(b"@/", b"@/sub/"),
    GOOD.replace(b"@/", b"@/../"),
    GOOD.replace(b"@/", b"@/ /"),
    GOOD.replace(b"@/", b"@/ @/"),
    GOOD.replace(b". @/", b"@/"),
    GOOD.replace(b". @/", b"@/ ."),
    GOOD.replace(b". @/", b"."),
    GOOD.replace(b"--files-from=-", b"--files-from=/etc/passwd"),
    GOOD.replace(b"--files-from=- ", b""),
    GOOD.replace(b"--append", b"--remove-source-files", 1),
    GOOD.replace(b"--append", b"--log-file=@/log", 1),
    GOOD.replace(b"--append", b"--daemon", 1),
    GOOD.replace(b"--append", b"--config=/x", 1),
    GOOD.replace(b"--append", b"--rsh=sh", 1),
    GOOD.replace(b"--append", b"--copy-links", 1),
    GOOD.replace(b"--append", b"-e sh", 1),
    GOOD.replace(b"--append", b"--files-from=- -L", 1),
    GOOD.replace(b"--timeout=60", b"--timeout=60x"),
    GOOD.replace(b"--timeout=60", b"--timeout="),
    GOOD.replace(b"-te.LsfxCIvu", b"-ste.LsfxCIvu"),
    GOOD.replace(b"-te.LsfxCIvu", b"-rte.LsfxCIvu"),
    GOOD.replace(b"-te.LsfxCIvu", b"-tLe.LsfxCIvu"),
    GOOD.replace(b"-te.LsfxCIvu", b"-te.Lsf/x"),
    GOOD.replace(b"-te.LsfxCIvu", b"-tesh"),
    GOOD.replace(b"-te.LsfxCIvu", b"-te.L -e"),
    b"rsync --server --sender -ste.LsfxCIvu",
    b"rsync --server --daemon .",
    b"rsync --version",
    b"rsync",
    GOOD + b";id",
    GOOD + b" $(id)",
    b"rsync  " + GOOD,
    b"/usr/bin/" + GOOD,
]


@pytest.mark.parametrize("command", BAD)
def test_rsync_may_do_nothing_but_send_named_files_of_a_root(tmp_path: Path, command: bytes) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a.mpg").write_bytes(CONTENT)
    printed = gate.for_roots([str(root)], read_only=True, rsync=True)
    done = ask(printed, tmp_path, command.replace(b"@", os.fsencode(root)), "rsync")
    assert (done.returncode, done.stdout) == (REFUSED, b"")
    assert ask(printed, tmp_path, GOOD.replace(b"@", os.fsencode(root)), "rsync").returncode != REFUSED
    assert [path.name for path in root.iterdir()] == ["a.mpg"]


def test_a_gate_of_other_scripts_is_refused_by_digest(node: LocalNode) -> None:
    reply = node.wires["dest1"].call(Script("heartbeat", heartbeat.CHECK + "id", (os.fsencode(node.root("dest1")),)))
    assert (reply.status, reply.out) == (REFUSED, b"")
    assert b"another version" in reply.err
    settings = msgspec.structs.replace(node.settings[1], roots=("/elsewhere",))
    assert "not a root" in heartbeat.check(node.wires["dest1"], settings, 5).error
