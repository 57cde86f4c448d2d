"""The remote scripts of the trash: each file is at its place or in the trash, and nothing is ever overwritten."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_node import CONTENT, ODD, Wire, fake_program, put, text, tree

from cftools.actions import trash
from cftools.actions.unlink import Ground, Verdict
from cftools.remote.transport import RemoteFault, Reply, Script

FAR = 1 << 40  # a second that does not come
DAY = "20260131"
ALREADY = Verdict("already", "not there any more")
DONE = Verdict("done")
SELDOM = ["a", "sub/b", "sub/c", "other/d"]


def move(
    root: Path, names: list[str], wire: Wire | None = None, *, folder: str = f"{DAY}/7", expires: int = FAR
) -> list[Verdict | None]:
    return trash.move(wire or Wire("img1"), Ground(str(root), "", expires), folder, names)


def restore(root: Path, names: list[str], wire: Wire | None = None, request: int = 7) -> list[Verdict | None]:
    return trash.restore(wire or Wire("img1"), Ground(str(root), "", FAR), request, names)


def files(root: Path) -> dict[str, bytes]:
    """Every regular file with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def trashed(name: str, folder: str = f"{DAY}/7") -> str:
    return f".cftools-trash/{folder}/{name}"


def test_names_of_any_bytes_go_to_the_trash_and_come_back(tmp_path: Path) -> None:
    names = [text(name) for name in ODD]
    for name in [*ODD, b"r", b"rf", b"new", b"line", b"back", b"bar", b"0", b"sub/dir"]:
        put(tmp_path, name)
    before = tree(tmp_path)
    assert move(tmp_path, names) == [DONE] * len(names)
    standing = {path for path in files(tmp_path) if not path.startswith(".cftools-trash/")}
    assert standing == {"r", "rf", "new", "line", "back", "bar", "0", "sub/dir"}
    kept = tmp_path / ".cftools-trash" / DAY / "7"
    assert {os.fsencode(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()} == set(ODD)
    assert move(tmp_path, names) == [ALREADY] * len(names)
    assert restore(tmp_path, names) == [DONE] * len(names)
    assert {path: kind for path, kind in tree(tmp_path).items() if not path.startswith(".cftools-trash")} == before
    assert not any(path.is_file() for path in kept.rglob("*"))


def test_only_regular_files_are_moved_and_each_has_its_verdict(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(tmp_path, "outside")
    for name in ("good", "folder/inside", "deep/er/good"):
        put(root, name)
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "dangling").symlink_to("nowhere")
    names = ["good", "folder", "fifo", "link", "dangling", "missing", "no/folder", "deep/er/good", "good"]
    assert move(root, names) == [
        DONE,
        Verdict("failed", "not a regular file but a folder"),
        Verdict("failed", "not a regular file but a pipe"),
        Verdict("failed", "not a regular file but a link"),
        Verdict("failed", "not a regular file but a link"),
        ALREADY,
        ALREADY,
        DONE,
        DONE,
    ]
    assert files(root) == {
        **dict.fromkeys(["folder/inside", trashed("good"), trashed("deep/er/good")], CONTENT),
        "link": CONTENT,
    }


def test_only_its_account_can_enter_the_trash(tmp_path: Path) -> None:
    put(tmp_path, "private")
    assert move(tmp_path, ["private"]) == [DONE]
    assert (tmp_path / ".cftools-trash").stat().st_mode & 0o777 == 0o700


def test_a_server_that_has_none_of_the_files_gets_no_trash(tmp_path: Path) -> None:
    assert move(tmp_path, ["missing", "sub/missing"]) == [ALREADY] * 2
    assert tree(tmp_path) == {}


def test_nothing_in_the_trash_is_overwritten_and_the_newest_comes_back(tmp_path: Path) -> None:
    for content in (b"first", b"second", b"third"):
        put(tmp_path, "a", content)
        assert move(tmp_path, ["a"]) == [DONE]
    put(tmp_path, "a", b"fourth, on the next day")
    assert move(tmp_path, ["a"], folder="20260201/7") == [DONE]
    put(tmp_path, "a", b"of another request")
    assert move(tmp_path, ["a"], folder="20260301/8") == [DONE]
    assert sorted(files(tmp_path).values()) == sorted(
        [b"first", b"second", b"third", b"fourth, on the next day", b"of another request"]
    )
    assert restore(tmp_path, ["a"]) == [DONE]
    assert (tmp_path / "a").read_bytes() == b"fourth, on the next day"
    (tmp_path / "a").unlink()
    assert restore(tmp_path, ["a"]) == [DONE]
    assert (tmp_path / "a").read_bytes() == b"third"


@pytest.mark.parametrize("link", ["sub", "deep/sub"])
def test_a_link_on_the_way_is_never_followed(tmp_path: Path, link: str) -> None:
    root = tmp_path / "root"
    put(tmp_path / "elsewhere", "a")
    put(root, "deep/real/a")
    (root / link).symlink_to(tmp_path / "elsewhere")
    names = [f"{link}/a", "deep/real/a", f"{link}/er/a"]
    told = Verdict("failed", f"{link}, on its way, is a link")
    assert move(root, names) == [told, DONE, told]
    put(root, trashed(f"{link}/a"))
    assert restore(root, names) == [told, DONE, told]
    assert files(tmp_path / "elsewhere") == {"a": CONTENT}


@pytest.mark.parametrize("link", [".cftools-trash", f".cftools-trash/{DAY}", trashed(""), trashed("sub")])
def test_a_trash_that_leads_elsewhere_takes_and_gives_nothing(tmp_path: Path, link: str) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root, "sub/a")
    put(elsewhere, "b")
    place = root / link.rstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    before = tree(tmp_path)
    for ask in (move, restore):
        with pytest.raises(RemoteFault, match="link"):
            ask(root, ["sub/a", "sub/b"])
        assert tree(tmp_path) == before
    if link == ".cftools-trash":
        (elsewhere / "20200101").mkdir()
        with pytest.raises(RemoteFault, match="is a link"):
            trash.empty(Wire("img1"), str(root), "", 20300101)
        assert (elsewhere / "20200101").is_dir()


def test_nothing_is_moved_unless_the_whole_question_arrived(tmp_path: Path) -> None:
    names = ["d/ab|.", "d/abc", "a\nb", "|.", "dot."]
    for name in (*names, "d/ab|", "d/ab", "d/a", "a", "|", "dot"):
        put(tmp_path, name)
    before = tree(tmp_path)
    wire = Wire("img1")
    asked: list[bytes] = []
    wire.question = lambda stdin: asked.append(stdin) or b""  # type: ignore[func-returns-value]
    with pytest.raises(RemoteFault):
        move(tmp_path, names, wire)
    for length in range(len(asked[0])):
        wire.question = lambda stdin, length=length: stdin[:length]  # type: ignore[misc]
        with pytest.raises(RemoteFault) as fault:
            move(tmp_path, names, wire)
        assert fault.value.kind == "broken"
    assert tree(tmp_path) == before
    wire.question = lambda stdin: stdin
    assert move(tmp_path, names, wire) == [DONE] * 5


@pytest.mark.parametrize("action", ["move", "restore"])
def test_an_answer_cut_off_at_any_byte_is_broken_and_never_a_verdict(tmp_path: Path, action: str) -> None:
    for name in ("end", "stays"):
        put(tmp_path, name)
    names = ["end", "missing", "stays"]
    wire = Wire("img1")
    replies: list[Reply] = []
    wire.after = lambda _, reply: replies.append(reply) or reply  # type: ignore[func-returns-value]
    assert move(tmp_path, names, wire) == [DONE, ALREADY, DONE]
    assert restore(tmp_path, names, wire) == [DONE, trash.NOT_THERE, DONE]
    reply = replies[action == "restore"]
    ask = move if action == "move" else restore
    again = Wire("img1")
    for length in range(len(reply.out)):
        again.call = lambda *_, length=length, **__: reply._replace(out=reply.out[:length])  # type: ignore[method-assign]
        with pytest.raises(RemoteFault, match="cut off"):
            ask(tmp_path, names, again)


def test_a_missing_mount_marker_or_root_refuses_everything(tmp_path: Path) -> None:
    put(tmp_path, "a")
    put(tmp_path, trashed("b"))
    wire, ground = Wire("img1"), Ground(str(tmp_path), ".cftools-root", FAR)
    before = tree(tmp_path)
    with pytest.raises(RemoteFault, match="is the disk mounted"):
        trash.move(wire, ground, f"{DAY}/7", ["a"])
    with pytest.raises(RemoteFault, match="is the disk mounted"):
        trash.restore(wire, ground, 7, ["b"])
    with pytest.raises(RemoteFault, match="is the disk mounted") as fault:
        trash.empty(wire, ground.root, ground.marker, 20300101)
    assert fault.value.nothing_was_done
    assert tree(tmp_path) == before
    with pytest.raises(RemoteFault, match="cannot be entered"):
        move(tmp_path / "gone", ["a"])
    (tmp_path / ".cftools-root").touch()
    assert trash.move(wire, ground, f"{DAY}/7", ["a"]) == [DONE]


def test_a_question_that_has_expired_moves_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a")
    assert move(tmp_path, ["a"], expires=int(time.time()) - 1) == [None]
    assert files(tmp_path) == {"a": CONTENT}


def test_what_works_on_it_is_killed_when_the_question_expires_and_each_file_is_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}" for number in range(9)]
    for name in names:
        put(tmp_path / "root", name)
    slow = 'into=$4; shift 5; for name; do "$real" -t "$into" -- "$name"; sleep 1; done'
    fake_program(monkeypatch, tmp_path / "bin", "mv", slow)
    expires = int(time.time()) + 1
    verdicts = move(tmp_path / "root", names, expires=expires)
    assert time.time() < expires + 3
    assert verdicts == [None] * 9
    monkeypatch.undo()
    moved = {path.name for path in (tmp_path / "root" / ".cftools-trash" / DAY / "7").iterdir()}
    assert 1 <= len(moved) <= 4
    assert set(files(tmp_path / "root")) == {trashed(name) if name in moved else name for name in names}
    assert move(tmp_path / "root", names) == [ALREADY if name in moved else DONE for name in names]
    assert restore(tmp_path / "root", names) == [DONE] * 9


def test_batches_that_were_done_before_the_question_expired_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number:03}" for number in range(300)]
    for name in names:
        put(tmp_path / "root", name)
    late = '[ ! -e "$0.asked" ] || sleep 2.1; touch "$0.asked"; exec "$real" "$@"'
    fake_program(monkeypatch, tmp_path / "bin", "date", late)
    verdicts = move(tmp_path / "root", names, expires=int(time.time()) + 1)
    assert verdicts == [DONE] * 250 + [None] * 50


def test_what_mv_cannot_move_is_failed_with_its_reason_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SELDOM:
        put(tmp_path / "root", name)
    busy = """
into=$4; shift 5
for name; do case $name in
  */c) echo "mv: cannot move './sub/c' to '$into/c': Device or resource busy" >&2 ;;
  *) "$real" -t "$into" -- "$name" ;;
esac; done; case $into in */sub) exit 1 ;; esac"""
    fake_program(monkeypatch, tmp_path / "bin", "mv", busy)
    verdicts = move(tmp_path / "root", SELDOM)
    assert [one and one.state for one in verdicts] == ["done", "done", "failed", "done"]
    assert verdicts[2] is not None
    assert verdicts[2].detail.endswith("Device or resource busy")
    assert sorted(files(tmp_path / "root")) == sorted(["sub/c", *map(trashed, ["a", "sub/b", "other/d"])])


def test_a_folder_of_the_trash_that_cannot_be_made_fails_its_files(tmp_path: Path) -> None:
    for name in ("a", "sub/b"):
        put(tmp_path, name)
    put(tmp_path, trashed("sub"), b"a file where a folder should be")
    verdicts = move(tmp_path, ["a", "sub/b"])
    assert verdicts[0] == DONE
    assert verdicts[1] is not None
    assert verdicts[1].state == "failed"
    assert "File exists" in verdicts[1].detail
    assert sorted(files(tmp_path)) == [trashed("a"), trashed("sub"), "sub/b"]


ELSEWHERE = {  # a folder below the root may be a mount of its own, and so may the trash
    "file": ("find", '"$real" "$@" | sed -z "s/^[0-9]* /12345 /"'),
    "trash": ("stat", 'case "$*" in *" -- .cftools-trash/"*) echo 12345 ;; *) exec "$real" "$@" ;; esac'),
    "root": ("stat", 'case "$*" in "-c %d .") echo 12345 ;; *) exec "$real" "$@" ;; esac'),
}


@pytest.mark.parametrize(
    ("action", "where"), [("move", "file"), ("move", "trash"), ("restore", "root"), ("restore", "trash")]
)
def test_files_on_another_file_system_than_the_trash_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, where: str
) -> None:
    """There mv would copy."""
    root = tmp_path / "root"
    put(root, "sub/a" if action == "move" else trashed("sub/a"))
    before = files(root)
    fake_program(monkeypatch, tmp_path / "bin", *ELSEWHERE[where])
    verdicts = move(root, ["sub/a"]) if action == "move" else restore(root, ["sub/a"])
    assert verdicts == [Verdict("failed", "it lies on another file system than the trash")]
    assert files(root) == before


def test_a_new_file_in_the_moment_of_the_move_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    put(root, "a", b"old")
    new = f'echo new >"{root}/b"; "$real" "{root}/b" "{root}/a"; "$real" "$@"; echo newer >"{root}/a"'
    fake_program(monkeypatch, tmp_path / "bin", "mv", new)
    assert move(root, ["a"]) == [DONE]
    assert files(root) == {"a": b"newer\n", trashed("a"): b"new\n"}


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "root", "a")
    put(tmp_path / "root", "b")
    unreadable = """
echo "find: './b': Input/output error" >&2; echo "find: './c': No such file or directory" >&2
"$real" ./a -maxdepth 0 -type f -printf "%D %p\\0"; exit 1"""
    fake_program(monkeypatch, tmp_path / "bin", "find", unreadable)
    verdicts = move(tmp_path / "root", ["a", "b", "c"])
    assert [one and one.state for one in verdicts] == ["done", "failed", "already"]


@pytest.mark.parametrize("program", ["find", "mv", "mkdir", "xargs", "stat"])
def test_a_program_of_the_server_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    root = tmp_path / "root"
    for name in SELDOM:
        put(root, name)
    fake_program(monkeypatch, tmp_path / "bin", program, "exit 1")
    try:
        verdicts = move(root, SELDOM)
    except RemoteFault:
        verdicts = []
    assert DONE not in verdicts
    assert ALREADY not in verdicts
    assert sorted(files(root)) == sorted(SELDOM)


def test_a_connection_that_ends_is_told_apart_from_one_that_never_began(tmp_path: Path) -> None:
    put(tmp_path, "a")
    wire = Wire("img1")

    def lost(script: Script, reply: Reply) -> Reply:
        raise RemoteFault("img1", "broken", f"{script.verb} {reply.status}")

    wire.after = lost
    with pytest.raises(RemoteFault, match="trash 0") as fault:
        move(tmp_path, ["a"], wire)
    assert not fault.value.nothing_was_done
    assert restore(tmp_path, ["a"]) == [DONE]


NAMES = st.binary(min_size=1, max_size=20).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b"..") and not raw.startswith(b".cftools-")
)
KINDS = st.sampled_from(["there", "gone", "link", "folder", "spared"])


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.tuples(st.sampled_from([b"", b"s/", b"t/u/"]), NAMES), KINDS, max_size=12))
def test_any_set_of_names_is_moved_and_brought_back_name_by_name(kinds: dict[tuple[bytes, bytes], str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        taken = {b"s", b"t"}
        kinds = {key: kind for key, kind in kinds.items() if key[0] or key[1] not in taken}
        for (above, raw), kind in kinds.items():
            path = root / os.fsdecode(above + raw)
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                path.symlink_to("nowhere")
            elif kind == "folder":
                path.mkdir()
            elif kind != "gone":
                path.write_bytes(above + raw)
        before = {path: kind for path, kind in tree(root).items() if kind != b"a folder"}
        names = {key: text(key[0] + key[1]) for key, kind in kinds.items() if kind != "spared"}
        verdicts = dict(zip(names, move(root, list(names.values())), strict=True))
        expected = {"there": "done", "gone": "already", "link": "failed", "folder": "failed"}
        assert {key: one and one.state for key, one in verdicts.items()} == {key: expected[kinds[key]] for key in names}
        standing = {path for path in tree(root) if not path.startswith(".cftools-trash")}
        assert not any(os.fsdecode(a + b) in standing for (a, b), kind in kinds.items() if kind == "there")
        back = dict(zip(names, restore(root, list(names.values())), strict=True))
        assert all(one == DONE for key, one in back.items() if kinds[key] == "there")
        after = {path: kind for path, kind in tree(root).items() if kind != b"a folder"}
        assert after == before


def test_bringing_back_ends_though_the_whole_root_vanishes_under_it(tmp_path: Path) -> None:
    """The search for a folder that can be looked into once went on for ever."""
    loop = re.search(r"above=\$day/.*?; (while \[ ! -e .*?done)", trash.RESTORE)
    assert loop
    words = f"cd {tmp_path}; day=.cftools-trash/20260101/7; above=$day/./gone/deep; {loop.group(1)}; echo $above"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, timeout=5, check=True)
    assert done.stdout == ".cftools-trash/20260101/7\n"
