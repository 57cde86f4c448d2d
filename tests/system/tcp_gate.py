"""A gate before a server: passes TCP connections on, and can reset them in the middle or make them vanish."""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

Direction = Literal["up", "down"]  # to the server, from the server
PIECE = 1 << 12
LOOK_SECONDS = 0.05
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, not FIN


class TcpGate:
    """Listens on ``address`` at a free port and passes connections on to ``target``; a context manager.

    ``passed`` counts the bytes that went each way, ``connections`` how many there were.
    """

    def __init__(self, address: str, target: tuple[str, int]) -> None:
        self.passed = {"up": 0, "down": 0}
        self.connections = 0
        self._target = target
        self._cuts: list[tuple[Direction, int]] = []
        self._hole = threading.Event()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((address, 0))
        self._listener.settimeout(LOOK_SECONDS)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def cut(self, direction: Direction, after: int, connections: int = 1) -> None:
        """Resets each of the next connections, towards both ends, once that many bytes (one or more)
        have gone that way."""
        self._cuts = [(direction, after)] * connections

    def mend(self) -> None:
        """Cuts no more; counts from zero again."""
        self._cuts = []
        self.passed = {"up": 0, "down": 0}
        self.connections = 0

    def swallow(self) -> None:
        """From now on nothing arrives anywhere, and nobody is told."""
        self._hole.set()

    def pass_on(self) -> None:
        """What was on its way arrives after all."""
        self._hole.clear()

    def _start(self, work: object, *arguments: object) -> None:
        assert callable(work)
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            if self._hole.is_set():
                self._closing.wait(LOOK_SECONDS)
                continue
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                self.connections += 1
                self._start(self._carry, client, self._cuts.pop(0) if self._cuts else None)

    def _carry(self, client: socket.socket, cut: tuple[Direction, int] | None) -> None:
        with client:
            try:
                server = socket.create_connection(self._target)
            except OSError:
                return
            with server, suppress(OSError):
                if self._pump(client, server, cut):
                    for one in (client, server):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _pump(self, client: socket.socket, server: socket.socket, cut: tuple[Direction, int] | None) -> bool:
        """Passes bytes on until one end closes, or until the cut; tells whether it was the cut."""
        ways: dict[socket.socket, tuple[socket.socket, Direction]] = {client: (server, "up"), server: (client, "down")}
        left = {cut[0]: cut[1]} if cut else {}
        while not self._closing.is_set():
            if self._hole.is_set():
                self._closing.wait(LOOK_SECONDS)
                continue
            for source in select.select(list(ways), [], [], LOOK_SECONDS)[0]:
                sink, way = ways[source]
                data = source.recv(min(PIECE, left.get(way, PIECE)))
                if not data:
                    return False
                sink.sendall(data)
                self.passed[way] += len(data)
                if way in left:
                    left[way] -= len(data)
                    if not left[way]:
                        return True
        return False
