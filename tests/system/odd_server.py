"""An SSH server that does what no sshd does: asks for more than a key, or never answers a request."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_PARTIALLY_SUCCESSFUL, AUTH_SUCCESSFUL, OPEN_SUCCEEDED
from paramiko.server import InteractiveQuery

from cftools.lab.keys import Keys


class OddServer(paramiko.ServerInterface):
    """Listens on ``address``; its host key stands in the known_hosts of ``keys``. A context manager.

    ``methods``: the ways to log in that it offers. A key is right by itself when ``methods`` is only "publickey"; else
    it is not enough. An exec request is answered when `answer` is set, and never without that. ``asked`` counts them.
    """

    def __init__(self, keys: Keys, address: str, methods: str = "publickey") -> None:
        self.address = address
        self.answer = threading.Event()
        self.asked = 0
        self._methods = methods
        self._host_key = paramiko.Ed25519Key.from_private_key_file(str(keys.host_key(f"odd-{address}")))
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        keys.trust(f"odd-{address}", address, self.port)
        self._transports: list[paramiko.Transport] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.answer.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()

    def _accept(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            while True:
                transport = paramiko.Transport(self._listener.accept()[0])
                self._transports.append(transport)
                transport.add_server_key(self._host_key)
                transport.start_server(event=threading.Event(), server=self)

    def get_allowed_auths(self, username: str) -> str:
        del username
        return self._methods

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        del username, key
        if self._methods == "publickey":
            return AUTH_SUCCESSFUL
        return AUTH_FAILED if self._methods == "password" else AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_interactive(self, username: str, submethods: str) -> InteractiveQuery:
        del username, submethods
        return InteractiveQuery("", "", "Code: ")

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        del responses
        return AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        del kind, chanid
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        del channel, command
        self.asked += 1
        self.answer.wait()
        return True
