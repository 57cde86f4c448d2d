"""A node without servers, and the command line run on it as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
CONFIG = """\
node: test
state: {directory: state}
inputs: {hitcount_history: history, grade_info: grades, event_log_dir: ., event_log_timezone: Asia/Seoul}
hot_files: {served_by: [125.159.40.3], min_hits: 1}
ssh: {identity: key, known_hosts: known_hosts, config_file: /dev/null, connect_timeout: 1s}
sources: [{name: src1, address: 127.0.0.1, port: 1, roots: [/data]}]
destinations: [{name: dst1, address: 127.0.0.2, port: 1, root: /data}]
"""
HISTORY = b"""\
historyheader:1524468282
a.mpg,1508301143,6399785,920910664,127.0.0.2 9.9.9.9,2,0,0,1=1 2
b\xff "q",1.mpg,1508301143,0,5,,2,0,0,1=1

short
two words.mpg,1508301143,0,5,,2,0,0,1=1
"""
GRADES = b"filename\tweightcount\ntwo words.mpg\t1\na.mpg\t1\n"
LOG = """\
0x40ffff,1,1527953525,Server 125.159.40.3 Selected for Client StreamID : x, ClientID : 0, \
GLB IP : 125.159.40.5's file(a.mpg) Request
"""


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The node's folder, with config, inputs and a day's event log; nothing listens on its servers' ports."""
    (tmp_path / "cftools.yaml").write_text(CONFIG)
    (tmp_path / "history").write_bytes(HISTORY)
    (tmp_path / "grades").write_bytes(GRADES)
    (tmp_path / "EventLog[20180603].log").write_text(LOG)
    return tmp_path


@pytest.fixture
def run(node: Path) -> Run:
    """Runs ``cftools WORDS`` in the node's folder with its config; no run may ever show a traceback."""

    def start(
        *words: str, stdin: str = "", config: str | None = "cftools.yaml", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cftools", *(["--config", config] if config else []), *words]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | (env or {})
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=60, cwd=node, env=environment
        )
        assert "Traceback" not in done.stderr
        return done

    return start
