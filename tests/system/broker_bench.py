"""What the tests of `bulk-delete receive` and `submit --via broker` work with: a queue and a state of their own."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pika  # type: ignore[import-untyped]
from broker_server import BrokerServer
from local_site import LocalSite
from site_of_sshd import Row

from cftools.config.schema import Broker as Keys
from cftools.remote.broker import Broker, Place, place

VARIABLE = "CFTOOLS_BROKER"
PATIENCE = 60.0  # seconds
FAULT_POINTS = Path(__file__).with_name("fault_points")


class Bench(LocalSite):
    """A node without servers, whose queue only this test uses."""

    def __init__(self, folder: Path, server: BrokerServer) -> None:
        super().__init__(folder, destinations=1)
        self.server = server
        self.queue = server.new_name()
        self.dead = f"{self.queue}.dead"
        self.set()

    def set(self, *, targets: tuple[str, ...] = ("images",), **keys: int) -> None:
        """Writes the config with these keys of the broker."""
        self.keys_of_broker: dict[str, Any] = {"queue": self.queue, "dead_letters": self.dead, **keys}
        places = {name: {"servers": ["dest1"], "root": "/images"} for name in targets}
        self.configure(bulk_delete={"targets": places, "max_resources": 100, "broker": self.keys_of_broker})

    def place(self) -> Place:
        """The queue as the config has it."""
        return place(Keys(**self.keys_of_broker), os.environ)

    def send(self, *bodies: object) -> None:
        """Publishes messages: bytes as they are, all else as JSON."""
        with Broker(self.place()) as broker:
            for body in bodies:
                broker.publish("", body if isinstance(body, bytes) else json.dumps(body).encode())

    def receive(self, *words: str, expect: int = 0) -> list[Row]:
        """Runs `receive` in this process."""
        return self.run("bulk-delete", "receive", *words, expect=expect)

    def known(self) -> dict[str, tuple[str, int]]:
        """The stored requests: target and number of files by key; the names are checked to be the request's."""
        path = self.folder / "state" / "state.db"
        if not path.exists():
            return {}
        with closing(sqlite3.connect(path)) as state:
            if not state.execute("SELECT 1 FROM sqlite_master WHERE name = 'bulk_request'").fetchone():
                return {}
            found = state.execute("SELECT id, key, target, resources FROM bulk_request ORDER BY id").fetchall()
            for number, key, _, resources in found:
                query = "SELECT names FROM bulk_block WHERE request = ? ORDER BY number"
                stored = b"".join(block for (block,) in state.execute(query, (number,)))
                assert stored.count(b"\0") == resources, key
        return {key: (target, resources) for _, key, target, resources in found}

    def taken_from(self, queue: str) -> list[bytes]:
        """All messages of a queue, which is empty then."""
        with self.channel() as channel:
            found: list[bytes] = []
            while True:
                method, _, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    return found
                found.append(body)

    def waiting(self, queue: str) -> int:
        """How many messages a queue holds."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of a connection of its own."""
        connection = pika.BlockingConnection(pika.URLParameters(self.server.url()))
        try:
            yield connection.channel()
        finally:
            connection.close()

    @contextmanager
    def running(self, *words: str, stdin: bytes = b"", dying_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Runs a command as a process of its own, whose output goes to files ``out`` and ``talk``; it kills itself at
        the fault point ``dying_at``."""
        environment = dict(os.environ)
        if dying_at:
            path = os.pathsep.join([str(FAULT_POINTS), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment |= {"PYTHONPATH": path, "FAULT_LOG": str(self.folder / "points"), "FAULT_POINT": dying_at}
        (self.folder / "in").write_bytes(stdin)
        with (
            (self.folder / "in").open("rb") as given,
            (self.folder / "out").open("wb") as out,
            (self.folder / "talk").open("wb") as talk,
        ):
            command = self.command("bulk-delete", *words)
            process = subprocess.Popen(command, stdin=given, stdout=out, stderr=talk, env=environment)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def end(self, process: subprocess.Popen[bytes], expect: int) -> str:
        """Ends a process by SIGTERM; what it said."""
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE)
        said = (self.folder / "talk").read_text()
        assert code == expect, said
        return said

    def wait_to_hear(self, words: str, file: str = "talk") -> None:
        """Waits until the running command writes these words, on stderr or to ``out``."""
        given_up = time.monotonic() + PATIENCE
        while words not in (self.folder / file).read_text():
            assert time.monotonic() < given_up, (self.folder / "talk").read_text()
            time.sleep(0.02)

    def wait_for(self, *keys: str) -> None:
        """Waits until these requests are stored."""
        given_up = time.monotonic() + PATIENCE
        while missing := set(keys) - set(self.known()):
            assert time.monotonic() < given_up, (missing, (self.folder / "talk").read_text())
            time.sleep(0.02)


def request(key: str, count: int = 3, target: str = "images") -> Row:
    """The message of a request."""
    return {"request": key, "target": target, "resources": [f"{key}/{number}.jpg" for number in range(count)]}
