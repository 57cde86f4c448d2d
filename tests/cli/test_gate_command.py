"""cftools gate."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_gate_of_a_server_is_a_shell_script_on_stdout(run: Run, node: Path) -> None:
    done = run("gate", "--server", "dst1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("#!/bin/sh\n# cftools-gate of cftools ")
    (node / "gate").write_text(done.stdout)
    for shell in ("dash", "bash"):
        assert subprocess.run([shell, "-n", node / "gate"], capture_output=True, check=True).stderr == b""
    assert run("gate", "--server", "dst1", "--read-only").stdout.count("unlink)") == 0
    assert done.stdout.count("unlink)") == 1


def test_a_gate_of_folders_needs_no_config(run: Run) -> None:
    done = run("gate", "--root", "/a", "--root", "/b c", config=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#   /a\n#   /b c\n" in done.stdout


def test_a_gate_that_cannot_be_is_one_line_and_exit_2(run: Run) -> None:
    for words, why in (
        ((), "say which gate: --server NAME, or one --root DIR or more"),
        (("--server", "dst9"), "--server dst9: not in the config; it has src1, dst1"),
        (("--root", "/a b", "--allow-rsync"), "/a b: rsync cannot be held to a folder"),
    ):
        done = run("gate", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"cftools: {why}")
