"""Looking at named files: what is seen is there, what is gone is proven, and half an answer is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from local_node import CONTENT, ODD, SIZE, Wire, cut, fake_program, put, text

from cftools.facts import presence
from cftools.remote.transport import RemoteFault, Reply, Script, Transport

NAMES = [text(name) for name in ODD]


def gone(transport: Transport, root: str, names: list[str]) -> presence.Absence:
    return presence.gone(transport, root, "", names)


def test_files_of_any_name_are_seen_with_size_and_time(tmp_path: Path) -> None:
    for name in ODD:
        os.utime(put(tmp_path, name), (1, 1_500_000_000))
    seen = presence.see(Wire("src1"), str(tmp_path), NAMES)
    assert {name: one[:3] for name, one in seen.items()} == dict.fromkeys(NAMES, (True, SIZE, 1_500_000_000))
    assert len({one.identity for one in seen.values()}) == len(NAMES)
    assert presence.gone(Wire("src1"), str(tmp_path), "", NAMES).gone == dict.fromkeys(NAMES, False)


def test_nothing_is_seen_that_is_not_there_and_it_is_gone_for_certain(tmp_path: Path) -> None:
    assert presence.see(Wire("src1"), str(tmp_path), NAMES) == {}
    assert presence.gone(Wire("src1"), str(tmp_path), "", NAMES).gone == dict.fromkeys(NAMES, True)
    assert presence.see(Wire("src1"), str(tmp_path), []) == {}
    assert presence.gone(Wire("src1"), str(tmp_path), "", []).gone == {}


def test_what_is_no_regular_file_is_told_apart_and_is_not_gone(tmp_path: Path) -> None:
    put(tmp_path, b"a.mpg")
    (tmp_path / "link").symlink_to("a.mpg")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    names = ["a.mpg", "link", "dangling", "folder", "fifo"]
    seen = presence.see(Wire("src1"), str(tmp_path), names)
    assert {name: seen[name].regular for name in names} == {name: name == "a.mpg" for name in names}
    assert presence.gone(Wire("src1"), str(tmp_path), "", names).gone == dict.fromkeys(names, False)


def test_whether_a_file_below_no_folder_is_gone_cannot_be_told_when_a_file_is_in_the_way(tmp_path: Path) -> None:
    put(tmp_path, b"file", CONTENT).chmod(0o600)
    assert presence.gone(Wire("src1"), str(tmp_path), "", ["file/a.mpg", "none/a.mpg"]).gone == {
        "file/a.mpg": None,
        "none/a.mpg": True,
    }


def test_one_file_seen_at_two_places_has_one_identity(tmp_path: Path) -> None:
    put(tmp_path, b"one/a.mpg")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.mpg").hardlink_to(tmp_path / "one" / "a.mpg")
    put(tmp_path, b"three/a.mpg")
    found = [presence.see(Wire("src1"), str(tmp_path / place), ["a.mpg"])["a.mpg"] for place in ("one", "two", "three")]
    assert found[0].identity == found[1].identity != found[2].identity


def test_more_names_than_one_command_line_holds_are_all_answered(tmp_path: Path) -> None:
    names = [f"{number:05}" + "x" * 200 for number in range(1200)]
    for name in names[::2]:
        put(tmp_path, name, b"")
    assert set(presence.see(Wire("src1"), str(tmp_path), names)) == set(names[::2])
    gone = presence.gone(Wire("src1"), str(tmp_path), "", names).gone
    assert [gone[name] for name in names] == [False, True] * 600


def test_an_answer_cut_off_at_any_byte_is_broken(tmp_path: Path) -> None:
    names = ["a.", ".", "b\n.", "..c"]
    for name in ("a.", "b\n.", "..c"):
        put(tmp_path, name)
    wire = Wire("src1")
    whole = {"stat": 0, "look": 0}

    def measure(script: Script, reply: Reply) -> Reply:
        whole[script.verb] = len(reply.out)
        return reply

    wire.after = measure
    presence.see(wire, str(tmp_path), names)
    presence.gone(wire, str(tmp_path), "", names)
    assert min(whole.values()) > 4
    for look, length in [(presence.see, whole["stat"]), (gone, whole["look"])]:
        for shorter in range(length):
            wire.after = cut(shorter)
            with pytest.raises(RemoteFault) as fault:
                look(wire, str(tmp_path), names)
            assert fault.value.kind == "broken", shorter


def test_a_root_that_cannot_be_entered_proves_nothing(tmp_path: Path) -> None:
    for look in (presence.see, gone):
        with pytest.raises(RemoteFault):
            look(Wire("src1"), str(tmp_path / "unmounted"), ["a.mpg"])


def test_what_a_login_shell_prints_ahead_makes_an_answer_broken(tmp_path: Path) -> None:
    put(tmp_path, b"a.mpg")
    wire = Wire("src1")
    wire.after = lambda _, reply: reply._replace(out=b"Welcome to src1\n" + reply.out)
    for look in (presence.see, gone):
        with pytest.raises(RemoteFault) as fault:
            look(wire, str(tmp_path), ["a.mpg"])
        assert fault.value.kind == "broken"


def test_the_servers_own_clock_comes_with_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(monkeypatch, tmp_path / "bin", "date", "echo 12345")
    assert presence.look(Wire("src1"), str(tmp_path), []).clock == 12345
    assert presence.gone(Wire("src1"), str(tmp_path), "", ["a.mpg"]).clock == 12345
    fake_program(monkeypatch, tmp_path / "bin", "date", "exit 1")
    for look in (presence.see, gone):
        with pytest.raises(RemoteFault):
            look(Wire("src1"), str(tmp_path), ["a.mpg"])


def test_below_a_missing_mount_nothing_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RemoteFault, match=r"\.cftools-root does not stand in .*: is the disk mounted") as fault:
        presence.gone(Wire("dest1"), str(tmp_path), ".cftools-root", ["a.mpg"])
    assert fault.value.nothing_was_done
    (tmp_path / ".cftools-root").touch()
    assert presence.gone(Wire("dest1"), str(tmp_path), ".cftools-root", ["a.mpg"]).gone == {"a.mpg": True}


def test_whether_a_file_below_a_link_is_gone_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "root" / "deep" / "link").symlink_to(tmp_path / "empty")
    asked = ["link/a", "deep/link/b/a", "deep/a"]
    assert gone(Wire("dest1"), str(tmp_path / "root"), asked).gone == dict(zip(asked, [None, None, True], strict=True))
