"""Key pairs and known_hosts in the formats OpenSSH reads."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import paramiko
import pytest

from cftools.lab.keys import Keys, known_hosts_name, public_line


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    for path in (keys.identity, keys.host_key("src1")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.directory.stat().st_mode) == 0o700


def test_paramiko_reads_the_pair_and_both_halves_belong_together(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    pair = paramiko.Ed25519Key.from_private_key_file(str(keys.identity))
    assert public_line(keys.identity).split(" ")[:2] == ["ssh-ed25519", pair.get_base64()]
    assert keys.authorized_keys.read_text().strip() == public_line(keys.identity)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_openssh_derives_the_same_public_half(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    told = subprocess.run(["ssh-keygen", "-y", "-f", str(keys.identity)], capture_output=True, check=True, text=True)
    assert told.stdout.split()[:2] == public_line(keys.identity).split()[:2]


def test_known_hosts_names_the_port_unless_it_is_22() -> None:
    assert known_hosts_name("127.0.0.11", 2222) == "[127.0.0.11]:2222"
    assert known_hosts_name("127.0.0.11", 22) == "127.0.0.11"


def test_trust_replaces_the_line_of_its_port_and_keeps_the_others(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.trust("one", "127.0.0.11", 2222)
    keys.trust("two", "127.0.0.12", 2222)
    keys.trust("other", "127.0.0.11", 2222)
    other, two = (public_line(keys.host_key(name)).split(" ")[1] for name in ("other", "two"))
    assert keys.known_hosts.read_text().splitlines() == [
        f"[127.0.0.12]:2222 ssh-ed25519 {two}",
        f"[127.0.0.11]:2222 ssh-ed25519 {other}",
    ]


def test_a_folder_that_has_keys_keeps_them(tmp_path: Path) -> None:
    first = Keys(tmp_path / "keys")
    first.trust("one", "127.0.0.11", 2222)
    before = (first.identity.read_bytes(), first.host_key("one").read_bytes(), first.known_hosts.read_bytes())
    again = Keys(tmp_path / "keys")
    assert (again.identity.read_bytes(), again.host_key("one").read_bytes(), again.known_hosts.read_bytes()) == before
