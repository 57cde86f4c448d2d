"""Bringing files back from the trash, and emptying it: nothing is overwritten, nothing else is deleted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from local_node import CONTENT, Wire, cut, fake_program, put

from cftools.actions import trash
from cftools.actions.unlink import Ground, Verdict, encode
from cftools.remote.transport import RemoteFault, Reply

FAR = 1 << 40  # a second that does not come
DAY = "20260131"
DONE = Verdict("done")


def move(root: Path, names: list[str]) -> None:
    assert trash.move(Wire("img1"), Ground(str(root), "", FAR), f"{DAY}/7", names)


def restore(root: Path, names: list[str]) -> list[Verdict | None]:
    return trash.restore(Wire("img1"), Ground(str(root), "", FAR), 7, names)


def trashed(name: str, folder: str = f"{DAY}/7") -> str:
    return f".cftools-trash/{folder}/{name}"


def test_restoring_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    for name in ("kept", "back", "folder", "link", "sub/late"):
        put(root, name)
    names = ["kept", "back", "folder", "link", "sub/late", "never", "stayed"]
    move(root, names)
    put(root, "kept", b"another")
    put(root, "stayed", b"never deleted")
    (root / "folder").mkdir()
    (root / "link").symlink_to("nowhere")
    # One comes in the moment of the move.
    fake_program(
        monkeypatch, tmp_path / "bin", "mv", f'case "$*" in *late*) echo late >"{root}/sub/late" ;; esac; "$real" "$@"'
    )
    refused = Verdict("refused", "another file stands in its place")
    assert restore(root, names) == [
        *(refused, DONE, refused, refused, refused),
        trash.NOT_THERE,
        Verdict("already", "it stands there, and is not in the trash"),
    ]
    assert (root / "kept").read_bytes() == b"another"
    assert (root / "sub/late").read_bytes() == b"late\n"
    for name in ("kept", "folder", "link", "sub/late"):
        assert (root / trashed(name)).read_bytes() == CONTENT


def test_folders_that_are_gone_are_made_again(tmp_path: Path) -> None:
    put(tmp_path, "deep/er/a")
    move(tmp_path, ["deep/er/a"])
    (tmp_path / "deep/er").rmdir()
    (tmp_path / "deep").rmdir()
    assert restore(tmp_path, ["deep/er/a"]) == [DONE]
    assert (tmp_path / "deep/er/a").read_bytes() == CONTENT


def test_a_trash_without_the_request_has_none_of_its_files(tmp_path: Path) -> None:
    assert restore(tmp_path, ["a"]) == [trash.NOT_THERE]
    put(tmp_path, trashed("a", f"{DAY}/77"))
    put(tmp_path, ".cftools-trash/2026013/7/a")
    assert restore(tmp_path, ["a"]) == [trash.NOT_THERE]


def test_emptying_takes_the_days_that_are_over_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    put(tmp_path, "outside/file")
    for day in ("20251231", "20260101", "20260102", "2025123", "202512311", "x0251231", "2025123x"):
        put(root, f".cftools-trash/{day}/7/sub/a")
    put(root, "20200101/a")
    (root / ".cftools-trash/20200101").symlink_to(tmp_path / "outside")
    (root / ".cftools-trash/20200102").touch()
    (root / ".cftools-trash/20251231/7/link").symlink_to(tmp_path / "outside")
    emptied = trash.empty(Wire("img1"), str(root), "", 20260102)
    assert emptied == trash.Emptied([20251231, 20260101], {20200101: "a link stands there"})
    left = {path.name for path in (root / ".cftools-trash").iterdir()}
    assert left == {"20260102", "2025123", "202512311", "x0251231", "2025123x", "20200101", "20200102"}
    assert (tmp_path / "outside/file").exists()
    assert (root / "20200101/a").exists()
    assert trash.empty(Wire("img1"), str(tmp_path / "outside"), "", 20260102) == trash.Emptied([], {})


def test_what_cannot_be_emptied_is_named_and_the_rest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("20250101", "20250102"):
        put(tmp_path / "root", f".cftools-trash/{day}/7/a")
    stuck = """case "$*" in *20250101) echo "rm: cannot remove 'a': Operation not permitted" >&2; exit 1 ;; esac
exec "$real" "$@" """
    fake_program(monkeypatch, tmp_path / "bin", "rm", stuck)
    emptied = trash.empty(Wire("img1"), str(tmp_path / "root"), "", 20300101)
    assert emptied == trash.Emptied([20250102], {20250101: "rm: cannot remove 'a': Operation not permitted"})


def test_emptying_that_takes_long_shows_that_the_server_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "root", trashed("a"))
    fake_program(monkeypatch, tmp_path / "bin", "rm", 'sleep 1.8; exec "$real" "$@"')
    wire = Wire("img1")
    replies: list[Reply] = []
    wire.after = lambda _, reply: replies.append(reply) or reply  # type: ignore[func-returns-value]
    assert trash.empty(wire, str(tmp_path / "root"), "", 20300101).removed == [int(DAY)]
    assert replies[0].err.count(b"+") == 2


def test_an_answer_about_emptying_that_is_cut_off_is_broken(tmp_path: Path) -> None:
    put(tmp_path, trashed("a"))
    wire = Wire("img1")
    wire.after = cut(5)
    with pytest.raises(RemoteFault, match="cut off"):
        trash.empty(wire, str(tmp_path), "", 20300101)


def kill_all(session: int) -> None:
    """Kills every process of a session at once: each is stopped before the first is killed."""
    for by in (signal.SIGSTOP, signal.SIGKILL):
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                    os.kill(int(path.parent.name), by)


def begin(text: str, question: bytes, *words: str) -> subprocess.Popen[bytes]:
    """Starts a script of the trash as a session of its own."""
    process = subprocess.Popen(
        ["sh", "-c", text, "cftools", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin
    process.stdin.write(question)
    process.stdin.close()
    return process


def test_killed_at_any_moment_each_file_is_at_its_place_or_in_the_trash(tmp_path: Path) -> None:
    names = [f"{number % 30}/{number}" for number in range(60)]
    question = encode(b"".join(b"./%b\0" % name.encode() for name in names)) + b"|."
    chance = random.Random(7)
    root = str(tmp_path)
    for name in names:
        put(tmp_path, name)
    seen = set()
    for _ in range(4):
        for text, words in ((trash.TRASH, [DAY, "7"]), (trash.RESTORE, ["7"])):
            process = begin(text, question, root, "", str(FAR), *words)
            time.sleep(chance.uniform(0.005, 0.12))
            kill_all(process.pid)
            process.wait()
            where = [((tmp_path / name).is_file(), (tmp_path / trashed(name)).is_file()) for name in names]
            assert set(where) <= {(True, False), (False, True)}
            seen.add(sum(here for here, _ in where))
    assert len(seen) > 2, "no kill came in the middle"
    move(tmp_path, names)
    assert restore(tmp_path, names) == [DONE] * len(names)
    assert all((tmp_path / name).read_bytes() == CONTENT for name in names)
