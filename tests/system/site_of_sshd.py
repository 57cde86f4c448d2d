"""A small node of real sshd processes for tests: servers, inputs, and the command line run on it as a process."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from cftools.cli import app
from cftools.lab.keys import Keys
from cftools.lab.servers import free_port, own_name
from cftools.lab.sshd import SshdServers

Row = dict[str, Any]
OLD = 30 * 86400  # seconds: how old files are unless a test says otherwise
CONTENT = b"0123456789" * 10


class Site:
    """A node below ``folder`` whose servers have addresses ``block``.N; `start` runs them."""

    def __init__(self, folder: Path, block: str, *, sources: int = 1, destinations: int = 3) -> None:
        self.folder, self.block = folder, block
        self.keys = Keys(folder / "keys")
        self.servers = SshdServers(self.keys, folder / "sshd")
        self.sources = {f"src{n}": f"{block}.{100 + n}" for n in range(1, sources + 1)}
        self.destinations = {f"dest{n}": f"{block}.{9 + n}" for n in range(destinations)}
        # The first destination is block.9: before block.10 by number, after it as text.
        self.destinations = {f"dest{n + 1}": address for n, address in enumerate(self.destinations.values())}
        self.port = free_port([*self.sources.values(), *self.destinations.values()])
        self.extra: dict[str, dict[str, Any]] = {}
        self.server_keys: dict[str, dict[str, Any]] = {}
        self.files: dict[str, int] = {}
        for name in self.names:
            self.root(name).mkdir(parents=True)

    @property
    def names(self) -> list[str]:
        """All servers."""
        return [*self.sources, *self.destinations]

    def root(self, server: str) -> Path:
        """The one root of a server."""
        return self.folder / "servers" / server / "data"

    def start(self, *names: str) -> None:
        """Runs these servers (all, without names)."""
        for name in names or self.names:
            address = (self.sources | self.destinations)[name]
            self.servers.start(address, self.port, name)

    def put(self, name: str, *servers: str, content: bytes = CONTENT, age: float = OLD) -> Path:
        """Writes a file on servers; returns where it is on the last one."""
        path = Path()
        for server in servers:
            path = self.root(server) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (time.time() - age, time.time() - age))
        return path

    def holders(self, name: str) -> list[str]:
        """The servers on which the file stands."""
        return [server for server in self.names if (self.root(server) / name).is_file()]

    def write_inputs(self, holders: dict[str, list[str]], sizes: dict[str, int] | None = None, age: float = 0) -> None:
        """Writes history and grades: files in rank order with the destinations that hold them (names, or addresses)."""
        now = int(time.time() - age)
        history = [f"historyheader:{now}"]
        grades = ["filename\tweightcount\tbitrate\tgrade\tsumHitCount\thistoryCount\tTargetCopyCount"]
        for name, servers in holders.items():
            size = (sizes or {}).get(name, len(CONTENT))
            addresses = " ".join(self.destinations.get(server, server) for server in servers)
            history.append(f"{name},1508301143,6399785,{size},{addresses},2,0,0,1=1 2")
            grades.append(f"{name}\t1\t6399785\tA\t1\t1\t1")
        (self.folder / "hitcount.history").write_text("\n".join(history) + "\n")
        (self.folder / "grade.info").write_text("\n".join(grades) + "\n")
        if age:
            os.utime(self.folder / "grade.info", (now, now))

    def write_log(self, hits: dict[str, int], served_by: str = "125.159.40.3") -> None:
        """Writes an event log with that many hits a file, a minute ago."""
        moment = int(time.time()) - 60
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        lines = [
            f"0x40ffff,1,{moment},Server {served_by} Selected for Client StreamID : x, ClientID : 0,"
            f" GLB IP : 10.0.0.1's file({name}) Request"
            for name, count in hits.items()
            for _ in range(count)
        ]
        day = time.strftime("%Y%m%d", time.gmtime(moment))
        (logs / f"EventLog[{day}].log").write_text("".join(line + "\n" for line in lines))

    def configure(self, **sections: dict[str, Any]) -> Path:
        """Writes the config; ``sections`` are merged over what every site has."""
        (self.folder / "logs").mkdir(exist_ok=True)
        keys = self.folder / "keys"
        config: dict[str, Any] = {
            "node": "test",
            "state": {"directory": "state"},
            "inputs": {
                "hitcount_history": "hitcount.history",
                "grade_info": "grade.info",
                "event_log_dir": "logs",
                "event_log_timezone": "UTC",
            },
            "ssh": {
                "user": own_name(),
                "port": self.port,
                "identity": str(keys / "id_ed25519"),
                "known_hosts": str(keys / "known_hosts"),
                "config_file": "ssh_config",
                "connect_timeout": "3s",
                "response_timeout": "20s",
            },
            "heartbeat": {"timeout": "3s", "interval": "1s"},
            "sources": [
                {"name": name, "address": address, "roots": [str(self.root(name))], **self.server_keys.get(name, {})}
                for name, address in self.sources.items()
            ],
            "destinations": [
                {"name": name, "address": address, "root": str(self.root(name)), **self.server_keys.get(name, {})}
                for name, address in self.destinations.items()
            ],
            "distribute": {
                "pull_identity": str(keys / "id_ed25519"),
                "pull_known_hosts": str(keys / "known_hosts"),
            },
        }
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values}
        (self.folder / "ssh_config").touch()
        path = self.folder / "cftools.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return path

    def command(self, *words: str) -> list[str]:
        """The words of a command line on this node."""
        return [sys.executable, "-m", "cftools", "--config", str(self.folder / "cftools.yaml"), *words]

    def run(self, *words: str, stdin: bytes = b"", expect: int = 0) -> list[Row]:
        """Runs a command to its end, checks its exit code, and returns its rows. It runs in this process, which saves
        the time a process takes to start; those that are killed or piped are processes of their own (`command`)."""
        code, self.output, talk = in_this_process([*self.command(*words)[3:]], stdin)
        self.talk = talk.decode()
        assert code == expect, f"{words}: exit {code}\n{self.talk}\n{self.output.decode()}"
        assert "Traceback" not in self.talk
        return [json.loads(line) for line in self.output.splitlines()]


def in_this_process(words: list[str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of a command line."""
    given, out, talk = (io.TextIOWrapper(io.BytesIO(data)) for data in (stdin, b"", b""))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with mock.patch.multiple(sys, stdin=given, stdout=out, stderr=talk):
        try:
            code = app.run(words)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    out.flush()
    talk.flush()
    return code, out.buffer.getvalue(), talk.buffer.getvalue()


MakeSite = Callable[..., Site]


def kinds(rows: list[Row], kind: str) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def outcomes(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Server, name and state of each outcome."""
    return [(row["server"], row["name"], row["state"]) for row in kinds(rows, "outcome")]


def end(rows: list[Row]) -> Row:
    """The row that closes the stream."""
    assert rows[-1]["kind"] == "end"
    return rows[-1]
