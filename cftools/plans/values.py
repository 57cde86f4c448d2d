"""What planners are given and what they give back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

import msgspec
import polars as pl

from cftools.model.rows import Role

Row = TypeVar("Row")


def df_percent(used: int, capacity: int) -> int:
    """How full a disk is as df counts it: whole percents, rounded up. ``capacity`` is used + available bytes."""
    return -(-100 * used // capacity) if capacity > 0 else 0


class PlanServer(msgspec.Struct, frozen=True):
    """One server. Bytes.

    ``alive``: it answered the last heartbeat. ``listed``: its inventory is complete (state ok); without that its
    numbers and its content prove nothing. ``mounted``: no mount marker is missing in its roots.
    """

    name: str
    role: Role
    address: str
    roots: tuple[str, ...]
    alive: bool
    listed: bool
    total: int = 0
    used: int = 0
    available: int = 0
    mounted: bool = True

    @property
    def capacity(self) -> int:
        """Bytes that percentages refer to: used + available, as df has it."""
        return self.used + self.available

    @property
    def usable(self) -> bool:
        """Whether it may take part in a copy and may be believed."""
        return self.alive and self.listed and self.mounted

    @property
    def left_out(self) -> str:
        """A note for people: why it takes no part; only for a server that is not usable."""
        if not self.alive:
            return f"{self.name}: left out, it does not answer"
        return f"{self.name}: left out, " + (
            "its mount marker is missing" if self.listed else "its listing is not complete"
        )


class Node(msgspec.Struct, frozen=True, eq=False):
    """The facts about one node.

    ``files`` and ``holdings`` have the columns of `cftools.model.frames`; ``files`` has each name once, ``holdings``
    only rows of complete listings. ``servers`` has the sources in the order in which they are preferred. ``hot`` is
    hits by name. ``now`` is epoch seconds. ``begun``: on which destination a part of an unfinished copy lies, by the
    last part of the file's name. ``unsettled``: files of which a deletion is not settled; they are deleted nowhere.
    """

    files: pl.DataFrame
    holdings: pl.DataFrame
    servers: tuple[PlanServer, ...]
    hot: Mapping[str, int]
    ignore_prefixes: tuple[str, ...]
    now: float
    begun: Mapping[str, str] = {}
    unsettled: frozenset[str] = frozenset()

    @property
    def sources(self) -> list[PlanServer]:
        """The sources, in order."""
        return [server for server in self.servers if server.role == "source"]

    @property
    def destinations(self) -> list[PlanServer]:
        """The destinations, in order."""
        return [server for server in self.servers if server.role == "destination"]


class Plan(msgspec.Struct, Generic[Row]):
    """Rows to carry out, how many candidates were refused by reason, and notes for people."""

    rows: list[Row]
    refused: dict[str, int]
    notes: list[str] = []


class CopyPolicy(msgspec.Struct, frozen=True):
    """How copies are placed.

    ``target_percent``: a destination is filled up to this share of used + available. ``cooling``: (source,
    destination) pairs that rest now. ``last_destination``: where round-robin ended the last time; empty: start with
    the lowest address.
    """

    target_percent: int
    spread: Literal["most-free", "round-robin"] = "most-free"
    cooling: frozenset[tuple[str, str]] = frozenset()
    last_destination: str = ""


class Running(msgspec.Struct, frozen=True):
    """A copy of an earlier plan that is not over: ``ready`` waits for its source, ``working`` is being made.

    Its name is not copied again, its bytes count on its destination, and its source and destination count as busy; any
    of these may be empty, and then counts for nothing.
    """

    name: str
    size: int
    source: str
    destination: str
    state: Literal["ready", "working"]


class EvictPolicy(msgspec.Struct, frozen=True):
    """When a destination is too full, how far it is emptied, and how long (seconds) a copy stays at least."""

    limit_percent: int
    target_percent: int
    min_residency: float
