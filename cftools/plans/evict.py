"""Which copies go so that the disks of the destinations stay under their limit.

A destination above the limit gives up its lowest ranked copies until it is at or under the target; the last copy
taken may overshoot, no other. Percents are compared exactly: above the limit means that df, which rounds up, shows
more than the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from cftools.model import rows
from cftools.plans import known
from cftools.plans.values import EvictPolicy, Node, Plan, PlanServer, df_percent


def plan_evict(
    node: Node,
    policy: EvictPolicy,
    taken: Sequence[rows.Delete] = (),
    arrivals: Mapping[tuple[str, str], float] | None = None,
) -> Plan[rows.Delete]:
    """The copies to delete: by destination in the node's order, the lowest rank first.

    ``taken``: what dedup deletes in this cycle; its bytes count as free already where the inventory shows the file
    with that size (elsewhere nothing would be freed). ``arrivals``: (server, name) → epoch seconds at which a copy was
    finished. Refused are counted over all copies of the destinations above the limit.
    """
    frame = _taken_frame(node, taken)
    freed = _freed(node, frame)
    over = [server for server in node.destinations if server.usable and _too_full(server, freed[server.name], policy)]
    sieve = known.Sieve(known.of_servers(node.holdings, over))
    sieve.refuse("taken", known.found(sieve.frame, frame, "server"))
    _refuse(node, policy, sieve, _recent(node, policy, arrivals or {}))
    plan = Plan[rows.Delete]([], dict(sieve.refused))
    for server in over:
        need = _need(server, freed[server.name], policy)
        chosen = _lowest_first(sieve.frame, server, need)
        plan.rows += [
            rows.Delete(server.name, name, size, "disk", rank=rank) for name, size, rank in chosen.iter_rows()
        ]
        gone = freed[server.name] + int(chosen["size"].sum())
        if gone < freed[server.name] + need:
            reasons = sieve.by_server.get(server.name, Counter())
            plan.notes.append(_stays(server, gone, reasons))
    plan.notes += [server.left_out for server in node.destinations if not server.usable]
    return plan


def _refuse(node: Node, policy: EvictPolicy, sieve: known.Sieve, recent: pl.DataFrame) -> None:
    """Leaves in ``sieve`` what may be deleted, with its ``rank``."""
    sieve.refuse("ignored-prefix", known.ignored(node.ignore_prefixes))
    files = node.files.filter(known.IS_KNOWN).select("name", "rank", expected="size")
    everything = sieve.frame.with_row_index("row")
    sieve.frame = known.match(everything, files).drop("name_right")
    if sieve.frame.height < everything.height:
        sieve.count("unknown", everything.join(sieve.frame, on="row", how="anti"))
    sieve.refuse("hot", known.found(sieve.frame, known.names_frame(node.hot)))
    sieve.refuse("size-differs", pl.col("size") != pl.col("expected"))
    sieve.refuse("young", pl.lit(node.now) - pl.col("mtime") < policy.min_residency)
    sieve.refuse("young", known.found(sieve.frame, recent, "server"))
    sieve.refuse("unsafe-name", known.unsafe(sieve.frame))
    sieve.refuse("unsettled", known.found(sieve.frame, known.names_frame(node.unsettled)))
    sieve.refuse(known.not_on_origin(node), ~known.on_origin(node, sieve.frame))


def _taken_frame(node: Node, taken: Sequence[rows.Delete]) -> pl.DataFrame:
    names = {server.name for server in node.destinations}
    listed = [row for row in taken if row.server in names]
    return pl.DataFrame(
        {
            "name": pl.Series([row.name for row in listed], dtype=pl.String),
            "size": pl.Series([row.size for row in listed], dtype=pl.Int64),
            "server": pl.Series([row.server for row in listed], dtype=node.holdings.schema["server"]),
        }
    ).unique()


def _freed(node: Node, taken: pl.DataFrame) -> Counter[str]:
    """Bytes that dedup frees on each destination."""
    there = taken.filter(known.found(taken, node.holdings, "server", "size"))
    return Counter(
        {str(server): size for server, size in there.group_by("server").agg(pl.col("size").sum()).iter_rows()}
    )


def _recent(node: Node, policy: EvictPolicy, arrivals: Mapping[tuple[str, str], float]) -> pl.DataFrame:
    """The copies that were finished less than the least residency ago."""
    names = {server.name for server in node.destinations}
    recent = [place for place, when in arrivals.items() if node.now - when < policy.min_residency and place[0] in names]
    return pl.DataFrame(
        {
            "name": pl.Series([name for _, name in recent], dtype=pl.String),
            "server": pl.Series([server for server, _ in recent], dtype=node.holdings.schema["server"]),
        }
    )


def _too_full(server: PlanServer, freed: int, policy: EvictPolicy) -> bool:
    return df_percent(server.used - freed, server.capacity) > policy.limit_percent


def _need(server: PlanServer, freed: int, policy: EvictPolicy) -> int:
    """Bytes that must go so that used x 100 <= target x capacity."""
    return max(0, server.used - freed - policy.target_percent * server.capacity // 100)


def _lowest_first(copies: pl.DataFrame, server: PlanServer, need: int) -> pl.DataFrame:
    """Name, size and rank of the lowest ranked copies on ``server`` that together reach ``need`` bytes, or all."""
    mine = (
        known.of_servers(copies, [server]).select("name", "size", "rank").sort("rank", "name", descending=[True, False])
    )
    return mine.filter(pl.col("size").cum_sum() - pl.col("size") < need)


def _stays(server: PlanServer, gone: int, reasons: Mapping[str, int]) -> str:
    percent = df_percent(server.used - gone, server.capacity)
    why = f" ({known.reasons_text(reasons)})" if reasons else ""
    return f"{server.name}: {percent} % stays, nothing more may be deleted{why}"
