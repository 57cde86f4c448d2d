"""Key pairs and known_hosts of a lab, in OpenSSH's formats."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class Keys:
    """A folder with one user key, the host keys and known_hosts. What is there already is used again."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is made when missing; only its owner may look into it."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.directory = directory
        self.identity = directory / "id_ed25519"
        self.authorized_keys = directory / "authorized_keys"
        self.known_hosts = directory / "known_hosts"
        self._turn = threading.Lock()
        make_pair(self.identity, "cftools-lab")
        if not self.authorized_keys.exists():
            _write(self.authorized_keys, public_line(self.identity) + "\n")
        if not self.known_hosts.exists():
            _write(self.known_hosts, "")

    def host_key(self, name: str) -> Path:
        """The private host key of the server ``name``, made when missing; its public half lies beside it as .pub."""
        path = self.directory / f"host_{name.replace('/', '_')}"
        with self._turn:
            make_pair(path, name)
        return path

    def trust(self, name: str, address: str, port: int) -> None:
        """Notes the host key of the server ``name`` in known_hosts, in place of what stood there for this port."""
        kind, key = public_line(self.host_key(name)).split(" ")[:2]
        place = known_hosts_name(address, port)
        with self._turn:
            lines = self.known_hosts.read_text().splitlines()
            others = [line for line in lines if line.split(" ")[0] != place]
            _write(self.known_hosts, "\n".join([*others, f"{place} {kind} {key}"]) + "\n")


def known_hosts_name(address: str, port: int) -> str:
    """The host as known_hosts writes it: the port is named unless it is 22."""
    return address if port == 22 else f"[{address}]:{port}"


def make_pair(path: Path, comment: str) -> None:
    """Makes an ed25519 pair, ``path`` and ``path``.pub, unless both are there."""
    public = path.with_name(path.name + ".pub")
    if path.exists() and public.exists():
        return
    key = Ed25519PrivateKey.generate()
    words = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
    _write(public, f"{words} {comment}\n", 0o644)


def public_line(path: Path) -> str:
    """The public half of the private key at ``path``: kind, key and comment."""
    return path.with_name(path.name + ".pub").read_text().strip()


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    # Whole or not at all, and never readable for others even for a moment: ssh refuses such keys.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    draft.chmod(mode)
    draft.replace(path)
