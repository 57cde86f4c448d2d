"""Which files are copied to a destination, from where and to where, best first.

Candidates are the known files: hot ones first, most hits first, then by rank; the rest by rank. How sources and
destinations are chosen stands in `cftools.plans.placement`. A destination whose inventory is not complete gets no
copies, because neither its room nor its content is known; whether it has a file is then known by the history only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from cftools.model import rows
from cftools.plans import known
from cftools.plans.placement import Placement
from cftools.plans.values import CopyPolicy, Node, Plan, PlanServer, Running

FIRST_PIECE = 50_000  # candidates looked up on the sources at once; each further piece is GROWTH times as large
GROWTH = 4


class Offer(NamedTuple):
    """One candidate with the free sources that have it, and the number of each one's root."""

    position: int
    name: str
    size: int
    rank: int
    hits: int
    smallest: int
    sources: list[int]
    roots: list[int]


def plan_copies(
    node: Node, policy: CopyPolicy, running: Sequence[Running] = (), limit: int | None = None
) -> Plan[rows.Copy]:
    """The copies to make, at most ``limit``, best first; those of one source are made one after the other.

    ``running``: copies of earlier plans that are not over; their files, bytes and servers are reckoned with.
    """
    candidates, refused = _candidates(node, running)
    plan = Plan[rows.Copy]([], {})
    destinations = [server for server in node.destinations if server.usable]
    if destinations:
        busy = {copy.source for copy in running if copy.state == "working"}
        sources = [server for server in node.sources if server.usable and server.name not in busy]
        placement = Placement(sources, destinations, policy, running)
        _fill(plan, node, _Offers(node, candidates, sources, refused), placement, limit)
    elif candidates.height:
        refused["no-destination"] += candidates.height
    plan.refused = dict(refused)
    if not plan.rows:
        plan.notes.append(known.why_empty("copies", plan.refused))
    plan.notes += [server.left_out for server in node.servers if not server.usable]
    return plan


def _candidates(node: Node, running: Sequence[Running]) -> tuple[pl.DataFrame, Counter[str]]:
    """What may be copied, best first, with hits and the smallest size from there on; and what is refused."""
    files = node.files.select("name", "rank", "size", held=pl.col("holders").list.len() > 0)
    hot = known.hot_frame(node.hot)
    sieve = known.Sieve(files)
    strangers = hot.filter(~known.found(hot, files))
    sieve.count("unknown", strangers)
    sieve.refuse("unknown", ~known.IS_KNOWN)
    sieve.refuse("ignored-prefix", known.ignored(node.ignore_prefixes))
    sieve.refuse("on-destination", pl.col("held"))
    there = known.of_servers(node.holdings, node.destinations)
    sieve.refuse("on-destination", known.found(sieve.frame, there))
    sieve.refuse("copying", known.found(sieve.frame, known.names_frame(copy.name for copy in running)))
    sieve.refuse("unsafe-name", known.unsafe(sieve.frame))
    left = sieve.frame.select("name", "size", "rank")
    first = known.match(left, hot).select("name", "size", "rank", "hits").sort("hits", "rank", descending=[True, False])
    rest = left.filter(~known.found(left, hot)).with_columns(hits=pl.lit(0, pl.Int64)).sort("rank", maintain_order=True)
    ordered = pl.concat([first, rest])
    return ordered.with_columns(smallest=pl.col("size").reverse().cum_min().reverse()), sieve.refused


class _Offers:
    """The candidates that a free source has, piece by piece, so that a plan that is soon full looks at few."""

    def __init__(
        self, node: Node, candidates: pl.DataFrame, sources: Sequence[PlanServer], refused: Counter[str]
    ) -> None:
        """``sources`` are the free ones; candidates without one are counted in ``refused``."""
        self.candidates, self.refused, self.sources = candidates, refused, sources
        usable = [server for server in node.sources if server.usable]
        free = {server.name: place for place, server in enumerate(sources)}
        self._numbers = pl.DataFrame(
            {
                "server": pl.Series([server.name for server in usable], dtype=node.holdings.schema["server"]),
                "source": pl.Series([free.get(server.name) for server in usable], dtype=pl.Int64),
            }
        )
        self._holdings = known.of_servers(node.holdings, usable).select("server", "root", "name", "size")

    def pieces(self) -> Iterator[pl.DataFrame]:
        """Slices of the candidates, numbered as ``position``."""
        start, length = 0, FIRST_PIECE
        while start < self.candidates.height:
            yield self.candidates.slice(start, length).with_row_index("position", start)
            start, length = start + length, length * GROWTH

    def of(self, piece: pl.DataFrame) -> pl.DataFrame:
        """The rows of ``piece`` that a free source has, as columns of `Offer`; the others are counted."""
        held = known.match(self._holdings, piece, "size").join(self._numbers, on="server", how="inner")
        any_source = held["position"].n_unique()
        held = held.filter(pl.col("source").is_not_null()).sort("position", "source", "root")
        held = held.unique(["position", "source"], keep="first", maintain_order=True)
        lists = held.group_by("position", maintain_order=True).agg("source", "root")
        self.count("no-source", piece.height - any_source)
        self.count("source-busy", any_source - lists.height)
        return piece.join(lists, on="position", how="inner", maintain_order="left").select(
            "position", "name", "size", "rank", "hits", "smallest", "source", "root"
        )

    def count(self, reason: str, count: int) -> None:
        """Counts refused candidates."""
        if count:
            self.refused[reason] += count


def _fill(plan: Plan[rows.Copy], node: Node, offers: _Offers, placement: Placement, limit: int | None) -> None:
    """Places one candidate after the other until all are placed, nothing fits any more, or ``limit`` is reached."""
    roots = {server.name: server.roots for server in node.sources}
    looked_at = 0
    for piece in offers.pieces():
        looked_at += piece.height
        rest = offers.candidates.height - looked_at
        stop = _stop(plan, placement, limit, piece["smallest"][0])
        if stop:
            offers.count(stop, rest + piece.height)
            return
        small = piece.filter(pl.col("size") <= placement.most_room)
        offers.count("no-room", piece.height - small.height)
        held = offers.of(small)
        for number, row in enumerate(held.iter_rows()):
            offer = Offer(*row)
            stop = _stop(plan, placement, limit, offer.smallest)
            if stop:
                offers.count(stop, rest + held.height - number)
                return
            placed = placement.place(offer.size, offer.sources, node.begun.get(offer.name.rpartition("/")[2], ""))
            if isinstance(placed, str):
                offers.count(placed, 1)
                continue
            source, destination = offers.sources[placed[0]].name, placement.destinations[placed[1]].name
            root = roots[source][offer.roots[offer.sources.index(placed[0])]]
            plan.rows.append(_row(offer, source, root, destination))


def _stop(plan: Plan[rows.Copy], placement: Placement, limit: int | None, smallest: int) -> str:
    """The reason why nothing that is left can be placed, or the empty string."""
    if limit is not None and len(plan.rows) >= limit:
        return "not-looked-at"
    return "no-room" if smallest > placement.most_room else ""


def _row(offer: Offer, source: str, root: str, destination: str) -> rows.Copy:
    seal = f"{offer.name}\0{offer.size}\0{source}\0{destination}".encode()
    why = f"hot: {offer.hits} hit{'' if offer.hits == 1 else 's'}" if offer.hits else f"rank {offer.rank}"
    return rows.Copy(
        id=hashlib.blake2b(seal, digest_size=6).hexdigest(),
        name=offer.name,
        size=offer.size,
        source=source,
        source_path=f"{root.rstrip('/')}/{offer.name}",
        destination=destination,
        rank=offer.rank,
        hits=offer.hits,
        reason=why,
    )
