"""The remote half of deleting: only what was asked, only what is as expected, nothing on a broken word."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_node import CONTENT, ODD, SIZE, Wire, cut, fake_program, put, surplus, text, tree

from cftools.actions.unlink import LATE, Ground, Verdict, parse, unlink
from cftools.model.rows import Delete
from cftools.remote.transport import RemoteFault, Reply, Script

FAR = 1 << 40  # a second that does not come
BYSTANDERS = [b"a", b"r", b"rf", b"x", b"new", b"line", b"plain.mpg.bak", b"back", b"bar", b"sub/dir/deeper", b"0"]


def ask(root: Path, rows: list[Delete], wire: Wire | None = None, marker: str = "") -> list[Verdict]:
    return unlink(wire or Wire("dest1"), Ground(str(root), marker, FAR), rows)


def word(verdicts: list[Verdict]) -> list[str]:
    return [verdict.state for verdict in verdicts]


def test_names_of_any_bytes_are_deleted_and_their_neighbours_are_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in BYSTANDERS:
        put(root, name)
    before = tree(root)
    for name in ODD:
        put(root, name)
    assert word(ask(root, [surplus("dest1", text(name)) for name in ODD])) == ["done"] * len(ODD)
    after = tree(root)
    assert {path for path in after if after[path] == CONTENT} == {path for path in before if before[path] == CONTENT}
    assert word(ask(root, [surplus("dest1", text(name)) for name in ODD])) == ["already"] * len(ODD)
    assert tree(root) == after


def test_each_file_gets_its_own_verdict_and_one_failure_hides_no_other(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"good")
    put(root, b"other size", CONTENT + b"!")
    put(root, b"empty", b"")
    put(root, b"should be empty", b"x")
    (root / "folder").mkdir()
    os.mkfifo(root / "fifo")
    put(tmp_path, b"outside")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "dangling").symlink_to("nowhere")
    rows = [surplus("dest1", name) for name in ("good", "other size", "folder", "fifo", "link", "dangling", "missing")]
    rows += [surplus("dest1", "empty", 0), surplus("dest1", "should be empty", 0)]
    assert ask(root, rows) == [
        Verdict("done"),
        Verdict("refused", f"its size is {SIZE + 1}, {SIZE} was expected"),
        Verdict("refused", "not a regular file but a directory"),
        Verdict("refused", "not a regular file but a fifo"),
        Verdict("refused", "not a regular file but a symbolic link"),
        Verdict("refused", "not a regular file but a symbolic link"),
        Verdict("already", "not there any more"),
        Verdict("done"),
        Verdict("refused", "its size is 1, 0 was expected"),
    ]
    assert sorted(tree(root)) == ["dangling", "fifo", "folder", "link", "other size", "should be empty"]
    assert (tmp_path / "outside").read_bytes() == CONTENT


@pytest.mark.parametrize("link", ["sub", "deep/sub", "deep/sub/er"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_link_on_the_way_to_a_file_is_never_followed(tmp_path: Path, link: str, inside: bool) -> None:
    root = tmp_path / "root"
    target = (root if inside else tmp_path) / "elsewhere"
    put(target, b"a.mpg")
    put(target, b"er/a.mpg")
    put(root, b"real/a.mpg")
    put(root, b"b.mpg")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target)
    rows = [surplus("dest1", name) for name in (f"{link}/a.mpg", "real/a.mpg", f"{link}/er/a.mpg", "b.mpg", "no/a.mpg")]
    verdicts = ask(root, rows)
    assert word(verdicts) == ["refused", "done", "refused", "done", "already"]
    assert verdicts[0].detail == "a link stands on the way"
    assert sorted(path.name for path in target.rglob("*.mpg")) == ["a.mpg", "a.mpg"]


def test_a_file_in_place_of_a_folder_refuses_what_should_lie_in_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"sub")
    put(root, b"b.mpg")
    assert word(ask(root, [surplus("dest1", "sub/a.mpg"), surplus("dest1", "b.mpg")])) == ["refused", "done"]
    assert sorted(tree(root)) == ["sub"]


def test_nothing_is_deleted_unless_the_whole_question_arrived(tmp_path: Path) -> None:
    root = tmp_path / "root"
    wire = Wire("dest1")
    asked: list[bytes] = []
    wire.question = lambda stdin: asked.append(stdin) or b""  # type: ignore[func-returns-value]
    # The shortened forms of these names are files too.
    rows = [surplus("dest1", name) for name in ("d/ab|.", "d/abc", "a\nb", "|.")]
    for name in ("d/ab|.", "d/abc", "d/ab", "d/a", "a\nb", "a", "|."):
        put(root, name)
    before = tree(root)
    with pytest.raises(RemoteFault):
        ask(root, rows, wire)
    for length in range(len(asked[0])):
        wire.question = lambda stdin, length=length: stdin[:length]  # type: ignore[misc]
        with pytest.raises(RemoteFault) as fault:
            ask(root, rows, wire)
        assert fault.value.kind == "broken"
        assert tree(root) == before, asked[0][:length]
    wire.question = lambda stdin: stdin
    assert word(ask(root, rows, wire)) == ["done"] * 4


def test_an_answer_cut_off_at_any_byte_is_broken_and_never_a_verdict(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("end", "a.", "stays"):
        put(root, name)
    put(root, b"larger", CONTENT + b"!")
    rows = [surplus("dest1", name) for name in ("end", "a.", "larger", "missing")]
    wire = Wire("dest1")
    seen: list[Reply] = []
    wire.after = lambda _, reply: seen.append(reply) or reply  # type: ignore[func-returns-value]
    assert word(ask(root, rows, wire)) == ["done", "done", "refused", "already"]
    (whole,) = seen
    for length in range(len(whole.out)):
        with pytest.raises(RemoteFault, match="cut off") as fault:
            parse(whole._replace(out=whole.out[:length]), "dest1", rows)
        assert fault.value.kind == "broken"
        assert not fault.value.nothing_was_done
    with pytest.raises(RemoteFault):
        parse(whole._replace(status=1), "dest1", rows)


def test_complaints_that_are_cut_off_make_no_file_look_gone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"there", CONTENT + b"!")
    rows = [surplus("dest1", name) for name in ("one", "there", "two")]
    wire = Wire("dest1")
    wire.after = lambda _, reply: reply._replace(err=reply.err.splitlines(keepends=True)[0])
    assert word(ask(root, rows, wire)) == ["failed", "refused", "failed"]


def test_a_missing_mount_marker_or_root_refuses_everything(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"a.mpg")
    with pytest.raises(RemoteFault, match=r"\.cftools-root does not stand in .*: is the disk mounted") as fault:
        ask(root, [surplus("dest1", "a.mpg")], marker=".cftools-root")
    assert fault.value.nothing_was_done
    assert (root / "a.mpg").exists()
    with pytest.raises(RemoteFault, match="cannot be entered") as fault:
        ask(tmp_path / "gone", [surplus("dest1", "a.mpg")])
    assert fault.value.nothing_was_done
    put(root, b".cftools-root", b"")
    assert word(ask(root, [surplus("dest1", "a.mpg")], marker=".cftools-root")) == ["done"]


def test_what_rm_cannot_delete_is_failed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        put(root, name)
    read_only = """
for path; do case $path in
  ./b) echo "rm: cannot remove './b': Read-only file system" >&2 ;;
  ./*) "$real" -f -- "$path" ;;
esac; done; exit 1"""
    fake_program(monkeypatch, tmp_path / "bin", "rm", read_only)
    assert ask(root, [surplus("dest1", name) for name in ("a", "b", "c")]) == [
        Verdict("done"),
        Verdict("failed", "rm: cannot remove './b': Read-only file system"),
        Verdict("done"),
    ]
    assert sorted(tree(root)) == ["b"]


def test_a_question_that_has_expired_deletes_nothing(tmp_path: Path) -> None:
    put(tmp_path, b"a.mpg")
    with pytest.raises(RemoteFault, match=LATE) as fault:
        unlink(Wire("dest1"), Ground(str(tmp_path), "", int(time.time()) - 1), [surplus("dest1", "a.mpg")])
    assert fault.value.nothing_was_done
    assert (tmp_path / "a.mpg").exists()


def test_a_server_that_hangs_half_way_deletes_nothing_more_when_it_wakes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group of files takes longer than the question is good for."""
    root = tmp_path / "root"
    names = [f"{number:03}" for number in range(300)]
    for name in names:
        put(root, name)
    fake_program(monkeypatch, tmp_path / "bin", "rm", '"$real" "$@"; status=$?; sleep 2.1; exit "$status"')
    verdicts = unlink(
        Wire("dest1"), Ground(str(root), "", int(time.time()) + 1), [surplus("dest1", name) for name in names]
    )
    assert verdicts[:250] == [Verdict("done")] * 250
    assert verdicts[250:] == [Verdict("refused", LATE)] * 50
    assert sorted(tree(root)) == names[250:]


def test_an_rm_that_is_still_at_it_when_the_question_expires_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    names = [f"{number}" for number in range(9)]
    for name in names:
        put(root, name)
    slow = 'shift 2; for name; do "$real" -f -- "$name"; sleep 1; done'
    fake_program(monkeypatch, tmp_path / "bin", "rm", slow)
    expires = int(time.time()) + 1
    verdicts = unlink(Wire("dest1"), Ground(str(root), "", expires), [surplus("dest1", name) for name in names])
    assert time.time() < expires + 3
    done = [name for name, verdict in zip(names, verdicts, strict=True) if verdict == Verdict("done")]
    assert 1 <= len(done) <= 4
    assert verdicts[len(done) :] == [Verdict("refused", LATE)] * (9 - len(done))
    assert sorted(tree(root)) == names[len(done) :]


def test_each_file_has_rms_own_words_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / "root", name)
    words = "echo \"rm: cannot remove './c': Busy\" >&2; echo \"rm: cannot remove './a': Read-only\" >&2; exit 1"
    fake_program(monkeypatch, tmp_path / "bin", "rm", words)
    details = [verdict.detail for verdict in ask(tmp_path / "root", [surplus("dest1", name) for name in "abc"])]
    assert details[0] == "rm: cannot remove './a': Read-only"
    assert details[2] == "rm: cannot remove './c': Busy"
    assert details[1].startswith("rm: cannot remove")


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    put(root, b"a")
    put(root, b"b")
    unreadable = """
case $* in *./b*) echo "stat: cannot statx './b': Input/output error" >&2
  "$real" "$1" "$2" -- ./a; exit 1 ;; esac
exec "$real" "$@" """
    fake_program(monkeypatch, tmp_path / "bin", "stat", unreadable)
    assert word(ask(root, [surplus("dest1", "a"), surplus("dest1", "b")])) == ["failed", "failed"]
    assert sorted(tree(root)) == ["b"]


@pytest.mark.parametrize("program", ["cut", "sort", "uniq", "tee", "xargs"])
def test_a_program_of_the_server_that_fails_deletes_nothing_by_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    root = tmp_path / "root"
    put(root, b"a", CONTENT + b"!")
    put(root, b"b")
    fake_program(monkeypatch, tmp_path / "bin", program, "exit 1")
    try:
        verdicts = word(ask(root, [surplus("dest1", "a"), surplus("dest1", "b")]))
    except RemoteFault:
        verdicts = []
    assert "done" not in verdicts
    assert "already" not in verdicts
    assert (root / "a").exists()


def test_a_connection_that_ends_is_told_apart_from_one_that_never_began(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(root, b"a.mpg")
    wire = Wire("dest1")

    def lost(script: Script, reply: Reply) -> Reply:
        raise RemoteFault("dest1", "broken", f"{script.verb} {reply.status}")

    wire.after = lost
    with pytest.raises(RemoteFault, match="unlink 0") as fault:
        ask(root, [surplus("dest1", "a.mpg")], wire)
    assert not fault.value.nothing_was_done
    wire.after = cut(0)
    with pytest.raises(RemoteFault, match="cut off"):
        ask(root, [surplus("dest1", "a.mpg")], wire)


NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b"..") and not raw.startswith(b".cftools-")
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from(["there", "gone", "larger", "link", "folder", "spared"]), max_size=12))
def test_any_set_of_names_is_treated_name_by_name(kinds: dict[bytes, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for raw, kind in kinds.items():
            path = root / os.fsdecode(raw)
            if kind == "link":
                path.symlink_to("nowhere")
            elif kind == "folder":
                path.mkdir()
            elif kind != "gone":
                path.write_bytes(CONTENT + b"!" * (kind == "larger"))
        rows = {raw: surplus("dest1", text(raw)) for raw, kind in kinds.items() if kind != "spared"}
        verdicts = dict(zip(rows, ask(root, list(rows.values())), strict=True))
        expected = {"there": "done", "gone": "already", "larger": "refused", "link": "refused", "folder": "refused"}
        assert {raw: verdict.state for raw, verdict in verdicts.items()} == {raw: expected[kinds[raw]] for raw in rows}
        left = {os.fsencode(path.name) for path in root.iterdir()}
        assert left == {raw for raw, kind in kinds.items() if kind not in ("there", "gone")}
