"""The walkthrough: one command shows a whole node at work, and what it keeps can be worked on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cftools.model.rows import KINDS

pytestmark = pytest.mark.system


def cftools(*words: str, expect: int = 0, home: Path | None = None) -> tuple[str, str]:
    environment = {**os.environ, **({"TMPDIR": str(home)} if home else {})}
    command = [sys.executable, "-m", "cftools", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
    assert done.returncode == expect, done.stderr
    return done.stdout, done.stderr


def test_the_demo_shows_what_was_copied_deleted_and_refused_and_leaves_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    out, talk = cftools("demo", home=tmp_path)
    assert time.monotonic() - began < 60
    assert talk == ""
    for heading in ("Before\n", "What was done\n", "What stayed as it was\n", "Refused, and why\n", "After\n"):
        assert heading in out
    for line in ("copied src", "deleted on dst", " keeps it)", "disk too full)", "unreachable", "ignored-prefix"):
        assert line in out, line
    assert "failed" not in out.partition("What was done")[2].partition("What stayed")[0]
    assert list(tmp_path.iterdir()) == [], "its folder stayed behind"


def test_a_node_that_is_kept_can_be_served_and_worked_on(tmp_path: Path) -> None:
    kept = tmp_path / "node"
    out, _ = cftools("demo", "--keep", str(kept))
    assert f"cftools lab {kept}" in out
    _, talk = cftools("demo", "--keep", str(kept), expect=2)
    assert talk.startswith(f"cftools: {kept} is not an empty folder; ")
    assert talk.count("\n") == 1
    lab = subprocess.Popen(
        [sys.executable, "-m", "cftools", "lab", str(kept)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert lab.stdout
        assert lab.stdout.readline().startswith(b"serving src1 ")
        node = ("--config", str(kept / "cftools.yaml"))
        seen = set()
        for words, code in (
            (("inventory",), 1),  # one destination is dead from the start
            (("heartbeat",), 1),
            (("hot-files",), 0),
            (("dedup",), 0),
            (("dedup", "--apply"), 0),
        ):
            rows = [json.loads(line) for line in cftools(*node, *words, expect=code)[0].splitlines()]
            assert rows[0]["kind"] == "begin"
            assert rows[-1]["kind"] == "end"
            seen |= {row["kind"] for row in rows}
        assert {"server", "holding", "heartbeat", "hot"} <= seen <= set(KINDS)
    finally:
        lab.send_signal(signal.SIGTERM)
        lab.communicate(timeout=20)
    assert cftools(*node, "inventory", expect=69)[1].endswith("no server could be listed\n")


def test_a_folder_that_is_no_node_is_not_served(tmp_path: Path) -> None:
    _, talk = cftools("lab", str(tmp_path), expect=2)
    assert "holds no demo node" in talk
    assert talk.count("\n") == 1
