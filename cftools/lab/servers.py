"""What the two kinds of lab servers have in common: their names and places, and how ports are found."""

from __future__ import annotations

import errno
import os
import pwd
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from cftools.model.errors import Unreachable, UsageFault

PORTS = range(20000, 32768)  # below the ports Linux hands out by itself, so a port noted today is free tomorrow
TRIES = 200


class LabServer(NamedTuple):
    """One server of the lab, running or not."""

    name: str
    address: str
    port: int


class LabServers(Protocol):
    """A set of SSH servers; a context manager that ends all of them."""

    def start(self, server: str, port: int = 0, name: str = "") -> int:
        """Starts a server and returns its port when it answers.

        ``server`` is an address, or the name or address of one that ran before, which then gets its port back.
        ``port`` 0: a free one. ``name`` is the address unless given. Raises Unreachable when the port is taken.
        """

    def stop(self, server: str) -> None:
        """Kills a server, given by name or address, with its connections and the commands under way, at once."""

    @property
    def servers(self) -> tuple[LabServer, ...]:
        """Every server that was ever started, in that order."""


class Register:
    """The servers that were ever started, found by name or address."""

    def __init__(self) -> None:
        self._servers: list[LabServer] = []

    @property
    def all(self) -> tuple[LabServer, ...]:
        """Every server noted, in that order."""
        return tuple(self._servers)

    def find(self, server: str) -> LabServer:
        """The server with this name or address. Raises UsageFault when there is none."""
        for known in self._servers:
            if server in (known.name, known.address):
                return known
        raise UsageFault(
            f"no lab server {server} was started; there are: {', '.join(one.name for one in self._servers)}"
        )

    def planned(self, server: str, port: int, name: str) -> LabServer:
        """The server to start: a known one again, or a new one at this address (port 0 when it is free to choose)."""
        for known in self._servers:
            if server in (known.name, known.address):
                return known._replace(port=port or known.port, name=name or known.name)
        return LabServer(name or server, server, port)

    def note(self, server: LabServer) -> None:
        """Remembers a server under its address."""
        for position, known in enumerate(self._servers):
            if known.address == server.address:
                self._servers[position] = server
                return
        self._servers.append(server)


def free_port(addresses: Iterable[str]) -> int:
    """One port that nobody uses on any of the addresses. Raises Unreachable when an address is not of this machine."""
    wanted = tuple(addresses)
    for _ in range(TRIES):
        port = secrets.choice(PORTS)
        if all(is_free(address, port) for address in wanted):
            return port
    raise Unreachable(f"no port of {PORTS.start}-{PORTS.stop - 1} is free on {', '.join(wanted)}")


def is_free(address: str, port: int) -> bool:
    """Whether a server can listen there now. Raises Unreachable when the address is not one of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as fault:
            if fault.errno == errno.EADDRNOTAVAIL:
                raise Unreachable(
                    f"{address} is no address of this machine; the lab needs all of 127.0.0.0/8, as Linux has it"
                ) from fault
            return False
    return True


def taken(server: LabServer) -> Unreachable:
    """The error for a port somebody else listens on."""
    return Unreachable(
        f"{server.address}:{server.port} is taken by another process; "
        "end that one (another `cftools lab`?) or build a new node"
    )


def with_port(server: LabServer, start: Callable[[LabServer], None]) -> LabServer:
    """Starts a server on its port, or on a free one when that is 0; another process may take that one first: again."""
    if server.port:
        start(server)
        return server
    for tries_left in (4, 3, 2, 1, 0):
        chosen = server._replace(port=free_port([server.address]))
        try:
            start(chosen)
        except Unreachable:
            if not tries_left:
                raise
            continue
        return chosen
    raise AssertionError("the last try returns or raises")


def own_name() -> str:
    """The account this process runs as; an sshd that is not root's lets in no other."""
    return pwd.getpwuid(os.getuid()).pw_name
