"""Gathering the facts that planners need: from the files a command names, else read for itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from cftools import pipe
from cftools.config.schema import Config
from cftools.config.servers import ServerSettings
from cftools.facts import inventory
from cftools.jobs.hits import count_hot, doubt
from cftools.jobs.inputs import STDIN, opened, shown
from cftools.jobs.job import Job, nothing
from cftools.model.errors import InputUnusable, Unreachable, UsageFault
from cftools.model.rows import Hot, Input, Role, Server
from cftools.plans.values import Node, PlanServer
from cftools.state import journal, seen

if TYPE_CHECKING:
    from cftools.facts.files import Files


class Given(NamedTuple):
    """The facts a command was given as files of rows; ``-`` is stdin, None means: read for yourself."""

    files: str | None = None
    hot: str | None = None
    inventory: str | None = None

    def check(self, *others: str | None) -> None:
        """Raises UsageFault when two of them ask for stdin."""
        if [*self, *others].count(STDIN) > 1:
            raise UsageFault("only one of the inputs can be read from stdin (-)")


class HotFacts(NamedTuple):
    """Hits of each hot file by name. ``fault``: why more files may be hot than these, or empty."""

    hits: dict[str, int]
    inputs: tuple[Input, ...] = ()
    skipped: Mapping[str, int] = MappingProxyType({})
    fault: str = ""


class Facts(NamedTuple):
    """Everything a planner is given, and what must be told about where it came from."""

    node: Node
    inventory: inventory.Inventory
    files: Files
    hot: HotFacts
    inputs: list[Input]
    skipped: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether every input was whole."""
        return self.files.complete and not self.hot.fault and all(one.complete for one in self.inputs)


def gather(job: Job, given: Given, *, wants_hot: bool = True, silent: Collection[str] = ()) -> Facts:
    """Reads all facts of the node; the event logs only for a planner that ``wants_hot`` files. ``silent``: servers that
    just failed their heartbeat.

    Raises InputUnusable, and Unreachable when no source or no destination answered.
    """
    files = read_files(job.config, given.files)
    hot = read_hot(job.config, given.hot, job.now(), job.detail) if wants_hot else HotFacts({})
    taken = read_inventory(job, given.inventory)
    return combine(job, files, hot, taken, silent)


def combine(job: Job, files: Files, hot: HotFacts, taken: inventory.Inventory, silent: Collection[str] = ()) -> Facts:
    """Puts facts together that were read before. ``silent``: servers that just failed their heartbeat."""
    node = Node(
        files=files.frame,
        holdings=taken.holdings,
        servers=plan_servers(job, taken, silent),
        hot=hot.hits,
        ignore_prefixes=tuple(job.config.ignore.prefixes),
        now=job.now(),
        unsettled=frozenset(row.name for row in journal.unsettled_deletes(job.database)),
        begun={part.path.rpartition("/")[2]: name for name, parts in taken.partials.items() for part in parts},
    )
    return Facts(node, taken, files, hot, [*files.inputs, *hot.inputs], files.skipped | dict(hot.skipped))


def read_files(config: Config, given: str | None) -> Files:
    """History joined with grades, or the `file` rows of a stream."""
    from cftools.facts import files

    addresses = [destination.address for destination in config.destinations]
    if given is None:
        return files.read_files(Path(config.inputs.hitcount_history), Path(config.inputs.grade_info), addresses)
    with opened(given) as stream:
        return files.read_file_rows(stream, shown(given), addresses)


def read_hot(config: Config, given: str | None, at: float, detail: Callable[[str], None] = nothing) -> HotFacts:
    """Hits of the hot files: counted in the event logs, or the `hot` rows of a stream.

    Without a ``hot_files`` section nothing is ever hot, and no log is read.
    """
    if given is not None:
        with opened(given) as stream:
            rows = pipe.read(stream, shown(given), [Hot])
        if not rows.end.complete:
            raise InputUnusable(shown(given), "its end row says that it is incomplete", "hot files would be missing")
        return HotFacts({row.name: row.hits for row in rows.rows if isinstance(row, Hot)})
    if config.hot_files is None:
        return HotFacts({})
    found = count_hot(config, at)
    for path in found.missing:
        detail(f"no event log {path}; its part of the window was not counted")
    skipped = {f"event_log_{cause}": count for cause, count in found.skipped.items()}
    return HotFacts(
        {row.name: row.hits for row in found.rows}, found.inputs, skipped, doubt(found, config.hot_files.window)
    )


def read_inventory(job: Job, given: str | None) -> inventory.Inventory:
    """Lists all sources and destinations, or takes the `server` and `holding` rows of a stream.

    Raises Unreachable when no source, or no destination, could be listed.
    """
    wanted = [*job.sources, *job.destinations]
    if given is None:
        taken = inventory.take(job.fleet, wanted, job.config.guards.mount_marker, time.time())
        for row in taken.servers.values():
            if row.state != "ok":
                job.detail(f"{row.server}: {row.state}: {row.error}")
    else:
        with opened(given) as stream:
            rows = pipe.read(stream, shown(given), list(inventory.ROWS))
        taken = inventory.from_rows(rows, shown(given), wanted)
    for role in ("source", "destination"):
        if not any(row.state == "ok" for row in taken.servers.values() if row.role == role):
            why = "; ".join(f"{row.server}: {row.error}" for row in taken.servers.values() if row.role == role)
            raise Unreachable(f"no {role} could be listed ({why or 'none in the inventory'}); nothing was done")
    return taken


def plan_servers(job: Job, taken: inventory.Inventory, silent: Collection[str] = ()) -> tuple[PlanServer, ...]:
    """The servers as planners see them. A remembered heartbeat that failed after the inventory makes a server dead."""
    failed = {name: last.at for name, last in seen.heartbeats(job.database).items() if not last.heartbeat.ok}
    now = time.time()
    oldest = max(taken.at, now - job.config.heartbeat.max_age)
    # One from the future was taken before the clock was set back; nobody knows how long ago.
    dead = set(silent) | {name for name, at in failed.items() if oldest < at <= now}
    servers = []
    roles: list[tuple[Role, ServerSettings]] = [("source", one) for one in job.sources]
    roles += [("destination", one) for one in job.destinations]
    for role, settings in roles:
        row = taken.servers.get(settings.name)
        listed = row is not None and row.state == "ok"
        servers.append(
            PlanServer(
                name=settings.name,
                role=role,
                address=settings.address,
                roots=settings.roots,
                alive=listed and settings.name not in dead,
                listed=listed,
                total=row.total if row else 0,
                used=row.used if row else 0,
                available=_available(settings, row) if row else 0,
                mounted=taken.marked.get(settings.name) is not False,
            )
        )
    return tuple(servers)


def _available(settings: ServerSettings, row: Server) -> int:
    """Bytes free; below zero when more stands there than the configured capacity, for percents refer to that."""
    return row.available if settings.capacity is None else row.total - row.used


def incomplete_inputs(facts: Facts) -> list[str]:
    """What is incomplete, one sentence an input."""
    said = [f"{one.path}: {one.fault or 'incomplete'}" for one in facts.inputs if not one.complete]
    if facts.hot.fault:
        said.append(facts.hot.fault)
    if not facts.files.complete and not said:
        said = ["the file rows say that they are incomplete"]
    return said


def require_complete(facts: Facts) -> None:
    """Raises InputUnusable when history or grades are incomplete: a deletion must not rest on them."""
    said = incomplete_inputs(facts)
    if said:
        path, _, fault = said[0].partition(": ")
        raise InputUnusable(path, fault, "nothing is deleted on its word; wait for the next one")
