"""Real sshd processes, each on its own loopback address, that can die and hang."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self

from cftools.lab.keys import Keys
from cftools.lab.servers import LabServer, Register, is_free, taken, with_port
from cftools.model.errors import Unreachable, UsageFault

PLACES = "/usr/sbin:/usr/local/sbin:/sbin:/opt/local/sbin"
START_SECONDS = 10.0
POLL_SECONDS = 0.01
SEPARATION = Path("/run/sshd")  # sshd started by root insists on this empty folder
MARK = "CFTOOLS_LAB_SERVER"
# SHLVL: a bash that sshd starts reads the user's ~/.bashrc unless it believes to be started by another shell; what
# stands in there must not decide how long a command of the lab takes.

CONFIG = """\
ListenAddress {address}
Port {port}
HostKey "{host_key}"
AuthorizedKeysFile "{authorized_keys}"
PidFile "{folder}/pid"
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
AllowAgentForwarding yes
AllowTcpForwarding yes
MaxStartups 200
MaxSessions 100
LoginGraceTime 30
LogLevel ERROR
Subsystem sftp internal-sftp
SetEnv {mark}={token} SHLVL=9{environment}
"""
NOTHING: Mapping[str, str] = MappingProxyType({})


class Shape(NamedTuple):
    """How one server differs from the others.

    ``environment``: variables (no spaces) that its commands see; ``before``: words that stand before the command line
    of its sshd and end in running it, such as ``unshare --mount``; ``authorized_keys``: whom it lets in instead of the
    lab's one user key.
    """

    environment: Mapping[str, str] = NOTHING
    before: tuple[str, ...] = ()
    authorized_keys: Path | None = None


class SshdServers:
    """One sshd a server, in a folder of its own. See `cftools.lab.servers.LabServers`.

    They let in the user that runs this process with the one user key of ``keys``. Linux only: children are found in
    /proc.
    """

    def __init__(self, keys: Keys, directory: Path) -> None:
        """``directory`` gets one folder a server, with its config and log. Raises UsageFault without an sshd.

        ``environment``: variables (no spaces) of every command on servers that are started after they were set.
        """
        self.environment: dict[str, str] = {}
        self._keys = keys
        self._directory = directory
        self._program = program()
        self._register = Register()
        self._running: dict[str, _Sshd] = {}
        self.shapes: dict[str, Shape] = {}  # by server name; heeded when it starts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for address in tuple(self._running):
            self.stop(address)

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
        """See `LabServers.stop`. Every process of the server gets SIGKILL; a stopped (paused) one too."""
        running = self._running.pop(self._register.find(server).address, None)
        if running is not None:
            running.kill()

    def pause(self, server: str) -> None:
        """Makes a server hang: it still takes connections, but it and its commands do nothing until `resume`."""
        self._found(server).freeze()

    def resume(self, server: str) -> None:
        """Lets a server that hangs go on."""
        self._found(server).send(signal.SIGCONT)

    def log(self, server: str) -> str:
        """What the server's sshd complained about."""
        return (self._folder(self._register.find(server)) / "log").read_text(errors="replace")

    def _found(self, server: str) -> _Sshd:
        address = self._register.find(server).address
        if address not in self._running:
            raise UsageFault(f"lab server {server} is not running; start it first")
        return self._running[address]

    def _folder(self, server: LabServer) -> Path:
        return self._directory / server.name.replace("/", "_")

    def _listen(self, server: LabServer) -> None:
        if not is_free(server.address, server.port):  # else another server's banner would be taken for this one's
            raise taken(server)
        folder = self._folder(server)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = secrets.token_hex(8)
        shape = self.shapes.get(server.name, Shape())
        environment = {**self.environment, **shape.environment}
        values = {
            "address": server.address,
            "port": server.port,
            "host_key": self._keys.host_key(server.name),
            "authorized_keys": str(shape.authorized_keys or self._keys.authorized_keys).replace("%", "%%"),
            "folder": folder,
            "mark": MARK,
            "token": token,
            "environment": "".join(f" {name}={value}" for name, value in environment.items()),
        }
        config = folder / "sshd_config"
        config.write_text(CONFIG.format(**values) + no_penalties(self._program))
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [*shape.before, self._program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at a terminal is not for the servers
            )
        running = _Sshd(process, token)
        try:
            running.wait_for_banner(server, folder / "log")
        except BaseException:
            running.kill()
            raise
        self._running[server.address] = running


class _Sshd:
    """One listener and all that comes from it."""

    def __init__(self, process: subprocess.Popen[bytes], token: str) -> None:
        self._process = process
        self._mark = f"{MARK}={token}".encode()

    def wait_for_banner(self, server: LabServer, log: Path) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise Unreachable(f"sshd of {server.name} ended at once: {lines[-1] if lines else 'no word why'}")
            with suppress(OSError), socket.create_connection((server.address, server.port), timeout=1.0) as probe:
                if probe.recv(4) == b"SSH-":
                    return
            time.sleep(POLL_SECONDS)
        raise Unreachable(f"sshd of {server.name} did not answer on {server.address}:{server.port}; see {log}")

    def freeze(self) -> set[int]:
        # Again and again, for a process may have had a child between the looking and the signal.
        frozen: set[int] = set()
        while new := self._processes() - frozen:
            for pid in new:
                _signal(pid, signal.SIGSTOP)
            frozen |= new
        return frozen

    def send(self, number: signal.Signals) -> None:
        for pid in self._processes():
            _signal(pid, number)

    def kill(self) -> None:
        # Children of a dead parent cannot be told from others: all are found, and stand still, before the first dies.
        frozen = self.freeze()
        for pid in frozen:
            _signal(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + START_SECONDS
        while frozen & {pid for pid, _, _ in _all_processes(self._mark)} and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _processes(self) -> set[int]:
        """The listener, what descends from it, and commands left over from sessions that have ended."""
        children: dict[int, list[int]] = {}
        left = [self._process.pid] if self._process.poll() is None else []
        for pid, parent, marked in _all_processes(self._mark):
            children.setdefault(parent, []).append(pid)
            if marked:
                left.append(pid)
        found: set[int] = set()
        while left:
            pid = left.pop()
            if pid not in found:
                found.add(pid)
                left += children.get(pid, [])
        return found


def _all_processes(mark: bytes) -> Iterator[tuple[int, int, bool]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except OSError:  # it has just ended
            continue
        state, parent = stat[stat.rindex(b")") + 2 :].split(b" ", 2)[:2]
        if state == b"Z":
            continue
        marked = False
        with suppress(OSError):  # of another user, hence not of this lab
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
        yield int(entry.name), int(parent), marked


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def program() -> str:
    """The path of sshd. Raises UsageFault when there is none; made ready for root where that needs something."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), PLACES]))
    if found is None:
        raise UsageFault("no sshd on this machine; install openssh-server, or use the servers in process")
    if os.getuid() == 0:
        SEPARATION.mkdir(mode=0o755, parents=True, exist_ok=True)
    return str(Path(found).resolve())


def no_penalties(sshd: str) -> str:
    """The config line that keeps OpenSSH 9.8 and later from shutting out 127.0.0.1 after refused logins."""
    told = subprocess.run([sshd, "-V"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    version = re.search(rb"OpenSSH_(\d+)\.(\d+)", told.stderr + told.stdout)
    if version and (int(version[1]), int(version[2])) >= (9, 8):
        return "PerSourcePenalties no\n"
    return ""
