"""SSH servers inside this process, each on its own loopback address. Needs nothing but asyncssh."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import selectors
import signal
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from cftools.lab.keys import Keys
from cftools.lab.servers import LabServer, Register, taken, with_port
from cftools.model.errors import Unreachable, UsageFault

try:
    import asyncssh
except ImportError as missing:
    raise UsageFault("the lab's servers need asyncssh; install it: pip install 'cftools[demo]'") from missing

PIECE = 1 << 16
PIPE_LIMIT = 1 << 18
LOOK_SECONDS = 0.1  # how soon a client that went away is noticed while its command takes no input
REAP_SECONDS = 0.01
LONGEST_STOP = 10.0

Result = TypeVar("Result")


class InProcessServers:
    """SSH servers in one thread. See `cftools.lab.servers.LabServers`.

    They let in the one user key of ``keys``, under any user name, and run commands as /bin/sh -c, as the user this
    process runs as. A command whose client goes away is killed with its process group.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._register = Register()
        self._running: dict[str, _Server] = {}
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._loop.set_exception_handler(lambda _loop, _context: None)
        self._thread = threading.Thread(target=self._loop.run_forever, name="cftools-lab", daemon=True)

    def __enter__(self) -> Self:
        asyncssh.set_log_level(logging.CRITICAL + 1)  # faults of a session reach its client; nothing to stderr
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for address in tuple(self._running):
            self.stop(address)
        self._do(self._sockets_closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONGEST_STOP)
        if not self._thread.is_alive():
            self._loop.close()

    async def _sockets_closed(self) -> None:
        """Connections that were given up close their sockets a moment later; one socket is the loop's own."""
        given_up = self._loop.time() + LONGEST_STOP
        while len(self._selector.get_map()) > 1 and self._loop.time() < given_up:
            await asyncio.sleep(REAP_SECONDS)

    @property
    def servers(self) -> tuple[LabServer, ...]:
        """See `LabServers.servers`."""
        return self._register.all

    def start(self, server: str, port: int = 0, name: str = "") -> int:
        """See `LabServers.start`."""
        planned = self._register.planned(server, port, name)
        if planned.address in self._running:
            return planned.port
        started = with_port(planned, self._listen)
        self._register.note(started)
        self._keys.trust(started.name, started.address, started.port)
        return started.port

    def stop(self, server: str) -> None:
        """See `LabServers.stop`."""
        running = self._running.pop(self._register.find(server).address, None)
        if running is not None:
            self._do(running.stop())

    def _listen(self, server: LabServer) -> None:
        running = _Server()
        try:
            self._do(self._open(server, running))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                raise taken(server) from fault
            raise Unreachable(f"cannot listen on {server.address}:{server.port}: {fault.strerror}") from fault
        self._running[server.address] = running

    async def _open(self, server: LabServer, running: _Server) -> None:
        options = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[str(self._keys.host_key(server.name))],
            authorized_client_keys=str(self._keys.authorized_keys),
            server_factory=lambda: _Connection(running),
            gss_host=None,  # else the host's own name is looked up, which may take seconds
            password_auth=False,
            kbdint_auth=False,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            compression_algs=None,
        )
        running.listener = await asyncssh.listen(server.address, server.port, options=options, config=None)

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LONGEST_STOP * 2)


class _Server:
    """One listener with its connections and commands; used in the loop's thread only."""

    def __init__(self) -> None:
        self.listener: asyncssh.SSHAcceptor | None = None
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.commands: set[asyncio.Task[None]] = set()
        self.processes: set[int] = set()  # process groups
        self.dead = False

    async def stop(self) -> None:
        # No await up to the last kill: a client must not see the exit status of a command that dies with its server.
        self.dead = True
        if self.listener is not None:
            self.listener.close()
        connections, commands = tuple(self.connections), tuple(self.commands)
        for connection in connections:
            connection.abort()
        for group in self.processes:
            kill_group(group)
        waiting = [*commands, *(asyncio.ensure_future(connection.wait_closed()) for connection in connections)]
        if waiting:
            await asyncio.wait(waiting, timeout=LONGEST_STOP)


class _Connection(asyncssh.SSHServer):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.add(conn)
        if self._server.dead:  # it was accepted before the listener closed
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncssh names it)
        if self._connection is not None:
            self._server.connections.discard(self._connection)

    def session_requested(self) -> Any:
        assert self._connection is not None
        channel = self._connection.create_server_channel(encoding=None)
        _accept_any_bytes(channel)
        return channel, self._run

    async def _run(
        self, stdin: asyncssh.SSHReader[bytes], stdout: asyncssh.SSHWriter[bytes], stderr: asyncssh.SSHWriter[bytes]
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._server.commands.add(task)
        try:
            with suppress(OSError, asyncssh.Error):
                await _run_command(self._server, stdin, stdout, stderr)
        finally:
            self._server.commands.discard(task)


async def _run_command(
    server: _Server,
    stdin: asyncssh.SSHReader[bytes],
    stdout: asyncssh.SSHWriter[bytes],
    stderr: asyncssh.SSHWriter[bytes],
) -> None:
    channel: asyncssh.SSHServerChannel[bytes] = stdout.channel  # type: ignore[assignment]
    command = channel.get_command()
    if command is None or server.dead:
        channel.exit(1)
        return
    loop = asyncio.get_running_loop()
    account = pwd.getpwuid(os.getuid())
    transport, protocol = await loop.subprocess_exec(
        lambda: asyncio.subprocess.SubprocessStreamProtocol(limit=PIPE_LIMIT, loop=loop),
        *("/bin/sh", "-c", command.encode("utf-8", "surrogateescape")),
        cwd=account.pw_dir if os.access(account.pw_dir, os.X_OK) else "/",
        env=_environment(account),
        start_new_session=True,
    )
    process = asyncio.subprocess.Process(transport, protocol, loop)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    server.processes.add(process.pid)
    if server.dead:
        kill_group(process.pid)
    helpers = [
        asyncio.ensure_future(_feed(stdin, process.stdin)),
        asyncio.ensure_future(_watch(channel, transport, process.pid)),
    ]
    try:
        # A pump whose client is gone fails; the watcher then ends the command, and with it the other pump.
        await asyncio.gather(_pump(process.stdout, stdout), _pump(process.stderr, stderr), return_exceptions=True)
        status = await process.wait()
        server.processes.discard(process.pid)  # its number may be given to another process from here on
        if status >= 0:
            channel.exit(status)
        else:
            channel.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
    finally:
        if transport.get_returncode() is None:
            kill_group(process.pid)
        server.processes.discard(process.pid)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        transport.close()
        await process.wait()


async def _feed(reader: asyncssh.SSHReader[bytes], writer: asyncio.StreamWriter) -> None:
    """Client to command; what a command no longer reads is thrown away, so that the client is not held up."""
    taken_up = True
    with suppress(OSError, asyncssh.Error):
        while piece := await reader.read(PIECE):
            if taken_up:
                try:
                    writer.write(piece)
                    await writer.drain()
                except OSError:
                    taken_up = False
    writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncssh.SSHWriter[bytes]) -> None:
    """Command to client, no faster than the client takes it."""
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()


async def _watch(channel: asyncssh.SSHServerChannel[bytes], transport: asyncio.SubprocessTransport, group: int) -> None:
    """Kills the command when its client is gone.

    asyncssh reports a closed channel only after its input was read, and a command that reads none would live on: hence
    the looking. Closing the transport ends the reading of pipes that a daemon of the command still holds.
    """
    while not channel.is_closing():
        with suppress(TimeoutError):
            await asyncio.wait_for(channel.wait_closed(), LOOK_SECONDS)
    if transport.get_returncode() is None:
        kill_group(group)
    # Closing it earlier would reap the command behind the back of asyncio's own watcher, which then complains.
    while transport.get_returncode() is None:
        await asyncio.sleep(REAP_SECONDS)
    transport.close()


def kill_group(group: int) -> None:
    """Kills every process of a group; one that is gone is no fault."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _environment(account: pwd.struct_passwd) -> dict[str, str]:
    # As little as sshd gives: what works here must not depend on the environment of whoever started the lab.
    path = os.environ.get("PATH") or os.defpath
    return {
        "PATH": path,
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": "/bin/sh",
    }


def _accept_any_bytes(channel: Any) -> None:
    """Lets a channel take commands that are not UTF-8, as sshd does: asyncssh by itself refuses them."""

    def process_exec_request(packet: asyncssh.packet.SSHPacket) -> bool:
        command = packet.get_string().decode("utf-8", "surrogateescape")
        packet.check_end()
        return bool(channel._start_session(command=command))

    channel._process_exec_request = process_exec_request
