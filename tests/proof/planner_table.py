"""What the real planners answer to every view of one file that a manager can have, however stale or partial.

A view is what the history says (which destinations hold the file), what the inventory says, whether a source was seen
to hold it, and which destinations answered. All views of one set of answering destinations are planned in one call, as
files of one node; planners treat files one by one, which `test_planners_treat_files_one_by_one` holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import polars as pl
from memory_node import SIZE

from cftools.model.frames import files_schema, holdings_schema
from cftools.model.rows import Delete
from cftools.plans.dedup import plan_dedup
from cftools.plans.evict import plan_evict
from cftools.plans.values import EvictPolicy, Node, PlanServer

Kind = Literal["all-but-one", "one", "evict"]
KINDS: tuple[Kind, ...] = ("all-but-one", "one", "evict")
POLICY = EvictPolicy(90, 88, 3600.0)
NOW = 1_700_000_000.0
FULL = 1 << 40  # bytes used on each destination: so many that evict wants every file


class View(NamedTuple):
    """One file as a manager sees it: masks of destinations, bit 0 the lowest address."""

    history: int
    inventory: int
    origin: bool


def names_of(destinations: int) -> list[str]:
    """The destinations, the lowest address first."""
    return [f"dst{n}" for n in range(1, destinations + 1)]


def bits(mask: int) -> list[int]:
    """The places of the bits that are set, the lowest first."""
    return [place for place in range(mask.bit_length()) if mask >> place & 1]


def every_view(destinations: int) -> list[View]:
    """Every view of one file."""
    masks = range(1 << destinations)
    return [View(history, inventory, origin) for history in masks for inventory in masks for origin in (False, True)]


def node(destinations: int, answering: int, views: Mapping[str, View]) -> Node:
    """The facts of a node whose files are seen so; only the servers of the mask ``answering`` were listed."""
    addresses = [f"10.0.0.{8 + n}" for n in range(1, destinations + 1)]
    names = names_of(destinations)
    servers = [PlanServer("src1", "source", "10.0.1.1", ("/origin",), alive=True, listed=True)]
    for place, (name, address) in enumerate(zip(names, addresses, strict=True)):
        there = bool(answering >> place & 1)
        servers.append(PlanServer(name, "destination", address, ("/data",), there, there, FULL + 1, FULL, 1))
    files = [
        (name, rank, SIZE, 0, 0, [addresses[place] for place in bits(view.history)], 0)
        for rank, (name, view) in enumerate(views.items(), 1)
    ]
    seen: list[tuple[str, int, str, int, int]] = []
    for name, view in views.items():
        seen += [("src1", 0, name, SIZE, 0)] * view.origin
        seen += [(names[place], 0, name, SIZE, 0) for place in bits(view.inventory & answering)]
    return Node(
        files=pl.DataFrame(files, schema=files_schema(addresses), orient="row"),
        holdings=pl.DataFrame(seen, schema=holdings_schema(["src1", *names]), orient="row"),
        servers=tuple(servers),
        hot={},
        ignore_prefixes=(),
        now=NOW,
    )


def plan(kind: Kind, facts: Node) -> list[Delete]:
    """What the real planner of this kind answers."""
    return plan_evict(facts, POLICY).rows if kind == "evict" else plan_dedup(facts, kind).rows


def by_name(rows: Iterable[Delete]) -> dict[str, tuple[Delete, ...]]:
    """The rows of each file in their order, without the file's name and rank."""
    found: dict[str, list[Delete]] = defaultdict(list)
    for row in rows:
        found[row.name].append(Delete(row.server, "", row.size, row.reason, row.keeper))
    return {name: tuple(some) for name, some in found.items()}


class Table:
    """The real planners' rows for every view of one file."""

    def __init__(self, destinations: int) -> None:
        self.destinations = destinations
        self.views = every_view(destinations)
        self._rows: dict[tuple[Kind, int], dict[View, tuple[Delete, ...]]] = {}
        names = {f"f{number}": view for number, view in enumerate(self.views)}
        for answering in range(1 << destinations):
            facts = node(destinations, answering, names)
            for kind in KINDS:
                found = by_name(plan(kind, facts))
                self._rows[kind, answering] = {view: found.get(name, ()) for name, view in names.items()}

    def rows(self, kind: Kind, answering: int, view: View) -> tuple[Delete, ...]:
        """The rows for a file that is seen so, without its name."""
        return self._rows[kind, answering][view]

    @property
    def every_plan(self) -> list[tuple[Delete, ...]]:
        """Every answer that any view brings, dedup's first; for evict also each part of one, as its need is less."""
        found = dict.fromkeys(rows for table in self._rows.values() for rows in table.values() if rows)
        parts: dict[tuple[Delete, ...], None] = {}
        for rows in found:
            if rows[0].reason == "disk":
                parts |= dict.fromkeys(tuple(rows[place] for place in bits(mask)) for mask in range(1, 1 << len(rows)))
            else:
                parts[rows] = None
        return sorted(parts, key=lambda rows: [(row.reason != "duplicate", row.keeper, row.server) for row in rows])


def named(rows: Sequence[Delete], name: str) -> list[Delete]:
    """The rows for the file of this name."""
    return [Delete(row.server, name, row.size, row.reason, row.keeper) for row in rows]


@cache
def table(destinations: int) -> Table:
    """The table of a node with so many destinations, made once."""
    return Table(destinations)
