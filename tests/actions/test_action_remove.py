"""The remote half of deleting what was asked for: only what was asked, only regular files, nothing on a broken word."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_node import CONTENT, ODD, Wire, fake_program, put, text, tree

from cftools.actions.remove import REMOVE, remove
from cftools.actions.unlink import Ground, Verdict, encode
from cftools.remote.transport import RemoteFault, Reply, Script

FAR = 1 << 40  # a second that does not come
BYSTANDERS = [b"a", b"r", b"rf", b"x", b"new", b"line", b"plain.mpg.bak", b"back", b"bar", b"sub/dir/deeper", b"0"]
HOSTILE = [
    b"@./x",
    b"!d./x",
    b"!",
    b"@",
    b"=",
    b"+",
    b"late",
    b"cut",
    b"end\n",
    b"\nlate\n",
    b"\nfind: x: No such file",
]
DONE, ALREADY = Verdict("done"), Verdict("already", "not there any more")


def ask(root: Path, names: list[str], wire: Wire | None = None, marker: str = "") -> list[Verdict | None]:
    return remove(wire or Wire("s1"), Ground(str(root), marker, FAR), names)


def word(verdicts: list[Verdict | None]) -> list[str]:
    return [verdict.state if verdict else "" for verdict in verdicts]


def test_names_of_any_bytes_are_deleted_and_their_neighbours_are_not(tmp_path: Path) -> None:
    for name in BYSTANDERS:
        put(tmp_path, name)
    before = tree(tmp_path)
    odd = [text(name) for name in [*ODD, *HOSTILE]]
    for one in odd:
        put(tmp_path, one)
    assert ask(tmp_path, odd) == [DONE] * len(odd)
    after = tree(tmp_path)
    assert {path for path in after if after[path] == CONTENT} == {path for path in before if before[path] == CONTENT}
    assert ask(tmp_path, odd) == [ALREADY] * len(odd)
    assert tree(tmp_path) == after


def test_each_file_gets_its_own_verdict_and_one_failure_hides_no_other(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("good", "large", "z"):
        put(root, name, CONTENT * len(name))
    put(root, "empty", b"")
    put(root, "folder/inside")
    os.mkfifo(root / "fifo")
    put(tmp_path, "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "dangling").symlink_to("nowhere")
    names = ["good", "folder", "missing", "fifo", "large", "link", "no/such", "dangling", "empty", "z"]
    what = "not a regular file but"
    assert ask(root, names) == [
        DONE,
        Verdict("failed", f"{what} a folder"),
        ALREADY,
        Verdict("failed", f"{what} a pipe"),
        DONE,
        Verdict("failed", f"{what} a link"),
        ALREADY,
        Verdict("failed", f"{what} a link"),
        DONE,
        DONE,
    ]
    assert sorted(tree(root)) == ["dangling", "fifo", "folder", "folder/inside", "link"]
    assert (tmp_path / "outside").read_bytes() == CONTENT


def test_a_name_that_is_given_twice_gets_its_verdict_twice(tmp_path: Path) -> None:
    put(tmp_path, "a")
    assert ask(tmp_path, ["a", "b", "a", "b"]) == [DONE, ALREADY, DONE, ALREADY]
    assert ask(tmp_path, []) == []


@pytest.mark.parametrize("link", ["sub", "deep/sub", "deep/sub/er", "new\nline", "@x", "="])
@pytest.mark.parametrize("inside", [True, False])
def test_a_link_on_the_way_to_a_file_is_never_followed(tmp_path: Path, link: str, inside: bool) -> None:
    root = tmp_path / "root"
    target = (root if inside else tmp_path) / "elsewhere"
    for name in ("a", "er/a"):
        put(target, name)
    for name in ("real/a", "b", f"{link}x/a"):
        put(root, name)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(target)
    (root / "other").symlink_to(target)
    names = [f"{link}/a", "real/a", f"{link}/er/a", "b", "no/a", "other/a", f"{link}x/a", f"{link}/gone"]
    verdicts = ask(root, names)
    assert word(verdicts) == ["failed", "done", "failed", "done", "already", "failed", "done", "failed"]
    assert [one.detail for one in verdicts if one and one.state == "failed"][2] == "other, on its way, is a link"
    assert sorted(path.name for path in target.rglob("a")) == ["a", "a"]


def test_the_whole_question_must_arrive_before_anything_is_deleted(tmp_path: Path) -> None:
    # The shortened forms of these names are files too.
    names = ["d/ab|.", "d/abc", "a\nb", "|."]
    for name in (*names, "d/ab", "d/a", "a", "d/ab|"):
        put(tmp_path, name)
    before = tree(tmp_path)
    wire = Wire("s1")
    asked: list[bytes] = []
    wire.question = lambda stdin: asked.append(stdin) or b""  # type: ignore[func-returns-value]
    with pytest.raises(RemoteFault):
        ask(tmp_path, names, wire)
    for length in range(len(asked[0])):
        wire.question = lambda stdin, length=length: stdin[:length]  # type: ignore[misc]
        with pytest.raises(RemoteFault) as fault:
            ask(tmp_path, names, wire)
        assert fault.value.kind == "broken"
        assert tree(tmp_path) == before, asked[0][:length]
    wire.question = lambda stdin: stdin
    assert ask(tmp_path, names, wire) == [DONE] * 4


@pytest.mark.parametrize("mixed", [False, True])
def test_an_answer_cut_off_at_any_byte_is_broken_and_never_a_verdict(tmp_path: Path, mixed: bool) -> None:
    names = ["end", "cut", "a\nend", "stays"]
    for name in names:
        put(tmp_path, name)
    if mixed:
        (tmp_path / "folder").mkdir()
        names += ["folder", "missing"]
    wire = Wire("s1")
    seen: list[Reply] = []
    wire.after = lambda script, reply: seen.append(reply) or reply if script.verb == "remove" else reply  # type: ignore[func-returns-value]
    assert word(ask(tmp_path, names, wire)) == ["done"] * 4 + ["failed", "already"] * mixed
    (whole,) = seen
    for length in range(len(whole.out)):
        wire.after = lambda _, __, length=length: whole._replace(out=whole.out[:length])  # type: ignore[misc]
        with pytest.raises(RemoteFault, match="cut off") as fault:
            ask(tmp_path, names, wire)
        assert fault.value.kind == "broken"
        assert not fault.value.nothing_was_done
    wire.after = lambda _, __: whole._replace(status=1)
    with pytest.raises(RemoteFault, match="cut off"):
        ask(tmp_path, names, wire)


def test_a_missing_mount_marker_or_root_refuses_everything(tmp_path: Path) -> None:
    put(tmp_path, "a")
    with pytest.raises(RemoteFault, match=r"\.cftools-root does not stand in .*: is the disk mounted") as fault:
        ask(tmp_path, ["a"], marker=".cftools-root")
    assert fault.value.nothing_was_done
    with pytest.raises(RemoteFault, match="cannot be entered") as fault:
        ask(tmp_path / "gone", ["a"])
    assert fault.value.nothing_was_done
    assert (tmp_path / "a").exists()
    put(tmp_path, ".cftools-root", b"")
    assert ask(tmp_path, ["a"], marker=".cftools-root") == [DONE]


def test_what_find_cannot_delete_is_failed_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        put(root, name)
    read_only = """
for path; do case $path in
  ./b) echo "find: cannot delete './b': Read-only file system" >&2; printf '!f./b\\0' ;;
  ./*) "$real" "$path" -maxdepth 0 -type f -delete -printf '%p\\0' ;;
esac; done; exit 1"""
    fake_program(monkeypatch, tmp_path / "bin", "find", read_only)
    failed = Verdict("failed", "find: cannot delete './b': Read-only file system")
    assert ask(root, ["a", "b", "c", "d"]) == [DONE, failed, DONE, ALREADY]
    assert sorted(tree(root)) == ["b"]


AS_ANYBODY = """
import sys
from pathlib import Path
from local_node import Wire
from cftools.actions.remove import remove
from cftools.actions.unlink import Ground
for verdict in remove(Wire("s1"), Ground(sys.argv[1], "", 1 << 40), sys.argv[2:]):
    print(verdict.state, verdict.detail, sep="|")
"""


def test_a_folder_that_cannot_be_entered_or_written_makes_no_file_look_gone() -> None:
    with tempfile.TemporaryDirectory() as folder:  # below /tmp, which anybody may enter
        root = Path(folder)
        for name in ("closed/there", "listed/there", "fixed/there", "open/there"):
            put(root, name)
        root.chmod(0o755)
        for name, mode in (("closed", 0), ("listed", 0o444), ("fixed", 0o555), ("open", 0o777)):
            (root / name).chmod(mode)
        names = [f"{one}/{file}" for one in ("closed", "listed", "fixed", "open") for file in ("there", "missing")]
        command = [sys.executable, "-c", AS_ANYBODY, str(root), *names]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": folder}
        said = subprocess.run(command, env=environment, capture_output=True, check=False, cwd="/")
        assert said.returncode == 0, said.stderr.decode()
        unknown = "failed|its folder cannot be looked into, so it may still be there"
        lines = said.stdout.decode().splitlines()
        assert lines[:4] == [unknown] * 4
        assert lines[4].startswith("failed|find: cannot delete './fixed/there': Permission denied")
        assert lines[5:] == ["already|not there any more", "done|", "already|not there any more"]
        for name in ("closed", "listed", "fixed"):
            (root / name).chmod(0o755)
        assert sorted(path for path in tree(root) if path.endswith("there")) == [
            "closed/there",
            "fixed/there",
            "listed/there",
        ]


@pytest.mark.parametrize(
    "name",
    [
        b"../out",
        b"./../out",
        b"./a/../../out",
        b"./..",
        b"/etc/x",
        b"out",
        b"",
        b".",
        b"..",
        b".x",
        b"\n../out",
        b"./b\0../out",
    ],
)
def test_the_script_itself_refuses_names_that_leave_the_root(tmp_path: Path, name: bytes) -> None:
    root = tmp_path / "root"
    for one in ("a/b", "b", "out", ".x"):
        put(root, one)
    put(tmp_path, "out")
    before = tree(tmp_path)
    for question in (name + b"\0", b"./b\0" + name + b"\0", b"./b\0" + (name or b"..")):
        script = Script("remove", REMOVE, (os.fsencode(root), b"", str(FAR).encode()))
        assert Wire("s1").call(script, encode(question) + b"|.")[:2] == (9, b"")
        assert tree(tmp_path) == before
    with pytest.raises(RemoteFault, match="leads out of the root") as fault:
        ask(root, ["../out"])
    assert fault.value.nothing_was_done


@pytest.mark.parametrize("name", [b"./", b"./.", b".//", b"./a/", b"./way/", b"./way/.", b"./way//out", b"./way/./out"])
def test_odd_paths_to_folders_and_links_delete_nothing(tmp_path: Path, name: bytes) -> None:
    root = tmp_path / "root"
    put(root, "a/b")
    put(tmp_path, "out")
    (root / "way").symlink_to("..")
    before = tree(tmp_path)
    script = Script("remove", REMOVE, (os.fsencode(root), b"", str(FAR).encode()))
    assert Wire("s1").call(script, encode(name + b"\0") + b"|.").status == 0
    assert tree(tmp_path) == before


def test_thousands_of_long_names_go_in_one_question(tmp_path: Path) -> None:
    folder = f"{'x' * 250}/{'드' * 80}"
    names = [f"{folder}/{number:0200}" for number in range(1500)]
    (tmp_path / folder).mkdir(parents=True)
    for name in names[::2]:
        (tmp_path / name).touch()
    wire = Wire("s1")
    assert ask(tmp_path, names, wire) == [DONE, ALREADY] * 750
    assert wire.calls == [("s1", "remove")]


NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda raw: b"\0" not in raw and b"/" not in raw and raw not in (b".", b"..")
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, st.sampled_from(["there", "gone", "link", "folder", "below", "spared"]), max_size=12))
def test_any_set_of_names_is_treated_name_by_name(kinds: dict[bytes, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        put(Path(folder) / "elsewhere", "below")
        root.mkdir()
        for raw, kind in kinds.items():
            path = root / os.fsdecode(raw)
            if kind in ("link", "below"):
                path.symlink_to("../elsewhere")
            elif kind == "folder":
                path.mkdir()
            elif kind != "gone":
                path.write_bytes(CONTENT)
        asked = {raw: raw + b"/below" * (kind == "below") for raw, kind in kinds.items() if kind != "spared"}
        verdicts = dict(zip(asked, ask(root, [text(name) for name in asked.values()]), strict=True))
        expected = {"there": "done", "gone": "already", "link": "failed", "folder": "failed", "below": "failed"}
        assert {raw: verdict and verdict.state for raw, verdict in verdicts.items()} == {
            raw: expected[kinds[raw]] for raw in asked
        }
        left = {os.fsencode(path.name) for path in root.iterdir()}
        assert left == {raw for raw, kind in kinds.items() if kind not in ("there", "gone")}
        assert (Path(folder) / "elsewhere" / "below").exists()
