"""This machine as a server: scripts run in its shell. For tests and measurements without a network."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from cftools.remote.transport import POLL_SECONDS, Patience, RemoteFault, Reply, Script, exchange, nothing

END_SECONDS = 2.0  # a script that is given up has so long to end in order


class LocalTransport:
    """See `cftools.remote.transport.Transport`. ``silence``: seconds without a sign of life until it is given up."""

    def __init__(self, server: str, silence: float = 60.0) -> None:
        self.server = server
        self._silence = silence

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        del repeatable  # nothing breaks on the way to a local shell
        deadline = None if limit is None else time.monotonic() + limit
        return exchange(LocalSession(self.server, script, Patience(self._silence, deadline)), stdin)

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> LocalSession:
        """See `Transport.open`."""
        return LocalSession(self.server, script, Patience(self._silence, watch=watch))

    def close(self) -> None:
        """Nothing to close."""


class LocalSession:
    """See `cftools.remote.transport.Session`."""

    def __init__(self, server: str, script: Script, patience: Patience) -> None:
        self.server = server
        self._patience = patience
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            _words(script), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._err.fileno(), False)
        self._errors = bytearray()
        self._error_streams: tuple[int, ...] = (self._err.fileno(),)
        self._heard = time.monotonic()

    def read(self, size: int = 1 << 18) -> bytes:
        """See `Session.read`."""
        while True:
            ready = _ready(select.POLLIN, self._out.fileno(), *self._error_streams)
            self._drain_errors()  # what comes on stderr is a sign of life, too
            if self._out.fileno() in ready:
                break
            self._patience.check(self.server, self._heard)
        data = os.read(self._out.fileno(), size)
        self._alive()
        return data

    def write(self, data: bytes) -> None:
        """See `Session.write`."""
        view = memoryview(data)
        while view:
            try:
                if not _ready(select.POLLOUT, self._in.fileno()):
                    self._drain_errors()
                    self._patience.check(self.server, self._heard)
                    continue
                view = view[os.write(self._in.fileno(), view[: 1 << 18]) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError) as fault:  # ValueError: stdin was closed here
                raise RemoteFault(self.server, "broken", "the script ended") from fault
            self._alive()

    def close_input(self) -> None:
        """See `Session.close_input`."""
        self._in.close()

    def wait(self) -> Reply:
        """See `Session.wait`."""
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        while True:
            try:
                status = self._process.wait(POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                self._drain_errors()
                self._patience.check(self.server, self._heard)
        self._drain_errors()
        if status < 0:
            raise RemoteFault(self.server, "broken", f"signal {-status} ended the script")
        return Reply(status, b"".join(pieces), bytes(self._errors))

    def close(self) -> None:
        """See `Session.close`."""
        for stream in (self._in, self._out, self._err):
            with suppress(OSError):
                stream.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)

    def _alive(self) -> None:
        self._heard = time.monotonic()
        self._patience.check_deadline(self.server)

    def _drain_errors(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._err.fileno(), 1 << 16):
                self._heard = time.monotonic()
                self._errors += piece
            self._error_streams = ()  # at its end it would count as ready for ever


def _ready(event: int, *descriptors: int) -> set[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, event)
    return {descriptor for descriptor, _ in poll.poll(POLL_SECONDS * 1000)}


def _words(script: Script) -> list[bytes]:
    return [b"sh", b"-c", script.text.strip("\n").encode(), b"cftools-" + script.verb.encode(), *script.arguments]
