"""A node whose servers are folders of this machine, reached through a local shell that tests can tamper with."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cftools.actions import protocol, settling
from cftools.config.servers import ServerSettings
from cftools.model import names
from cftools.model.rows import Delete, Outcome
from cftools.remote.local import LocalSession, LocalTransport
from cftools.remote.pool import Fleet
from cftools.remote.transport import Reply, Script, nothing
from cftools.state import runs
from cftools.state.file_locks import FileLocks
from cftools.state.sqlite import SqliteDatabase

CONTENT = b"0123456789" * 10
SIZE = len(CONTENT)
ALL_BYTES = bytes(byte for byte in range(1, 256) if byte != ord("/"))
ODD = [
    b"plain.mpg",
    b"two words.mpg",
    b" ends and begins ",
    b"-rf",
    b"--",
    b"new\nline",
    b"\n",
    b"q'uo\"te",
    b"$(touch pwned)`touch pwned`",
    b"*?[a]",
    b"back\\slash\\n\\0101\\c\\",
    b"bar|.",
    b"|.",
    b"%s%n%b",
    b"\xff\xfe\x80\x81\x88",
    b"\xef\x9e\x80",  # a real U+F780, which the text form takes for three invalid bytes
    b"end",
    b"dot.",
    b"~",
    b"#c",
    b"tab\tcr\r",
    b"long" * 63 + b"lon",
    ALL_BYTES,
    "드라마/여름 1.mpg".encode(),
    b"-sub/-dir/-deep",
    b"sub\nfolder/|\\x/q'",
]


def text(raw: bytes) -> str:
    """The name in the form rows have it."""
    return names.text_from_bytes(raw)


class Wire(LocalTransport):
    """A local server. ``calls`` notes (server, verb) in order of time; the hooks see and change what passes.

    ``before`` is called ahead of each script, ``question`` changes its stdin, ``after`` its reply; each may raise.
    """

    def __init__(self, server: str, calls: list[tuple[str, str]] | None = None) -> None:
        super().__init__(server)
        self.calls = [] if calls is None else calls
        self.before: Callable[[Script], None] = lambda _: None
        self.question: Callable[[bytes], bytes] = lambda stdin: stdin
        self.after: Callable[[Script, Reply], Reply] = lambda _, reply: reply
        self._turn = threading.Lock()

    def call(
        self, script: Script, stdin: bytes = b"", *, repeatable: bool = False, limit: float | None = None
    ) -> Reply:
        """See `Transport.call`."""
        with self._turn:
            self.calls.append((self.server, script.verb))
        self.before(script)
        return self.after(script, super().call(script, self.question(stdin), repeatable=repeatable, limit=limit))

    def open(self, script: Script, watch: Callable[[], None] = nothing) -> LocalSession:
        """See `Transport.open`."""
        with self._turn:
            self.calls.append((self.server, script.verb))
        self.before(script)
        return super().open(script, watch)


def cut(length: int, verb: str = "") -> Callable[[Script, Reply], Reply]:
    """An ``after`` that lets that many bytes of the reply (to ``verb``, or to all) through."""
    return lambda script, reply: reply._replace(out=reply.out[:length]) if verb in ("", script.verb) else reply


def raising(fault: Exception, verb: str) -> Callable[[Script], None]:
    """A ``before`` that raises the fault ahead of the scripts of that verb."""

    def hook(script: Script) -> None:
        if script.verb == verb:
            raise fault

    return hook


def put(root: Path, name: bytes | str, content: bytes = CONTENT) -> Path:
    """Writes a file below a root; returns where it is."""
    raw = names.bytes_from_text(name) if isinstance(name, str) else name
    path = root / os.fsdecode(raw)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Everything below a folder: content of files, the target of links, the kind of other things."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            if path.is_symlink():
                found[str(path.relative_to(root))] = b"-> " + os.fsencode(path.readlink())
            elif path.is_file():
                found[str(path.relative_to(root))] = path.read_bytes()
            else:
                found[str(path.relative_to(root))] = b"a folder" if path.is_dir() else b"something else"
    return found


def fake_program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, body: str) -> None:
    """Puts a shell script ahead of the real program of that name; ``$real`` in it is the real one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\nreal=$(PATH="${{PATH#*:}}" command -v {name})\n{body}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


class LocalNode:
    """Sources src1.. and destinations dest1.. (dest1 has the lowest address), their state, and the delete protocol."""

    def __init__(self, folder: Path, *, sources: int = 1, destinations: int = 3, roots: int = 1) -> None:
        self.folder = folder
        self.calls: list[tuple[str, str]] = []
        self.settings = [
            ServerSettings(
                f"src{n}", "source", f"10.0.1.{n}", tuple(str(folder / f"src{n}" / f"root{r}") for r in range(roots))
            )
            for n in range(1, sources + 1)
        ]
        self.settings += [
            ServerSettings(f"dest{n}", "destination", f"10.0.0.{8 + n}", (str(folder / f"dest{n}" / "root0"),))
            for n in range(1, destinations + 1)
        ]
        self.wires = {one.name: Wire(one.name, self.calls) for one in self.settings}
        for one in self.settings:
            for root in one.roots:
                Path(root).mkdir(parents=True, exist_ok=True)
        self.fleet = Fleet(self.settings, lambda settings: self.wires[settings.name], 8)
        self.database = SqliteDatabase(folder / "state" / "state.db")
        weakref.finalize(self, self.database.close)
        self.locks = FileLocks(folder / "state" / "locks", "test")
        self.run = runs.begin(self.database, "test", time.time())

    def root(self, server: str, number: int = 0) -> Path:
        """A root of a server."""
        return self.folder / server / f"root{number}"

    def put(self, name: bytes | str, *servers: str, content: bytes = CONTENT) -> None:
        """Writes the file on these servers."""
        for server in servers:
            put(self.root(server), name, content)

    def holders(self, name: str) -> list[str]:
        """The servers on which the file stands."""
        path = os.fsdecode(names.bytes_from_text(name))
        return [one.name for one in self.settings for root in one.roots if (Path(root) / path).is_file()]

    def tools(self, **changes: object) -> settling.Tools:
        """What a deletion needs, with these parts changed."""
        tools = settling.Tools(self.fleet, self.database, self.locks, self.run, "", time.time)
        return tools._replace(**changes)  # type: ignore[arg-type]

    def delete(self, rows: Sequence[Delete], **changes: object) -> list[Outcome]:
        """Carries these rows out as one batch."""
        return [one for batch in protocol.delete(self.tools(**changes), [rows]) for one in batch]

    def expire(self) -> None:
        """Lets the time pass in which a deletion under way may still happen."""
        self.database.execute("UPDATE journal SET expires = 0")

    def journal(self) -> list[tuple[str, str, str, str]]:
        """Server, name, state and detail of each journal row."""
        return self.database.rows("SELECT server, name, state, detail FROM journal ORDER BY id")


def duplicate(server: str, name: str = "a.mpg", keeper: str = "dest3", size: int = SIZE) -> Delete:
    """A row of dedup."""
    return Delete(server, name, size, "duplicate", keeper, 1)


def surplus(server: str, name: str = "a.mpg", size: int = SIZE) -> Delete:
    """A row of evict."""
    return Delete(server, name, size, "disk", rank=1)


def states(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    """Server, name and state of each outcome."""
    return [(one.server, one.name, one.state) for one in outcomes]
