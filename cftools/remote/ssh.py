"""Servers over SSH: one paramiko connection a server, strict host keys, ssh_config honoured, never a prompt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import paramiko

from cftools.config.servers import ServerSettings
from cftools.remote import route
from cftools.remote.gate import command_line
from cftools.remote.route import Way, text_of
from cftools.remote.sessions import Place, Places
from cftools.remote.transport import (
    POLL_SECONDS,
    TICKING,
    FaultKind,
    Patience,
    RemoteFault,
    Reply,
    Script,
    exchange,
    nothing,
)

RETRY_SECONDS = 5.0  # a server that refused a connection is not asked again by this process for so long,
RETRY_TIMES = 10  # and for so many times what finding that out took: a dead server costs a run one connect timeout
WINDOW = 8 << 20
MOST_COMPLAINTS = 1 << 20  # bytes of stderr that are kept

# What paramiko raises when the connection goes. Reading raises it too: it tells the server how much more may come.
LOST = (OSError, EOFError, paramiko.SSHException)

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # its faults come back as exceptions; nothing to stderr


class _Terms(NamedTuple):
    """What one call or session was asked with. ``era``: how often the transport had been closed by then."""

    era: int
    deadline: float | None = None
    watch: Callable[[], None] = nothing
    lasting: bool = False

    def left(self, seconds: float) -> float:
        """That many seconds, or what the deadline leaves of them."""
        return seconds if self.deadline is None else max(0.01, min(seconds, self.deadline - time.monotonic()))


class SshTransport:
    """One server, its connection opened at the first call and again after a break."""

    def __init__(self, settings: ServerSettings) -> None:
        self.server = settings.name
        self._settings = settings
        self._places = Places(settings.sessions)
        self._turn = threading.Lock()
        self._client: paramiko.SSHClient | None = None
        self._last_fault: tuple[float, RemoteFault] | None = None  # until when it counts, monotonic
        self._closing = threading.Lock()
        self._way = Way()  # this and the next: only under _closing
        self._era = 0

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        terms = _Terms(self._era, None if limit is None else time.monotonic() + limit)
        try:
            return self._call(script, stdin, terms)
        except RemoteFault as fault:
            # Whoever closed the transport, because of a signal, wants an end and not another try.
            if not repeatable or fault.kind != "broken" or self._was_closed_since(terms):
                raise
            try:
                return self._call(script, stdin, terms)
            except RemoteFault as again:
                if again.nothing_was_done:  # but the first time something may have been
                    raise fault from again
                raise

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> SshSession:
        """See `Transport.open`."""
        return self._open(script, _Terms(self._era, watch=watch, lasting=True))

    def close(self) -> None:
        """See `Transport.close`. It does not wait for a server that is slow to log in to."""
        with self._closing:
            self._era += 1
            way = self._way
        way.close()
        with self._turn:
            self._let_go()

    def _drop(self, client: paramiko.SSHClient) -> None:
        """Gives a connection up. When it was replaced already, the new one stays for those who use it."""
        with self._turn:
            if self._client is client:
                self._let_go()

    def _let_go(self) -> None:
        with self._closing:
            way = self._way
        way.close()
        self._client = None

    def _was_closed_since(self, terms: _Terms) -> bool:
        with self._closing:
            return self._era != terms.era

    def _call(self, script: Script, stdin: bytes, terms: _Terms) -> Reply:
        session = self._open(script, terms)
        # A channel of a connection that hangs would hang too; after a fault a new call gets a new connection.
        return exchange(session, stdin, lambda: self._drop(session.client))

    def _open(self, script: Script, terms: _Terms) -> SshSession:
        place = self._place(terms)
        try:
            client = self._connected(terms)
            channel = self._started(client, script, terms)
        except BaseException:
            place.give_back()
            raise
        silence = max(self._settings.response_timeout, TICKING) if terms.lasting else self._settings.response_timeout
        patience = Patience(silence, terms.deadline, terms.watch)
        return SshSession(client, channel, patience, self.server, place)

    def _place(self, terms: _Terms) -> Place:
        """One of the places for sessions. A call with a limit of its own does not wait in line: a heartbeat must not
        take a busy server for a dead one."""
        if terms.deadline is not None:
            return self._places.take_at_once()
        began = time.monotonic()

        def look() -> None:
            terms.watch()
            self._check_open(terms)
            if not terms.lasting and time.monotonic() - began >= self._settings.response_timeout:
                detail = f"no session became free in {self._settings.response_timeout:g} s (ssh.sessions)"
                raise RemoteFault(self.server, "unreachable", detail)

        return self._places.take(look, lasting=terms.lasting)

    def _check_open(self, terms: _Terms) -> None:
        if self._was_closed_since(terms):
            raise RemoteFault(self.server, "unreachable", "closed before it was begun")

    def _started(self, client: paramiko.SSHClient, script: Script, terms: _Terms) -> paramiko.Channel:
        """A channel on which the script runs."""
        transport = client.get_transport()
        seconds = terms.left(self._settings.response_timeout)
        late = threading.Event()
        try:
            if transport is None:
                raise EOFError
            channel = self._channel(client, transport, terms)
            channel.settimeout(POLL_SECONDS)
            if script.with_agent:
                paramiko.agent.AgentRequestHandler(channel)

            def give_up() -> None:
                late.set()
                with suppress(*LOST):
                    channel.close()

            # paramiko waits without end for the answer to the request; closing the channel ends that.
            alarm = threading.Timer(seconds, give_up)
            alarm.start()
            try:
                channel.exec_command(command_line(script) if self._settings.restricted else script.command())
            except BaseException:
                with suppress(*LOST):
                    channel.close()
                raise
            finally:
                alarm.cancel()
        except LOST as fault:
            if late.is_set() or transport is None or not transport.is_active():
                self._drop(client)
            kind: FaultKind = "silent" if late.is_set() else "broken"
            detail = f"no answer in {seconds:.3g} s" if late.is_set() else text_of(fault)
            raise RemoteFault(self.server, kind, f"cannot start {script.verb}: {detail}") from fault
        return channel

    def _channel(self, client: paramiko.SSHClient, transport: paramiko.Transport, terms: _Terms) -> paramiko.Channel:
        """A new channel. While the server allows no more it is asked again: sessions that were given up here may still
        be ending there, and its MaxSessions may be low."""
        seconds = terms.left(self._settings.response_timeout)
        end = time.monotonic() + seconds
        while True:
            try:
                return transport.open_session(timeout=max(0.01, end - time.monotonic()), window_size=WINDOW)
            except paramiko.SSHException as fault:
                if "Timeout opening channel" in str(fault):
                    # The connection hangs, but no script began: a broken one, over which repeatable calls try again.
                    self._drop(client)
                    raise EOFError(f"no answer in {seconds:.3g} s") from fault
                # Of two refusals at once paramiko tells only one thread the reason.
                refused = isinstance(fault, paramiko.ChannelException) or "Unable to open channel" in str(fault)
                if not refused or not transport.is_active():
                    raise
                if time.monotonic() + POLL_SECONDS >= end:
                    detail = "it takes no more sessions; is its MaxSessions below ssh.sessions?"
                    raise RemoteFault(self.server, "unreachable", detail) from fault
            terms.watch()
            self._check_open(terms)
            time.sleep(POLL_SECONDS)

    def _connected(self, terms: _Terms) -> paramiko.SSHClient:
        with self._turn:
            if self._client is not None:
                transport = self._client.get_transport()
                if transport is not None and transport.is_active():
                    return self._client
                self._let_go()
            if self._last_fault and time.monotonic() < self._last_fault[0]:
                raise self._last_fault[1]
            way = Way()
            with self._closing:
                if self._era == terms.era:
                    self._way = way
            self._check_open(terms)
            began = time.monotonic()
            try:
                self._client = route.connect(self._settings, way, terms.left(self._settings.connect_timeout))
            except RemoteFault as fault:
                self._let_go()
                self._check_open(terms)  # a fault that comes from the closing says nothing about the server
                now = time.monotonic()
                self._last_fault = (now + max(RETRY_SECONDS, RETRY_TIMES * (now - began)), fault)
                raise
            except BaseException:
                self._let_go()
                raise
            self._last_fault = None
            return self._client


class SshSession:
    """One channel of the connection ``client``. See `cftools.remote.transport.Session`."""

    def __init__(
        self, client: paramiko.SSHClient, channel: paramiko.Channel, patience: Patience, server: str, place: Place
    ) -> None:
        self.server = server
        self.client = client
        self._channel = channel
        self._patience = patience
        self._place = place
        self._errors = bytearray()
        self._errors_turn = threading.Lock()  # one thread may write while another reads
        self._heard = time.monotonic()

    def read(self, size: int = 1 << 18) -> bytes:
        """See `Session.read`."""
        while True:
            self._drain_errors()
            try:
                data = self._channel.recv(size)
            except TimeoutError:
                self._wait_on()
                continue
            except LOST as fault:
                raise RemoteFault(self.server, "broken", text_of(fault)) from fault
            self._heard = time.monotonic()
            self._patience.check_deadline(self.server)
            return data

    def write(self, data: bytes) -> None:
        """See `Session.write`."""
        view = memoryview(data)
        while view:
            try:
                with self._in_time():
                    sent = self._channel.send(view[: 1 << 18].tobytes())
            except TimeoutError:
                self._wait_on()
                continue
            except LOST as fault:
                raise RemoteFault(self.server, "broken", text_of(fault)) from fault
            view = view[sent:]
            self._heard = time.monotonic()
            self._patience.check_deadline(self.server)

    def close_input(self) -> None:
        """See `Session.close_input`."""
        try:
            with self._in_time():
                self._channel.shutdown_write()
        except LOST as fault:
            raise RemoteFault(self.server, "broken", text_of(fault)) from fault

    def wait(self) -> Reply:
        """See `Session.wait`."""
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        while not self._channel.status_event.wait(POLL_SECONDS):
            if self._channel.closed:
                break
            self._wait_on()
        self._drain_errors()
        # -1: the channel closed without a status, so the connection ended under the script, or a signal ended it.
        if self._channel.exit_status == -1:
            raise RemoteFault(self.server, "broken", "the connection ended before the script did")
        return Reply(self._channel.exit_status, b"".join(pieces), bytes(self._errors))

    def close(self) -> None:
        """See `Session.close`."""
        try:
            with suppress(RemoteFault, *LOST), self._in_time():
                self._channel.close()
        finally:
            self._place.give_back()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """paramiko waits without end for room in a socket whose other side vanished; closing the connection ends that.

        Raises RemoteFault when it had to.
        """
        late = threading.Event()

        def end() -> None:
            late.set()
            self.client.close()

        alarm = threading.Timer(self._patience.silence, end)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        except LOST as fault:
            if late.is_set():
                detail = f"nothing more could be sent for {self._patience.silence:g} s"
                raise RemoteFault(self.server, "silent", detail) from fault
            raise
        finally:
            alarm.cancel()

    def _wait_on(self) -> None:
        """Called while neither stdin nor stdout moves: what comes on stderr is a sign of life, too."""
        self._drain_errors()
        self._patience.check(self.server, self._heard)

    def _drain_errors(self) -> None:
        with self._errors_turn:
            while self._channel.recv_stderr_ready():
                try:
                    piece = self._channel.recv_stderr(1 << 16)
                except LOST as fault:
                    raise RemoteFault(self.server, "broken", text_of(fault)) from fault
                self._heard = time.monotonic()
                if len(self._errors) < MOST_COMPLAINTS:
                    self._errors += piece
