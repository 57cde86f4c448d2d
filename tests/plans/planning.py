"""Small nodes for the tests of the planners, written as plain tuples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl
from hypothesis import strategies as st

from cftools.model.frames import files_schema, holdings_schema
from cftools.plans.values import Node, PlanServer

NOW = 1_700_000_000.0
OLD = int(NOW) - 1_000_000
ADDRESSES = {"dst1": "10.0.0.9", "dst2": "10.0.0.10", "dst3": "10.0.0.11"}  # as text they would sort 2, 3, 1
PREFIXES = ("M64", "MN1")


def source(name: str, **changes: Any) -> PlanServer:
    server = PlanServer(name, "source", f"10.1.0.{name[-1]}", ("/data2", "/data3"), alive=True, listed=True)
    return msgspec.structs.replace(server, **changes)


def destination(name: str, used: int = 0, available: int = 1000, **changes: Any) -> PlanServer:
    server = PlanServer(name, "destination", ADDRESSES[name], ("/data",), True, True, used + available, used, available)
    return msgspec.structs.replace(server, **changes)


SERVERS = (source("src1"), source("src2"), destination("dst1"), destination("dst2"), destination("dst3"))


def changed(servers: Sequence[PlanServer], name: str, **changes: Any) -> tuple[PlanServer, ...]:
    """The servers with one of them changed."""
    return tuple(msgspec.structs.replace(one, **changes) if one.name == name else one for one in servers)


def node(
    files: Iterable[tuple[str, int, int, str]],
    holdings: Iterable[tuple[Any, ...]],
    servers: Sequence[PlanServer] = SERVERS,
    hot: Mapping[str, int] | None = None,
) -> Node:
    """``files``: name, rank, size, names of holders with spaces; ``holdings``: server, name, size[, mtime[, root]]."""
    listed = {one.name for one in servers if one.listed}
    schema: Any = files_schema(list(ADDRESSES.values()))
    file_rows = [
        (
            name,
            rank,
            size,
            0,
            0,
            sorted((ADDRESSES[holder] for holder in holders.split()), key=list(ADDRESSES.values()).index),
            0,
        )
        for name, rank, size, holders in files
    ]
    seen = []
    for server, name, size, *more in holdings:
        mtime, root = more[0] if more else OLD, more[1] if len(more) > 1 else 0
        if server in listed:
            seen.append((server, root, name, size, mtime))
    return Node(
        files=pl.DataFrame(file_rows, schema=schema, orient="row"),
        holdings=pl.DataFrame(seen, schema=holdings_schema([one.name for one in servers]), orient="row"),
        servers=tuple(servers),
        hot=hot or {},
        ignore_prefixes=PREFIXES,
        now=NOW,
    )


NAMES = ["a.mpg", "b-1.mpg", "c 'd'.mpg", "sub/e.mpg", "é\uf7ff.mpg", "M64x.mpg", "../x.mpg", "g.mpg", "h.mpg"]


class Facts(msgspec.Struct):
    """A random node in plain values, for the planners and for the slow plain answers."""

    files: list[tuple[str, int, int, str]]
    holdings: list[tuple[str, str, int, int]]
    servers: tuple[PlanServer, ...]
    hot: dict[str, int]

    @property
    def node(self) -> Node:
        return node(self.files, self.holdings, self.servers, self.hot)

    @property
    def seen(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Size and mtime of what listed servers hold."""
        listed = {one.name for one in self.servers if one.listed}
        return {(server, name): (size, mtime) for server, name, size, mtime in self.holdings if server in listed}


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    servers = tuple(
        msgspec.structs.replace(
            one,
            alive=draw(st.integers(0, 7)) > 0,
            listed=draw(st.integers(0, 7)) > 0,
            used=draw(st.integers(0, 100)) if one.role == "destination" else 0,
            available=draw(st.integers(0, 60)) if one.role == "destination" else 0,
        )
        for one in (*SERVERS[:2], source("src3"), *SERVERS[2:])
    )
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    sizes = st.sampled_from([10, 10, 10, 20, 31, 0])
    ranks = draw(st.permutations(range(1, len(names) + 1)))
    files = [
        (name, draw(st.sampled_from([rank, rank, rank, 0])), draw(sizes), draw(_some_of(ADDRESSES)))
        for name, rank in zip(names, ranks, strict=True)
    ]
    size_of = {name: size for name, _, size, _ in files}
    holdings = []
    for name in NAMES:
        for server in draw(_some_of([one.name for one in servers])).split():
            size = size_of.get(name, 10) if draw(st.integers(0, 5)) else 20
            holdings.append((server, name, size, draw(st.sampled_from([OLD, OLD, int(NOW) - 50, int(NOW) + 50]))))
    hot = draw(st.dictionaries(st.sampled_from([*NAMES, "nowhere.mpg"]), st.integers(1, 3), max_size=3))
    return Facts(sorted(files, key=lambda row: row[1]), holdings, servers, hot)


def _some_of(choices: Iterable[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(list(choices)), unique=True).map(" ".join)
