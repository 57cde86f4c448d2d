"""What every way to send a bulk-delete request shares: looking at all of it, then storing it whole or not at all.

The names wait in a file without a name until all of them were looked at: no transaction is open while input comes in,
and no memory holds a million of them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cftools.config.schema import BulkDeleteTarget
from cftools.facts import requested
from cftools.facts.requested import Block
from cftools.jobs.job import Job
from cftools.model import names
from cftools.model.errors import GuardRefused, InputUnusable, StateUnusable, UsageFault
from cftools.model.rows import Request
from cftools.state import requests

LONGEST_KEY = 200
EXAMPLES = 3  # names a broken guard shows, and a refusal of which nobody reads the names one by one
READ_BYTES = 1 << 20


def accept(
    job: Job,
    key: str,
    target: str,
    blocks: Iterable[Block],
    origin: str,
    *,
    dry_run: bool = False,
    report: Callable[[str], None] | None = None,
) -> Request:
    """Stores a request; it is durable when this returns. ``blocks``: its names; ``origin``: where they come from.

    Raises UsageFault for a key or target that cannot be, InputUnusable for names that cannot be asked for (each of
    which goes to ``report``) or when the key stands for another request, GuardRefused when it asks for too much,
    StateUnusable. Nothing is stored then. With ``dry_run`` nothing ever is.
    """
    with spooled(job, key, target, blocks, origin, report=report) as spool:
        return store(job, key, target, spool, dry_run=dry_run)


class Spool:
    """The names of a request that were all looked at. ``digest``: SHA-256 over them, a NUL after each, in hex."""

    def __init__(self, stream: BinaryIO, origin: str) -> None:
        self._stream = stream
        self._sum = hashlib.sha256()
        self.origin = origin
        self.resources = 0

    def add(self, block: bytes) -> None:
        """Takes a block in. Raises StateUnusable when there is no room for it."""
        self.resources += block.count(b"\0")
        self._sum.update(block)
        with _room(self.origin):
            left = memoryview(block)
            while left:
                left = left[self._stream.write(left) :]

    @property
    def digest(self) -> str:
        """See above."""
        return self._sum.hexdigest()

    def blocks(self, size: int) -> Iterator[bytes]:
        """The names in blocks of ``size``, the last one with what is left."""
        with _room(self.origin):
            self._stream.seek(0)
        waiting: list[bytes] = []
        rest = b""
        while True:
            with _room(self.origin):
                piece = self._stream.read(READ_BYTES)
            if not piece:
                break
            *whole, rest = (rest + piece).split(b"\0")
            waiting += whole
            end = len(waiting) - len(waiting) % size
            for start in range(0, end, size):
                yield b"\0".join(waiting[start : start + size]) + b"\0"
            waiting = waiting[end:]
        if waiting:
            yield b"\0".join(waiting) + b"\0"


@contextmanager
def _room(origin: str) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        what = f"no place for the names of a request from {origin}: {fault.strerror or fault}; nothing was stored"
        raise StateUnusable(f"{what}; make room in state.directory and send it again") from fault


@contextmanager
def spooled(
    job: Job,
    key: str,
    target: str,
    blocks: Iterable[Block],
    origin: str,
    *,
    report: Callable[[str], None] | None = None,
) -> Iterator[Spool]:
    """The names of a request that may be accepted; what cannot be raises as `accept` says."""
    check_key(key)
    rules = _Rules(job, target_of(job, target))
    folder = Path(job.config.state.directory)
    with _room(origin):
        folder.mkdir(parents=True, exist_ok=True)
        stream = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (only the opening is guarded)
    with stream:
        spool = Spool(stream, origin)
        _take_in(spool, blocks, rules, report)
        yield spool


def _take_in(spool: Spool, blocks: Iterable[Block], rules: _Rules, report: Callable[[str], None] | None) -> None:
    """Puts all names into the spool. Raises InputUnusable and GuardRefused."""
    read, bad = 0, 0
    told: list[str] = []
    for block in blocks:
        for one in requested.unfit(block, read + 1):
            bad += 1
            if report:
                report(f"{spool.origin}: {one}")
            elif len(told) < EXAMPLES:
                told.append(str(one))
        read += block.count(b"\0") if isinstance(block, bytes) else len(block)
        rules.check_count(read)
        if isinstance(block, bytes):
            rules.look_at(block)
            if not bad:
                spool.add(block)
    if bad:
        what = f"{bad:,} of {read:,} names cannot be asked for"
        raise InputUnusable(spool.origin, ": ".join([what, *filter(None, ["; ".join(told)])]), "nothing was stored")
    rules.check()


def store(job: Job, key: str, target: str, spool: Spool, *, dry_run: bool = False) -> Request:
    """Stores the request whose names were spooled for this key and target; raises as `accept` says."""
    content = requests.Content(key, target, spool.resources, spool.digest, spool.origin)
    if dry_run:
        known = requests.is_known(job.database, content)
    else:
        place = target_of(job, target)
        servers = [place.url] if place.url else sorted(place.servers)
        blocks = spool.blocks(job.config.bulk_delete.partition)
        with job.stop.step():
            known = not requests.accept(job.database, content, blocks, servers, job.now())
    return Request(key, target, spool.resources, known)


def check_key(key: str) -> None:
    """Raises UsageFault when this cannot be the key of a request."""
    why = ""
    if not key:
        why = "it is empty"
    elif len(key) > LONGEST_KEY:
        why = f"it is longer than {LONGEST_KEY} characters"
    elif not key.isprintable():
        why = "it has characters that cannot be printed"
    elif key != key.strip():
        why = "it begins or ends with a blank"
    if why:
        raise UsageFault(f"request key '{_shown(key[:LONGEST_KEY])}': {why}")


def target_of(job: Job, name: str) -> BulkDeleteTarget:
    """The target of this name. Raises UsageFault that lists those there are."""
    targets = job.config.bulk_delete.targets
    if name not in targets:
        known = ", ".join(sorted(targets)) or "none; add one under bulk_delete.targets"
        raise UsageFault(f"no target '{_shown(name)}' in the config; there are: {known}")
    return targets[name]


def _shown(word: str) -> str:
    """A word of the command line, which may not be UTF-8, for people."""
    return names.display(word.encode(errors="backslashreplace").decode())


class _Protect(NamedTuple):
    """A pattern of names that may not be asked for. ``literal``: bytes that every such name holds, which are looked for
    in a million names in no time."""

    pattern: str
    expression: re.Pattern[str]
    literal: bytes

    @classmethod
    def of(cls, pattern: str) -> _Protect:
        text = names.text_from_bytes(pattern.encode())
        pieces = re.split(r"[*?]", text.split("[")[0])
        return cls(pattern, re.compile(fnmatch.translate(text)), names.bytes_from_text(max(pieces, key=len)))


class _Rules:
    """What the config says that no request may ask for."""

    def __init__(self, job: Job, target: BulkDeleteTarget) -> None:
        self._most = job.config.bulk_delete.max_resources
        self._prefixes = [names.bytes_from_text(prefix) for prefix in job.config.ignore.prefixes]
        patterns = [*job.config.bulk_delete.protect, *target.protect]
        self._protect = [_Protect.of(one) for one in dict.fromkeys(patterns)]
        self._broken: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def check_count(self, count: int) -> None:
        """Raises GuardRefused at once when there are too many names; the input may have no end."""
        if count > self._most:
            what = f"max_resources: the request names more than {self._most:,} files"
            raise GuardRefused([f"{what}; divide it, or raise bulk_delete.max_resources"])

    def look_at(self, block: bytes) -> None:
        """Notes the names of a block that may not be asked for."""
        whole = b"\0" + block
        for prefix in self._prefixes:
            if b"\0" + prefix in whole:
                found = [name for name in requested.each(block) if name.startswith(prefix)]
                which = f"begin with '{names.display(names.text_from_bytes(prefix))}'"
                self._note("ignore.prefixes: ", which, map(names.text_from_bytes, found))
        likely = [rule for rule in self._protect if rule.literal in block]
        if not likely:
            return
        match = re.compile("|".join(rule.expression.pattern for rule in likely)).match
        for name in [name for name in names.text_from_bytes(block).split("\0")[:-1] if match(name)]:
            for rule in likely:
                if rule.expression.match(name):
                    self._note("protect: ", f"match '{rule.pattern}'", [name])

    def check(self) -> None:
        """Raises GuardRefused with a sentence for each rule that names were found against."""
        if self._broken:
            raise GuardRefused([self._sentence(what, count) for what, count in self._broken.items()])

    def _sentence(self, what: str, count: int) -> str:
        shown = ", ".join(self._examples[what]) + (", ..." if count > EXAMPLES else "")
        return f"{what} ({count:,} of them: {shown}); nothing was stored"

    def _note(self, guard: str, which: str, found: Iterable[str]) -> None:
        what = f"{guard}the request names files that {which}"
        examples = self._examples.setdefault(what, [])
        for name in found:
            self._broken[what] += 1
            if len(examples) < EXAMPLES:
                examples.append(names.display(name))
