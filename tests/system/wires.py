"""A wire between the manager and its servers that can be cut so that packets vanish: nobody is told.

As root, where network namespaces can be made, manager and servers have one each, joined by a pair of virtual network
cards of which the servers' is taken down. Elsewhere every server has a gate before it that passes nothing on.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from site_of_sshd import Site
from tcp_gate import TcpGate

NEW_NETWORK = 0x40000000  # CLONE_NEWNET
BLOCK = "198.18.0"  # for benchmarks of networks (RFC 2544): nobody's addresses
PROBE = "ip link add near type veth peer name far && ip link set far down && ip link set lo up"


def have_namespaces() -> bool:
    """Whether this process may make network namespaces and cards, and has the programs for it."""
    if not all(shutil.which(name) for name in ("ip", "unshare")):
        return False
    return subprocess.run(["unshare", "--net", "sh", "-c", PROBE], capture_output=True, check=False).returncode == 0


class Wire(Protocol):
    """A site, and the wire to its servers."""

    site: Site

    def start(self) -> None:
        """Runs the servers."""

    def cut(self) -> None:
        """From now on packets vanish."""

    def join(self) -> None:
        """They arrive again."""


@contextmanager
def wired(folder: Path, block: str, destinations: int) -> Iterator[Wire]:
    """A site (not started) and its wire. Inside the block this thread stands where the manager stands."""
    with ExitStack() as stack:
        if have_namespaces():
            yield NamespaceWire(folder, destinations, stack)
        else:
            yield GateWire(Site(folder, block, destinations=destinations), stack)


class GateWire:
    """See `Wire`."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site = site
        stack.enter_context(site.servers)
        self._gates = []
        for name, address in (site.sources | site.destinations).items():
            gate = stack.enter_context(TcpGate(address, (address, site.port)))
            self._gates.append(gate)
            site.server_keys[name] = {"port": gate.port}
            site.keys.trust(name, address, gate.port)

    def start(self) -> None:
        """See `Wire.start`."""
        self.site.start()

    def cut(self) -> None:
        """See `Wire.cut`."""
        for gate in self._gates:
            gate.swallow()

    def join(self) -> None:
        """See `Wire.join`."""
        for gate in self._gates:
            gate.pass_on()


class NamespaceWire:
    """See `Wire`."""

    def __init__(self, folder: Path, destinations: int, stack: ExitStack) -> None:
        home = stack.enter_context(_opened("/proc/thread-self/ns/net"))
        stack.callback(_enter, home)
        self._servers, self._manager = (_make(stack, home) for _ in range(2))
        _enter(self._servers)
        _ip("link set lo up")
        _ip(f"link add wire type veth peer name wire netns /proc/{os.getpid()}/fd/{self._manager}")
        for number in (*range(9, 9 + destinations), 101):
            _ip(f"address add {BLOCK}.{number}/24 dev wire")
        _ip("link set wire up")
        self.site = Site(folder, BLOCK, destinations=destinations)
        stack.enter_context(self.site.servers)
        _enter(self._manager)
        _ip("link set lo up")
        _ip(f"address add {BLOCK}.200/24 dev wire")
        _ip("link set wire up")

    def start(self) -> None:
        """See `Wire.start`."""
        _enter(self._servers)
        try:
            self.site.start()
        finally:
            _enter(self._manager)

    def cut(self) -> None:
        """See `Wire.cut`."""
        self._set("down")

    def join(self) -> None:
        """See `Wire.join`. Neighbours that could not be found while it was cut are looked for anew."""
        self._set("up")
        given_up = time.monotonic() + 10
        for address in (self.site.sources | self.site.destinations).values():
            while True:
                _ip("neigh flush dev wire")
                try:
                    socket.create_connection((address, self.site.port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < given_up
                    time.sleep(0.05)

    def _set(self, how: str) -> None:
        _enter(self._servers)
        try:
            _ip(f"link set wire {how}")
        finally:
            _enter(self._manager)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    number = os.open(path, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def _make(stack: ExitStack, home: int) -> int:
    """A new namespace; it lives as long as its descriptor, or a process in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        return stack.enter_context(_opened("/proc/thread-self/ns/net"))
    finally:
        _enter(home)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)
