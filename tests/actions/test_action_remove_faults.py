"""Deleting what was asked for when time runs out, programs of the server fail, or answers are lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from local_node import Wire, cut, fake_program, put, raising, tree

from cftools.actions.remove import remove
from cftools.actions.unlink import Ground, Verdict
from cftools.remote.transport import RemoteFault, Reply, Script

FAR = 1 << 40  # a second that does not come
DONE, ALREADY = Verdict("done"), Verdict("already", "not there any more")


def ask(root: Path, names: list[str], wire: Wire | None = None, expires: int = FAR) -> list[Verdict | None]:
    return remove(wire or Wire("s1"), Ground(str(root), "", expires), names)


def word(verdicts: list[Verdict | None]) -> list[str]:
    return [verdict.state if verdict else "" for verdict in verdicts]


def test_complaints_that_are_cut_off_make_no_file_look_gone(tmp_path: Path) -> None:
    """The server says of each missing file that it is missing; when that is lost, one looks."""
    put(tmp_path, "there")
    wire = Wire("s1")
    wire.after = lambda script, reply: reply._replace(err=b"") if script.verb == "remove" else reply
    assert ask(tmp_path, ["one", "there", "two"], wire) == [ALREADY, DONE, ALREADY]
    assert [verb for _, verb in wire.calls] == ["remove", "look"]
    for number, line in enumerate(
        (b"find: './one': No such file or directory\n", b"find: './one': Input/output error\n")
    ):
        put(tmp_path, "there")
        answered = Reply(0, b"./there\0end", line)
        wire.after = lambda script, reply, answered=answered: answered if script.verb == "remove" else reply  # type: ignore[misc]
        (tmp_path / "one").mkdir(exist_ok=True)
        (tmp_path / "two").mkdir(exist_ok=True)
        assert word(ask(tmp_path, ["one", "there", "two"], wire)) == ["failed", "done", "failed"], number


@pytest.mark.parametrize("kind", ["unreachable", "refused", "broken", "silent"])
def test_a_look_that_fails_leaves_open_what_was_deleted_before(tmp_path: Path, kind: str) -> None:
    put(tmp_path, "there")
    wire = Wire("s1")
    wire.before = raising(RemoteFault("s1", kind, "gone away"), "look")  # type: ignore[arg-type]
    wire.after = lambda _, reply: reply._replace(err=b"")
    with pytest.raises(RemoteFault, match="gone away") as fault:
        ask(tmp_path, ["there", "missing"], wire)
    assert not (tmp_path / "there").exists()
    assert not fault.value.nothing_was_done


def test_a_connection_that_ends_is_told_apart_from_one_that_never_began(tmp_path: Path) -> None:
    put(tmp_path, "a")
    wire = Wire("s1")
    wire.before = raising(RemoteFault("s1", "unreachable", "no route"), "remove")
    with pytest.raises(RemoteFault) as fault:
        ask(tmp_path, ["a"], wire)
    assert fault.value.nothing_was_done
    wire.before = lambda _: None
    wire.after = cut(0)
    with pytest.raises(RemoteFault, match="cut off") as fault:
        ask(tmp_path, ["a"], wire)
    assert not fault.value.nothing_was_done


def test_a_question_that_has_expired_deletes_nothing(tmp_path: Path) -> None:
    for name in ("a", "sub/b"):
        put(tmp_path, name)
    assert ask(tmp_path, ["a", "sub/b", "c"], expires=int(time.time()) - 1) == [None] * 3
    assert sorted(tree(tmp_path)) == ["a", "sub", "sub/b"]


def test_a_server_that_hangs_half_way_deletes_nothing_more_when_it_wakes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first group of files takes longer than the question is good for; those of which it told are done."""
    names = [f"{number:04}" for number in range(2400)]
    for name in names:
        put(tmp_path / "root", name)
    expires = int(time.time()) + 1
    wait = f'until [ "$(date +%s)" -gt {expires} ]; do sleep 0.05; done'
    fake_program(monkeypatch, tmp_path / "tools", "timeout", 'shift 3; exec "$@"')  # one that does not kill
    fake_program(monkeypatch, tmp_path / "bin", "find", f'"$real" "$@"; status=$?; {wait}; exit "$status"')
    verdicts = ask(tmp_path / "root", names, expires=expires)
    assert verdicts == [DONE] * 2000 + [None] * 400
    assert sorted(tree(tmp_path / "root")) == names[2000:]


def test_a_find_that_is_still_at_it_when_the_question_expires_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}" for number in range(9)]
    for name in names:
        put(tmp_path / "root", name)
    slow = 'for path; do case $path in ./*) "$real" "$path" -delete -printf "%p\\0"; sleep 1 ;; esac; done'
    fake_program(monkeypatch, tmp_path / "bin", "find", slow)
    expires = int(time.time()) + 1
    verdicts = ask(tmp_path / "root", names, expires=expires)
    assert time.time() < expires + 3
    done = verdicts.count(DONE)
    assert 1 <= done <= 4
    assert verdicts == [DONE] * done + [None] * (9 - done)
    assert sorted(tree(tmp_path / "root")) == names[done:]


@pytest.mark.parametrize(
    "program", ["cat", "tr", "grep", "sed", "uniq", "xargs", "date", "timeout", "find", "printf", "sh"]
)
@pytest.mark.parametrize("how", ["exit 1", "exit 2", "kill -9 $$"])
def test_a_program_of_the_server_that_fails_deletes_nothing_by_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, how: str
) -> None:
    root = tmp_path / "root"
    put(root, "a")
    put(tmp_path, "elsewhere/b")
    (root / "way").symlink_to("../elsewhere")
    wire = Wire("s1")
    fake_program(monkeypatch, tmp_path / "bin", program, how)
    (tmp_path / "bin" / program).write_text(f"#!/bin/dash\n{how}\n")  # not by way of a fake sh
    monkeypatch.setattr("cftools.remote.local._words", _words_of_dash)
    names = ["a", "way/b", "missing"]
    try:
        verdicts = dict(zip(names, word(ask(root, names, wire)), strict=True))
    except RemoteFault:
        verdicts = {}
    assert (tmp_path / "elsewhere" / "b").exists()
    assert (verdicts.get("a") in ("done", "already")) <= (not (root / "a").exists())
    assert verdicts.get("way/b") in (None, "failed")


def _words_of_dash(script: Script) -> list[bytes]:
    return [b"/bin/dash", b"-c", script.text.strip("\n").encode(), b"cftools-x", *script.arguments]
