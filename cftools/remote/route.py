"""The way to a server: where and as whom to log in, over which jump hosts, and the connections it takes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import paramiko

from cftools.config.servers import ServerSettings
from cftools.remote import host_keys
from cftools.remote.host_keys import HostKey, KnownHosts
from cftools.remote.transport import RemoteFault

KEEPALIVE_SECONDS = 15

_HOP = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?:\[(?P<bracketed>[^]]+)]|(?P<host>[^][:@]+))(?::(?P<port>\d{1,5}))?"
)


class Stop(NamedTuple):
    """One host on the way. ``settings``: the server's, for a jump host with its address, port and user in them;
    ``route``: see `route_of`; ``jump``: how ProxyJump names it, empty for the server itself."""

    settings: ServerSettings
    route: dict[str, Any]
    jump: str = ""

    @property
    def name(self) -> str:
        """How known_hosts names it."""
        return self.route.get("hostkeyalias") or host_keys.name_of(self.route["hostname"], self.route["port"])


class Way:
    """The open ends of a way: what was opened last is closed first, and any thread may close it, also while another is
    still opening."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._ends: list[Callable[[], object]] = []
        self._closed = False

    def keep(self, end: Callable[[], object]) -> None:
        """Notes how something that was opened is closed. Raises EOFError, having closed it, when the way is closed."""
        with self._turn:
            if not self._closed:
                self._ends.append(end)
                return
        end()
        raise EOFError

    def close(self) -> None:
        """Closes all of it; a second time is no fault."""
        with self._turn:
            self._closed = True
            ends, self._ends = self._ends, []
        for end in reversed(ends):
            with suppress(OSError, EOFError, paramiko.SSHException):
                end()


class Limit:
    """A time limit, in seconds from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; never quite none, which would mean: for ever."""
        return max(0.01, self._end - time.monotonic())


def connect(settings: ServerSettings, way: Way, seconds: float) -> paramiko.SSHClient:
    """Logs in to a server. What is opened is left to ``way``. Raises RemoteFault."""
    limit = Limit(seconds)
    path = path_of(settings)
    identity = identity_of(settings)
    gate = _gate(path, identity, way, limit)
    with _told(path[-1], limit):
        return _login(path[-1], identity, gate, way, limit)


def offered_key(path: list[Stop], way: Way, seconds: float) -> HostKey:
    """The host key that the last host of ``path`` shows; nobody logs in there, only to the jump hosts before it.

    It is asked for the types that are known for it first. Raises RemoteFault.
    """
    limit = Limit(seconds)
    stop = path[-1]
    gate = _gate(path, identity_of(stop.settings) if len(path) > 1 else None, way, limit)
    with _told(stop, limit):
        transport = _Transport(gate)
        way.keep(transport.close)
        _ask_for_known(transport, stop)
        transport.start_client(timeout=limit.left())
        key = transport.get_remote_server_key()
        return HostKey(key.get_name(), key.asbytes())


def path_of(settings: ServerSettings) -> list[Stop]:
    """The jump hosts in the order in which they are passed, then the server itself. Raises RemoteFault."""
    path = [Stop(settings, route_of(settings))]
    while jumps := path[0].route.get("proxyjump"):
        # As with ssh, only the first jump host may itself have a ProxyJump or a ProxyCommand.
        path[:0] = [_jump_host(settings, word.strip()) for word in jumps.split(",")]
        places = [(stop.route["hostname"], stop.route["port"]) for stop in path]
        again = next((stop.jump for stop in path if places.count((stop.route["hostname"], stop.route["port"])) > 1), "")
        if again:
            detail = f"ProxyJump goes in a circle over {again}; give that one ProxyJump none"
            raise RemoteFault(settings.name, "unreachable", detail)
    return path


def _jump_host(settings: ServerSettings, word: str) -> Stop:
    found = _HOP.fullmatch(word)
    if found is None:
        raise RemoteFault(settings.name, "unreachable", f"ProxyJump {word}: not [USER@]HOST[:PORT]")
    host, port = found["bracketed"] or found["host"], int(found["port"] or 0)
    via = msgspec.structs.replace(settings, address=host, port=port, user=found["user"] or "")
    return Stop(via, route_of(via), word)


def route_of(settings: ServerSettings) -> dict[str, Any]:
    """Where and as whom to log in: the config's words first, then ssh_config's, then the defaults of ssh."""
    found: dict[str, Any] = {}
    if settings.config_file and Path(settings.config_file).is_file():
        try:
            found = dict(paramiko.SSHConfig.from_path(settings.config_file).lookup(settings.address))
        except (paramiko.SSHException, OSError, UnicodeDecodeError, ImportError) as fault:  # ImportError: Match exec
            raise RemoteFault(settings.name, "unreachable", f"{settings.config_file}: {text_of(fault)}") from fault
    found.setdefault("hostname", settings.address)
    port = str(settings.port or found.get("port", 22))
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 1 << 16:
        place = settings.config_file if "port" in found and not settings.port else settings.address
        raise RemoteFault(settings.name, "unreachable", f"{place}: {port!r} is no port")
    found["port"] = int(port)
    found["user"] = settings.user or found.get("user") or None
    # Like ssh, pass over keys that ssh_config names and that are not there.
    found["identityfile"] = [name for name in found.get("identityfile", []) if Path(name).expanduser().is_file()]
    for word in ("proxyjump", "proxycommand"):
        if (found.get(word) or "none").lower() == "none":
            found.pop(word, None)
    return found


def _gate(path: list[Stop], identity: paramiko.PKey | None, way: Way, limit: Limit) -> Any:
    """What the SSH greeting of the last host comes through: a socket, a command, or a channel of a jump host."""
    gate: Any
    with _told(path[0], limit):
        route = path[0].route
        if "proxycommand" in route:
            gate = _command(route["proxycommand"], way)
        else:
            gate = _dial(route["hostname"], route["port"], way, limit)
    for stop, onward in pairwise(path):
        with _told(stop, limit):
            transport = _login(stop, identity, gate, way, limit).get_transport()
            if transport is None:
                raise EOFError
            place = (onward.route["hostname"], onward.route["port"])
            gate = transport.open_channel("direct-tcpip", place, ("127.0.0.1", 0), timeout=limit.left())
    return gate


def _dial(host: str, port: int, way: Way, limit: Limit) -> socket.socket:
    faults = []
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        plug = socket.socket(family, kind, protocol)
        way.keep(partial(_hang_up, plug))
        plug.settimeout(limit.left())
        try:
            plug.connect(place)
        except OSError as fault:
            faults.append(text_of(fault))
            plug.close()
        else:
            return plug
    raise OSError("; ".join(dict.fromkeys(faults)))


def _hang_up(plug: socket.socket) -> None:
    with suppress(OSError):
        plug.shutdown(socket.SHUT_RDWR)  # closing alone does not wake a thread that waits for it
    plug.close()


class _Transport(paramiko.Transport):
    """paramiko's, but never a prompt: where a server wants an answer typed beside the key, paramiko's asks for it."""

    def auth_interactive_dumb(self, *_: Any, **__: Any) -> list[str]:
        raise paramiko.AuthenticationException("the server wants more than a key, and there is nobody to ask")


def _ask_for_known(transport: paramiko.Transport, stop: Stop) -> None:
    options = transport.get_security_options()
    path = Path(stop.settings.known_hosts)
    try:
        kinds = KnownHosts.read(path).kinds(stop.name)
    except OSError as fault:
        raise RemoteFault(stop.settings.name, "refused", f"{path}: {fault.strerror}") from fault
    options.key_types = host_keys.known_first(options.key_types, kinds)


class _Strict(paramiko.MissingHostKeyPolicy):
    """Judges the host key. paramiko's own reading of known_hosts passes over @revoked lines, patterns, and all but the
    first key of a type; it is given none, so that every key comes here."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        del client, hostname
        settings = self._stop.settings
        shown = HostKey(key.get_name(), key.asbytes())
        host_keys.check(Path(settings.known_hosts), self._stop.name, shown, settings.name)


def _login(stop: Stop, identity: paramiko.PKey | None, gate: Any, way: Way, limit: Limit) -> paramiko.SSHClient:
    def transport(sock: Any, **options: Any) -> paramiko.Transport:
        made = _Transport(sock, **options)
        way.keep(made.close)
        _ask_for_known(made, stop)
        return made

    route = stop.route
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Strict(stop))
    way.keep(client.close)
    any_key = identity is None and route.get("identitiesonly", "no").lower() != "yes"
    left = limit.left()
    client.connect(
        route["hostname"],
        port=route["port"],
        username=route["user"],
        pkey=identity,
        key_filename=None if identity else route["identityfile"],
        timeout=left,
        banner_timeout=left + 1,  # the limit above comes first, with one message for all of the handshake
        auth_timeout=left,
        channel_timeout=left,
        allow_agent=any_key,
        look_for_keys=any_key,
        sock=gate,
        transport_factory=transport,
    )
    opened = client.get_transport()
    if opened is not None:
        opened.set_keepalive(KEEPALIVE_SECONDS)
    return client


def identity_of(settings: ServerSettings) -> paramiko.PKey | None:
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


def _command(command: str, way: Way) -> socket.socket:
    """Starts a ProxyCommand; its stdin and stdout are the other end of the socket.

    It gets a session of its own, which has no terminal: an ssh in it cannot ask for a passphrase.
    """
    plug, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                shlex.split(command),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
            )
        except BaseException:
            plug.close()
            raise
    way.keep(partial(_end, process, plug))
    return plug


def _end(process: subprocess.Popen[bytes], plug: socket.socket) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _hang_up(plug)


@contextmanager
def _told(stop: Stop, limit: Limit) -> Iterator[None]:
    """Turns what goes wrong at a host on the way into a RemoteFault of the server, which names the jump host."""
    try:
        yield
    except RemoteFault as fault:
        raise _at(stop, fault) from fault.__cause__
    except (paramiko.SSHException, OSError, EOFError, ValueError) as fault:
        # ValueError: a ProxyCommand with a quote too many
        raise _at(stop, _fault(stop.settings.name, limit, fault)) from fault


def _at(stop: Stop, fault: RemoteFault) -> RemoteFault:
    return RemoteFault(fault.server, fault.kind, f"jump host {stop.jump}: {fault.detail}") if stop.jump else fault


def _fault(server: str, limit: Limit, fault: BaseException) -> RemoteFault:
    if isinstance(fault, paramiko.AuthenticationException):
        return RemoteFault(server, "refused", f"login refused: {text_of(fault)}")
    if "No authentication methods available" in str(fault):
        return RemoteFault(server, "refused", "login refused: there is no key to log in with; set ssh.identity")
    if "No existing session" in str(fault):  # paramiko's word for a handshake that did not end
        return RemoteFault(server, "unreachable", f"no SSH answer in {limit.seconds:.3g} s")
    if "protocol banner" in str(fault):  # with the text of a Python exception behind it
        return RemoteFault(server, "unreachable", "the connection ended before the server's greeting")
    return RemoteFault(server, "unreachable", text_of(fault))


def text_of(fault: BaseException) -> str:
    """One line for people about a network fault."""
    if isinstance(fault, socket.timeout | TimeoutError):
        return "timed out"
    if isinstance(fault, EOFError):
        return str(fault) or "the connection ended"
    if isinstance(fault, paramiko.ChannelException):
        return str(fault.text)
    lines = str(getattr(fault, "strerror", None) or fault).splitlines()
    return lines[0] if lines else type(fault).__name__
