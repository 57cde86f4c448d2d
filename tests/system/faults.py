"""What the tests of the manager's own faults share: processes under way, the journal, locks, slow servers."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from site_of_sshd import Row, Site

from cftools.state.file_locks import FileLocks
from cftools.state.locks import Holder

HOOKS = Path(__file__).parent / "fault_hooks"
PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    rows: list[Row]
    talk: str


class JournalRow(NamedTuple):
    """One row of the journal."""

    id: int
    verb: str
    server: str
    name: str
    state: str
    detail: str


def environment(**faults: object) -> dict[str, str]:
    """The environment of a process with these faults, see `fault_hooks`."""
    paths = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": paths} | {f"FAULT_{name.upper()}": str(value) for name, value in faults.items()}


def start(site: Site, *words: str, **faults: object) -> subprocess.Popen[bytes]:
    """Starts a command."""
    return subprocess.Popen(
        site.command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(**faults)
    )


def ended(process: subprocess.Popen[bytes], seconds: float = 40) -> Ended:
    """Waits for the end of a process; there is never a traceback."""
    try:
        out, talk = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert b"Traceback" not in talk, talk.decode()
    return Ended(process.returncode, [json.loads(line) for line in out.splitlines()], talk.decode())


def run(site: Site, *words: str, **faults: object) -> Ended:
    """Runs a command to its end."""
    return ended(start(site, *words, **faults))


def wait_for(what: Callable[[], object], seconds: float = 20) -> None:
    """Waits until it is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def state_file(site: Site) -> Path:
    """The state database of a site."""
    return site.folder / "state" / "state.db"


def query(site: Site, statement: str) -> list[tuple[object, ...]]:
    """Rows of the state database, read by this process."""
    with closing(sqlite3.connect(state_file(site), timeout=20)) as state:
        return state.execute(statement).fetchall()


def journal(site: Site) -> list[JournalRow]:
    """The whole journal; empty before there is one."""
    if not state_file(site).exists() or not query(site, "SELECT 1 FROM sqlite_master WHERE name = 'journal'"):
        return []
    rows = query(site, "SELECT id, verb, server, name, state, detail FROM journal ORDER BY id")
    return [JournalRow(*row) for row in rows]  # type: ignore[arg-type]


def locks_of(site: Site) -> FileLocks:
    """The locks of a site, for this process to look at or to hold."""
    return FileLocks(site.folder / "state" / "locks", "test")


def held(site: Site) -> list[Holder]:
    """The locks that are held."""
    return locks_of(site).held()


def parts(site: Site) -> list[Path]:
    """The parts of unfinished copies on all destinations."""
    return [path for server in site.destinations for path in site.root(server).glob(".cftools-part-*/*")]


def slow(site: Site, program: str, seconds: float = 1.0) -> Path:
    """Lets a program of servers that are started from now on take its time; the file returned is there when one is at
    it. Remove that file to wait for the next one."""
    folder = site.folder / "shims"
    folder.mkdir(exist_ok=True)
    mark = folder / f"{program}-began"
    shim = folder / program
    shim.write_text(f'#!/bin/sh\n: > {mark}\nsleep {seconds}\nPATH={PLAIN_PATH}\nexec {program} "$@"\n')
    shim.chmod(0o755)
    site.servers.environment["PATH"] = f"{folder}:{PLAIN_PATH}"
    return mark


def duplicates(site: Site, count: int, prefix: str = "f") -> dict[str, list[str]]:
    """Puts files on the source and on all destinations; what the history is to say about them."""
    names = [f"{prefix}{number:03}.mpg" for number in range(count)]
    for name in names:
        site.put(name, "src1", *site.destinations)
    return {name: list(site.destinations) for name in names}


def gone(site: Site, names: list[str]) -> set[tuple[str, str]]:
    """Server and name of each copy that is not on its destination."""
    return {(server, name) for name in names for server in site.destinations if server not in site.holders(name)}
