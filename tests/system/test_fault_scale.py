"""A node of 200 servers of which 20 are dead, in every way there is: what its cycle costs more than without them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cftools.lab.inprocess import InProcessServers
from cftools.lab.keys import Keys
from cftools.lab.servers import free_port

SERVERS = 200
SOURCES = 3
FILES = 6  # duplicates on the first two living destinations, each a batch of its own
CONNECT_SECONDS = 4.0
CONTENT = b"x" * 100
DEAD = {number: ("mute", "refused", "blackhole", "refused")[number // 10 % 4] for number in range(1, SERVERS, 10)}


class Node:
    """Servers N at 127.BLOCK.0.N, in order; those in `DEAD` refuse connections, say nothing, or take no packet."""

    def __init__(self, folder: Path, block: int, stack: ExitStack) -> None:
        self.folder = folder
        self.keys = Keys(folder / "keys")
        self.addresses = [f"127.{block}.0.{number + 1}" for number in range(SERVERS)]
        self.port = free_port(self.addresses)
        self.asked: Counter[int] = Counter()  # connections that mute servers got
        living = stack.enter_context(InProcessServers(self.keys))
        for number, address in enumerate(self.addresses):
            self.root(number).mkdir(parents=True)
            if number not in DEAD:
                living.start(address, self.port, f"s{number}")
            elif DEAD[number] == "mute":
                stack.enter_context(self.mute(number))
            elif DEAD[number] == "blackhole":
                stack.enter_context(blackhole(address, self.port))

    def root(self, number: int) -> Path:
        return self.folder / "servers" / f"s{number}"

    @contextmanager
    def mute(self, number: int) -> Iterator[None]:
        """A server that takes connections and says nothing."""
        ended = threading.Event()
        connections: list[socket.socket] = []

        def accept(listener: socket.socket) -> None:
            while not ended.is_set():
                with suppress(TimeoutError):
                    connections.append(listener.accept()[0])
                    self.asked[number] += 1

        with socket.create_server((self.addresses[number], self.port)) as listener:
            listener.settimeout(0.1)
            thread = threading.Thread(target=accept, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                for connection in connections:
                    connection.close()

    def configure(self, numbers: list[int]) -> list[str]:
        """Writes config and inputs of a node of these servers, and puts duplicates there; the names of these."""
        names = [f"f{number}.mpg" for number in range(FILES)]
        first, second = [number for number in numbers if number not in DEAD and number >= SOURCES][:2]
        for number in (0, first, second):
            for name in names:
                (self.root(number) / name).write_bytes(CONTENT)
        holders = f"{self.addresses[first]} {self.addresses[second]}"
        lines = [f"historyheader:{int(time.time())}", *(f"{name},1,0,100,{holders}" for name in names)]
        (self.folder / "history").write_text("\n".join(lines) + "\n")
        (self.folder / "grades").write_text("\n".join(["filename\tx", *(f"{name}\t1" for name in names)]) + "\n")
        (self.folder / "ssh_config").touch()
        config = {
            "node": "large",
            "state": {"directory": "state"},
            "inputs": {"hitcount_history": "history", "grade_info": "grades"},
            "ssh": {
                "user": "vod",
                "port": self.port,
                "identity": str(self.keys.identity),
                "known_hosts": str(self.keys.known_hosts),
                "config_file": "ssh_config",
                "connect_timeout": f"{CONNECT_SECONDS}s",
            },
            "heartbeat": {"timeout": f"{CONNECT_SECONDS}s"},
            "delete": {"batch": 1},
            "guards": {"percent_from": 1000},
            "sources": [
                {"name": f"s{number}", "address": self.addresses[number], "roots": [str(self.root(number))]}
                for number in numbers
                if number < SOURCES
            ],
            "destinations": [
                {"name": f"s{number}", "address": self.addresses[number], "root": str(self.root(number))}
                for number in numbers
                if number >= SOURCES
            ],
        }
        (self.folder / "cftools.yaml").write_text(json.dumps(config))
        return names

    def cycle(self) -> tuple[float, int, list[dict[str, object]]]:
        """Runs `cycle --apply`; seconds, exit code and rows."""
        command = [sys.executable, "-m", "cftools", "--config", str(self.folder / "cftools.yaml"), "cycle", "--apply"]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, check=False, timeout=110)
        assert b"Traceback" not in done.stderr
        return time.monotonic() - began, done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def blackhole(address: str, port: int) -> Iterator[None]:
    """A port whose queue is full: what comes is dropped."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with suppress(BlockingIOError):
                waiting.connect((address, port))
        yield


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        yield Node(tmp_path, 90 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), stack)


def test_dead_servers_cost_a_cycle_one_connect_timeout_and_no_more(node: Node) -> None:
    living = [number for number in range(SERVERS) if number not in DEAD]
    times = {}
    for which, numbers in (("living", living), ("all", list(range(SERVERS)))):
        names = node.configure(numbers)
        seconds, code, rows = node.cycle()
        times[which] = seconds
        assert code == (0 if which == "living" else 1)
        outcomes = [(row["server"], row["name"], row["state"]) for row in rows if row["kind"] == "outcome"]
        assert outcomes == [("s3", name, "done") for name in names]
        states = Counter(row["state"] for row in rows if row["kind"] == "server")
        assert states == ({"ok": 180} if which == "living" else {"ok": 180, "unreachable": 20})
    print(times, node.asked)
    assert set(node.asked.values()) == {1}, "a server that does not answer is asked once in a cycle"
    assert times["all"] < 1.5 * times["living"] + CONNECT_SECONDS + 2.0
