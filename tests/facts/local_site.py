"""The whole command line on a node of local folders, in this process: what needs neither network nor processes."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from local_node import Wire
from site_of_sshd import Row, Site

from cftools.cli import app
from cftools.config.servers import ServerSettings
from cftools.lab.keys import Keys
from cftools.remote.pool import Fleet


class LocalSite(Site):
    """A site whose servers are folders of this machine. ``wires`` are the ways to them, ``calls`` what was asked."""

    def __init__(self, folder: Path, *, sources: int = 1, destinations: int = 3) -> None:
        self.folder = folder
        self.keys = Keys(folder / "keys")
        self.sources = {f"src{n}": f"10.0.1.{n}" for n in range(1, sources + 1)}
        self.destinations = {f"dest{n}": f"10.0.0.{8 + n}" for n in range(1, destinations + 1)}
        self.port = 22
        self.server_keys = {}
        self.calls: list[tuple[str, str]] = []
        self.wires: dict[str, Wire] = {}
        for name in self.names:
            self.wires[name] = Wire(name, self.calls)
            self.root(name).mkdir(parents=True)
        self.configure()

    def run(self, *words: str, stdin: bytes = b"", expect: int = 0) -> list[Row]:
        """Runs a command to its end, checks its exit code, and returns its rows."""
        out, talk = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with (
            mock.patch("cftools.jobs.job.ssh_fleet", self._fleet),
            mock.patch.multiple(sys, stdin=given, stdout=out, stderr=talk),
        ):
            try:
                code = app.run(["--config", str(self.folder / "cftools.yaml"), *words])
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        out.flush()
        self.talk, self.output = talk.getvalue(), out.buffer.getvalue()
        assert code == expect, f"{words}: exit {code}\n{self.talk}\n{self.output.decode()}"
        return [json.loads(line) for line in self.output.splitlines()]

    def _fleet(self, servers: Iterable[ServerSettings], parallel: int) -> Fleet:
        return Fleet(servers, lambda settings: self.wires[settings.name], parallel)

    def standing(self) -> dict[str, int]:
        """Every file on every server with its size."""
        return {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in sorted((self.folder / "servers").rglob("*"))
            if path.is_file()
        }
