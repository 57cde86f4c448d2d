"""The fleet: the transports of a node, worked on side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from cftools.config.servers import ServerSettings
from cftools.remote.transport import RemoteFault, Transport

Answer = TypeVar("Answer")
Connect = Callable[[ServerSettings], Transport]


class Fleet:
    """One transport a server, made by ``connect`` when first asked for, and at most ``parallel`` worked on at once."""

    def __init__(self, servers: Iterable[ServerSettings], connect: Connect, parallel: int) -> None:
        self.servers = {server.name: server for server in servers}
        self._connect = connect
        self._parallel = parallel
        self._turn = threading.Lock()
        self._transports: dict[str, Transport] = {}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transport(self, name: str) -> Transport:
        """The server's transport; the same one each time. KeyError for a server that is not configured."""
        with self._turn:
            if name not in self._transports:
                self._transports[name] = self._connect(self.servers[name])
            return self._transports[name]

    def each(self, names: Iterable[str], work: Callable[[Transport], Answer]) -> dict[str, Answer | RemoteFault]:
        """Does ``work`` with each of these servers, side by side; the answers, or faults, in the order of ``names``."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}

        ended = threading.Event()

        def guarded(name: str) -> Answer | RemoteFault:
            if ended.is_set():  # this one's turn came while the others were being closed
                return RemoteFault(name, "unreachable", "the run ended before it was begun")
            try:
                return work(self.transport(name))
            except RemoteFault as fault:
                return fault

        if len(wanted) == 1:
            return {wanted[0]: guarded(wanted[0])}
        with ThreadPoolExecutor(min(self._parallel, len(wanted)), thread_name_prefix="server") as pool:
            try:
                return dict(zip(wanted, pool.map(guarded, wanted), strict=True))
            except BaseException:
                ended.set()
                self.close()  # a signal must not wait for the slowest server
                raise

    def close(self) -> None:
        """Closes every connection; a server that hangs does not hold the others up."""
        with self._turn:
            transports, self._transports = list(self._transports.values()), {}
        for transport in transports:
            transport.close()


def ssh_fleet(servers: Iterable[ServerSettings], parallel: int) -> Fleet:
    """A fleet over SSH. paramiko is imported when the first server is reached."""

    def connect(settings: ServerSettings) -> Transport:
        from cftools.remote.ssh import SshTransport

        return SshTransport(settings)

    return Fleet(servers, connect, parallel)
