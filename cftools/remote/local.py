"""This machine as a server: scripts run in its shell. For tests and measurements without a network."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress

from cftools.remote.transport import RemoteFault, Reply, Script, nothing


class LocalTransport:
    """See `cftools.remote.transport.Transport`."""

    def __init__(self, server: str) -> None:
        self.server = server

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        del repeatable  # nothing breaks on the way to a local shell
        try:
            done = subprocess.run(_words(script), input=stdin, capture_output=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired as fault:
            raise RemoteFault(self.server, "silent", "no answer in time") from fault
        return Reply(done.returncode, done.stdout, done.stderr)

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> LocalSession:
        """See `Transport.open`."""
        del watch  # the local shell is never waited for in vain
        return LocalSession(self.server, script)

    def close(self) -> None:
        """Nothing to close."""


class LocalSession:
    """See `cftools.remote.transport.Session`."""

    def __init__(self, server: str, script: Script) -> None:
        self.server = server
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(_words(script), stdin=pipe, stdout=pipe, stderr=pipe)

    def read(self, size: int = 1 << 18) -> bytes:
        """See `Session.read`."""
        assert self._process.stdout
        return self._process.stdout.read1(size)  # type: ignore[attr-defined, no-any-return]

    def write(self, data: bytes) -> None:
        """See `Session.write`."""
        assert self._process.stdin
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError as fault:
            raise RemoteFault(self.server, "broken", "the script ended") from fault

    def close_input(self) -> None:
        """See `Session.close_input`."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> Reply:
        """See `Session.wait`."""
        self.close_input()
        assert self._process.stdout
        assert self._process.stderr
        out, err = self._process.stdout.read(), self._process.stderr.read()
        return Reply(self._process.wait(), out, err)

    def close(self) -> None:
        """See `Session.close`."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError):
                if stream:
                    stream.close()
        with suppress(OSError):
            self._process.terminate()
        self._process.wait()


def _words(script: Script) -> list[bytes]:
    return [b"sh", b"-c", script.text.strip("\n").encode(), b"cftools-" + script.verb.encode(), *script.arguments]
