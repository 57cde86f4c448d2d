"""Which copies go so that the node keeps one copy of a file.

The history says who holds a file, and its word decides which copy goes: from the lowest address up, whether or not
the inventory still shows it there. So a history that has not noticed the last deletion asks the same server again,
which has nothing left to delete, and never the next one. The inventory decides only what may make a deletion safe:
the keeper is the highest holder that is living, was listed and has the file with the expected size, and the origin
has it too. Holders above the keeper are left alone.
"""

from __future__ import annotations

from typing import Literal

import polars as pl

from cftools.model import rows
from cftools.plans import known
from cftools.plans.values import Node, Plan


def plan_dedup(node: Node, deletes_per_file: Literal["all-but-one", "one"]) -> Plan[rows.Delete]:
    """The copies to delete: by rank, those of one file together, from the lowest address up.

    ``all-but-one`` takes every holder below the keeper, ``one`` only the lowest holder of the history, whatever its
    state. Candidates are files with at least two configured destinations in the history.
    """
    holders = known.holder_servers(node)
    sieve = known.Sieve(_duplicates(node.files, holders))
    sieve.refuse("unknown", ~known.IS_KNOWN)
    sieve.refuse("ignored-prefix", known.ignored(node.ignore_prefixes))
    sieve.refuse("unsafe-name", known.unsafe(sieve.frame))
    sieve.refuse("unsettled", known.found(sieve.frame, known.names_frame(node.unsettled)))
    sieve.refuse(known.not_on_origin(node), ~known.on_origin(node, sieve.frame))
    sieve.frame = _with_keeper(node, sieve.frame, holders)
    sieve.refuse("no-keeper", pl.col("keeper").is_null())
    sieve.refuse("keeper-is-lowest", pl.col("keeper") == pl.col("holders").list.first())
    victims = sieve.frame.explode("holders", empty_as_null=True).rename({"holders": "holder"})
    victims = victims.filter(pl.col("holder").to_physical() < pl.col("keeper").to_physical())
    if deletes_per_file == "one":
        victims = victims.unique("file", keep="first", maintain_order=True)
    plan = Plan(_rows(victims, holders), dict(sieve.refused))
    if not plan.rows:
        plan.notes.append(known.why_empty("duplicates", plan.refused))
    return plan


def _duplicates(files: pl.DataFrame, holders: pl.DataFrame) -> pl.DataFrame:
    """Files with two or more configured holders, best rank first, holders from the lowest up, numbered as ``file``."""
    several = files.filter(pl.col("holders").list.len() >= 2).select("name", "rank", "size", "holders")
    configured = pl.element().is_in(holders["holder"].implode())
    several = several.with_columns(holders=pl.col("holders").list.eval(pl.element().filter(configured).unique().sort()))
    return several.filter(pl.col("holders").list.len() >= 2).sort("rank", maintain_order=True).with_row_index("file")


def _with_keeper(node: Node, files: pl.DataFrame, holders: pl.DataFrame) -> pl.DataFrame:
    """The files with a column ``keeper``: the highest holder that is seen alive, or null."""
    copies = files.explode("holders", empty_as_null=True).rename({"holders": "holder"})
    copies = copies.join(holders, on="holder", how="inner")
    listed = known.of_servers(node.holdings, (server for server in node.destinations if server.usable))
    seen = copies.filter(known.found(copies, listed, "server", "size"))
    keepers = seen.group_by("file").agg(keeper=pl.col("holder").max())  # an Enum compares in its own order, not as text
    return files.join(keepers, on="file", how="left", maintain_order="left")


def _rows(victims: pl.DataFrame, holders: pl.DataFrame) -> list[rows.Delete]:
    server_of = dict(zip(holders["holder"].cast(pl.String), holders["server"].cast(pl.String), strict=True))
    return [
        rows.Delete(server_of[holder], name, size, "duplicate", server_of[keeper], rank)
        for name, size, rank, holder, keeper in victims.select("name", "size", "rank", "holder", "keeper").iter_rows()
    ]
