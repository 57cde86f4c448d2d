"""A history or grades that are rewritten while they are read: each read is one generation as a whole, or is told to be
incomplete; and nothing is deleted on the word of an incomplete one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults import duplicates, gone, held, journal, run
from site_of_sshd import MakeSite, kinds

from cftools.facts import files, lines

ADDRESSES = ["10.0.0.9"]
LINES = 150
READS = 100
# Writes generation after generation: every line of one says which it is, and all have the same size. Those in the
# middle of which it was held up for long are told: one that pauses at the end of a line cannot be noticed.
WRITER = """
import os, random, sys, time
from pathlib import Path
folder, way, count, chance = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), random.Random(int(sys.argv[4]))

def texts(generation):
    history = [f"historyheader:{1_500_000_000 + generation}\\n"]
    history += [f"f{n:05}.mpg,{generation:06},6399785,{100_000 + generation},10.0.0.9\\n" for n in range(count)]
    # In one generation the ranks begin at another file than in the last.
    order = ["filename\\tx\\n"] + [f"f{(n + generation) % count:05}.mpg\\t1\\n" for n in range(count)]
    return {"history": "".join(history).encode(), "grades": "".join(order).encode()}

def write(path, data, generation):
    if way == "renamed":
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)
        return
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if way == "truncated" else 0))
    wrote = time.monotonic()
    while data:  # like a buffer, never up to the end of a line but the last
        size = chance.randrange(1, 2000)
        size = len(data) if size >= len(data) - 1 else size + (data[size - 1] == 10)
        os.write(handle, data[:size])
        data = data[size:]
        now = time.monotonic()
        if now - wrote > 0.03:
            print(path.name, generation, flush=True)
        wrote = now
    os.close(handle)

for generation in range(1_000_000):
    for name, data in texts(generation).items():
        write(folder / name, data, generation)
    if generation == 0:
        print("began", flush=True)
    time.sleep(chance.random() * 0.15)
"""


FAULTS = {"", lines.NO_HEADER, lines.UNTERMINATED, lines.CHANGED}


class Writer:
    """The process that rewrites."""

    def __init__(self, folder: Path, way: str, seed: int) -> None:
        self.slow: set[str] = set()
        words = [sys.executable, "-c", WRITER, str(folder), way, str(LINES), str(seed)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        for line in self._process.stdout:
            if line == "began\n":
                break

    def end(self) -> None:
        """Kills it; ``slow`` then has the name and generation of each file in the middle of which it paused."""
        self._process.kill()
        self.slow = set(self._process.communicate()[0].splitlines())


@contextmanager
def rewritten(folder: Path, way: str, seed: int) -> Iterator[Writer]:
    """Both inputs in the folder are written again and again by another process."""
    writer = Writer(folder, way, seed)
    try:
        yield writer
    finally:
        writer.end()


@pytest.mark.parametrize("way", ["renamed", "truncated", "overwritten"])
def test_every_read_is_one_whole_generation_or_told_to_be_incomplete(tmp_path: Path, way: str) -> None:
    mixed: set[str] = set()
    complete: set[int] = set()
    incomplete = 0
    with rewritten(tmp_path, way, seed=7) as writer:
        for number in range(READS):
            chunk_bytes = 2048 if number % 2 else lines.CHUNK_BYTES
            found = files.read_files(tmp_path / "history", tmp_path / "grades", ADDRESSES, chunk_bytes)
            history, grades = found.inputs
            assert found.complete == (history.complete and grades.complete)
            if not found.complete:
                incomplete += 1
                assert {*history.fault.split("; "), *grades.fault.split("; ")} <= FAULTS
                continue
            assert found.frame.height == LINES
            generation = history.generation - 1_500_000_000
            complete.add(generation)
            sizes = set(found.frame["size"].to_list())
            if sizes != {100_000 + generation}:
                mixed.add(f"history {max(sizes) - 100_000}")
            ranked = [int(name[1:6]) for name in found.frame["name"]]
            if ranked != [(ranked[0] + place) % LINES for place in range(LINES)]:
                mixed.add("grades")
    if way != "overwritten":
        assert mixed == set()
    assert mixed <= writer.slow | ({"grades"} if any("grades" in line for line in writer.slow) else set())
    assert len(complete) > 1
    assert (incomplete > 0) == (way != "renamed")


def inputs_of(folder: Path, sizes: list[int]) -> Path:
    """Writes grades, and a history of files of these sizes; its path."""
    names = [f"f{place}.mpg" for place in range(len(sizes))]
    (folder / "grades").write_text("filename\tx\n" + "".join(f"{name}\t1\n" for name in names))
    rows = [f"{name},1,1,{size},\n" for name, size in zip(names, sizes, strict=True)]
    (folder / "history").write_text("historyheader:1500000000\n" + "".join(rows))
    return folder / "history"


def test_an_input_that_was_written_to_this_moment_is_read_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs_of(tmp_path, [200, 200, 100, 100])  # half of it is new

    def meanwhile(_: float) -> None:
        long_ago = time.time() - 60
        os.utime(inputs_of(tmp_path, [200] * 4), (long_ago, long_ago))
        os.utime(tmp_path / "grades", (long_ago, long_ago))

    monkeypatch.setattr(time, "sleep", meanwhile)
    found = files.read_files(tmp_path / "history", tmp_path / "grades", ADDRESSES)
    assert (found.complete, found.frame["size"].to_list()) == (True, [200] * 4)


def test_an_input_that_is_written_to_without_end_is_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = inputs_of(tmp_path, [100])
    monkeypatch.setattr(time, "sleep", lambda _: os.utime(path))
    began = time.monotonic()
    found = files.read_files(path, tmp_path / "grades", ADDRESSES)
    assert [one.fault for one in found.inputs] == [lines.CHANGED, ""]
    assert time.monotonic() - began < 5


# Writes the same file again and again, in place.
SAME = """
import os, sys, time
data = open(sys.argv[1], "rb").read()
while True:
    with open(sys.argv[1], "wb", buffering=0) as out:
        for start in range(0, len(data), 50):
            out.write(data[start:start + 50])
            time.sleep(0.001)
            if start == 0:
                print("began", flush=True)
"""


@pytest.mark.system
@pytest.mark.parametrize("name", ["hitcount.history", "grade.info"])
def test_nothing_is_deleted_on_the_word_of_an_input_that_is_being_rewritten(make_site: MakeSite, name: str) -> None:
    site = make_site(destinations=2)
    site.configure(guards={"percent_from": 1000})
    site.write_inputs(duplicates(site, 4))
    site.start()
    path = site.folder / name
    whole = path.read_bytes()
    with subprocess.Popen([sys.executable, "-c", SAME, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        writer.stdout.readline()
        try:
            for words in (("dedup", "--apply"), ("cycle", "--apply")):
                done = run(site, *words)
                assert done.code == 65, done.talk
                assert done.talk.count("\n") == 1
                assert done.talk.startswith(f"cftools: {path}: ")
                assert done.talk.endswith("; nothing is deleted on its word; wait for the next one\n")
                assert kinds(done.rows, "outcome") == []
        finally:
            writer.kill()
    names = [f"f{number:03}.mpg" for number in range(4)]
    assert (gone(site, names), journal(site), held(site)) == (set(), [], [])
    path.write_bytes(whole)
    assert run(site, "dedup", "--apply").code == 0
    assert gone(site, names) == {("dest1", one) for one in names}
