"""Who is let in by whom: host keys that are refused, and keys to log in with, from files or an agent."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from odd_server import OddServer
from ssh_place import HELLO, Place, fault_of

from cftools.config.servers import ServerSettings
from cftools.lab.keys import Keys, make_pair
from cftools.remote.ssh import SshTransport


def test_an_unknown_host_key_is_refused_with_what_to_do(place: Place, tmp_path: Path) -> None:
    known = tmp_path / "known"
    for content in (
        None,
        "other.host ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
    ):
        if content is not None:
            known.write_text(content)
        fault = fault_of(place.connect(known_hosts=str(known)))
        todo = "compare and learn it with: cftools hosts scan --add"
        place_of = f"[{place.address}]:{place.port} is not in {known}"
        assert str(fault) == f"here: refused: unknown host key; {todo} ({place_of})"
        assert fault.nothing_was_done


def test_a_changed_host_key_is_refused(place: Place, tmp_path: Path) -> None:
    make_pair(tmp_path / "other", "other")
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    known = tmp_path / "known"
    name = f"[{place.address}]:{place.port}"
    known.write_text(f"# here\n{name} {kind} {key}\n")
    fault = fault_of(place.connect(known_hosts=str(known)))
    assert fault.kind == "refused"
    assert fault.detail.startswith("host key changed: ssh-ed25519 SHA256:")
    told = f" of {name} is not the key of {known}:2; if that is right: cftools hosts scan --add --replace"
    assert fault.detail.endswith(told)


def test_a_revoked_host_key_is_refused_though_it_is_known(place: Place, tmp_path: Path) -> None:
    name = f"[{place.address}]:{place.port}"
    line = next(line for line in place.keys.known_hosts.read_text().splitlines() if line.startswith(f"{name} "))
    known = tmp_path / "known"
    known.write_text(f"{line}\n@revoked {line}\n")
    fault = fault_of(place.connect(known_hosts=str(known)))
    assert (fault.kind, fault.nothing_was_done) == ("refused", True)
    assert fault.detail.endswith(f"see {known}:2")


def test_a_host_key_may_be_known_by_a_pattern(place: Place, tmp_path: Path) -> None:
    name = f"[{place.address}]:{place.port}"
    line = next(line for line in place.keys.known_hosts.read_text().splitlines() if line.startswith(f"{name} "))
    known = tmp_path / "known"
    known.write_text(line.replace(name, f"[127.*]:{place.port}") + "\n")
    assert place.connect(known_hosts=str(known)).call(HELLO).out == b"hello\n"


def test_known_hosts_that_cannot_be_read_is_told(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "known").touch()

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    transport = place.connect(known_hosts=str(tmp_path / "known"))
    with monkeypatch.context() as patch:  # for root there is no file that cannot be read
        patch.setattr(Path, "read_bytes", refuse)
        patch.setattr("cftools.remote.route.identity_of", lambda _: None)
        fault = fault_of(transport)
    assert (fault.kind, fault.detail) == ("refused", f"{tmp_path / 'known'}: Permission denied")


def test_a_key_the_server_does_not_know_is_a_refused_login(place: Place, tmp_path: Path) -> None:
    make_pair(tmp_path / "other", "other")
    fault = fault_of(place.connect(identity=str(tmp_path / "other")))
    assert (fault.kind, fault.detail) == ("refused", "login refused: Authentication failed.")


def test_having_no_key_at_all_is_a_refused_login_that_says_so(place: Place) -> None:
    fault = fault_of(place.connect(identity=""))
    assert (fault.kind, fault.detail) == ("refused", "login refused: there is no key to log in with; set ssh.identity")


NO_KEYS = {
    "missing": (None, "No such file or directory"),
    "empty": (b"", "no private key of a kind that can be used"),
    "other bytes": (b"\xff\xfe" * 99, "no private key of a kind that can be used"),
    "cut off": (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "no private key of a kind that can be used"),
    "locked": (b"", "locked with a passphrase; load it into an SSH agent and leave ssh.identity out"),
}


@pytest.mark.parametrize("case", NO_KEYS)
def test_an_identity_that_cannot_be_used_is_named(keys: Keys, tmp_path: Path, case: str) -> None:
    content, why = NO_KEYS[case]
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    if case == "locked":
        locked_key(path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = ServerSettings("here", "server", "127.0.0.1", user="x", identity=str(path))
        settings = msgspec.structs.replace(settings, port=listener.getsockname()[1], known_hosts=str(keys.known_hosts))
        fault = fault_of(SshTransport(settings))
    assert (fault.kind, fault.detail) == ("refused", f"login refused: {path}: {why}")


def locked_key(path: Path) -> Path:
    """A private key behind a passphrase."""
    private = Ed25519PrivateKey.generate()
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"secret")))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("where", ["ssh_config", "home"])
def test_a_locked_key_that_is_found_elsewhere_is_a_refused_login(place: Place, tmp_path: Path, where: str) -> None:
    config = tmp_path / "ssh_config"
    if where == "home":
        config.touch()
        (Path.home() / ".ssh").mkdir()
        locked_key(Path.home() / ".ssh" / "id_ed25519")
    else:
        config.write_text(f"IdentityFile {locked_key(tmp_path / 'locked')}\n")
    fault = fault_of(place.connect(identity="", config_file=str(config)))
    assert fault.kind == "refused"
    assert fault.detail.startswith("login refused: ")


@pytest.mark.parametrize("identity", [True, False])
def test_a_server_that_takes_passwords_only_is_a_refused_login(
    keys: Keys, new_address: Callable[[], str], identity: bool
) -> None:
    with OddServer(keys, new_address(), "password") as server:
        fault = fault_of(SshTransport(odd(server, keys, identity)))
    assert fault.kind == "refused"
    assert fault.detail.startswith("login refused: ")


def test_a_server_that_wants_more_than_a_key_is_a_refused_login(keys: Keys, new_address: Callable[[], str]) -> None:
    with OddServer(keys, new_address(), "publickey,keyboard-interactive") as server:
        fault = fault_of(SshTransport(odd(server, keys)))
    told = "login refused: the server wants more than a key, and there is nobody to ask"
    assert (fault.kind, fault.detail) == ("refused", told)


def odd(server: OddServer, keys: Keys, identity: bool = True) -> ServerSettings:
    return ServerSettings(
        "here",
        "server",
        server.address,
        user="vod",
        port=server.port,
        identity=str(keys.identity) if identity else "",
        known_hosts=str(keys.known_hosts),
    )


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A running ssh-agent without keys."""
    said = subprocess.run(["ssh-agent", "-s"], capture_output=True, text=True, check=True).stdout
    values = dict(part.split("=", 1) for part in said.replace("\n", "").split(";") if part.startswith("SSH_"))
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    yield
    subprocess.run(["ssh-agent", "-k"], capture_output=True, check=True)


def add_key(path: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(path)], check=True, env=os.environ.copy())


# Real servers only: the one in process hangs up on a client that tries a second key.
@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("place", [pytest.param("sshd", marks=pytest.mark.system)], indirect=True)
def test_a_key_of_the_agent_logs_in(place: Place, tmp_path: Path) -> None:
    no_key = "login refused: there is no key to log in with; set ssh.identity"
    assert fault_of(place.connect(identity="")).detail == no_key
    make_pair(tmp_path / "other", "other")
    add_key(tmp_path / "other")
    assert fault_of(place.connect(identity="")).detail == "login refused: Authentication failed."
    add_key(place.keys.identity)
    assert place.connect(identity="").call(HELLO).out == b"hello\n"


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("place", [pytest.param("sshd", marks=pytest.mark.system)], indirect=True)
def test_the_agent_is_left_alone_when_a_key_is_configured_or_ssh_config_says_so(place: Place, tmp_path: Path) -> None:
    add_key(place.keys.identity)
    make_pair(tmp_path / "other", "other")
    assert fault_of(place.connect(identity=str(tmp_path / "other"))).kind == "refused"
    (tmp_path / "ssh_config").write_text(f"IdentitiesOnly yes\nIdentityFile {tmp_path / 'other'}\n")
    assert fault_of(place.connect(identity="", config_file=str(tmp_path / "ssh_config"))).kind == "refused"
