"""A private RabbitMQ for tests: a node of its own in a folder of its own, on loopback, with an epmd of its own."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from urllib.parse import quote

import pika  # type: ignore[import-untyped]

from cftools.lab.servers import free_port

HOST = "127.0.0.1"
USER, PASSWORD = "cftools", "s3cret/@:pass"
START_SECONDS = 60.0
SETTINGS = """
listeners.tcp.1 = {host}:{port}
default_user = {user}
default_pass = {password}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 10MB
log.file.level = warning
"""


def program(name: str) -> str:
    """The path of a program of RabbitMQ or Erlang itself, not of a wrapper for the system's own broker."""
    folders = ["/usr/lib/rabbitmq/bin", *os.environ["PATH"].split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name, path=os.pathsep.join(folders))
    assert found, f"{name} is missing; install rabbitmq-server"
    return found


class BrokerServer:
    """A node below a new folder in /tmp; entering the block starts it, leaving the block removes it.

    As root it runs as `rabbitmq`, for whom the package was made; otherwise as the user of the tests.
    """

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="cftools-mq-", dir="/tmp"))
        self.port, self._epmd_port, self._node_port = _free_ports(3)
        self._node = f"cftools{self.port}@localhost"
        self._queues = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._runner = ["setpriv", "--pdeathsig", "KILL"]  # it ends with the tests, however they end
        if os.getuid() == 0:
            user = pwd.getpwnam("rabbitmq")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._runner += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        settings = SETTINGS.format(host=HOST, port=self.port, user=USER, password=PASSWORD)
        (self.folder / "rabbitmq.conf").write_text(settings)
        (self.folder / "enabled_plugins").write_text("[].\n")

    def __enter__(self) -> BrokerServer:
        try:
            self._epmd = self._run(program("epmd"), "-port", str(self._epmd_port), "-address", HOST)
            _wait_for_port(self._epmd_port, self._epmd)
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def url(self, password: str = PASSWORD) -> str:
        """The address of the broker, with a login."""
        return f"amqp://{USER}:{quote(password, safe='')}@{HOST}:{self.port}/%2F"

    def new_name(self) -> str:
        """A name for a queue that no other test uses."""
        return f"test-{os.getpid()}-{next(self._queues)}"

    def connect(self) -> pika.BlockingConnection:
        """A connection of the application's kind."""
        return pika.BlockingConnection(pika.URLParameters(self.url()))

    def start(self) -> None:
        """Runs the node; returns when it takes logins."""
        self._process = self._run(program("rabbitmq-server"))
        _wait_for_port(self.port, self._process, self.folder / "output")
        self.connect().close()

    def stop(self) -> None:
        """Ends it in order: connections are closed, everything is written."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once, as a crash does; the next `start` recovers what was confirmed."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """`stop`, then `start`."""
        self.stop()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside the block the node does nothing, and its connections stay."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def wait_until_noted(self, queue: str) -> None:
        """RabbitMQ writes a new quorum queue into its directory of queues a second late; until then a crash leaves
        the queue unusable for ever."""
        entry = re.compile(rb"%2F_" + re.escape(queue.encode()) + rb"(?![.0-9])")
        late = time.monotonic() + START_SECONDS
        while not any(entry.search(path.read_bytes()) for path in (self.folder / "data").rglob("names.dets")):
            assert time.monotonic() < late, f"{queue} is not in names.dets"
            time.sleep(0.05)

    def control(self, *words: str) -> None:
        """Runs `rabbitmqctl` on the node, which takes seconds."""
        command = self._run(program("rabbitmqctl"), "--node", self._node, *words)
        assert command.wait(START_SECONDS) == 0, (self.folder / "output").read_text()[-3000:]

    def running(self) -> bool:
        """Whether the node runs."""
        return self._process is not None and self._process.poll() is None

    def remove(self) -> None:
        """Kills the node and its epmd and removes the folder."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        folder = str(self.folder)
        environment = {
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": folder,  # of the Erlang cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RUNNING_UNDER_SYSTEMD": "true",  # so that it takes the place of its starting script
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(
                [*self._runner, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
            )

    def _end(self, by: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(by)
        self._process.wait(START_SECONDS)
        self._process = None


def _free_ports(wanted: int) -> list[int]:
    ports: set[int] = set()
    while len(ports) < wanted:
        ports.add(free_port([HOST]))
    return sorted(ports)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], output: Path | None = None) -> None:
    late = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, output.read_text()[-3000:] if output else f"exit {process.returncode}"
        assert time.monotonic() < late, "it did not start in time"
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
