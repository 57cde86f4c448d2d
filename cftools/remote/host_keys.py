"""known_hosts: which host keys are known for which host, in OpenSSH's format (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

Lines marked @cert-authority tell nothing here, for host certificates are not used; a line marked @revoked refuses its
key. A line that cannot be read is passed over, as ssh does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from cftools.remote.transport import RemoteFault

SSH_PORT = 22
REVOKED = b"@revoked"

State = Literal["known", "new", "changed", "revoked"]


class HostKey(NamedTuple):
    """A public key: its type, such as ssh-ed25519, and its bytes on the wire."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """SHA256:... as ssh shows it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class Line(NamedTuple):
    """One line that holds a key. ``number`` counts from 1; ``names`` is its field of hosts, as it stands there."""

    number: int
    marker: bytes
    names: bytes
    key: HostKey


class Verdict(NamedTuple):
    """What known_hosts says about a key that a host showed; ``line``: where, 0 for nowhere."""

    state: State
    line: int = 0


class CoveredByPattern(Exception):
    """The line ``number`` is about more hosts than one, so it cannot be taken away for one of them."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"line {number} covers the host by a pattern")


class KnownHosts:
    """The content of a known_hosts file."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._lines = [line for number, raw in enumerate(text.split(b"\n"), 1) if (line := _parsed(number, raw))]

    @classmethod
    def read(cls, path: Path) -> KnownHosts:
        """The file's content; one that is missing, or no file at all (/dev/null), is empty. Raises OSError."""
        return cls(path.read_bytes() if path.is_file() else b"")

    def about(self, name: str) -> list[Line]:
        """The lines about a host, named as `name_of` does."""
        host = name.lower().encode()
        return [line for line in self._lines if covers(line.names, host)]

    def kinds(self, name: str) -> set[str]:
        """The types of the keys that are known for a host."""
        return {line.key.kind for line in self.about(name) if not line.marker}

    def judge(self, name: str, key: HostKey) -> Verdict:
        """What to think of this key from this host. A key of another type than the known ones is a changed one, as ssh
        has it: whoever connects asks for the known types first."""
        lines = self.about(name)
        plain = [line for line in lines if not line.marker]
        for line in lines:
            if line.marker == REVOKED and line.key == key:
                return Verdict("revoked", line.number)
        for line in plain:
            if line.key == key:
                return Verdict("known", line.number)
        same_kind = [line for line in plain if line.key.kind == key.kind]
        return Verdict("changed", (same_kind or plain)[0].number) if plain else Verdict("new")

    def without(self, name: str) -> bytes:
        """The content without a host's keys of any type; all else stays byte for byte. Raises CoveredByPattern."""
        raw = self.text.split(b"\n")
        gone = set()
        for line in self.about(name):
            if not line.marker:
                others = _others(line, name.lower().encode())
                if others:
                    raw[line.number - 1] = raw[line.number - 1].replace(line.names, others, 1)
                else:
                    gone.add(line.number)
        return b"\n".join(text for number, text in enumerate(raw, 1) if number not in gone)


def check(path: Path, name: str, key: HostKey, server: str) -> None:
    """Raises RemoteFault, with what to do, unless known_hosts has this key for this host. ``server``: who is asked."""
    try:
        verdict = KnownHosts.read(path).judge(name, key)
    except OSError as fault:
        raise RemoteFault(server, "refused", f"{path}: {fault.strerror}") from fault
    if verdict.state == "new":
        detail = f"unknown host key; compare and learn it with: cftools hosts scan --add ({name} is not in {path})"
    elif verdict.state == "changed":
        shown = f"{key.kind} {key.fingerprint} of {name} is not the key of {path}:{verdict.line}"
        detail = f"host key changed: {shown}; if that is right: cftools hosts scan --add --replace"
    elif verdict.state == "revoked":
        detail = f"host key revoked: {key.kind} {key.fingerprint} of {name}, see {path}:{verdict.line}"
    else:
        return
    raise RemoteFault(server, "refused", detail)


def name_of(host: str, port: int) -> str:
    """The host as known_hosts names it: the port is told unless it is 22."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def known_first(algorithms: Iterable[str], kinds: set[str]) -> list[str]:
    """The algorithms to ask a host for, those of its known keys first, else in the order given. Asked otherwise, a host
    with several keys could show one that is not known yet."""
    return sorted(algorithms, key=lambda name: ("ssh-rsa" if name.startswith("rsa-sha2-") else name) not in kinds)


def covers(names: bytes, host: bytes) -> bool:
    """Whether a line's field of hosts is about this host, given in lower case."""
    if names.startswith(b"|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split(b"|"))
        except ValueError:
            return False
        return hmac.compare_digest(hmac.digest(salt, host, "sha1"), digest)
    found = False
    for pattern in names.lower().split(b","):
        if _matches(pattern.removeprefix(b"!"), host):
            if pattern.startswith(b"!"):
                return False
            found = True
    return found


def _matches(pattern: bytes, host: bytes) -> bool:
    if b"*" not in pattern and b"?" not in pattern:
        return pattern == host
    # By hand, for fnmatch would take the brackets of [host]:port for a set.
    return re.fullmatch(re.escape(pattern).replace(rb"\*", b".*").replace(rb"\?", b"."), host) is not None


def _others(line: Line, host: bytes) -> bytes:
    """The line's field of hosts without this one, empty when no other is left."""
    if line.names.startswith(b"|1|"):
        return b""
    others = b",".join(name for name in line.names.split(b",") if name.lower() != host)
    if covers(others, host):
        raise CoveredByPattern(line.number)
    return others if any(not name.startswith(b"!") for name in others.split(b",") if name) else b""


def _parsed(number: int, raw: bytes) -> Line | None:
    words = raw.split(maxsplit=4)
    marker = words.pop(0) if words and words[0].startswith(b"@") else b""
    if len(words) < 3 or words[0].startswith(b"#"):
        return None
    names, kind, text = words[:3]
    try:
        blob = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    # The key tells its own type, too; where the two differ the line is damaged.
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind):
        return None
    return Line(number, marker, names, HostKey(kind.decode("ascii", "replace"), blob))
