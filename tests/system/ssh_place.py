"""A server of the lab behind a gate that counts connections and cuts them, and transports to it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cftools.config.servers import ServerSettings
from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.servers import own_name
from cftools.lab.sshd import SshdServers
from cftools.remote.ssh import SshTransport
from cftools.remote.transport import RemoteFault, Script

SOON = 8.0  # seconds within which anything that is to happen has happened
HELLO = Script("test", "echo hello")


class Gate:
    """Passes connections on to a server, counts them, and can cut them, also when the client speaks the next time."""

    def __init__(self, address: str, target: tuple[str, int]) -> None:
        self.count = 0
        self._target = target
        self._sockets: list[socket.socket] = []
        self._moved = time.monotonic()
        self._armed = False
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.count += 1
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, of_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._moved = time.monotonic()
                if self._armed and of_client:
                    self._armed = False
                    self.cut()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut_at_the_next_word(self) -> None:
        """Ends every connection as soon as the client says anything; waits first until nothing is under way."""
        deadline = time.monotonic() + SOON
        while time.monotonic() - self._moved < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self._armed = True

    def cut(self) -> None:
        """Ends every connection that is open."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        """Takes no connections any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


class Place:
    """A server of the lab, a gate before it, and transports to it."""

    def __init__(self, servers: InProcessServers | SshdServers, keys: Keys, address: str, stack: ExitStack) -> None:
        self.servers, self.keys, self.address, self._stack = servers, keys, address, stack
        self.port = servers.start(address)
        self.gate = Gate(address, (address, self.port))
        stack.callback(self.gate.close)
        keys.trust(address, address, self.gate.port)  # the gate's server has this server's key

    def connect(self, *, gate: bool = False, **changes: Any) -> SshTransport:
        """A transport to the server, through the gate when asked, with these settings."""
        settings = ServerSettings(
            "here",
            "server",
            self.address,
            user=own_name(),
            port=self.gate.port if gate else self.port,
            identity=str(self.keys.identity),
            known_hosts=str(self.keys.known_hosts),
        )
        transport = SshTransport(msgspec.structs.replace(settings, **changes))
        self._stack.callback(transport.close)
        return transport


def fault_of(transport: SshTransport, script: Script = HELLO, **options: Any) -> RemoteFault:
    with pytest.raises(RemoteFault) as caught:
        transport.call(script, **options)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0
