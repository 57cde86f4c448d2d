"""The destination's half of a copy: nobody sees a part, nothing is overwritten, asking twice does no harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from local_node import CONTENT, ODD, SIZE, Wire, cut, fake_program, put, text, tree

from cftools.actions import arrival, sweep
from cftools.actions.arrival import Place, Prepared, Refused
from cftools.model import names
from cftools.remote.transport import RemoteFault


def place(root: Path, name: bytes = b"a.mpg", size: int = SIZE, marker: str = "") -> Place:
    return arrival.place_for(str(root), marker, text(name), size, 1_500_000_000)


def part(target: Place) -> Path:
    return Path(target.root) / os.fsdecode(target.part) / os.fsdecode(target.base)


def arrive(target: Place, content: bytes = CONTENT) -> None:
    part(target).write_bytes(content)


def test_files_of_any_name_appear_whole_and_leave_no_part(tmp_path: Path) -> None:
    wire = Wire("dest1")
    for name in ODD:
        target = place(tmp_path, name)
        assert arrival.prepare(wire, target) == Prepared(already=False, arrived=0)
        arrive(target)
        assert not (tmp_path / os.fsdecode(name)).exists()
        assert arrival.publish(wire, target) is True
        assert (tmp_path / os.fsdecode(name)).read_bytes() == CONTENT
        assert arrival.prepare(wire, target) == Prepared(already=True)
    assert list(tmp_path.glob(".cftools*")) == []


def test_what_arrived_is_counted_and_what_is_too_long_is_begun_again(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    arrival.prepare(wire, target)
    arrive(target, CONTENT[:30])
    assert arrival.prepare(wire, target) == Prepared(already=False, arrived=30)
    arrive(target, CONTENT + b"!")
    assert arrival.prepare(wire, target) == Prepared(already=False, arrived=0)
    assert not part(target).exists()


def test_another_version_of_the_source_never_carries_on_with_the_part_of_the_first(tmp_path: Path) -> None:
    places = {
        arrival.place_for(str(tmp_path), "", name, size, mtime).part
        for name in ("a", "b", "a/b")
        for size in (1, 2)
        for mtime in (1, 2)
    }
    assert len(places) == 12
    assert all(found.startswith(names.PARTIAL_PREFIX) for found in places)


@pytest.mark.parametrize("what", ["other size", "folder", "fifo", "link", "dangling"])
def test_whatever_stands_in_the_place_is_never_replaced(tmp_path: Path, what: str) -> None:
    root = tmp_path / "root"
    put(tmp_path, b"outside")
    root.mkdir()
    wire, target = Wire("dest1"), place(root)
    arrival.prepare(wire, target)
    arrive(target)
    path = root / "a.mpg"
    if what == "other size":
        path.write_bytes(b"another")
    elif what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "outside" if what == "link" else "nowhere")
    before = tree(tmp_path)
    for act in (arrival.prepare, arrival.publish):
        with pytest.raises(Refused, match="occupied by a "):
            act(wire, target)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("link", ["sub", "sub/deep"])
def test_a_link_on_the_way_never_leads_out_of_the_root(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / link).parent.mkdir(parents=True)
    outside.mkdir()
    (root / link).symlink_to(outside)
    target = place(root, b"sub/deep/er/a.mpg")
    with pytest.raises(Refused, match="a link stands on the way"):
        arrival.prepare(Wire("dest1"), target)
    part(target).parent.mkdir()
    arrive(target)
    with pytest.raises(Refused, match="a link stands on the way"):
        arrival.publish(Wire("dest1"), target)
    assert list(outside.iterdir()) == []


def test_publishing_again_after_a_lost_answer_is_the_same_success(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path, b"sub/a.mpg")
    arrival.prepare(wire, target)
    arrive(target)
    wire.after = cut(0)
    with pytest.raises(RemoteFault):
        arrival.publish(wire, target)
    wire.after = lambda _, reply: reply
    assert arrival.publish(wire, target) is True
    assert (tmp_path / "sub/a.mpg").read_bytes() == CONTENT


def test_the_same_file_put_there_meanwhile_is_found_as_already(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    arrival.prepare(wire, target)
    arrive(target)
    put(tmp_path, b"a.mpg")
    assert arrival.publish(wire, target) is False
    assert sorted(tree(tmp_path)) == ["a.mpg"]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"!"])
def test_a_part_of_another_size_never_becomes_visible(tmp_path: Path, content: bytes) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    arrival.prepare(wire, target)
    arrive(target, content)
    with pytest.raises(Refused, match="unlike regular"):
        arrival.publish(wire, target)
    assert not (tmp_path / "a.mpg").exists()


def test_a_part_that_was_lost_is_refused_and_one_that_is_no_file_too(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    arrival.prepare(wire, target)
    with pytest.raises(Refused, match="lost"):
        arrival.publish(wire, target)
    put(tmp_path, b"other")
    part(target).symlink_to(tmp_path / "other")
    with pytest.raises(Refused, match="unlike symbolic link"):
        arrival.publish(wire, target)
    assert not (tmp_path / "a.mpg").exists()


def test_empty_files_arrive_too(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path, size=0)
    arrival.prepare(wire, target)
    arrive(target, b"")
    assert arrival.publish(wire, target) is True
    assert arrival.prepare(wire, target).already


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no room: \d+ bytes are free"):
        arrival.prepare(Wire("dest1"), place(tmp_path, size=10**18))


def test_a_disk_whose_room_cannot_be_told_takes_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(monkeypatch, tmp_path / "bin", "df", "exit 1")
    with pytest.raises(Refused):
        arrival.prepare(Wire("dest1"), place(tmp_path))


def test_a_missing_root_or_mount_marker_takes_no_copy(tmp_path: Path) -> None:
    wire = Wire("dest1")
    with pytest.raises(Refused, match="cannot be entered"):
        arrival.prepare(wire, place(tmp_path / "gone"))
    target = place(tmp_path, marker=".cftools-root")
    for act in (arrival.prepare, arrival.publish):
        with pytest.raises(Refused, match="is the disk mounted"):
            act(wire, target)
    assert list(tmp_path.iterdir()) == []
    put(tmp_path, b".cftools-root", b"")
    assert not arrival.prepare(wire, target).already


def test_an_answer_cut_off_at_any_byte_is_broken(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    free = len(str(os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize))
    for length in range(len("ready 0 ") + free):
        wire.after = cut(length)
        with pytest.raises(RemoteFault) as fault:
            arrival.prepare(wire, target)
        assert fault.value.kind == "broken"
    for length in range(len("done")):
        wire.after = cut(length)
        with pytest.raises(RemoteFault):
            arrival.discard(wire, target)


def test_a_rename_that_fails_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    arrival.prepare(wire, target)
    arrive(target)
    fake_program(monkeypatch, tmp_path / "bin", "mv", 'echo "mv: Read-only file system" >&2; exit 1')
    with pytest.raises(Refused, match="Read-only file system"):
        arrival.publish(wire, target)
    assert part(target).read_bytes() == CONTENT


def test_discarding_removes_the_part_and_nothing_else(tmp_path: Path) -> None:
    wire, target = Wire("dest1"), place(tmp_path)
    put(tmp_path, b"a.mpg")
    part(target).parent.mkdir()
    arrive(target)
    arrival.discard(wire, target)
    arrival.discard(wire, target)
    assert sorted(tree(tmp_path)) == ["a.mpg"]


def test_sweeping_removes_old_parts_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, b"a.mpg")
    put(tmp_path, b"sub/.cftools-part-1/a.mpg")
    put(tmp_path, b".cftools-root", b"")
    for name in (b".cftools-part-1/a\nb.mpg", b".cftools-part-2/-rf"):
        os.utime(put(tmp_path, name), (1, 1))  # as a finished part has it; what counts is when it last changed here
    before = tree(tmp_path)
    assert sweep.sweep(Wire("dest1"), str(tmp_path), 60) == 0
    assert tree(tmp_path) == before
    aged = 'script="$real"; for word; do case $word in -cmin|+*) ;; *) script="$script \'$word\'" ;; esac; done'
    fake_program(monkeypatch, tmp_path.parent / "bin", "find", f'{aged}; eval "$script"')
    sweep.sweep(Wire("dest1"), str(tmp_path), 60)
    assert sorted(tree(tmp_path)) == [
        ".cftools-root",
        "a.mpg",
        "sub",
        "sub/.cftools-part-1",
        "sub/.cftools-part-1/a.mpg",
    ]


def test_a_file_put_there_in_the_moment_of_the_rename_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    wire, target = Wire("dest1"), place(root)
    arrival.prepare(wire, target)
    arrive(target)
    fake_program(monkeypatch, tmp_path / "bin", "mv", 'printf other > a.mpg; exec "$real" "$@"')
    with pytest.raises(Refused, match="occupied meanwhile"):
        arrival.publish(wire, target)
    assert (root / "a.mpg").read_bytes() == b"other"
