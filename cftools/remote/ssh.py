"""Servers over SSH: one paramiko connection a server, strict host keys, ssh_config honoured, never a prompt."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import paramiko

from cftools.config.servers import ServerSettings
from cftools.remote.transport import POLL_SECONDS, FaultKind, Patience, RemoteFault, Reply, Script, exchange, nothing

KEEPALIVE_SECONDS = 15
RETRY_SECONDS = 5.0  # a server that refused a connection is not asked again by this process for so long
WINDOW = 8 << 20

_HOP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<bracketed>[^]]+)]|(?P<host>[^][:@]+))(?::(?P<port>\d{1,5}))?"
)

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # its faults come back as exceptions; nothing to stderr


class SshTransport:
    """One server, its connection opened at the first call and again after a break."""

    def __init__(self, settings: ServerSettings) -> None:
        self.server = settings.name
        self._settings = settings
        self._turn = threading.Lock()
        self._client: paramiko.SSHClient | None = None
        self._jump: paramiko.SSHClient | None = None
        self._command: _Command | None = None
        self._last_fault: tuple[float, RemoteFault] | None = None

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        deadline = None if limit is None else time.monotonic() + limit
        try:
            return self._call(script, stdin, deadline)
        except RemoteFault as fault:
            if not repeatable or fault.kind != "broken":
                raise
            self.close()
            try:
                return self._call(script, stdin, deadline)
            except RemoteFault as again:
                if again.nothing_was_done:  # but the first time something may have been
                    raise fault from again
                raise

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> SshSession:
        """See `Transport.open`."""
        return self._open(script, None, watch)

    def _open(self, script: Script, deadline: float | None, watch: Callable[[], None]) -> SshSession:
        client = self._connected(deadline)
        transport = client.get_transport()
        limit = self._settings.response_timeout
        if deadline is not None:
            limit = max(0.01, min(limit, deadline - time.monotonic()))
        late = False
        try:
            if transport is None:
                raise EOFError("connection closed")
            channel = transport.open_session(timeout=limit, window_size=WINDOW)
            channel.settimeout(POLL_SECONDS)
            if script.with_agent:
                paramiko.agent.AgentRequestHandler(channel)
            # paramiko waits without end for the answer to the request; closing the channel ends that.
            alarm = threading.Timer(limit, channel.close)
            alarm.start()
            try:
                channel.exec_command(script.command())
            finally:
                late = not alarm.is_alive()
                alarm.cancel()
        except (paramiko.SSHException, EOFError, OSError) as fault:
            self.close()
            kind: FaultKind = "silent" if late else "broken"
            raise RemoteFault(self.server, kind, f"cannot start {script.verb}: {_text(fault)}") from fault
        return SshSession(self.server, channel, Patience(self._settings.response_timeout, deadline, watch))

    def close(self) -> None:
        """See `Transport.close`."""
        with self._turn:
            self._let_go()

    def _let_go(self) -> None:
        for client in (self._client, self._jump):
            if client is not None:
                client.close()
        self._client = self._jump = None
        if self._command is not None:
            self._command.end()
            self._command = None

    def _call(self, script: Script, stdin: bytes, deadline: float | None) -> Reply:
        # A channel of a connection that hangs would hang too; after a fault a new call gets a new connection.
        return exchange(self._open(script, deadline, nothing), stdin, self.close)

    def _connected(self, deadline: float | None) -> paramiko.SSHClient:
        with self._turn:
            if self._client is not None:
                transport = self._client.get_transport()
                if transport is not None and transport.is_active():
                    return self._client
                self._let_go()
            if self._last_fault and time.monotonic() - self._last_fault[0] < RETRY_SECONDS:
                raise self._last_fault[1]
            limit = self._settings.connect_timeout
            if deadline is not None:
                limit = max(0.01, min(limit, deadline - time.monotonic()))
            try:
                self._client = self._connect(limit)
            except RemoteFault as fault:
                self._let_go()
                self._last_fault = (time.monotonic(), fault)
                raise
            self._last_fault = None
            return self._client

    def _connect(self, limit: float) -> paramiko.SSHClient:
        try:
            route = route_of(self._settings)
            gate: paramiko.Channel | _Command | None = None
            if "proxyjump" in route:
                gate = self._through(route["proxyjump"], limit)
            elif "proxycommand" in route:
                gate = self._command = _Command(route["proxycommand"])
            return _login(self._settings, route, limit, gate)
        except paramiko.BadHostKeyException as fault:
            raise RemoteFault(
                self.server, "refused", f"host key changed: {_text(fault)}; if that is right, mend known_hosts"
            ) from fault
        except paramiko.AuthenticationException as fault:
            raise RemoteFault(self.server, "refused", f"login refused: {_text(fault)}") from fault
        except paramiko.SSHException as fault:
            if "not found in known_hosts" in str(fault):
                detail = f"unknown host key; add it to {self._settings.known_hosts} after checking it"
                raise RemoteFault(self.server, "refused", detail) from fault
            if "No authentication methods available" in str(fault):
                detail = "login refused: there is no key to log in with; set ssh.identity"
                raise RemoteFault(self.server, "refused", detail) from fault
            if "No existing session" in str(fault):  # paramiko's word for a handshake that did not end
                raise RemoteFault(self.server, "unreachable", f"no SSH answer in {limit:.3g} s") from fault
            raise RemoteFault(self.server, "unreachable", _text(fault)) from fault
        except (OSError, EOFError, ValueError) as fault:  # ValueError: a ProxyCommand with a quote too many
            raise RemoteFault(self.server, "unreachable", _text(fault)) from fault

    def _through(self, jumps: str, limit: float) -> paramiko.Channel:
        """A channel to the server, opened by the one host that ProxyJump names as [USER@]HOST[:PORT]."""
        if "," in jumps:
            raise RemoteFault(self.server, "unreachable", "ProxyJump over more than one host is not supported")
        found = _HOP.fullmatch(jumps)
        if found is None:
            raise RemoteFault(self.server, "unreachable", f"ProxyJump {jumps}: not [USER@]HOST[:PORT]")
        user, host, port = found["user"] or "", found["bracketed"] or found["host"], int(found["port"] or 0)
        via = msgspec.structs.replace(self._settings, address=host, port=port, user=user)
        route = route_of(via)
        self._jump = _login(via, route, limit, None)
        transport = self._jump.get_transport()
        if transport is None:
            raise EOFError("jump host closed the connection")
        target = route_of(self._settings)
        return transport.open_channel(
            "direct-tcpip", (target["hostname"], int(target["port"])), ("127.0.0.1", 0), timeout=limit
        )


class SshSession:
    """One channel. See `cftools.remote.transport.Session`."""

    def __init__(self, server: str, channel: paramiko.Channel, patience: Patience) -> None:
        self.server = server
        self._channel = channel
        self._patience = patience
        self._errors = bytearray()
        self._heard = time.monotonic()

    def read(self, size: int = 1 << 18) -> bytes:
        """See `Session.read`."""
        while True:
            self._drain_errors()
            try:
                data = self._channel.recv(size)
            except TimeoutError:
                self._patience.check(self.server, self._heard)
                continue
            except OSError as fault:
                raise RemoteFault(self.server, "broken", _text(fault)) from fault
            self._heard = time.monotonic()
            self._patience.check_deadline(self.server)
            return data

    def write(self, data: bytes) -> None:
        """See `Session.write`."""
        view = memoryview(data)
        while view:
            try:
                sent = self._channel.send(view[: 1 << 18].tobytes())
            except TimeoutError:
                self._patience.check(self.server, self._heard)
                continue
            except OSError as fault:
                raise RemoteFault(self.server, "broken", _text(fault)) from fault
            view = view[sent:]
            self._heard = time.monotonic()
            self._patience.check_deadline(self.server)

    def close_input(self) -> None:
        """See `Session.close_input`."""
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError) as fault:
            raise RemoteFault(self.server, "broken", _text(fault)) from fault

    def wait(self) -> Reply:
        """See `Session.wait`."""
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        while not self._channel.status_event.wait(POLL_SECONDS):
            if self._channel.closed:
                break
            self._drain_errors()
            self._patience.check(self.server, self._heard)
        self._drain_errors()
        # -1: the channel closed without a status, so the connection ended under the script, or a signal ended it.
        if self._channel.exit_status == -1:
            raise RemoteFault(self.server, "broken", "the connection ended before the script did")
        return Reply(self._channel.exit_status, b"".join(pieces), bytes(self._errors))

    def close(self) -> None:
        """See `Session.close`."""
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def _drain_errors(self) -> None:
        while self._channel.recv_stderr_ready():
            piece = self._channel.recv_stderr(1 << 16)
            if len(self._errors) < 1 << 20:
                self._errors += piece


def route_of(settings: ServerSettings) -> dict[str, Any]:
    """Where and as whom to log in: the config's words first, then ssh_config's, then the defaults of ssh."""
    found: dict[str, Any] = {}
    if settings.config_file and Path(settings.config_file).is_file():
        try:
            found = dict(paramiko.SSHConfig.from_path(settings.config_file).lookup(settings.address))
        except (paramiko.ConfigParseError, OSError, UnicodeDecodeError) as fault:
            raise RemoteFault(settings.name, "unreachable", f"{settings.config_file}: {_text(fault)}") from fault
    found.setdefault("hostname", settings.address)
    port = str(settings.port or found.get("port", 22))
    if not port.isascii() or not port.isdigit():
        raise RemoteFault(settings.name, "unreachable", f"{settings.config_file}: {port!r} is no port")
    found["port"] = int(port)
    found["user"] = settings.user or found.get("user") or None
    # Like ssh, pass over keys that ssh_config names and that are not there.
    found["identityfile"] = [name for name in found.get("identityfile", []) if Path(name).expanduser().is_file()]
    for word in ("proxyjump", "proxycommand"):
        if (found.get(word) or "none").lower() == "none":
            found.pop(word, None)
    return found


class _Command(paramiko.ProxyCommand):
    """A ProxyCommand that ends for good.

    paramiko's own leaves its process and its pipes behind, and would signal a process number that is not its any more.
    """

    def __init__(self, command: str) -> None:
        super().__init__(command)
        self._reader: threading.Thread | None = None

    def recv(self, size: int) -> bytes:
        self._reader = threading.current_thread()
        return super().recv(size)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Ends the process, and closes the pipes once nobody reads them any more."""
        self.close()
        if self._reader is not None:
            self._reader.join(timeout=2)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):
                if stream:
                    stream.close()


def _login(settings: ServerSettings, route: dict[str, Any], limit: float, gate: Any) -> paramiko.SSHClient:
    key = _identity(settings)
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    if Path(settings.known_hosts).is_file():
        client.load_host_keys(settings.known_hosts)
    try:
        client.connect(
            route["hostname"],
            port=route["port"],
            username=route["user"],
            pkey=key,
            key_filename=None if key else route["identityfile"],
            timeout=limit,
            banner_timeout=limit + 1,  # the limit above comes first, with one message for all of the handshake
            auth_timeout=limit,
            channel_timeout=limit,
            allow_agent=key is None,
            look_for_keys=key is None,
            sock=gate,
        )
    except BaseException:
        client.close()
        raise
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE_SECONDS)
    return client


def _identity(settings: ServerSettings) -> paramiko.PKey | None:
    """The configured key. Raises RemoteFault when it cannot be used."""
    if not settings.identity:
        return None
    try:
        return paramiko.PKey.from_path(settings.identity)
    except OSError as fault:
        why = fault.strerror or "cannot be read"
    except TypeError:
        why = "locked with a passphrase; load it into an SSH agent and leave ssh.identity out"
    except Exception:  # whatever the parsers of its many formats raise
        why = "no private key of a kind that can be used"
    raise RemoteFault(settings.name, "refused", f"login refused: {settings.identity}: {why}")


def _text(fault: BaseException) -> str:
    """One line for people about a network fault."""
    if isinstance(fault, paramiko.ssh_exception.NoValidConnectionsError):
        causes = {str(getattr(cause, "strerror", None) or cause) for cause in fault.errors.values()}
        return "; ".join(sorted(causes))
    if isinstance(fault, socket.timeout | TimeoutError):
        return "timed out"
    if isinstance(fault, EOFError):
        return "the connection ended"
    lines = str(getattr(fault, "strerror", None) or fault).splitlines()
    return lines[0] if lines else type(fault).__name__
