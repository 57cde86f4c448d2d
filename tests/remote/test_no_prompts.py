"""Nothing is ever asked at the terminal: under cron there is nobody to answer, and a job would hang."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from odd_server import OddServer

from cftools.lab.keys import Keys

SECRET = b"secret\n"
# Makes its stdin its controlling terminal, runs a command there, and tells in a file how the command ended and how many
# of the bytes that were typed it left unread.
ON_TERMINAL = """
import array, fcntl, json, os, subprocess, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
try:
    code = subprocess.run(sys.argv[2:], timeout=30).returncode
except subprocess.TimeoutExpired:
    code = -1
left = array.array("i", [0])
fcntl.ioctl(0, termios.FIONREAD, left)
json.dump([code, left[0]], open(sys.argv[1], "w"))
"""


def locked_key(path: Path) -> str:
    private = Ed25519PrivateKey.generate()
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret")))
    path.chmod(0o600)
    return str(path)


def on_terminal(folder: Path, command: list[str]) -> tuple[int, int, str]:
    """Runs a command at a terminal where a word was typed: exit code, bytes left unread, what was shown."""
    ours, theirs = pty.openpty()
    os.write(ours, SECRET)
    said = folder / "said"
    words = [sys.executable, "-c", ON_TERMINAL, str(said), *command]
    environment = os.environ | {"DISPLAY": ":9", "SSH_ASKPASS": "/bin/false"}
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # Linux's word for: the other end is closed
        pass
    os.close(ours)
    assert process.wait(20) == 0, shown
    code, unread = json.loads(said.read_text())
    return code, unread, shown.decode()


def configure(folder: Path, server: OddServer, **ssh: Any) -> list[str]:
    """Writes a config whose servers are this one; the words of a heartbeat on it."""
    keys = {"user": "vod", "port": server.port, "config_file": "ssh_config", "connect_timeout": "5s", **ssh}
    config = {
        "node": "test",
        "state": {"directory": "state"},
        "inputs": {"hitcount_history": "h", "grade_info": "g"},
        "ssh": keys,
        "sources": [{"name": "src1", "address": server.address, "roots": ["/a"]}],
        "destinations": [{"name": "dst1", "address": server.address, "root": "/b"}],
    }
    (folder / "ssh_config").touch()
    (folder / "cftools.yaml").write_text(json.dumps(config))
    return [sys.executable, "-m", "cftools", "--config", str(folder / "cftools.yaml"), "heartbeat"]


def test_the_looking_itself_can_see_a_prompt(tmp_path: Path) -> None:
    code, unread, shown = on_terminal(tmp_path, [sys.executable, "-c", "print(input('Passphrase: '))"])
    assert (code, unread) == (0, 0)
    assert "Passphrase: secret" in shown
    untouched = on_terminal(tmp_path, ["true"])
    assert untouched[:2] == (0, len(SECRET))


CASES = ["locked key", "locked key of ssh_config", "password only", "a code beside the key", "unknown host", "command"]


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_what_would_need_an_answer_is_refused_and_nothing_is_read_from_the_terminal(
    keys: Keys, new_address: Callable[[], str], tmp_path: Path, case: str
) -> None:
    methods = {"password only": "password,keyboard-interactive", "a code beside the key": "keyboard-interactive"}
    with ExitStack() as stack:
        server = stack.enter_context(OddServer(keys, new_address(), methods.get(case, "publickey")))
        ssh = {"identity": str(keys.identity), "known_hosts": str(keys.known_hosts)}
        ssh_config = ""
        if case == "locked key":
            ssh["identity"] = locked_key(tmp_path / "locked")
        elif case == "locked key of ssh_config":
            ssh["identity"] = ""
            ssh_config = f"IdentityFile {locked_key(tmp_path / 'locked')}\n"
        elif case == "unknown host":
            ssh["known_hosts"] = str(tmp_path / "none")
        elif case == "command":  # an ssh that would ask whether the host is the right one
            ssh_config = (
                f"ProxyCommand ssh -F none -oUserKnownHostsFile={tmp_path}/none -p {server.port} -W %h:%p x@%h\n"
            )
        words = configure(tmp_path, server, **ssh)
        (tmp_path / "ssh_config").write_text(ssh_config)
        began = time.monotonic()
        code, unread, shown = on_terminal(tmp_path, words)
        assert time.monotonic() - began < 10
    assert code == 69, shown
    assert unread == len(SECRET), shown
    for word in ("assphrase:", "Code:", "assword:", "yes/no"):
        assert word not in shown
    said = {"unknown host": "unknown host key", "command": "the connection ended before"}
    assert said.get(case, "login refused") in shown
