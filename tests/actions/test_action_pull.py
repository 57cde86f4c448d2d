"""What a pull makes the destination's rsync and ssh do."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from local_node import CONTENT, SIZE, LocalNode, fake_program, put, text

from cftools.actions import arrival, transfer
from cftools.config.schema import Distribute

# Notes its words, NUL after each and an empty one at the end, and runs the command here instead of on the source.
FAKE_SSH = """
printf '%s\\0' "$@" '' >>"{log}"
while [ "$1" != rsync ]; do shift; done
exec sh -c "$*"
"""
ODD_PATH = "/keys of/q'uo\"te/$HOME %h;id `x` \\n*"
ALWAYS = [
    "-oBatchMode=yes",
    "-oStrictHostKeyChecking=yes",
    "-oConnectTimeout=5",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=3",
]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalNode:
    fake_program(monkeypatch, tmp_path / "bin", "ssh", FAKE_SSH.format(log=tmp_path / "log"))
    return LocalNode(tmp_path / "node", destinations=1)


def pull(node: LocalNode, name: bytes, policy: Distribute, **changes: object) -> Path:
    """Pulls the file of the source to the destination; where it arrives."""
    source = msgspec.structs.replace(node.settings[0], **changes)
    place = arrival.place_for(str(node.root("dest1")), "", text(name), SIZE, 1)
    assert not arrival.prepare(node.wires["dest1"], place).already
    ends = transfer.Ends(source, node.wires["src1"], node.wires["dest1"], lambda: None, lambda _: None)
    transfer.pull(ends, f"{source.roots[0]}/{text(name)}", place, policy)
    return node.root("dest1") / os.fsdecode(place.part) / os.fsdecode(place.base)


def said(node: LocalNode) -> list[str]:
    """The words of ssh's one command line."""
    words = (node.folder.parent / "log").read_bytes().split(b"\0")
    assert words[-2:] == [b"", b""]
    return [os.fsdecode(word) for word in words[:-2]]


def test_ssh_gets_each_word_whole_whatever_stands_in_it(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    policy = Distribute(pull_identity=ODD_PATH, pull_known_hosts=f"/known{ODD_PATH}")
    assert pull(node, b"a.mpg", policy, user="do$main\\vod", port=2222).read_bytes() == CONTENT
    words = said(node)
    given = [
        "-ldo$main\\vod",
        "-p2222",
        "-oIdentitiesOnly=yes",
        f"-i{ODD_PATH}",
        f"-oUserKnownHostsFile=/known{ODD_PATH}",
    ]
    assert words[:11] == [*ALWAYS, *given, "10.0.1.1"]
    assert words[11:14] == ["rsync", "--server", "--sender"]


def test_what_the_config_leaves_open_is_left_to_the_destinations_ssh(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    assert pull(node, b"a.mpg", Distribute(), address="fd00::1").read_bytes() == CONTENT
    assert said(node)[:6] == [*ALWAYS, "fd00::1"]


def test_a_plain_root_shows_in_the_sources_command_line_and_no_name_does(node: LocalNode) -> None:
    name = b"sub dir/-e touch*;id.mpg"
    node.put(name, "src1")
    assert pull(node, name, Distribute(speed_limit=80e6)).read_bytes() == CONTENT
    words = said(node)
    assert words[-2:] == [".", f"{node.root('src1')}/"]
    assert "--bwlimit=9765" in words
    assert not any("touch" in word for word in words)
    assert words[words.index("--sender") + 1].startswith("-te.")


@pytest.mark.parametrize(
    "folder", ["two words", "q'uo\"te", "$(touch pwned)", "::mod", "드라마", "a;b", "st*r", "-e sh"]
)
def test_a_root_of_any_name_is_fetched_from_and_never_interpreted(node: LocalNode, folder: str) -> None:
    root = node.folder / "src1" / folder
    put(root, b"a.mpg")
    assert pull(node, b"a.mpg", Distribute(), roots=(str(root),)).read_bytes() == CONTENT
    assert not any(folder in word for word in said(node))
    assert not list(node.folder.rglob("pwned"))


def test_a_file_in_none_of_the_sources_roots_is_not_asked_for(node: LocalNode) -> None:
    node.put("a.mpg", "src1")
    place = arrival.place_for(str(node.root("dest1")), "", "a.mpg", SIZE, 1)
    ends = transfer.Ends(node.settings[0], node.wires["src1"], node.wires["dest1"], lambda: None, lambda _: None)
    with pytest.raises(transfer.FileUnusable, match="lies in no root of src1"):
        transfer.pull(ends, f"{node.root('src1')}x/a.mpg", place, Distribute())
    assert node.calls == []
