"""Learning host keys: what is written to known_hosts, and what never is."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cftools.remote import trust
from cftools.remote.host_keys import HostKey, KnownHosts
from cftools.remote.trust import learn

KIND = "ssh-ed25519"


def key_number(number: int) -> HostKey:
    """A key that nobody can log in with."""
    head = b"".join(len(part).to_bytes(4, "big") + part for part in (KIND.encode(), bytes([number]) * 32))
    return HostKey(KIND, head)


ONE, TWO = key_number(1), key_number(2)


def line(name: str, key: HostKey) -> str:
    return f"{name} {key.kind} {base64.b64encode(key.blob).decode()}\n"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_key_is_added_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "known_hosts"
    assert learn(path, "h", ONE, replace=False) == "added"
    assert path.read_text() == line("h", ONE)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert [one.name for one in path.parent.iterdir()] == ["known_hosts"]


def test_what_stands_there_stays_and_a_last_line_without_an_end_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(b"# mine\r\n\xff\ng ssh-rsa")
    path.chmod(0o644)
    assert learn(path, "h", ONE, replace=False) == "added"
    assert path.read_bytes() == b"# mine\r\n\xff\ng ssh-rsa\n" + line("h", ONE).encode()
    assert mode(path) == 0o644


def test_a_known_key_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    assert [learn(path, "[10.0.0.9]:22222", ONE, replace=replace) for replace in (False, False, True)] == [
        "added",
        "known",
        "known",
    ]
    assert path.read_text() == line("[10.0.0.9]:22222", ONE)


def test_a_changed_key_is_not_touched_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    learn(path, "h", ONE, replace=False)
    assert learn(path, "h", TWO, replace=False) == "changed"
    assert path.read_text() == line("h", ONE)


def test_a_changed_key_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text("# top\n" + line("h,g", ONE) + line("i", ONE))
    path.chmod(0o640)
    assert learn(path, "h", TWO, replace=True) == "replaced"
    assert path.read_text() == "# top\n" + line("g", ONE) + line("i", ONE) + line("h", TWO)
    assert mode(path) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_revoked_key_is_never_learned(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text("@revoked * " + line("", ONE).strip() + "\n" + line("h", TWO))
    before = path.read_bytes()
    assert learn(path, "h", ONE, replace=True) == "revoked"
    assert path.read_bytes() == before


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "known_hosts"
    real.write_text(line("h", ONE))
    link.symlink_to("real")
    assert learn(link, "h", TWO, replace=True) == "replaced"
    assert link.is_symlink()
    assert real.read_text() == line("h", TWO)


@pytest.mark.system
def test_ssh_keygen_finds_what_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    learn(path, "[10.0.0.9]:2222", ONE, replace=False)
    done = subprocess.run(
        ["ssh-keygen", "-l", "-F", "[10.0.0.9]:2222", "-f", path], capture_output=True, text=True, check=True
    )
    assert ONE.fingerprint in done.stdout


@pytest.mark.parametrize("kind", ["device", "folder"])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/null") if kind == "device" else tmp_path
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        learn(path, "h", ONE, replace=False)


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("g", ONE))
    whole = os.write

    def half(handle: int, text: bytes) -> int:
        return whole(handle, text[: len(text) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space left") as caught:
        learn(path, "h", ONE, replace=False)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == line("g", ONE)


def test_a_rewrite_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("h", ONE))

    def no(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", no)
    with pytest.raises(OSError, match="Input/output error"):
        learn(path, "h", TWO, replace=True)
    assert path.read_text() == line("h", ONE)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_process_holds_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "LOCK_SECONDS", 0.2)
    path = tmp_path / "known_hosts"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"another process has held it for 0\.2 s"):
            learn(path, "h", ONE, replace=False)
    assert path.read_text() == ""


def test_a_file_that_was_replaced_just_before_it_was_locked_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(line("g", ONE))
    lock = fcntl.flock

    def replaced_first(handle: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        assert learn(path, "g", TWO, replace=True) == "replaced"
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", replaced_first)
    assert learn(path, "h", ONE, replace=False) == "added"
    assert path.read_text() == line("g", TWO) + line("h", ONE)


LEARNER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_trust import key_number
from cftools.remote.trust import learn
own = int(sys.argv[3])
for number in range(60):
    learn(Path(sys.argv[1]), f"h{number}", key_number(1), replace=False)
    learn(Path(sys.argv[1]), "changing", key_number(own), replace=True)
"""


def test_scans_at_the_same_time_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"

    def run(number: int) -> int:
        command = [sys.executable, "-c", LEARNER, str(path), str(Path(__file__).parent), str(number)]
        return subprocess.run(command, check=False).returncode

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, [1, 2, 3])) == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(one.split()[0] for one in lines) == sorted([*(f"h{number}" for number in range(60)), "changing"])
    known = KnownHosts.read(path)
    assert all(known.judge(f"h{number}", ONE).state == "known" for number in range(60))
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_key_takes_the_place_of_those_of_other_types_too(tmp_path: Path) -> None:
    """An old key that stayed known would let in whoever stole it."""
    path = tmp_path / "known_hosts"
    rsa = HostKey("ssh-rsa", ONE.blob)
    learn(path, "g", ONE, replace=False)
    learn(path, "h", ONE, replace=False)
    assert learn(path, "h", rsa, replace=True) == "replaced"
    assert path.read_text() == line("g", ONE) + line("h", rsa)
