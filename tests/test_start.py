"""What a start costs: which modules each command line imports, looked at in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from cftools import __version__
from cftools.cli.app import app

HEAVY = {"polars", "paramiko", "asyncssh", "yaml", "sqlite3", "cryptography", "numpy", "pyarrow", "psycopg"}
CONFIG = """
node: test
inputs: {hitcount_history: h, grade_info: g, event_log_dir: ., event_log_timezone: Asia/Seoul}
hot_files: {served_by: [125.159.40.3], min_hits: 1}
sources: [{name: src1, address: 10.0.0.1, roots: [/data]}]
destinations: [{name: dst1, address: 10.0.0.2, root: /data}]
"""
BARE = "import sys; found = sorted({m.partition('.')[0] for m in sys.modules}); import json; print(json.dumps(found))"
# Runs the command line as `python -m cftools` does and tells on stderr which of the named modules it imported.
LOOK = """
import sys, json
wanted = set(json.loads(sys.argv.pop(1)))
from cftools.__main__ import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
import sys
found = sorted(wanted & {name.partition(".")[0] for name in sys.modules})
print(json.dumps([code, found]), file=sys.stderr)
"""


def imported(modules: set[str], *words: str, folder: Path | None = None) -> tuple[list[str], str]:
    """Which of the modules the command line imported, and its output; it must end with 0."""
    bare = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    modules = modules - set(json.loads(bare.stdout))  # what an environment imports at every start is not ours
    command = [sys.executable, "-c", LOOK, json.dumps(sorted(modules)), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    code, found = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return found, done.stdout


def commands() -> list[list[str]]:
    """Every command, with the groups above it."""
    found = []
    root = typer.main.get_command(app)
    for name, command in sorted(root.commands.items()):  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, inner] for inner in sorted(getattr(command, "commands", {}))]
    return found


def test_the_looking_itself_can_see_a_heavy_module(tmp_path: Path) -> None:
    (tmp_path / "cftools.yaml").write_text(CONFIG)
    assert imported(HEAVY, "--config", "cftools.yaml", "config", "check", folder=tmp_path)[0] == ["yaml"]
    assert imported(HEAVY, "--config", "cftools.yaml", "locks", folder=tmp_path)[0] == ["yaml"]


def test_the_version_is_told_before_anything_is_imported() -> None:
    light = HEAVY | {"typer", "click", "msgspec", "rich", "tabulate", "subprocess", "inspect", "logging", "pathlib"}
    assert imported(light, "--version") == ([], f"cftools {__version__}\n")


@pytest.mark.parametrize("words", [["--help"], *([*command, "--help"] for command in commands())], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    found, out = imported(HEAVY | {"msgspec", "tabulate", "concurrent"}, *words)
    assert found == []
    assert "Usage: cftools" in out


def test_hot_files_runs_without_servers_state_and_columns(tmp_path: Path) -> None:
    (tmp_path / "EventLog[20180603].log").write_text(
        "0x40ffff,1,1527953525,Server 125.159.40.3 Selected for Client StreamID : x, ClientID : 0,"
        " GLB IP : 125.159.40.5's file(a.mpg) Request\n"
    )
    (tmp_path / "cftools.yaml").write_text(CONFIG)
    words = ["--config", "cftools.yaml", "--format", "ndjson", "hot-files", "--at", "1527953525"]
    found, out = imported(HEAVY | {"tabulate"}, *words, folder=tmp_path)
    assert [row["kind"] for row in map(json.loads, out.splitlines())] == ["begin", "hot", "end"]
    assert found == ["yaml"]


def test_a_heartbeat_needs_no_columns() -> None:
    """Cron asks for it each minute."""
    look = "import sys; import cftools.jobs.heartbeat; print('polars' in sys.modules, 'paramiko' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
