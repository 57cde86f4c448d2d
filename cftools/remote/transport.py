"""What every way of reaching a server offers, and the faults it may meet."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

POLL_SECONDS = 0.25  # how often a wait is looked after
TICKING = 3.0  # seconds of silence that a session is granted at least: its script ticks once a second
SMALL = 1 << 15  # bytes of stdin that every way takes before the script reads any

FaultKind = Literal["unreachable", "refused", "broken", "silent"]


class RemoteFault(Exception):
    """A server did not do what it was asked, for a reason that lies in the way to it.

    ``kind``: `unreachable` no connection; `refused` the login or the host key was refused; `broken` the connection
    ended while a script ran, so what it did is unknown; `silent` no answer in time, what it did is unknown.
    """

    def __init__(self, server: str, kind: FaultKind, detail: str) -> None:
        self.server, self.kind, self.detail = server, kind, detail
        super().__init__(f"{server}: {kind}: {detail}")

    @property
    def nothing_was_done(self) -> bool:
        """Whether it is certain that no script ran."""
        return self.kind in ("unreachable", "refused")


class Script(NamedTuple):
    """A POSIX shell text and its arguments. ``verb`` names it in messages and in the process list of the server.

    ``with_agent``: it may use the manager's SSH agent.
    """

    verb: str
    text: str
    arguments: tuple[bytes, ...] = ()
    with_agent: bool = False

    def command(self) -> bytes:
        """The command line for a login shell: everything but the words ``sh -c`` is quoted."""
        words = [self.text.strip("\n").encode(), b"cftools-" + self.verb.encode(), *self.arguments]
        return b"sh -c " + b" ".join(quote(word) for word in words)


def quote(word: bytes) -> bytes:
    """The word as one shell word, whatever bytes but NUL it holds."""
    text = word.decode("latin-1")
    return shlex.quote(text).encode("latin-1")


class Reply(NamedTuple):
    """The whole answer of a script."""

    status: int
    out: bytes
    err: bytes

    def complaint(self) -> str:
        """The first line of stderr, for messages."""
        lines = self.err.decode(errors="replace").replace("\0", "").strip().splitlines()  # PostgreSQL holds no NUL
        return lines[0][:300] if lines else f"exit status {self.status}"


class Session(Protocol):
    """A script under way. Every method raises RemoteFault when the connection is lost or silent too long."""

    def read(self, size: int = 1 << 18) -> bytes:
        """The next bytes of stdout, empty at its end."""

    def write(self, data: bytes) -> None:
        """Sends all of data to stdin."""

    def close_input(self) -> None:
        """Ends stdin."""

    def wait(self) -> Reply:
        """Waits for the end; the reply holds what was not yet read."""

    def close(self) -> None:
        """Gives the session up: its streams close, and the scripts here end when their stdin does."""


def nothing() -> None:
    """The watch of a session that nobody may end."""


class Patience(NamedTuple):
    """How long a session waits: seconds of silence, a monotonic deadline or None, and who may end the wait."""

    silence: float
    deadline: float | None = None
    watch: Callable[[], None] = nothing

    def check(self, server: str, heard: float) -> None:
        """Called while nothing comes. ``heard``: the monotonic time of the last sign of life. Raises RemoteFault."""
        self.watch()
        self.check_deadline(server)
        if time.monotonic() - heard >= self.silence:
            raise RemoteFault(server, "silent", f"no answer for {self.silence:g} s")

    def check_deadline(self, server: str) -> None:
        """Raises RemoteFault when the time for all of it is over, however much comes."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise RemoteFault(server, "silent", "no answer in time")


def exchange(session: Session, stdin: bytes, give_up: Callable[[], None] = nothing) -> Reply:
    """Sends all of stdin, waits for the end and closes the session. ``give_up`` is called first when that fails."""
    feeder = None
    try:
        if len(stdin) <= SMALL:
            _feed(session, stdin)
        else:  # the script may not take more before its own output is read
            feeder = threading.Thread(target=_feed, args=(session, stdin), daemon=True)
            feeder.start()
        return session.wait()
    except RemoteFault:
        give_up()
        raise
    finally:
        session.close()
        if feeder:
            feeder.join(timeout=5)


def _feed(session: Session, stdin: bytes) -> None:
    # A script may end without reading its input. A true fault shows to whoever waits for the answer, too.
    with suppress(RemoteFault):
        session.write(stdin)
        session.close_input()


class Transport(Protocol):
    """One server."""

    server: str

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """Runs a script with this input and returns its answer.

        ``repeatable``: on a broken connection it is sent once more over a new one. ``limit``: seconds for all of it,
        connecting included; without it the response time limit counts silence only. Raises RemoteFault.
        """

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> Session:
        """Starts a script whose streams the caller reads and writes. Raises RemoteFault.

        ``watch`` is called several times a second while the session waits; what it raises ends the wait.
        """

    def close(self) -> None:
        """Closes the connection, if there is one; sessions under way break."""
