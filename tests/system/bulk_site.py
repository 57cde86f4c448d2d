"""What the tests of bulk deletion share: an album on the servers of a site, drains, and what the state says of them."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from faults import PLAIN_PATH, query, state_file
from site_of_sshd import Row, Site, kinds

from cftools.cli import app
from cftools.lab.sshd import Shape

ALBUM = "album"  # a target whose folder has one name on all destinations
DRAIN = ("bulk-delete", "drain")
RESTS = {"retry_delay": "0.2s", "retry_delay_limit": "1m"}
LIMITS = {"connect_timeout": "2s", "response_timeout": "1s"}

# The servers of a test are one machine, on which one folder cannot be another for each. So a script that is to work in
# the target's folder works in that of its server.
OWN_FOLDER = """#!/bin/sh
case ${{4-}} in
  {shared} | {shared}/*) text=$2 name=$3 root=$OWN_ALBUM${{4#{shared}}}; shift 4
    exec /bin/sh -c "$text" "$name" "$root" "$@" ;;
esac
exec /bin/sh "$@"
"""

# find that never comes to an end with a file called slow…, and deletes those before it.
STUCK_FIND = r"""#!/bin/sh
for name; do
  case $name in
    -*) break ;;
    */slow*) if [ -e "$name" ]; then : >"$0.stuck"; exec sleep 60; fi ;;
  esac
  {find} "$name" -maxdepth 0 -type f -delete -printf '%p\0' -o -printf '!%y%p\0'
done
"""


class Album:
    """A site whose destinations are the servers of the target `ALBUM`; make it before they start."""

    def __init__(self, site: Site, **target: Any) -> None:
        self.site = site
        self.root = site.folder / "album"
        self.target = {"servers": sorted(site.destinations, reverse=True), "root": str(self.root), **target}
        self.programs = site.folder / "programs"
        self.talk = ""
        for server in site.destinations:
            self.folder(server).mkdir(parents=True)
            self.program(server, "sh", OWN_FOLDER.format(shared=self.root))
            path = f"{self.programs / server}:{PLAIN_PATH}"
            site.servers.shapes[server] = Shape({"PATH": path, "OWN_ALBUM": str(self.folder(server))})

    def folder(self, server: str) -> Path:
        """Where the album lies on this server."""
        return self.site.root(server).with_name("album")

    def program(self, server: str, name: str, text: str) -> Path:
        """Puts a program before those of a server; remove it to have the real one again."""
        path = self.programs / server / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def stuck_find(self, server: str, text: str = STUCK_FIND) -> Path:
        """From now on find hangs there when it comes to a file called slow…; ``.stuck`` beside it is there then."""
        return self.program(server, "find", text.format(find=shutil.which("find")))

    def slow_find(self, server: str, seconds: float) -> Path:
        """From now on find takes its time there; ``.began`` beside it is there when it is at it."""
        return self.program(
            server, "find", f'#!/bin/sh\n: >"$0.began"\nsleep {seconds}\nexec {shutil.which("find")} "$@"\n'
        )

    def configure(self, sections: dict[str, dict[str, Any]] | None = None, /, **keys: Any) -> None:
        """Writes the config; ``keys`` are those of bulk_delete."""
        more = {"targets": {ALBUM: self.target}, **RESTS, **keys}
        self.site.configure(**{"ssh": LIMITS, **(sections or {}), "bulk_delete": more})

    def put(self, names: Iterable[str | bytes], *servers: str) -> None:
        """Writes these files of the album on servers (all destinations, without any)."""
        listed = list(names)
        for server in servers or self.site.destinations:
            folder = os.fsencode(self.folder(server))
            for name in listed:
                path = os.path.join(folder, os.fsencode(name))  # noqa: PTH118 (bytes)
                os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
                Path(os.fsdecode(path)).write_bytes(b"x")

    def left(self, server: str) -> list[str]:
        """The files that stand in the album there."""
        base = self.folder(server)
        return sorted(str(path.relative_to(base)) for path in base.rglob("*") if not path.is_dir() or path.is_symlink())

    def everywhere(self) -> dict[str, list[str]]:
        """`left` of each destination that has any."""
        return {server: left for server in sorted(self.site.destinations) if (left := self.left(server))}

    def run(self, *words: str, stdin: bytes = b"", expect: int = 0) -> list[Row]:
        """Runs a command in this process, which is quicker: the rows. What it said is in ``talk``."""
        out, talk = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        given = io.TextIOWrapper(io.BytesIO(stdin))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with mock.patch.multiple(sys, stdin=given, stdout=out, stderr=talk):
            try:
                code = app.run(["--config", str(self.site.folder / "cftools.yaml"), *words])
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        out.flush()
        self.talk, printed = talk.getvalue(), out.buffer.getvalue()
        assert code == expect, f"{words}: exit {code}\n{self.talk}\n{printed.decode()}"
        return [json.loads(line) for line in printed.splitlines()]

    def submit(self, key: str, names: Iterable[str | bytes], target: str = ALBUM) -> Row:
        """Sends a request; its row."""
        text = b"".join(os.fsencode(name) + b"\n" for name in names)
        (row,) = self.run("bulk-delete", "submit", "-", "--request", key, "--target", target, stdin=text)
        return row

    def drain(self, *words: str, expect: int = 0) -> list[Row]:
        """Drains; the rows."""
        return self.run(*DRAIN, *words, expect=expect)

    def status(self, key: str) -> Row:
        """The request's `request_status` row."""
        (row,) = kinds(self.run("bulk-delete", "status", key), "request_status")
        return row

    def dead(self) -> list[tuple[str, str, int, str]]:
        """Server, file, attempts and error of each dead letter."""
        rows = kinds(self.run("bulk-delete", "dead"), "dead_letter")
        return [(row["server"], row["resource"], row["attempts"], row["error"]) for row in rows]

    def make_due(self) -> None:
        """Ends all rests."""
        self.change("UPDATE bulk_work SET due = 0")
        self.change(f"UPDATE bulk_pause SET until = {time.time()}")

    def let_expire(self) -> None:
        """Makes it later than any deletion under way may last."""
        self.change("UPDATE journal SET expires = expires - 3600 WHERE state = 'intended'")

    def change(self, statement: str) -> int:
        """Changes the state; how many rows."""
        with closing(sqlite3.connect(state_file(self.site), timeout=20)) as state, state:
            return state.execute(statement).rowcount


class Note(NamedTuple):
    """A journal row of a deletion; times are epoch seconds, ``finished`` 0 for not yet."""

    run: int
    server: str
    root: str
    name: str
    state: str
    detail: str
    at: float
    finished: float


def notes(site: Site) -> list[Note]:
    """All deletions of the journal, oldest first."""
    columns = "run, server, root, name, state, coalesce(detail, ''), at, coalesce(finished, 0)"
    rows = query(site, f"SELECT {columns} FROM journal WHERE verb = 'delete' ORDER BY id")
    return [Note(*row) for row in rows]  # type: ignore[arg-type]


def states(site: Site) -> Counter[str]:
    """How many deletions of the journal are in each state."""
    return Counter(note.state for note in notes(site))


def calls(rows: Sequence[Row]) -> list[tuple[str, int, int, int, int, int]]:
    """Server, resources, done, already, failed and waiting of each partition."""
    counts = ("resources", "done", "already", "failed", "waiting")
    return [(row["server"], *(row[name] for name in counts)) for row in kinds(list(rows), "partition")]


def files(count: int, prefix: str = "a") -> list[str]:
    """Names in two folders."""
    return [f"{prefix}{number % 2}/{number:04}.jpg" for number in range(count)]


@contextmanager
def unremovable(path: Path) -> Iterator[None]:
    """A file that cannot be deleted: made immutable, or a folder where that is not possible."""
    if not subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False).returncode:
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                subprocess.run(["chattr", "-i", str(path)], check=True)
        return
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()
    path.write_bytes(content)


def working(site: Site) -> list[tuple[Any, ...]]:
    """Server, resources, attempts, seconds until it is due, and error of each partition that waits, in order."""
    statement = "SELECT server, resources, attempts, due, error FROM bulk_work ORDER BY server, request, block, id"
    now = time.time()
    return [(server, count, tries, due - now, error) for server, count, tries, due, error in query(site, statement)]  # type: ignore[operator]
